"""How far a benchmark is, on stderr, and what came out, on stdout."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from sandbox_lite.cli.terminal import console, status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sandbox_lite.bench.episode import Episode, Json

_OFTEN = 5.0


class _Tally:
    """The running score, faults, and how long the rest will take."""

    def __init__(self, total: int, before: Iterable[Episode]) -> None:
        self.total = total
        self._values: dict[str, list[float]] = {}
        self._faults = 0
        self.done = 0
        for one in before:
            if one.fault is None:  # those with a fault are tried anew
                self.add(one)
        self._began = time.monotonic()
        self._before = self.done

    def add(self, one: Episode) -> None:
        self.done += 1
        self._faults += one.fault is not None
        if one.value is not None:
            self._values.setdefault(one.key.mode, []).append(one.value)

    def __str__(self) -> str:
        parts = [
            f"{mode} {sum(values) / len(values):.3f}"
            for mode, values in sorted(self._values.items())
        ]
        if self._faults:
            parts.append(f"{self._faults} faults")
        fresh = self.done - self._before
        if fresh and self.done < self.total:
            seconds = (time.monotonic() - self._began) / fresh * (self.total - self.done)
            parts.append(f"{_duration(seconds)} left")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def progress(total: int, before: Iterable[Episode]) -> Iterator[Callable[[Episode], None]]:
    """Yield what is told of each episode: a bar on a terminal, a line now and then elsewhere."""
    tally = _Tally(total, before)
    if not sys.stderr.isatty():
        last = time.monotonic()

        def said(one: Episode) -> None:
            nonlocal last
            tally.add(one)
            if tally.done == total or time.monotonic() - last > _OFTEN:
                last = time.monotonic()
                status(f"bench: {tally.done} of {total}: {tally}")

        yield said
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console(stderr=True)) as bars:
        bar = bars.add_task("", total=total, completed=tally.done, text="")

        def drawn(one: Episode) -> None:
            tally.add(one)
            bars.update(bar, completed=tally.done, text=str(tally))

        yield drawn


def show(found: Json) -> None:
    """Print scores, their intervals, and the comparison."""
    for name, domain in found["statistics"]["domains"].items():
        for mode, one in domain["modes"].items():
            spent = found["spent"][name][mode]
            bounds = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
            tokens = spent["tokens"]["prompt"] + spent["tokens"]["completion"]
            price = found.get("price")
            cost = "" if price is None else f", {spent['cost']:.4g} {price['currency']}".rstrip()
            print(
                f"{name} {mode}: {one['mean']:.3f}{bounds}, {one['problems']} problems, "
                f"{spent['episodes']} episodes, {tokens} tokens{cost}"
            )
        compared = domain["comparison"]
        if compared is not None:
            difference = compared["difference"]
            bounds = (
                ""
                if difference["low"] is None
                else f" [{difference['low']:+.3f}, {difference['high']:+.3f}]"
            )
            print(
                f"{name} sandbox less plain: {difference['mean']:+.3f}{bounds}, "
                f"p = {domain['adjusted_p_value']:.3g} ({compared['method']})"
            )
    counts = found["counts"]
    for reason, number in counts["ungraded"].items():
        print(f"ungraded: {number} ({reason})")
    if counts["faults"]:
        print(f"faults, not scored: {counts['faults']} of {counts['episodes']}")
    if not found["complete"]:
        print(f"not complete: {found['left'] + counts['faults']} episodes are left")
