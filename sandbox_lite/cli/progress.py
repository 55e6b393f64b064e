"""Progress of long steps: bars on a terminal, a line for each stage elsewhere; always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from sandbox_lite.cli.terminal import status
from sandbox_lite.spec import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from sandbox_lite.jail.rootfs.store import Progress, Unit

_OFTEN = 0.1


def _amount(done: int, total: int | None, unit: Unit) -> str:
    if unit == "bytes":
        done_text = format_size(done)
        return done_text if total is None else f"{done_text} of {format_size(total)}"
    return f"{done} {unit}" if total is None else f"{done} of {total} {unit}"


class _Drawn:
    """One bar for each stage."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int | None, unit: Unit, /) -> None:
        task = self._tasks.get(stage)
        if task is None:
            self._finish()
            task = self._tasks[stage] = self._bars.add_task(stage, total=total, amount="")
        now = time.monotonic()
        # some stages tell of every few kilobytes
        if done != total and now - self._last.get(stage, 0.0) < _OFTEN:
            return
        self._last[stage] = now
        self._bars.update(task, completed=done, total=total, amount=_amount(done, total, unit))

    def _finish(self) -> None:
        for task in self._bars.tasks:
            if not task.finished:
                total = task.total or task.completed or 1
                self._bars.update(task.id, total=total, completed=total)


class _Said:
    """One line when a stage begins, one when it is through."""

    def __init__(self) -> None:
        self._stage = ""
        self._since = time.monotonic()
        self._amount = ""

    def __call__(self, stage: str, done: int, total: int | None, unit: Unit, /) -> None:
        if stage != self._stage:
            self.close()
            self._stage, self._since = stage, time.monotonic()
            status(f"{stage} ...")
        self._amount = _amount(done, total, unit)

    def close(self) -> None:
        """Say how the last stage went."""
        if self._stage:
            seconds = time.monotonic() - self._since
            status(f"{self._stage}: {self._amount}, {seconds:.1f} s")
            self._stage = ""


@contextlib.contextmanager
def progress(*, silent: bool = False) -> Iterator[Progress]:
    """Yield what is told how far a long step is.

    Args:
        silent: Draw nothing.
    """
    if silent:
        yield lambda *_: None
        return
    if not sys.stderr.isatty():
        said = _Said()
        yield said
        said.close()
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    from sandbox_lite.cli.terminal import console

    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30), TextColumn("{task.fields[amount]:<26}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Bars(*columns, console=console(stderr=True)) as bars:
        drawn = _Drawn(bars)
        yield drawn
        drawn._finish()
