"""Two small static programs without a C library, started from memory files.

`first.c` is process 1 of a sandbox, `nest.c` starts sandboxes. `scripts/make-native` makes the
programs that are shipped, and a test makes them again and compares.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import platform
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sandbox_lite.errors import HostError, SpecError

if TYPE_CHECKING:
    import contextlib

Name = Literal["first", "nest"]

MESSAGE = struct.Struct("=IIIi")
"""Verb, number of the request, key, and a value: both ways, the same."""
READY = ord("R")
"""The verb that they say by themselves, once."""

_MFD_EXEC = 0x10
"""memfd_create(2), since Linux 6.3: without, a host may make it one that cannot be executed."""
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF


def path(name: Name) -> Path:
    """Return where the program for this machine is, if there is one."""
    return Path(__file__).parent / f"{name}.{platform.machine()}"


@functools.cache
def descriptor(name: Name) -> int:
    """Return a descriptor of the program, which this process starts it from as often as it likes.

    A memory file, so that no path of the host shows inside, nor need the package be on a file
    system from which programs may be started.

    Raises:
        HostError: There is none for this architecture, or memory files may not be executed.
    """
    try:
        program = path(name).read_bytes()
    except FileNotFoundError:
        raise HostError(
            f"no program {name!r} for the architecture {platform.machine()!r}",
            hint="sandboxes run on x86_64 and aarch64; another one needs scripts/make-native",
        ) from None
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("sandbox-lite", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno == errno.EACCES:
            raise HostError(
                "this host forbids to execute memory files",
                hint="sysctl vm.memfd_noexec=1 allows programs to ask for it",
            ) from None
        fd = os.memfd_create("sandbox-lite", flags)
    os.write(fd, program)
    fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
    return fd


def encoded(word: str | bytes) -> bytes:
    """Return the bytes of a word: UTF-8 is the jail's encoding, whatever the host's is.

    Raises:
        SpecError: It holds a NUL byte, or half of a surrogate pair.
    """
    try:
        raw = word.encode(errors="surrogateescape") if isinstance(word, str) else word
    except UnicodeEncodeError as error:
        raise SpecError("an argument holds half of a surrogate pair") from error
    if b"\0" in raw:
        raise SpecError("an argument holds a NUL byte")
    return raw


def memory_file(stack: contextlib.ExitStack, data: bytes) -> int:
    """Return a memory file that holds these bytes, to be read from their start."""
    fd = os.memfd_create("sandbox-lite")
    stack.callback(os.close, fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
