"""What Python's `os` lacks of opening files safely: bounds on where a path may lead, and whose
file system it led to."""

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

_KERNELS_OWN = {
    0x9FA0: "proc", 0x62656572: "sysfs", 0x64626720: "debugfs", 0x74726163: "tracefs",
    0x73636673: "securityfs", 0x27E0EB: "cgroup", 0x63677270: "cgroup2", 0xCAFE4A11: "bpf",
    0x62656570: "configfs", 0x6165676C: "pstore", 0xDE5E81E4: "efivarfs", 0x42494E4D: "binfmt",
    0xF97CFF8C: "selinux",
}  # fmt: skip

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


def kernel_file_system(descriptor: int) -> str | None:
    """Return the name of the kernel's own file system that an open file is on, if it is on one.

    Raises:
        OSError: The descriptor is closed.
    """
    # longer than any struct statfs, which begins with the type as a long
    answer = (ctypes.c_long * 64)()
    if _libc.fstatfs(ctypes.c_int(descriptor), ctypes.byref(answer)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return _KERNELS_OWN.get(answer[0] & 0xFFFFFFFF)
