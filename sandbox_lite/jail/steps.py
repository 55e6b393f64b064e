"""One machine, two faces: work that has to wait says for what, and whoever drives it waits.

A `Steps` is a generator that yields a `Wait` and goes on when it was waited for; what it returns is
the result. A thread waits by sleeping in the kernel (`finish`), a coroutine by letting its loop go
on (`coroutines.follow`).
"""

from __future__ import annotations

import select
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Source(Protocol):
    """Something that becomes ready."""

    def fileno(self) -> int:
        """Return a descriptor that can be read when it is ready."""

    def block(self, seconds: float | None) -> None:
        """Wait until it is, at most so long."""


@dataclass(frozen=True, slots=True)
class Readable:
    """A descriptor that becomes ready by itself."""

    descriptor: int

    def fileno(self) -> int:
        """Return it."""
        return self.descriptor

    def block(self, seconds: float | None) -> None:
        """Wait until it can be read or is hung up."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        poll.poll(None if seconds is None else max(0.0, seconds) * 1000)


@dataclass(frozen=True, slots=True)
class Wait:
    """Until `source` is ready, or `seconds` are over; None is none, and for ever."""

    source: Source | None
    seconds: float | None = None

    def block(self) -> None:
        """Wait in this thread."""
        if self.source is None:
            time.sleep(self.seconds or 0.0)
        else:
            self.source.block(self.seconds)


_T = TypeVar("_T")
Steps = Generator[Wait, None, _T]


def finish(steps: Steps[_T]) -> _T:
    """Do all the steps, waiting in this thread; what interrupts a wait is raised in the work."""
    error: BaseException | None = None
    while True:
        try:
            wait = next(steps) if error is None else steps.throw(error)
        except StopIteration as ended:
            result: _T = ended.value
            return result
        error = None
        try:
            wait.block()
        except BaseException as caught:  # noqa: BLE001  # the work decides what becomes of it
            error = caught
