"""Sets what bwrap has no option for in a jail's namespaces: no further ones, and how many pids.

Done from a process that was forked for it: the kernel lets only a process with one thread enter a
user namespace, setns(2). Whoever made a user namespace holds all capabilities there. Nothing but
the standard library is needed here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re

from sandbox_lite.jail.forked import succeeds

_NEWUSER, _NEWPID = 0x10000000, 0x20000000
_NAMESPACES = "/proc/sys/user"
_KINDS = re.compile(r"max_[a-z]+_namespaces")
_libc = ctypes.CDLL(None, use_errno=True)


def _place(pid: int, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


def _enter(fd: int, kind: int) -> None:
    if _libc.setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _write(path: str, value: bytes) -> None:
    with open(path, "wb") as file:  # noqa: PTH123  # pathlib is slow to import
        file.write(value)


def _forbid(holder: int) -> None:
    _enter(_place(holder, "user"), _NEWUSER)
    for name in os.listdir(_NAMESPACES):  # noqa: PTH208  # pathlib is slow to import
        if _KINDS.fullmatch(name):
            _write(f"{_NAMESPACES}/{name}", b"0")


def forbid_namespaces(order: bytes) -> bool:
    """Carry out `HOLDER`: no further namespace can be made in its user namespace, by anybody.

    Only CAP_SYS_RESOURCE there could raise the bound again: namespaces(7). Returns whether it
    worked.
    """
    return succeeds(lambda: _forbid(int(order)))


def _bound_numbers(first: int, bound: bytes) -> None:
    numbers = _place(first, "pid")
    if os.getuid() != 0:
        # an ordinary user may do it in the user namespace that he made
        _enter(_place(first, "user"), _NEWUSER)
    _enter(numbers, _NEWPID)
    # the sysctl is that of the namespace of whoever asks, and only a child can be in another
    if not succeeds(lambda: _write("/proc/sys/kernel/pid_max", bound)):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def bound_numbers(order: bytes) -> bool:
    """Carry out `FIRST COUNT`: the pid namespace of the process FIRST has no more numbers.

    Returns whether it worked; before Linux 6.14 there is one bound for the whole host.
    """
    first, bound = order.split()
    return succeeds(lambda: _bound_numbers(int(first), bound))
