"""Whose memory it is: looks at the processes of every sandbox now and then.

A page that several processes share counts for each with its part (PSS), so that the sum is what the
host has given. Ours is what stands in a sandbox before its first command, and how this program has
grown; all else is the programs'.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass(slots=True)
class Held:
    """What one sandbox held at most, in bytes."""

    first: int
    """Pid of its process 1."""
    own: frozenset[int]
    """Processes before the first command, those around the jail included."""
    idle: int = 0
    own_peak: int = 0
    peak: int = 0
    """Programs included."""


@dataclass(slots=True)
class MemoryLooks(AbstractContextManager["MemoryLooks"]):
    """Looks from a thread until the block ends; what all sandboxes share is this program."""

    interval: float
    """Seconds between two looks."""
    held: list[Held] = field(default_factory=list)
    program_before: int = 0
    program_peak: int = 0
    looks: int = 0
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def add(self, first: int) -> None:
        """Know a sandbox that is idle, by the pid of its process 1."""
        own = frozenset({first, *_between(first), *_below(first, _children())})
        one = Held(first=first, own=own)
        one.idle = one.own_peak = one.peak = sum(map(_pss, own))
        self.held.append(one)

    def __enter__(self) -> MemoryLooks:
        """Begin to look."""
        self._thread = threading.Thread(target=self._look_on, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._done.set()
        assert self._thread is not None
        self._thread.join()

    def _look_on(self) -> None:
        while not self._done.wait(self.interval):
            self.look()

    def look(self) -> None:
        """Look once."""
        children = _children()
        for one in self.held:
            own = sum(map(_pss, one.own))
            programs = sum(_pss(pid) for pid in _below(one.first, children) if pid not in one.own)
            one.own_peak = max(one.own_peak, own)
            one.peak = max(one.peak, own + programs)
        self.program_peak = max(self.program_peak, _pss(os.getpid()))
        self.looks += 1


def own_bytes() -> int:
    """Return what this program holds."""
    return _pss(os.getpid())


def available_bytes(settling: float) -> int:
    """Return the memory of the host that may be had, after so many seconds."""
    time.sleep(settling)
    return psutil.virtual_memory().available


def _pss(pid: int) -> int:
    """Return its part of the memory; 0 where it is gone, or another user's."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        found.setdefault(process.info["ppid"], []).append(process.pid)
    return found


def _below(first: int, children: dict[int, list[int]]) -> set[int]:
    found: set[int] = set()
    waiting = list(children.get(first, ()))
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def _between(first: int) -> set[int]:
    """Return the processes between this program and a sandbox's process 1."""
    found: set[int] = set()
    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process(first).parents():
            if parent.pid == os.getpid():
                return found
            found.add(parent.pid)
    return set()  # it is no child of ours: whatever is above is the host's
