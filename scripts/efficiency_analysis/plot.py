"""An analysis as a picture; the only module here that needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from efficiency_analysis.report import MOST_OVERHEAD_MS, PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from efficiency_analysis.report import Report

_OURS, _PAPER, _PROGRAMS = "#1f6f8b", "#b0b0b0", "#d1603d"


def _label(axes: Axes, values: Sequence[float], unit: str) -> None:
    for place, value in enumerate(values):
        text = f"{value:.3g} {unit}"
        axes.annotate(text, (place, value), xytext=(0, 3), textcoords="offset points", ha="center")
    axes.margins(y=0.15)


def _overhead(axes: Axes, found: Report) -> None:
    parts = (found.trip_ms, found.around_ms, found.overhead_ms)
    values = [part[0] for part in parts]
    axes.bar(("a command that\ndoes nothing", "all around it", "together"), values, color=_OURS)
    axes.axhline(MOST_OVERHEAD_MS, color="black", lw=1)
    axes.annotate(f"bar: {MOST_OVERHEAD_MS:g} ms", (0, MOST_OVERHEAD_MS), va="bottom")
    _label(axes, values, "ms")
    axes.set_title("Our overhead of a step, median")


def _share(axes: Axes, found: Report) -> None:
    shares = {"all": found.environment_share, **found.environment_shares}
    values = [part * 100 for part in shares.values()]
    axes.bar(list(shares), values, color=_OURS)
    axes.axhline(PUBLISHED["environment_share"] * 100, color="black", lw=1)
    axes.annotate("published: below this", (0, 4), va="bottom")
    _label(axes, values, "%")
    axes.set_title("Time in the environment")


def _memory(axes: Axes, found: Report) -> None:
    idle = found.own_idle_mb if found.idle_mb is None else found.idle_mb
    labels = ("idle", "idle,\npublished", "peak", "peak,\npublished")
    values = (idle, PUBLISHED["idle_mb"], found.peak_mb, PUBLISHED["peak_mb"])
    axes.bar(labels, values, color=(_OURS, _PAPER, _PROGRAMS, _PAPER))
    axes.bar((labels[2],), (found.own_peak_mb,), color=_OURS, label="ours")
    _label(axes, values, "MB")
    axes.set_title("Memory of a sandbox; the programs' own in orange")


def _disk(axes: Axes, found: Report) -> None:
    values = (found.disk_mb or 0.0, found.rootfs_mb, PUBLISHED["disk_mb"])
    labels = ("written by a\nsandbox, at most", "rootfs, shared", "image, published")
    axes.bar(labels, values, color=(_OURS, _OURS, _PAPER))
    _label(axes, values, "MB")
    axes.set_title("Disk")


def draw(found: Report, paths: Sequence[Path]) -> None:
    """Draw it into files whose endings say their format."""
    with mpl.rc_context({"font.size": 9, "axes.axisbelow": True, "axes.titlesize": 10}):
        figure = Figure(figsize=(11, 8), layout="constrained")
        for axes, part in zip(
            figure.subplots(2, 2).flat, (_overhead, _share, _memory, _disk), strict=True
        ):
            part(axes, found)
            axes.grid(axis="y", color="#e4e4e4")
        asked, host = found.asked, found.host
        pace = "" if asked.speed == 1 else f", the model {asked.speed:g} times as fast"
        until = "" if asked.seconds is None else f", {asked.seconds:g} s of each"
        figure.suptitle(
            f"{asked.count} recorded runs replayed at once{pace}{until}: sandbox-lite "
            f"{host.version}, {host.processors} processors, rootfs {host.rootfs}, {host.date}"
        )
        for path in paths:
            figure.savefig(path, dpi=130)
