"""Who owns a directory on disk: boot id, pid and start time, which no later process shares."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@functools.cache
def boot_id() -> str:
    """Return the kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the second field may hold blanks and parentheses, so fields count from the last ")": proc(5)
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One process, told apart from any later one with the same pid."""

    boot_id: str
    pid: int
    start_time: int
    """Clock ticks after boot."""
    pid_namespace: int
    """Containers that share a directory share the boot id, and not the meaning of a pid."""

    @classmethod
    def current(cls) -> Owner:
        """Return the calling process."""
        return _of(os.getpid())

    def alive(self) -> bool:
        """Return whether that very process still runs (a zombie does not).

        One of another pid namespace cannot be seen from here and counts as running.
        """
        if self.boot_id == boot_id() and self.pid_namespace != _pid_namespace():
            return True
        return self.boot_id == boot_id() and _start_time(self.pid) == self.start_time

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Return the owner that `to_json` wrote.

        Raises:
            ValueError: The text is torn or no owner.
        """
        try:
            data = json.loads(text)
            return cls(
                boot_id=str(data["boot_id"]),
                pid=int(data["pid"]),
                start_time=int(data["start_time"]),
                pid_namespace=int(data["pid_namespace"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an owner record: {text[:80]!r}") from error


@functools.lru_cache(maxsize=1)
def _of(pid: int) -> Owner:
    start = _start_time(pid)
    assert start is not None, "a running process has a stat file"
    return Owner(boot_id=boot_id(), pid=pid, start_time=start, pid_namespace=_pid_namespace())
