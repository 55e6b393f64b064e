"""What process 1 of a sandbox understands."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.jail.native import encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

START, KILL, WAIT, FORGET = b"SKWF"
MOST_CHILDREN = 1024
_PLAN = struct.Struct("=IIII")
_TERMINAL, _ANYWHERE = 1, 2


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
        strings = (first, second, *self.words, *variables)
        return _PLAN.pack(*head) + b"".join(word + b"\0" for word in strings)
