"""Runs a program where the kernel refuses what some hosts refuse: `python refusing.py WHAT CMD...`.

A system call filter does it, as a container engine's: `userns` refuses new user namespaces,
`overlay` the mounts of an overlay, which bwrap alone makes with the kernel's old magic flags.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_NEWUSER, _MAGIC = 0x10000000, 0xC0ED0000
_CALLS = {
    # clone, unshare, clone3, mount
    "x86_64": (56, 272, 435, 165),
    "aarch64": (220, 97, 435, 40),
}
_LOAD, _EQUAL, _ANY, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER = 0


def _argument(number: int) -> int:
    """Return where the low half of an argument is in seccomp_data."""
    return 16 + 8 * number


def _rules(what: str) -> list[tuple[int, int, int, int]]:
    clone, unshare, clone3, mount = _CALLS[platform.machine()]
    refused = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allowed = (_RETURN, 0, 0, _ALLOW)

    def when(call: int, argument: int, test: int, value: int) -> list[tuple[int, int, int, int]]:
        return [
            (_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 3, call),
            (_LOAD, 0, 0, _argument(argument)), (test, 0, 1, value), refused,
        ]  # fmt: skip

    if what == "overlay":
        return [*when(mount, 3, _EQUAL, _MAGIC), allowed]
    # its flags are behind a pointer: as if missing, and libraries take clone
    missing = [
        (_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]  # fmt: skip
    return [
        *when(clone, 0, _ANY, _NEWUSER), *when(unshare, 0, _ANY, _NEWUSER), *missing, allowed,
    ]  # fmt: skip


def refuse(what: str) -> None:
    """Load the filter for this process and all that it starts."""
    rules = b"".join(struct.pack("=HBBI", *rule) for rule in _rules(what))
    buffer = ctypes.create_string_buffer(rules, len(rules))

    class Program(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(rules) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for words in ((38, 1, 0, 0, 0), (22, 2, ctypes.byref(program))):
        if libc.prctl(*words) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
