"""What this program holds of the host: taken before and after, it must be the same."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from sandbox_lite.jail import group, places
from sandbox_lite.jail.limits import delegation

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_CHILD_SUBREAPER = 36
GROWTH_MB = 24.0
"""Of resident memory: what the allocator of each thread keeps for its next use."""
_PATIENCE_SECONDS = 20.0


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent has ended: none gets out of sight."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


_MOST_KEPT = len(os.sched_getaffinity(0)) + 1
_KEPT_THREAD = re.compile(
    rf"sandbox-lite [a-z]+_({'|'.join(str(number) for number in range(_MOST_KEPT))})"
)
"""One of the few of each kind that the loop's work is given to: a program keeps them, and never has
one more of a kind, which would have a higher number."""


@dataclass(frozen=True, slots=True)
class Held:
    """What is held at one moment; each a multiset of words that say what it is."""

    descriptors: Counter[str]
    threads: Counter[str]
    processes: Counter[str]
    of_processes: Counter[str]
    """Descriptors and mounts of those processes."""
    mounts: Counter[str]
    groups: Counter[str]
    directories: Counter[str]
    memory_mb: float

    def beyond(self, before: Held) -> Iterator[str]:
        """Yield in words what there is more of than before."""
        for name in self.__slots__:
            if name == "memory_mb":
                continue
            for word, count in (getattr(self, name) - getattr(before, name)).items():
                yield f"{name.replace('_', ' ')}: {count} more of {word}"
        grown = self.memory_mb - before.memory_mb
        if grown > GROWTH_MB:
            yield f"memory: {grown:.1f} MB more than {before.memory_mb:.1f} MB"


def _kind(target: str) -> str:
    """Return what a descriptor leads to, without the numbers that differ each time."""
    return target.partition(":[")[0] if ":[" in target else target


def _descriptors(pid: int | str) -> Counter[str]:
    found: Counter[str] = Counter()
    with contextlib.suppress(OSError):  # of a process in another user namespace it is a secret
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[_kind(str(entry.readlink()))] += 1
    return found


def _mounts(pid: int | str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return []


def _is_ours(pid: str) -> bool:
    """Return whether a name with that pid is this program's, or that of one which is gone."""
    return pid == str(os.getpid()) or not Path("/proc", pid).exists()


def _groups() -> Counter[str]:
    found: Counter[str] = Counter()
    for mount in delegation.mounts():
        for path in mount.point.rglob(f"{group.PREFIX}-*"):
            if _is_ours(path.name.removeprefix(f"{group.PREFIX}-").partition("-")[0]):
                found[str(path)] += 1
    return found


def _directories(temporary: Path) -> Counter[str]:
    found = Counter(str(path) for path in temporary.iterdir())
    if places.run_dir().exists():
        names = places.run_dir().iterdir()
        found.update(str(one) for one in names if _is_ours(one.name.partition("-")[0]))
    return found


def held(temporary: Path) -> Held:
    """Return what is held now.

    Args:
        temporary: The directory for this program's temporary files.
    """
    gc.collect()
    me = psutil.Process()
    processes: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for child in me.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(child.cmdline())[:60] or child.status()
            processes[f"{child.name()} ({line})"] += 1
            inside[f"descriptor of {child.name()}"] += sum(_descriptors(child.pid).values())
            inside[f"mount of {child.name()}"] += len(_mounts(child.pid))
    return Held(
        descriptors=_descriptors("self"),
        threads=Counter(
            one.name for one in threading.enumerate() if not _KEPT_THREAD.fullmatch(one.name)
        ),
        processes=processes,
        of_processes=inside,
        mounts=Counter(line.split(" ", 5)[4] for line in _mounts("self")),
        groups=_groups(),
        directories=_directories(temporary),
        memory_mb=me.memory_info().rss / 1e6,
    )


def left(before: Held, temporary: Path, *, patience: float = _PATIENCE_SECONDS) -> list[str]:
    """Return what is left over once all that was about to go has had time to."""
    deadline = time.monotonic() + patience
    while True:
        found = list(held(temporary).beyond(before))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
