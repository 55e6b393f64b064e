"""Opens low ports to everybody in a jail's network, for which bwrap has no option.

Done from a process that was forked for it: the kernel lets only a process with one thread enter a
user namespace, setns(2). Nothing but the standard library is needed here.
"""

from __future__ import annotations

import ctypes
import os

from sandbox_lite.jail.forked import succeeds

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_LOW_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(fd: int, kind: int) -> None:
    if _libc.setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _open(holder: int, first: int) -> None:
    network = os.open(f"/proc/{first}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    # whoever made a user namespace holds all capabilities there, and over the networks made in it
    _enter(os.open(f"/proc/{holder}/ns/user", os.O_RDONLY | os.O_CLOEXEC), _NEWUSER)
    # The innermost user namespace has no say over the network, whatever it calls root: so that
    # servers there may use port 80, everybody may.
    _enter(network, _NEWNET)
    with open(_LOW_PORTS, "w") as file:  # noqa: PTH123  # pathlib is slow to import
        file.write("0")


def open_low(order: bytes) -> bool:
    """Carry out `HOLDER FIRST`; whether it worked.

    HOLDER is a process in the user namespace around the jail, FIRST one in the jail's own network.
    """
    holder, first = order.split()
    return succeeds(lambda: _open(int(holder), int(first)))
