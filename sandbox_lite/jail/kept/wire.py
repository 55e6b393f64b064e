"""Messages between a keeper and its callers: frames of JSON or of bytes, and descriptors.

A connection carries one request. The caller says nothing after it, so that its hanging up is seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import struct
from pathlib import Path
from typing import Any, Literal

from sandbox_lite import errors
from sandbox_lite.errors import HostError, SandboxLiteError
from sandbox_lite.jail.changes import Change
from sandbox_lite.jail.transfer import Skipped
from sandbox_lite.jail.workspace.applying import ApplyReport, Conflict
from sandbox_lite.spec import (
    CommandResult,
    Enforcement,
    Limits,
    LimitState,
    Mount,
    NetworkRequest,
    Outcome,
    Publish,
    PublishedPort,
    SandboxSpec,
    Usage,
)

Json = dict[str, Any]
Kind = Literal["J", "O", "E", "B"]
"""JSON; output as it comes, of stdout and of stderr; bytes of a result."""

_HEADER = struct.Struct(">cI")
_LONGEST = 256 * 1024 * 1024
_BYTES = ("stdout_bytes", "stderr_bytes", "merged_bytes")


class Hangup(Exception):
    """The other side has gone."""


def send(connection: socket.socket, kind: Kind, data: bytes) -> None:
    """Send one frame.

    Raises:
        Hangup: Nobody is there to take it.
    """
    try:
        connection.sendall(_HEADER.pack(kind.encode(), len(data)))
        connection.sendall(data)
    except OSError as error:
        raise Hangup from error


def send_json(connection: socket.socket, data: Json) -> None:
    """Send one object."""
    send(connection, "J", json.dumps(data).encode())


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        try:
            data = connection.recv(min(count, 1 << 20))
        except OSError as error:
            raise Hangup from error
        if not data:
            raise Hangup
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def receive(connection: socket.socket) -> tuple[str, bytes]:
    """Return the kind and the data of the next frame.

    Raises:
        Hangup: There is none.
    """
    kind, count = _HEADER.unpack(_exactly(connection, _HEADER.size))
    if count > _LONGEST:
        raise Hangup
    return kind.decode("latin-1"), _exactly(connection, count)


def receive_json(connection: socket.socket) -> Json:
    """Return the next frame's object.

    Raises:
        Hangup: There is none.
    """
    kind, data = receive(connection)
    if kind != "J":
        raise Hangup
    return parsed(data)


def parsed(data: bytes) -> Json:
    """Return the object of a JSON frame.

    Raises:
        Hangup: It is none; whoever talks so is none of ours.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Hangup from error
    if not isinstance(value, dict):
        raise Hangup
    return value


def send_fd(connection: socket.socket, fd: int) -> None:
    """Hand over a descriptor; see unix(7)."""
    socket.send_fds(connection, [b"F"], [fd])


def receive_fd(connection: socket.socket) -> int:
    """Return the descriptor that was handed over, which is the caller's.

    Raises:
        Hangup: There is none.
    """
    try:
        data, fds, _, _ = socket.recv_fds(connection, 1, 1)
    except OSError as error:
        raise Hangup from error
    if data != b"F" or len(fds) != 1:
        raise Hangup
    return fds[0]


# -- what is asked for and what comes back ---------------------------------------------------------


def spec_to_json(spec: SandboxSpec) -> Json:
    """Return a request as JSON takes it; its variables are told in full."""
    data = dataclasses.asdict(spec)
    data["mounts"] = [
        one | {"source": one["source"] and str(one["source"])} for one in data["mounts"]
    ]
    return data


def spec_from_json(data: Json) -> SandboxSpec:
    """Return the request that `spec_to_json` wrote."""
    mounts = tuple(
        Mount(**(one | {"source": one["source"] and Path(one["source"])})) for one in data["mounts"]
    )
    limits = data["limits"]
    return SandboxSpec(
        **(
            data
            | {
                "mounts": mounts,
                "limits": Limits(**(limits | {"named": tuple(limits["named"])})),
                "allow_weaker": tuple(data["allow_weaker"]),
                "allow": tuple(data["allow"]),
                "allow_private": tuple(data["allow_private"]),
                "publish": tuple(Publish(**one) for one in data["publish"]),
                "directories": tuple(data["directories"]),
                "writable": _paths(data["writable"]),
            }
        )
    )


def _paths(found: list[str] | None) -> tuple[str, ...] | None:
    return None if found is None else tuple(found)


def enforcement_from_json(data: Json) -> Enforcement:
    """Return what is in force, from the fields of an `Enforcement`."""
    return Enforcement(
        **(
            data
            | {
                "seccomp": tuple(data["seccomp"]),
                "capabilities": tuple(data["capabilities"]),
                "limits": tuple(LimitState(**one) for one in data["limits"]),
                "published": tuple(PublishedPort(**one) for one in data["published"]),
                "writable": _paths(data["writable"]),
            }
        )
    )


def send_result(connection: socket.socket, result: CommandResult) -> None:
    """Send all that happened to a command."""
    data = dataclasses.asdict(result)
    for name in _BYTES:
        del data[name]
    send_json(connection, {"result": data})
    for name in _BYTES:
        send(connection, "B", getattr(result, name))


def receive_result(connection: socket.socket, data: Json) -> CommandResult:
    """Return the result whose JSON was received."""
    streams = {name: receive(connection)[1] for name in _BYTES}
    return CommandResult(
        **(
            data
            | streams
            | {
                "outcome": Outcome(data["outcome"]),
                "limits_hit": tuple(data["limits_hit"]),
                "usage": Usage(**data["usage"]),
                "refused": tuple(NetworkRequest(**one) for one in data["refused"]),
            }
        )
    )


def change_from_json(data: Json) -> Change:
    """Return a change, from its fields."""
    return Change(**(data | {"aspects": tuple(data["aspects"])}))


def report_from_json(data: Json) -> ApplyReport:
    """Return what became of changes, from the fields of an `ApplyReport`."""
    return ApplyReport(
        applied=tuple(data["applied"]),
        already=tuple(data["already"]),
        conflicts=tuple(Conflict(**one) for one in data["conflicts"]),
        skipped=tuple(Skipped(**one) for one in data["skipped"]),
    )


def error_to_json(error: SandboxLiteError) -> Json:
    """Return an error as JSON takes it."""
    extra = {
        name: getattr(error, name)
        for name in ("errno", "path", "restarted", "inside", "stderr", "expired")
        if hasattr(error, name)
    }
    return {
        "error": type(error).__name__, "message": error.message, "hint": error.hint, "extra": extra,
    }  # fmt: skip


def error_from_json(data: Json) -> SandboxLiteError:
    """Return the error that `error_to_json` wrote."""
    kind = getattr(errors, str(data["error"]), HostError)
    extra = data.get("extra") or {}
    with contextlib.suppress(TypeError):
        error = kind(data["message"], hint=data["hint"], **extra)
        if isinstance(error, SandboxLiteError):
            return error
    return HostError(data["message"], hint=data["hint"])
