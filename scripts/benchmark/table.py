"""Results as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark import names
from benchmark.bars import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmark.samples import Report, Row

_NAME = 46


def _number(value: float) -> str:
    """Return three digits that count, and every one before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def _host(report: Report) -> str:
    host = report.host
    return (
        f"{host.date}, {host.user} (uid {host.uid}), sandbox-lite {host.version} on Linux "
        f"{host.kernel}, {host.machine}, {host.processors} processors, {host.memory_gib:g} GiB; "
        f"rootfs {host.rootfs}; limits: {host.limits}; writes to a {host.upper}"
    )


def lines(report: Report) -> Iterator[str]:
    """Yield the table of one run, line by line."""
    yield _host(report)
    yield ""
    yield f"{'':{_NAME}}{'p50':>10}{'p99':>10}     {'runs':>5}{'x plain bwrap':>15}"
    base = report.row(names.BWRAP)
    for row in report.rows:
        ratio = f"{row.p50 / base.p50:.3g}" if base is not None and row.unit == "ms" else ""
        yield (
            f"{row.name:{_NAME}}{_number(row.p50):>10}{_number(row.p99):>10} {row.unit:4}"
            f"{row.runs:5}{ratio:>15}"
        )
    limited, unlimited = report.row(names.COLD), report.row(names.UNLIMITED)
    if limited is not None and unlimited is not None:
        yield f"limits add {_number(limited.p50 - unlimited.p50)} ms to a start"
    yield from (f"skipped: {line}" for line in report.skipped)


def verdicts(report: Report) -> Iterator[str]:
    """Yield one line for each bar."""
    for one in judge(report):
        word = "met" if one.met() else "MISSED"
        part = one.value / one.bound if not one.at_least else one.bound / one.value
        yield (
            f"{word:8}{one.row.name:{_NAME}}{_number(one.value):>9} {one.row.unit:3} "
            f"{one.text}{'' if one.met() else f' (beyond it {part:.2f} times)'}"
        )


def beside(reports: Sequence[Report]) -> Iterator[str]:
    """Yield the medians of several runs side by side, line by line."""
    for number, report in enumerate(reports, 1):
        yield f"[{number}] {_host(report)}"
    yield ""
    yield f"{'p50':{_NAME}}" + "".join(f"{f'[{n}]':>12}" for n in range(1, len(reports) + 1))
    known: dict[str, Row] = {row.name: row for report in reports for row in report.rows}
    for name, row in known.items():
        found = (report.row(name) for report in reports)
        cells = "".join(f"{'-' if one is None else _number(one.p50):>12}" for one in found)
        yield f"{name:{_NAME}}{cells} {row.unit}"
