"""Stops all processes of a jail for a moment, and lets them go on."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError
from sandbox_lite.jail.limits.processes import FIRST, Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 5.0
_BUSY_SECONDS = 1.0
_STILL = frozenset(b"TtZXx")
"""States of proc(5) in which nothing is written."""
_UNINTERRUPTIBLE = ord("D")


@contextlib.contextmanager
def paused(processes: Processes) -> Iterator[None]:
    """Keep every process of a jail but ours from running until the block ends.

    By SIGSTOP, which nobody can refuse: parents get to know of it as they do of any stop, but are
    stopped themselves, and go on after their children did. Who was stopped before stays it.

    Raises:
        HostError: They make new ones faster than they can be stopped.
    """
    stopped: list[int] = []
    try:
        _stop_all(processes, stopped)
        yield
    finally:
        # children first, so that no parent sees one that is stopped
        for pid in reversed(stopped):
            _signal(processes, pid, signal.SIGCONT)


def _stop_all(processes: Processes, stopped: list[int]) -> None:
    began, quiet = time.monotonic(), 0
    while True:
        running = False
        states = processes.states()
        for pid, state in states.items():
            if pid == FIRST or state in _STILL:
                continue
            # another may have let it go on, before that was stopped itself
            _signal(processes, pid, signal.SIGSTOP)
            if pid not in stopped:
                stopped.append(pid)
            # a parent in the midst of vfork waits in a state that no signal ends, and cannot run
            if state != _UNINTERRUPTIBLE or time.monotonic() < began + _BUSY_SECONDS:
                running = True
        if running:
            quiet = 0
        elif quiet or not stopped:
            return
        else:
            # looked at in turn: the first may go on by now, woken by the last in its last moment
            quiet = 1
        if time.monotonic() > began + _SECONDS:
            raise HostError(
                "the processes of the sandbox could not all be stopped",
                hint="end what it runs in the background first",
            )
        time.sleep(0.0002)


def _signal(processes: Processes, pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError), processes.pinned(pid) as fd:
        signal.pidfd_send_signal(fd, number)
