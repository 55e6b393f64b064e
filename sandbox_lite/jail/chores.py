"""The janitor's own process: keeps a list until its program ends, and does what needs one thread.

Orders come one to a message: `+path` of a directory, `*path` of a control group, `-path` of what is
gone, of each any number with a NUL in between; `~` has sockets made in a jail's network, `=` its
interface set up; `%` forbids a jail further namespaces, `&` bounds its pids. Nothing but the
standard library is needed here.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.jail import group, netns, sysctls
from sandbox_lite.jail.orphans import kill_orphans, siblings

if TYPE_CHECKING:
    from collections.abc import Callable

READY, DISMISSAL, SOCKETS, TAP = b"ready", b".", b"~", b"="
CLOSING, NUMBERS, DONE = b"%", b"&", b"done"

_PATIENCE_SECONDS = 10.0
_RETRY_SECONDS = 0.05
_ORDER_BYTES = 1 << 20
"""More than the kernel lets a socket hold."""
_MOST_FDS = 253
"""SCM_MAX_FD, unix(7)."""
_PAUSES = (0.0, 0.02, 0.1, 0.3)
"""Seconds between looks for a bwrap that was killed in its start; the kernel takes its time."""


def serve() -> None:
    """Be the janitor: read until the program ends, then remove what is on the list."""
    watched: dict[bytes, bytes] = {}
    dismissed = False
    with socket.socket(fileno=0) as orders:
        _answer(orders, READY)
        while True:
            order, fds = _next(orders)
            if not order:
                break
            sign, path = order[:1], order[1:]
            if sign in (b"+", b"*"):
                watched |= dict.fromkeys(path.split(b"\0"), sign)
            elif sign == b"-":
                for one in path.split(b"\0"):
                    watched.pop(one, None)
            elif sign in (CLOSING, NUMBERS):
                work = sysctls.forbid_namespaces if sign == CLOSING else sysctls.bound_numbers
                _answer(orders, DONE if work(path) else b"no")
            elif sign == SOCKETS:
                _do_inside(netns.answer, path, fds, orders)
            elif sign == TAP:
                from sandbox_lite.jail import tap  # few sandboxes want it

                _do_inside(tap.answer, path, fds, orders)
            dismissed = order == DISMISSAL
    deadline = time.monotonic() + _PATIENCE_SECONDS
    if watched or not dismissed:
        _end_starts(deadline)
    while watched and time.monotonic() < deadline:
        for path, sign in list(watched.items()):
            # the jail's last processes may still write while the kernel ends them
            with contextlib.suppress(OSError):
                remove = _remove_upper if sign == b"+" else _remove_group
                remove(Path(os.fsdecode(path)))
            if not Path(os.fsdecode(path)).exists():
                del watched[path]
        time.sleep(_RETRY_SECONDS)


def _next(orders: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next order with its descriptors; an empty one means that the program has ended."""
    room = socket.CMSG_LEN(_MOST_FDS * 4)
    try:
        data, ancillary, _, _ = orders.recvmsg(_ORDER_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", []
    fds = array.array("i")
    for level, kind, words in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(words[: len(words) - len(words) % fds.itemsize])
    return data, list(fds)


def _answer(orders: socket.socket, text: bytes) -> None:
    # whoever asked may be gone, of which the next order tells
    with contextlib.suppress(OSError):
        orders.send(text, socket.MSG_NOSIGNAL)


def _do_inside(
    work: Callable[[bytes, int, socket.socket], bool],
    order: bytes,
    fds: list[int],
    orders: socket.socket,
) -> None:
    try:
        if not work(order, fds[0], orders):
            _answer(orders, b"no")
    finally:
        for fd in fds:
            os.close(fd)


def _remove_upper(path: Path) -> None:
    # slow to import: most janitors have nothing to remove, and all shall serve at once
    from sandbox_lite.jail import foreign

    foreign.remove_upper(path)


def _remove_group(path: Path) -> None:
    group.remove(path, seconds=_RETRY_SECONDS)


def _end_starts(deadline: float) -> None:
    """End the bwraps whose program was killed while they were starting."""
    for pause in _PAUSES:
        time.sleep(pause)
        kill_orphans()
    # one that is not stuck yet may still become so, or ends by itself
    while siblings() and time.monotonic() < deadline:
        time.sleep(_RETRY_SECONDS)
        kill_orphans()
