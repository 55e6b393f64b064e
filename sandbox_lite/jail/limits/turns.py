"""Who may begin a command: of sandboxes that do not give way to the host yet, a few at a time.

With sched(7)'s autogroups each of their sessions has the weight of the host's own on a processor,
until the kernel was told otherwise, and an ordinary user may tell it ten times in a second. Were
fifty storms to begin in the same moment, the host would have a fiftieth of it for five seconds.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Self

from sandbox_lite.jail.steps import Readable, Wait

if TYPE_CHECKING:
    from sandbox_lite.jail.steps import Steps

MOST = 2 * len(os.sched_getaffinity(0))
"""Sandboxes of one program that do not give way and yet have commands under way."""
LONGEST_SECONDS = 5.0
"""That a command waits: others may have what the kernel grants, and for long."""


class Turn:
    """One command's turn: it comes with `awaited`, and ends with the `with` block."""

    def __init__(self, turns: Turns, sandbox: object | None) -> None:
        """Ask for nothing yet.

        Args:
            turns: Those of this program.
            sandbox: Whose command; None where it need not wait for others.
        """
        self._turns = turns
        self._come = -1
        self.sandbox = sandbox

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.sandbox is not None:
            self._turns.leave(self)
            if self._come >= 0:
                os.close(self._come)

    def awaited(self, cancel_fd: int | None = None) -> Steps[None]:
        """Wait until it has come, the longest time is over, or that descriptor is ready."""
        if self.sandbox is None or self._turns.enter(self):
            return
        with select.epoll() as either:
            either.register(self._come, select.EPOLLIN)
            if cancel_fd is not None:
                either.register(cancel_fd, select.EPOLLIN | select.EPOLLRDHUP)
            yield Wait(Readable(either.fileno()), LONGEST_SECONDS)

    def prepare(self) -> None:
        """Make what `come` is told by."""
        self._come = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def come(self) -> None:
        """Let it go on."""
        os.eventfd_write(self._come, 1)


class Turns:
    """Those of one program; any number of threads may ask at once."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._under_way: dict[object, set[Turn]] = {}
        self._waiting: dict[object, list[Turn]] = {}
        """Of each sandbox; the one that came first stands first."""

    def enter(self, turn: Turn) -> bool:
        """Return whether its turn has come; else it is told."""
        if self._owner != os.getpid():
            return True  # a fork's copy, whose lock may be held by a thread that is not there
        with self._lock:
            sandbox = turn.sandbox
            if sandbox in self._under_way or len(self._under_way) < self._most:
                self._under_way.setdefault(sandbox, set()).add(turn)
                return True
            turn.prepare()
            self._waiting.setdefault(sandbox, []).append(turn)
            return False

    def leave(self, turn: Turn) -> None:
        """Forget it, wherever it stands, and let others go on."""
        if self._owner != os.getpid():
            return
        with self._lock:
            under_way = self._under_way.get(turn.sandbox, set())
            under_way.discard(turn)
            if not under_way:
                self._under_way.pop(turn.sandbox, None)
            waiting = self._waiting.get(turn.sandbox, [])
            if turn in waiting:
                waiting.remove(turn)
            if not waiting:
                self._waiting.pop(turn.sandbox, None)
            self._go_on()

    def gives_way(self, sandbox: object) -> None:
        """Hold a sandbox back no longer, and count it no longer: the host comes before it now."""
        with self._lock:
            self._under_way.pop(sandbox, None)
            for turn in self._waiting.pop(sandbox, ()):
                turn.come()
            self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._under_way) < self._most:
            sandbox = next(iter(self._waiting))
            turns = self._waiting.pop(sandbox)
            self._under_way[sandbox] = set(turns)
            for turn in turns:
                turn.come()
