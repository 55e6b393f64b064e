"""Makes sockets in the network namespace of a jail; for the janitor, which has one thread.

A socket stays in the namespace in which it was made, whoever holds it: so the host accepts and
connects inside a jail without a process of its own there. The kernel lets only a process with one
thread enter a user namespace, setns(2), and the network namespace belongs to the user namespace in
which it was made, not to the jail's innermost one: ioctl_nsfs(2). Nothing but the standard library
is needed here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket

from sandbox_lite.jail.forked import succeeds

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_NS_GET_USERNS = 0xB701
_BACKLOG = 128
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(fd: int, kind: int) -> None:
    if _libc.setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def join(namespace: int) -> None:
    """Enter a network namespace for good, with all rights over it.

    Raises:
        OSError: It is not ours to enter.
    """
    owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    _enter(owner, _NEWUSER)
    _enter(namespace, _NEWNET)


def _made(namespace: int, order: bytes) -> list[socket.socket]:
    join(namespace)
    word, number = order.split()
    if word == b"connect":
        return [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(int(number))]
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", int(number)))
    listening.listen(_BACKLOG)
    return [listening]


def answer(order: bytes, namespace: int, orders: socket.socket) -> bool:
    """Send the sockets of `listen PORT` or `connect COUNT` to whoever gave the order.

    Args:
        order: The words.
        namespace: Descriptor of the network namespace.
        orders: Where the answer goes.

    Returns:
        Whether it was sent.
    """

    def send() -> None:
        made = _made(namespace, order)
        socket.send_fds(orders, [b"sockets"], [one.fileno() for one in made])

    return succeeds(send)
