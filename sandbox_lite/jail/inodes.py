"""Sets what bwrap has no option for: files on a tmpfs, low ports, pids, no namespaces.

Done from a process that was forked for it, in the namespaces in which the tmpfs is mounted: the
kernel lets only a process with one thread enter a user namespace, setns(2). Whoever made a user
namespace holds all capabilities there. Nothing but the standard library is needed here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re

from sandbox_lite.jail.forked import succeeds

_NEWUSER, _NEWNS, _NEWNET, _NEWPID = 0x10000000, 0x00020000, 0x40000000, 0x20000000
_LOW_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_NOSUID, _NODEV, _REMOUNT = 2, 4, 32
_NAMESPACES = "/proc/sys/user"
_KINDS = re.compile(r"max_[a-z]+_namespaces")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _enter(pid: int, name: str, kind: int) -> None:
    fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    _check(_libc.setns(fd, kind))


def _set(holder: int, first: int, counts: dict[bytes, int]) -> None:
    network = None
    if first:
        network = os.open(f"/proc/{first}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _enter(holder, "user", _NEWUSER)
    _enter(holder, "mnt", _NEWNS)
    if network is not None:
        # The innermost user namespace has no say over the network, whatever it calls root: so
        # that servers there may use port 80, everybody may.
        with contextlib.suppress(OSError):
            _check(_libc.setns(network, _NEWNET))
            with open(_LOW_PORTS, "w") as file:  # noqa: PTH123  # pathlib is slow to import
                file.write("0")
    flags = ctypes.c_ulong(_REMOUNT | _NOSUID | _NODEV)
    for path, count in counts.items():
        _check(_libc.mount(b"none", path, b"tmpfs", flags, b"nr_inodes=%d" % count))


def bound(order: bytes) -> bool:
    """Carry out `HOLDER FIRST COUNT PATH...`; whether it worked.

    The process HOLDER has a tmpfs at each PATH; FIRST is in a network namespace of its own, or 0.
    """
    holder, first, *words = order.split()
    counts = {path: int(count) for count, path in zip(words[::2], words[1::2], strict=True)}
    return succeeds(lambda: _set(int(holder), int(first), counts))


def _forbid(holder: int) -> None:
    _enter(holder, "user", _NEWUSER)
    for name in os.listdir(_NAMESPACES):  # noqa: PTH208  # pathlib is slow to import
        if _KINDS.fullmatch(name):
            with open(f"{_NAMESPACES}/{name}", "w") as file:  # noqa: PTH123  # the same
                file.write("0")


def forbid_namespaces(order: bytes) -> bool:
    """Carry out `HOLDER`: no further namespace can be made in its user namespace, by anybody.

    Only CAP_SYS_RESOURCE there could raise the bound again: namespaces(7). Returns whether it
    worked.
    """
    return succeeds(lambda: _forbid(int(order)))


def _write_bound(bound: bytes) -> None:
    with open("/proc/sys/kernel/pid_max", "wb") as file:  # noqa: PTH123  # the same
        file.write(bound)


def _bound_numbers(first: int, bound: bytes) -> None:
    fd = os.open(f"/proc/{first}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    if os.getuid() != 0:
        # an ordinary user may do it in the user namespace that he made
        _enter(first, "user", _NEWUSER)
    _check(_libc.setns(fd, _NEWPID))
    # the sysctl is that of the namespace of whoever asks, and only a child can be in another
    if not succeeds(lambda: _write_bound(bound)):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def bound_numbers(order: bytes) -> bool:
    """Carry out `FIRST COUNT`: the pid namespace of the process FIRST has no more numbers.

    Returns whether it worked; before Linux 6.14 there is one bound for the whole host.
    """
    first, bound = order.split()
    return succeeds(lambda: _bound_numbers(int(first), bound))
