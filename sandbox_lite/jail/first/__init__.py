"""Process 1 of a sandbox: a small static program without a C library, and what it understands.

`first.c` is its source; `scripts/make-first` makes the programs that are shipped, and a test makes
them again and compares.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

START, KILL, WAIT, FORGET, READY = b"SKWFR"
"""What it can be asked for; the last is what it says by itself."""
MESSAGE = struct.Struct("=IIIi")
"""Verb, number of the request, key of the child, and a value: both ways, the same."""
MOST_CHILDREN = 1024
_PLAN = struct.Struct("=IIII")
_TERMINAL, _ANYWHERE = 1, 2

_MFD_EXEC = 0x10
"""memfd_create(2), since Linux 6.3: without, a host may make it one that cannot be executed."""
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF


def path() -> Path:
    """Return where the program for this machine is, if there is one."""
    return Path(__file__).parent / f"first.{platform.machine()}"


@functools.cache
def descriptor() -> int:
    """Return a descriptor of the program, which all sandboxes of this process are started from.

    A memory file, so that no path of the host shows inside, nor need the package be on a file
    system from which programs may be started.

    Raises:
        HostError: There is none for this architecture, or memory files may not be executed.
    """
    try:
        program = path().read_bytes()
    except FileNotFoundError:
        raise HostError(
            f"no process 1 for the architecture {platform.machine()!r}",
            hint="sandboxes run on x86_64 and aarch64; another one needs scripts/make-first",
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
    import fcntl

    os.write(fd, program)
    fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
    return fd


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A program to start."""

    words: tuple[bytes, ...]
    """By its path, or by a name that is looked for in the variable PATH; and its arguments."""
    environment: Mapping[str, str | bytes]
    directories: tuple[bytes, ...]
    """One or two, entered in turn."""
    terminal: bool = False
    """Whether it leads a session on its standard input; else it leads a group of its own."""

    def encoded(self) -> bytes:
        """Return what process 1 reads.

        Raises:
            SpecError: Something in it holds a NUL byte, or half of a surrogate pair.
        """
        variables = [
            name.encode() + b"=" + encoded(value) for name, value in self.environment.items()
        ]
        first, second = (*self.directories, b"")[:2]
        head = (_TERMINAL | _ANYWHERE if self.terminal else 0, len(self.words), len(variables), 0)
        return _PLAN.pack(*head) + _joined((first, second, *self.words, *variables))


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


def _joined(words: Iterable[bytes]) -> bytes:
    return b"".join(word + b"\0" for word in words)
