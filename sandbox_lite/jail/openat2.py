"""openat2(2), which Python's `os` lacks: open a path with bounds on where it may lead."""

from __future__ import annotations

import ctypes
import errno
import os

from sandbox_lite.errors import HostError

NO_MAGICLINKS = 0x02
"""Refuse the links of /proc/PID/fd and their like, which jump anywhere."""
NO_SYMLINKS = 0x04
"""Refuse every link."""
BENEATH = 0x08
"""Refuse what leaves the directory."""
IN_ROOT = 0x10
"""Take the directory for `/`, as chroot would."""

_NUMBER = 437  # on every architecture: the numbers from 424 on are common to all
_TRIES = 1000


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def openat2(directory: int, path: bytes, flags: int, *, resolve: int, mode: int = 0) -> int:
    """Return a descriptor of `path`, seen from an open directory.

    Args:
        directory: Its descriptor.
        path: Without a NUL.
        flags: Those of `os.open`.
        resolve: Those above.
        mode: Permission bits of a new file, before the umask.

    Raises:
        OSError: The kernel refuses.
        HostError: It has no such call.
    """
    # a mode is refused where nothing can be created
    how = _OpenHow(flags, mode if flags & os.O_CREAT else 0, resolve)
    number = 0
    for _ in range(_TRIES):
        descriptor = int(
            _libc.syscall(
                ctypes.c_long(_NUMBER),
                ctypes.c_int(directory),
                ctypes.c_char_p(path),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
        )
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        # EAGAIN: something was renamed during the walk, so the kernel cannot vouch for a `..`
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    if number == errno.ENOSYS:
        raise HostError(
            "this kernel has no openat2, without which files of a sandbox cannot be reached safely",
            hint="use Linux 5.6 or later, or a container runtime that lets openat2 through",
        )
    raise OSError(number, os.strerror(number))
