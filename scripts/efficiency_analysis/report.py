"""The numbers of an analysis, beside those that the paper has published."""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.samples import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmark.samples import Host

    from efficiency_analysis.replays import Asked, Measured

MB = 1e6
PUBLISHED = {"idle_mb": 50.0, "peak_mb": 200.0, "disk_mb": 1100.0, "environment_share": 0.04}
"""Of the paper: memory of an idle container, at its peak, the image (shared), and the most of the
time that was spent in the environment. Their machine and models were others."""
MOST_OVERHEAD_MS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is printed, drawn and kept."""

    host: Host
    asked: Asked
    runs: dict[str, int]
    """How often each was replayed."""
    whole: int
    """Replays that did every recorded step."""
    commands_unlike: int
    steps: int
    seconds: float
    busy_share: float | None
    overhead_ms: tuple[float, float, float]
    """Of a step: median, mean, 99th percentile; as for the next two."""
    trip_ms: tuple[float, float, float]
    around_ms: tuple[float, float, float]
    environment_share: float
    """Of the recorded time of the models and that of the environment."""
    environment_shares: dict[str, float]
    """By run."""
    startup_ms: tuple[float, float, float]
    idle_mb: float | None
    """Of an open sandbox, all told; None where the rest of the host hid it."""
    own_idle_mb: float
    """Of our processes in and around a sandbox, and a share of this program."""
    own_peak_mb: float
    """The same at the peak of the sandbox where it was most."""
    peak_mb: float
    """With the programs, of the sandbox where it was most."""
    peaks_mb: tuple[float, ...]
    """Of each sandbox: with the programs."""
    limit_peak_mb: float | None
    """As the limits count it, with the pages of files and of the disk; the most."""
    disk_mb: float | None
    """Written by a sandbox, at most; the rootfs is shared."""
    rootfs_mb: float
    looks: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it, the published figures beside."""
        return asdict(self) | {"published": PUBLISHED, "most_overhead_ms": MOST_OVERHEAD_MS}

    @property
    def met(self) -> bool:
        """Whether our own overhead of a step is within its bar, at the median."""
        return self.overhead_ms[0] <= MOST_OVERHEAD_MS


def report(measured: Measured, asked: Asked, host: Host, rootfs_bytes: int) -> Report:
    """Return the numbers of what was measured."""
    replays, memory = measured.replays, measured.memory
    steps = [step for one in replays for step in one.steps]
    names = sorted({one.name for one in replays})
    grown = max(0, memory.program_peak - memory.program_before) / len(memory.held)
    disks = [one.disk_bytes for one in replays if one.disk_bytes is not None]
    limits = [one.limit_peak_bytes for one in replays if one.limit_peak_bytes is not None]
    return Report(
        host=host,
        asked=asked,
        runs={name: sum(one.name == name for one in replays) for name in names},
        whole=sum(one.whole for one in replays),
        commands_unlike=sum(one.unlike for one in replays),
        steps=len(steps),
        seconds=measured.seconds,
        busy_share=measured.busy_share,
        overhead_ms=_spread([step.overhead * 1000 for step in steps]),
        trip_ms=_spread([step.trip * 1000 for step in steps]),
        around_ms=_spread([step.around * 1000 for step in steps]),
        environment_share=_share(measured, names),
        environment_shares={name: _share(measured, [name]) for name in names},
        startup_ms=_spread([one.startup_seconds * 1000 for one in replays]),
        idle_mb=measured.idle_bytes / MB if measured.idle_bytes > 0 else None,
        own_idle_mb=(max(one.idle for one in memory.held) + grown) / MB,
        own_peak_mb=(max(one.own_peak for one in memory.held) + grown) / MB,
        peak_mb=(max(one.peak for one in memory.held) + grown) / MB,
        peaks_mb=tuple((one.peak + grown) / MB for one in memory.held),
        limit_peak_mb=max(limits) / MB if limits else None,
        disk_mb=max(disks) / MB if disks else None,
        rootfs_mb=rootfs_bytes / MB,
        looks=memory.looks,
    )


def _share(measured: Measured, names: Sequence[str]) -> float:
    steps = [step for one in measured.replays if one.name in names for step in one.steps]
    environment = sum(step.environment for step in steps)
    whole = environment + sum(step.model for step in steps)
    return environment / whole if whole else 0.0


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    if not values:
        return (0.0, 0.0, 0.0)
    return (statistics.median(values), statistics.fmean(values), percentile(values, 0.99))


def lines(found: Report) -> Iterator[str]:
    """Yield the report as text."""
    asked, host = found.asked, found.host
    pace = "" if asked.speed == 1 else f", the model {asked.speed:g} times as fast as it was"
    until = "" if asked.seconds is None else f", {asked.seconds:g} s of each"
    busy = "unknown" if found.busy_share is None else f"{found.busy_share:.0%}"
    yield (
        f"{host.date}, {host.user}, sandbox-lite {host.version} on Linux {host.kernel}, "
        f"{host.processors} processors, {host.memory_gib:g} GiB; rootfs {host.rootfs}"
    )
    runs = ", ".join(f"{count} x {name}" for name, count in found.runs.items())
    yield f"{asked.count} replays at once ({runs}){pace}{until}; network {asked.network}"
    yield (
        f"{found.steps} steps in {found.seconds:.0f} s, {found.whole} replays to their end; "
        f"{found.commands_unlike} commands ended otherwise than in the record; "
        f"somebody waited for a processor in {busy} of the time"
    )
    yield ""
    yield f"{'':44}{'here':>20}{'paper':>12}"
    for name, (median, mean, late) in (
        ("our overhead of a step, ms: median, mean, p99", found.overhead_ms),
        ("  of which a command that does nothing", found.trip_ms),
        ("  of which all around it", found.around_ms),
        ("start of a sandbox, ms", found.startup_ms),
    ):
        yield f"{name:46}{f'{median:.2f}, {mean:.2f}, {late:.1f}':>18}"
    for name, value, published in _beside(found):
        yield f"{name:46}{value:>18}{published:>12}"
    verdict = "met" if found.met else "MISSED"
    yield f"{verdict}: our overhead of a step, median <= {MOST_OVERHEAD_MS:g} ms"


def _beside(found: Report) -> Iterator[tuple[str, str, str]]:
    def mb(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.1f} MB"

    share = PUBLISHED["environment_share"]
    yield "time in the environment", f"{found.environment_share:.1%}", f"< {share:.0%}"
    for name, part in found.environment_shares.items():
        yield f"  {name}", f"{part:.1%}", ""
    yield "memory of an idle sandbox, all told", mb(found.idle_mb), mb(PUBLISHED["idle_mb"])
    yield "  of which processes of ours", mb(found.own_idle_mb), ""
    yield "  the same at the peak: above the programs'", mb(found.own_peak_mb), ""
    yield "memory at the peak, with the programs", mb(found.peak_mb), mb(PUBLISHED["peak_mb"])
    yield "  as the limits count it, files included", mb(found.limit_peak_mb), ""
    yield "written by a sandbox, at most", mb(found.disk_mb), ""
    yield "root file system, shared by all", mb(found.rootfs_mb), mb(PUBLISHED["disk_mb"])


def size_bytes(tree: Path) -> int:
    """Return what a tree takes on the disk."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for directory, _, names in os.walk(tree):
        for name in names:
            found = Path(directory, name).lstat()
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total
