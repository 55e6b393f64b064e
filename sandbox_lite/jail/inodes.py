"""Bounds how many files a sandbox's tmpfs may hold, which bwrap has no option for.

Done from a process that was forked for it, in the namespaces in which the tmpfs is mounted: the
kernel lets only a process with one thread enter a user namespace, setns(2). Whoever made a user
namespace holds all capabilities there. Nothing but the standard library is needed here.
"""

from __future__ import annotations

import ctypes
import os

_NEWUSER, _NEWNS = 0x10000000, 0x00020000
_NOSUID, _NODEV, _REMOUNT = 2, 4, 32
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _remount(holder: int, counts: dict[bytes, int]) -> None:
    for name, kind in (("user", _NEWUSER), ("mnt", _NEWNS)):
        fd = os.open(f"/proc/{holder}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(fd, kind))
    flags = ctypes.c_ulong(_REMOUNT | _NOSUID | _NODEV)
    for path, count in counts.items():
        _check(_libc.mount(b"none", path, b"tmpfs", flags, b"nr_inodes=%d" % count))


def bound(order: bytes) -> bool:
    """Carry out `PID COUNT PATH...`: the process has a tmpfs at each PATH; whether it worked."""
    holder, *words = order.split()
    counts = {path: int(count) for count, path in zip(words[::2], words[1::2], strict=True)}
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _remount(int(holder), counts)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0
