"""What was measured: rows of numbers with their unit, and where they come from."""

from __future__ import annotations

import json
import os
import platform
import pwd
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

import sandbox_lite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

Unit = Literal["ms", "MB", "/s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure, as it is printed and kept."""

    name: str
    unit: Unit
    p50: float
    p99: float
    """With fewer than a hundred runs the worst of them."""
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where and as whom it was measured."""

    user: str
    uid: int
    kernel: str
    machine: str
    processors: int
    memory_gib: float
    version: str
    limits: str
    """Who holds them, and how that was found."""
    upper: str
    """What the sandboxes write to."""
    rootfs: str
    date: str

    @classmethod
    def current(cls, *, rootfs: str, limits: str, upper: str) -> Host:
        """Return this machine and user."""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            user=pwd.getpwuid(os.getuid()).pw_name, uid=os.getuid(), kernel=platform.release(),
            machine=platform.machine(), processors=len(os.sched_getaffinity(0)),
            memory_gib=round(pages / 2**30, 1), version=sandbox_lite.__version__, limits=limits,
            upper=upper, rootfs=rootfs, date=time.strftime("%Y-%m-%d"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run."""

    host: Host
    rows: tuple[Row, ...]
    skipped: tuple[str, ...]

    def row(self, name: str) -> Row | None:
        """Return the row of that name, if it was measured."""
        return next((row for row in self.rows if row.name == name), None)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Return what `write` wrote.

        Raises:
            ValueError: It is none.
        """
        try:
            data = json.loads(path.read_text())
            return cls(
                host=Host(**data["host"]),
                rows=tuple(Row(**row) for row in data["rows"]),
                skipped=tuple(data["skipped"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of scripts/bench: {error!r}") from error


def percentile(values: Iterable[float], part: float) -> float:
    """Return the value below which `part` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@dataclass(slots=True)
class Notes:
    """Collects numbers while they are measured."""

    values: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, unit: Unit = "ms") -> None:
        """Note one number."""
        self.values.setdefault(name, []).append(value)
        self.units[name] = unit

    def time(self, name: str, action: Callable[[], object], share: int = 1) -> None:
        """Do it, and note the milliseconds it took, for each of so many that it did."""
        began = time.perf_counter()
        action()
        self.add(name, (time.perf_counter() - began) * 1000 / share)

    def skip(self, what: str, why: str) -> None:
        """Note that something cannot be measured here; once is enough."""
        line = f"{what}: {why}"
        if line not in self.skipped:
            self.skipped.append(line)

    def report(self, host: Host) -> Report:
        """Return all that was noted."""
        rows = tuple(
            Row(
                name=name, unit=self.units[name], p50=round(statistics.median(values), 4),
                p99=round(percentile(values, 0.99), 4), runs=len(values),
            )
            for name, values in self.values.items()
        )  # fmt: skip
        return Report(host=host, rows=rows, skipped=tuple(self.skipped))
