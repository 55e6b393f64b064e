"""The judgement of scripts/bench: which bars are met, and what is kept of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmark import bars, names, table
from benchmark.samples import Host, Notes, Report, Row

if TYPE_CHECKING:
    from pathlib import Path

HOST = Host(
    user="somebody", uid=1000, kernel="6.1", machine="x86_64", processors=2, memory_gib=4.0,
    version="1", limits="sampling: x", upper="tmpfs", rootfs="minimal", date="2026-01-01",
)  # fmt: skip


def report(**values: float) -> Report:
    """A report with a hundred runs of each measure, named by its constant."""
    rows = (
        Row(name=getattr(names, name), unit="ms", p50=value, p99=value * 2, runs=100)
        for name, value in values.items()
    )
    return Report(host=HOST, rows=tuple(rows), skipped=("docker: not installed",))


def met(given: Report, slack: float = 1.0) -> dict[str, bool]:
    return {f"{one.row.name} {one.text}": one.met(slack) for one in bars.judge(given)}


def test_a_bar_is_met_at_it_and_missed_beyond() -> None:
    assert met(report(CLOSE=2.0)) == {"close <= 2": True}
    assert met(report(CLOSE=2.1)) == {"close <= 2": False}
    assert met(report(CLOSE=5.9), slack=3) == {"close <= 2": True}
    assert met(report(CLOSE=6.1), slack=3) == {"close <= 2": False}


def test_a_quick_run_looks_for_what_has_become_slow() -> None:
    """It counts from what is reached, and by how slow the machine is at this hour."""

    def near(given: Report) -> set[bool]:
        return {one.near(3, bars.slower(given)) for one in bars.judge(given)}

    plain = bars.PLAIN_BWRAP_MS
    assert near(report(CLOSE=6.1, BWRAP=plain)) == {False}
    assert near(report(CLOSE=6.1, BWRAP=2 * plain)) == {True}
    assert near(report(CLOSE=12.1, BWRAP=2 * plain)) == {False}
    assert near(report(CLOSE=6.1, BWRAP=plain / 2)) == {False}, "a faster one has no lower bars"
    reached = next(bar.reached for bar in bars.BARS if bar.name == names.BUILTIN and bar.most)
    assert reached is not None
    assert near(report(BUILTIN=2.9 * reached, BWRAP=plain)) == {True}
    assert near(report(BUILTIN=3.1 * reached, BWRAP=plain)) == {False}
    # what is relative to the same run knows how slow it is
    given = report(SNAPSHOT_DIRTY=100.0, COPY=10.0, BWRAP=10 * plain)
    assert near(given) == {False}


def test_a_rate_must_be_more() -> None:
    assert set(met(report(ASYNC_RATE=8000)).values()) == {True}
    assert set(met(report(ASYNC_RATE=7999)).values()) == {False}
    assert set(met(report(ASYNC_RATE=2700), slack=3).values()) == {True}
    assert set(met(report(ASYNC_RATE=2600), slack=3).values()) == {False}


def test_ratios_are_to_what_was_measured_in_the_same_run() -> None:
    slow = report(COLD=6.0, BWRAP=3.0)
    assert met(slow)[f"{names.COLD} <= 1.5x {names.BWRAP}"] is False
    assert met(slow)[f"{names.COLD} <= 6.5"] is True
    assert met(report(SNAPSHOT_DIRTY=17.9, COPY=10.0)) == {
        f"{names.SNAPSHOT_DIRTY} <= 1.3x {names.COPY} + 5": True
    }
    assert set(met(report(BEST_RATE=230, REFERENCE_BEST_RATE=400)).values()) == {True, False}


def test_the_worst_of_a_few_runs_is_no_percentile() -> None:
    few = Row(name=names.COLD, unit="ms", p50=6, p99=50, runs=10)
    assert met(Report(host=HOST, rows=(few,), skipped=())) == {f"{names.COLD} <= 6.5": True}


@pytest.mark.parametrize("bar", bars.BARS, ids=lambda bar: f"{bar.name} to {bar.to}")
def test_every_bar_asks_for_something(bar: bars.Bar) -> None:
    assert {bar.most, bar.least, bar.ratio} != {None}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    notes = Notes()
    for value in range(200):
        notes.add(names.CLOSE, float(value))
    notes.skip("podman", "not installed")
    notes.skip("podman", "not installed")
    made = notes.report(HOST)
    path = tmp_path / "a.json"
    made.write(path)
    assert Report.read(path) == made
    assert made.skipped == ("podman: not installed",)
    assert (made.rows[0].p50, made.rows[0].p99, made.rows[0].runs) == (99.5, 198.0, 200)
    path.write_text('{"rows": []}')
    with pytest.raises(ValueError, match="no result of scripts/bench"):
        Report.read(path)


def test_several_runs_stand_side_by_side() -> None:
    text = "\n".join(table.beside([report(CLOSE=1.5), report(CLOSE=2.5, COLD=7.0)]))
    lines = {line[:46].strip(): line[46:].split() for line in text.splitlines()}
    assert lines["close"] == ["1.50", "2.50", "ms"]
    assert lines[names.COLD] == ["-", "7.00", "ms"]
