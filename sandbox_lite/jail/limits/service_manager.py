"""Asks the user's systemd for a scope of our own, over its private socket, else the session bus.

Interface: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from jeepney import Message

_TIMEOUT_SECONDS = 10.0
_NUDGE_SECONDS = 0.02
_MANAGER = {
    "object_path": "/org/freedesktop/systemd1",
    "bus_name": "org.freedesktop.systemd1",
    "interface": "org.freedesktop.systemd1.Manager",
}


def _runtime_dir() -> Path:
    # a service has no such variable, and yet the user's manager may run
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")


def _ask_directly(message: Message) -> Message:
    """Ask the manager on its own socket, on which there is no bus: no greeting and no names.

    Raises:
        OSError: It does not answer.
    """
    from jeepney import DBusAddress, HeaderFields, MessageFlag, new_method_call
    from jeepney.io.blocking import prep_socket
    from jeepney.low_level import Parser

    peer = DBusAddress("/", _MANAGER["bus_name"], "org.freedesktop.DBus.Peer")
    ping = new_method_call(peer, "Ping")
    ping.header.flags |= MessageFlag.no_reply_expected
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    serial = 1
    with prep_socket(str(_runtime_dir() / "systemd" / "private"), timeout=_TIMEOUT_SECONDS) as sock:
        sock.sendall(message.serialise(serial=serial))
        sock.settimeout(_NUDGE_SECONDS)
        parser = Parser()
        while True:
            reply = parser.get_next_message()
            if reply is not None:
                if reply.header.fields.get(HeaderFields.reply_serial) == 1:
                    return cast("Message", reply)
                continue
            try:
                data = sock.recv(65536)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
                # a message that it reads together with the end of the greeting lies in its buffer
                # until something else comes
                serial += 1
                sock.sendall(ping.serialise(serial=serial))
                continue
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "it hung up")
            parser.add_data(data)


def _ask_on_the_bus(message: Message) -> Message:
    from jeepney.io.blocking import open_dbus_connection

    address = f"unix:path={_runtime_dir()}/bus"
    try:
        with open_dbus_connection(
            os.environ.get("DBUS_SESSION_BUS_ADDRESS", address), auth_timeout=_TIMEOUT_SECONDS
        ) as connection:
            reply = connection.send_and_get_reply(message, timeout=_TIMEOUT_SECONDS)
    except (KeyError, ValueError, RuntimeError) as error:
        raise OSError(errno.ENOENT, f"no session bus: {error}") from error
    return cast("Message", reply)


def _answer(message: Message) -> tuple[object, ...]:
    """Ask the manager and return what its answer holds.

    Raises:
        OSError: It is not there, or refuses.
    """
    from jeepney import MessageType

    try:
        reply = _ask_directly(message)
    except OSError as error:
        try:
            reply = _ask_on_the_bus(message)
        except OSError:
            raise OSError(error.errno or errno.ENOENT, f"not reached: {error}") from error
    body: tuple[object, ...] = reply.body
    if reply.header.message_type is MessageType.error:
        said = str(body[0] if body else "no reason given")
        if "OOMPolicy" in said:
            # older ones end the whole scope where one process runs out of memory
            raise OSError(errno.EOPNOTSUPP, "it is older than systemd 253")
        raise OSError(errno.EPERM, said)
    return body


def _call(method: str, signature: str, body: tuple[object, ...]) -> tuple[object, ...]:
    from jeepney import DBusAddress, new_method_call

    return _answer(new_method_call(DBusAddress(**_MANAGER), method, signature, body))


def delegates(unit: str) -> bool | None:
    """Return whether the manager has given a unit of its own away; None where it does not say."""
    from jeepney import DBusAddress, new_method_call

    kind = {"scope": "Scope", "service": "Service"}.get(unit.rpartition(".")[2])
    if kind is None:
        return None
    try:
        (path,) = _call("GetUnit", "s", (unit,))
        properties = DBusAddress(
            str(path),
            bus_name=_MANAGER["bus_name"],
            interface="org.freedesktop.DBus.Properties",
        )
        asked = (f"org.freedesktop.systemd1.{kind}", "Delegate")
        ((_, value),) = cast(
            "tuple[tuple[str, object]]", _answer(new_method_call(properties, "Get", "ss", asked))
        )
    except (OSError, ValueError):
        return None
    return bool(value)


def start_scope(unit: str, pid: int) -> None:
    """Have a delegated scope made around a process.

    Raises:
        OSError: The manager is not there, or refuses.
    """
    properties = [
        ("Description", ("s", "sandbox-lite")),
        ("PIDs", ("au", [pid])),
        ("Slice", ("s", "app.slice")),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
        # a program killed for want of memory must not take the scope along
        ("OOMPolicy", ("s", "continue")),
    ]
    _call("StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", properties, []))


def attach(unit: str, subgroup: str, pid: int) -> None:
    """Have a process moved into a group below a scope.

    Raises:
        OSError: The manager is not there, or refuses.
    """
    _call("AttachProcessesToUnit", "ssau", (unit, subgroup, [pid]))
