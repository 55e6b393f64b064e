"""Results as a picture; the only module here that needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmark import names
from benchmark.bars import BARS
from benchmark.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmark.samples import Report

_OWN = (
    names.COLD, names.SMALL_HOST, names.LARGE_HOST, names.MANY_MOUNTS, names.WARM, names.CLOSE,
    names.BUILTIN, names.EXTERNAL, names.EXEC, names.AFTER_EXIT, names.LONG_COMMAND,
    names.FILE_READ, names.FILE_WRITE, names.ALIVE_TRIP, names.SNAPSHOT_CLEAN,
    names.SNAPSHOT_DIRTY, names.ROLLBACK, names.MANY_COLD, names.FORK_FIRST, names.FORK_16,
    names.FORK_64,
    names.OUTPUT_100_MB, names.OUTPUT_1_GB,
)  # fmt: skip
_COLOURS = ("#1f6f8b", "#d1603d", "#5b8c5a", "#7d5ba6")
_GREY = "#8a8a8a"
_PARALLEL = (1, 4, 16, 64)


def _plain(value: float, _: object = None) -> str:
    return f"{value:g}" if value < 1000 else f"{value:,.0f}"


def _label(report: Report) -> str:
    return f"{report.host.user}, limits by {report.host.limits.split(' ')[0].rstrip(':')}"


def _legend(axes: Axes) -> None:
    """Put it below, where it hides nothing."""
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4, ncols=3, frameon=False
    )


def _own(axes: Axes, reports: Sequence[Report]) -> None:
    """Draw the median of each measure, a line to its p99, and its bar."""
    shown = [name for name in _OWN if any(report.row(name) for report in reports)]
    places = {name: len(shown) - 1 - number for number, name in enumerate(shown)}
    step = 0.36
    middle = (len(reports) - 1) / 2
    for number, report in enumerate(reports):
        rows = [row for name in shown if (row := report.row(name)) is not None]
        heights = [places[row.name] + step * (middle - number) for row in rows]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.hlines(heights, [r.p50 for r in rows], [r.p99 for r in rows], color=colour, lw=1.2)
        axes.plot([r.p50 for r in rows], heights, "o", color=colour, ms=5, label=_label(report))
        for row, height in zip(rows, heights, strict=True):
            axes.annotate(
                f"{row.p50:.2g}" if row.p50 < 10 else f"{row.p50:,.0f}", (row.p99, height),
                xytext=(8, 0), textcoords="offset points", va="center", fontsize=7, color=colour,
            )  # fmt: skip
    bars = {bar.name: bar.most for bar in BARS if bar.most is not None and bar.name in places}
    axes.plot(
        list(bars.values()), [places[name] for name in bars], "|", color="black", ms=16,
        mew=1.6, label="bar (median)",
    )  # fmt: skip
    axes.set_yticks(list(places.values()), list(places))
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_title("One sandbox: median, and a line to the 99th percentile")
    _legend(axes)


def _peers(axes: Axes, report: Report) -> None:
    """Draw starts, commands and closes of ours and of the others."""
    kinds = (
        (names.PEER_COLD, names.COLD, names.REFERENCE_COLD, "start to first output"),
        (names.PEER_COMMAND, names.BUILTIN, names.REFERENCE_COMMAND, "one more command"),
        (names.PEER_CLOSE, names.CLOSE, names.REFERENCE_CLOSE, "close"),
    )
    peers = [one for one in PEERS if report.row(names.PEER_COLD.format(one.name))]
    labels = ["sandbox-lite", "reference (40 lines)", "plain bwrap", "plain bash (no sandbox)"]
    labels += [one.name + ("" if one.isolates else " (no sandbox)") for one in peers]
    for number, (theirs, ours, reference, title) in enumerate(kinds):
        first = number == 0
        found = [report.row(ours), report.row(reference)]
        # a plain one is a start and a command in one, and nothing has to be closed
        found += [report.row(names.BWRAP), report.row(names.BASH)] if number < 2 else [None, None]
        found += [report.row(theirs.format(one.name)) for one in peers]
        heights = [len(labels) - 1 - place - 0.27 * (number - 1) for place in range(len(labels))]
        values = [0 if row is None else row.p50 for row in found]
        axes.barh(heights, values, height=0.25, color=_COLOURS[number], label=title)
        for value, height in zip(values, heights, strict=True):
            if value:
                axes.annotate(
                    f"{value:.2g}" if value < 10 else f"{value:,.0f}", (value, height),
                    xytext=(4, 0), textcoords="offset points", va="center", fontsize=7,
                )  # fmt: skip
        if first:
            axes.set_yticks(range(len(labels)), labels[::-1])
    axes.set_title(f"Beside others, as {report.host.user}")
    _legend(axes)


def _rates(axes: Axes, reports: Sequence[Report]) -> None:
    """Draw how many are made a second."""
    for number, report in enumerate(reports):
        colour = _COLOURS[number % len(_COLOURS)]
        for name, style, what in (
            (names.RATE, "o-", "sandbox-lite"),
            (names.REFERENCE_RATE, "o:", "reference"),
        ):
            rows = {n: row for n in _PARALLEL if (row := report.row(name.format(n))) is not None}
            axes.plot(
                list(rows), [row.p50 for row in rows.values()], style, color=colour,
                label=f"{what}, {report.host.user}",
            )  # fmt: skip
    axes.axhline(220, color="black", lw=1, label="bar")
    axes.set_xscale("log", base=2)
    axes.set_xticks(_PARALLEL, [str(n) for n in _PARALLEL])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("at once")
    axes.set_ylabel("per second")
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_title("Sandboxes created, used and closed per second")
    _legend(axes)


def _figure(reports: Sequence[Report]) -> Figure:
    figure = Figure(figsize=(15, 10), layout="constrained")
    axes = figure.subplot_mosaic(
        [["own", "peers"], ["own", "rates"]], height_ratios=(1.6, 1)
    )  # fmt: skip
    _own(axes["own"], reports)
    # the run with most of them: an engine may answer to root alone
    _peers(axes["peers"], max(reports, key=lambda report: len(report.rows)))
    for name in ("own", "peers"):
        axes[name].set_xscale("log")
        axes[name].xaxis.set_major_formatter(FuncFormatter(_plain))
        axes[name].set_xlabel("milliseconds, logarithmic")
        axes[name].grid(axis="x", color="#e4e4e4")
        low, high = axes[name].get_xlim()
        axes[name].set_xlim(low, high * 2)  # room for the numbers
    _rates(axes["rates"], reports)
    host = reports[0].host
    figure.suptitle(
        f"sandbox-lite {host.version} on Linux {host.kernel}, {host.processors} processors, "
        f"rootfs {host.rootfs}, {host.date}"
    )
    return figure


def draw(reports: Sequence[Report], paths: Sequence[Path]) -> None:
    """Draw one run, or several in one picture, into files whose endings say their format."""
    with mpl.rc_context({"font.size": 9, "axes.axisbelow": True, "axes.titlesize": 10}):
        figure = _figure(reports)
        for path in paths:
            figure.savefig(path, dpi=130)
