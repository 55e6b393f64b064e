"""Who may begin a command: of sandboxes that do not give way to the host yet, a few at a time.

With sched(7)'s autogroups each of their sessions has the weight of the host's own on a processor,
until the kernel was told otherwise, and an ordinary user may tell it ten times in a second. Were
fifty storms to begin in the same moment, the host would have a fiftieth of it for five seconds.
"""

from __future__ import annotations

import os
import select
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Self

from sandbox_lite.jail.steps import Readable, Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.jail.steps import Steps

MOST = 2 * len(os.sched_getaffinity(0))
"""Sandboxes of one program that do not give way and yet have commands under way."""
LONGEST_SECONDS = 5.0
"""That a command waits: others may have what the kernel grants, and for long."""


class Turn:
    """One command's turn: it comes with `awaited`, and ends with the `with` block."""

    def __init__(self, turns: Turns, sandbox: object, needed: Callable[[], bool]) -> None:
        """Ask for nothing yet.

        Args:
            turns: Those of this program.
            sandbox: Whose command.
            needed: Whether it has to wait for others at all.
        """
        self._turns = turns
        self._come = -1
        self.sandbox = sandbox
        self.needed = needed
        self.since = 0.0
        """When it was asked for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.since:
            self._turns.leave(self)
            if self._come >= 0:
                os.close(self._come)

    def awaited(self, cancel_fd: int | None = None) -> Steps[None]:
        """Wait until it has come, or the longest time is over.

        Raises:
            concurrent.futures.CancelledError: By `cancel_fd`, as in `Shell.run`.
        """
        if not self.needed():
            return
        try:
            if self._turns.enter(self):
                return
            either = select.epoll()
        except OSError:
            return  # no descriptor is left: whoever needs one next says so
        with either:
            either.register(self._come, select.EPOLLIN)
            if cancel_fd is not None:
                try:
                    either.register(cancel_fd, select.EPOLLIN | select.EPOLLRDHUP)
                except PermissionError:
                    return  # a file on a disk, which is always ready: see `Pump`
            yield Wait(Readable(either.fileno()), LONGEST_SECONDS)
            if any(fd == cancel_fd for fd, _ in either.poll(0)):
                raise CancelledError

    def prepare(self) -> None:
        """Make what `come` is told by."""
        self._come = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def come(self) -> None:
        """Let it go on."""
        os.eventfd_write(self._come, 1)

    def overdue(self) -> bool:
        """Whether it has waited for so long that its command was begun."""
        return time.monotonic() >= self.since + LONGEST_SECONDS


class Turns:
    """Those of one program; any number of threads may ask at once."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        # the garbage collector may end an abandoned turn in the middle of what is done here
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._under_way: dict[object, set[Turn]] = {}
        self._waiting: dict[object, list[Turn]] = {}
        """Of each sandbox; the one that came first stands first."""

    def enter(self, turn: Turn) -> bool:
        """Return whether its turn has come; else it is told.

        Raises:
            OSError: No descriptor is left.
        """
        if self._owner != os.getpid():
            return True  # a fork's copy, whose lock may be held by a thread that is not there
        with self._lock:
            # once more: it may have come to give way since, and nobody would tell that again
            if not turn.needed():
                return True
            sandbox, turn.since = turn.sandbox, time.monotonic()
            waiting = self._waiting.get(sandbox, ())
            if (
                sandbox in self._under_way
                or len(self._under_way) < self._most
                or any(one.overdue() for one in waiting)
            ):
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
        """Hold a sandbox back no longer, and count it no longer: the host comes before it now.

        Also that of one which has ended: whoever waits is to learn it.
        """
        with self._lock:
            self._under_way.pop(sandbox, None)
            for turn in self._waiting.pop(sandbox, ()):
                turn.come()
            self._go_on()

    def _go_on(self) -> None:
        while len(self._under_way) < self._most:
            sandbox = next(iter(self._waiting), None)
            if sandbox is None:
                return
            turns = self._waiting.pop(sandbox)
            self._under_way.setdefault(sandbox, set()).update(turns)
            for turn in turns:
                turn.come()
