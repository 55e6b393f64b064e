"""The bars: what each measure must reach. One line each; `judge` says which are met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark import names
from benchmark.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.samples import Report, Row

PLAIN_BWRAP_MS = 6.5 / 1.5
"""Of the machine and hour that the bars are from: 6.5 ms there were 1.5 times that."""
LEAST_RUNS_FOR_P99 = 50
"""Of fewer runs the worst says nothing that a next run would repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What one measure must reach; all that is given must hold."""

    name: str
    most: float | None = None
    """Of the median, in the measure's own unit."""
    p99: float | None = None
    """The same of the 99th percentile."""
    least: float | None = None
    """Of the median, where more is better; 0: more is better, and only the ratio counts."""
    ratio: float | None = None
    """The median is at most so many times that of `to`, in the same run; at least, with `least`."""
    to: str = names.BWRAP
    plus: float = 0.0
    """Allowed on top of `ratio`."""
    reached: float | None = None
    """What is reached on the machine of the bars, where that misses it: the quick run, which looks
    for what has become slow, counts from there."""


BARS: tuple[Bar, ...] = (
    Bar(name=names.COLD, most=6.5, p99=12, ratio=1.5),
    Bar(name=names.LARGE_HOST, ratio=1.3, to=names.SMALL_HOST),
    Bar(name=names.MANY_MOUNTS, ratio=1.3, to=names.SMALL_HOST),
    Bar(name=names.WARM, most=0.5, p99=3),
    Bar(name=names.BUILTIN, most=0.15, reached=0.4),
    Bar(name=names.EXTERNAL, most=1.3),
    Bar(name=names.LONG_COMMAND, most=4),
    Bar(name=names.OUTPUT_1_GB, most=1500),
    Bar(name=names.OUTPUT_MEMORY, most=16),
    Bar(name=names.OUTPUT_LEFT, most=4),
    Bar(name=names.CLOSE, most=2),
    Bar(name=names.FILE_READ, most=0.1),
    Bar(name=names.FILE_WRITE, most=0.1),
    Bar(name=names.BEST_RATE, least=220, reached=100, ratio=0.7, to=names.REFERENCE_BEST_RATE),
    Bar(name=names.IDLE_MEMORY, most=1.5),
    Bar(name=names.ALIVE_TRIP, most=1),
    Bar(name=names.SNAPSHOT_CLEAN, most=0.1),
    Bar(name=names.SNAPSHOT_DIRTY, ratio=1.3, to=names.COPY, plus=5),
    Bar(name=names.FORK_FIRST, ratio=1, to=names.MANY_COLD),
    Bar(name=names.FORK_16, ratio=1, to=names.MANY_COLD),
    Bar(name=names.FORK_64, ratio=1, to=names.MANY_COLD),
    Bar(name=names.ASYNC_RATE, least=8000, reached=2000),
    Bar(name=names.EPISODE_RATE, least=60),
    Bar(name=names.TRAINING, least=0, ratio=0.25, to=names.TRAINING_STUB),
    Bar(name=names.MULTI_TURN, least=0, ratio=0.4, to=names.MULTI_TURN_STUB),
    Bar(name=names.TRAINING_CPU, ratio=1.3, to=names.TRAINING_CPU_LEAST),
    Bar(name=names.COLD, ratio=1 / 30, to=names.PEER_COLD.format("docker")),
    Bar(name=names.COLD, ratio=1 / 70, to=names.PEER_COLD.format("llm-in-sandbox")),
    Bar(name=names.BUILTIN, ratio=1 / 50, to=names.PEER_COMMAND.format("llm-in-sandbox")),
    Bar(name=names.CLOSE, ratio=1 / 1000, to=names.PEER_CLOSE.format("llm-in-sandbox")),
    # ahead of every one that isolates
    *(
        Bar(name=ours, ratio=1, to=theirs.format(peer.name))
        for peer in PEERS
        if peer.isolates
        for ours, theirs in (
            (names.BUILTIN, names.PEER_COMMAND),
            (names.WARM, names.PEER_COLD),
            (names.IDLE_MEMORY, names.PEER_MEMORY),
        )
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether one bar is met."""

    row: Row
    value: float
    bound: float
    text: str
    """What was asked for."""
    at_least: bool = False
    reached: float | None = None
    relative: bool = False
    """It is measured against something else of the same run."""

    def met(self, slack: float = 1.0) -> bool:
        """Return whether it is met, or missed by less than so many times."""
        return self._within(self.bound, slack)

    def near(self, slack: float, slower: float) -> bool:
        """Return whether it is missed by less than so many times what is reached, for a quick run.

        Args:
            slack: How many times.
            slower: How much slower the machine is at this hour; what is relative knows that.
        """
        times = slack if self.relative else slack * slower
        return self._within(self.bound, times) or (
            self.reached is not None and self._within(self.reached, times)
        )

    def _within(self, bound: float, times: float) -> bool:
        return self.value >= bound / times if self.at_least else self.value <= bound * times


def slower(report: Report) -> float:
    """Return how many times slower than the machine of the bars this one is, at this hour."""
    plain = report.row(names.BWRAP)
    return 1.0 if plain is None else max(1.0, plain.p50 / PLAIN_BWRAP_MS)


def judge(report: Report) -> Iterator[Verdict]:
    """Yield a verdict for everything that a bar asks of what was measured."""
    for bar in BARS:
        row = report.row(bar.name)
        if row is None:
            continue
        if bar.most is not None:
            yield Verdict(
                row=row, value=row.p50, bound=bar.most, text=f"<= {bar.most:g}", reached=bar.reached
            )
        if bar.least:
            text = f">= {bar.least:g}"
            yield Verdict(
                row=row, value=row.p50, bound=bar.least, text=text, at_least=True,
                reached=bar.reached,
            )  # fmt: skip
        if bar.p99 is not None and row.runs >= LEAST_RUNS_FOR_P99:
            yield Verdict(row=row, value=row.p99, bound=bar.p99, text=f"p99 <= {bar.p99:g}")
        other = report.row(bar.to)
        if bar.ratio is not None and other is not None:
            yield _relative(bar, row, other)


def _relative(bar: Bar, row: Row, other: Row) -> Verdict:
    assert bar.ratio is not None
    more = bar.least is not None
    times = f"{bar.ratio:g}x" if bar.ratio >= 0.1 else f"1/{1 / bar.ratio:.0f} of"
    plus = f" + {bar.plus:g}" if bar.plus else ""
    return Verdict(
        row=row, value=row.p50, bound=bar.plus + bar.ratio * other.p50,
        text=f"{'>=' if more else '<='} {times} {other.name}{plus}", at_least=more, relative=True,
    )  # fmt: skip
