"""Ten problems of our own, offline: four ask for a file, six for a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.bench.task import PackagedSource
from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from sandbox_lite.bench.task import Mode, Row, Scorer

_SOURCE = PackagedSource(folder="demo")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTask:
    """A task each of whose rows names its grader; both scorers are the same."""

    name: str = "demo"
    title: str = "ten problems of our own, offline"
    version: str = "1"
    modes: tuple[Mode, ...] = ("sandbox", "plain")
    source: PackagedSource = _SOURCE

    def grader(self, row: Row, scorer: Scorer) -> str:
        """See `Task.grader`.

        Raises:
            TaskError: The row names none.
        """
        del scorer
        if "graded_by" not in row.extra:
            raise TaskError(
                f"the row {row.id!r} names no grader", hint="rows of `demo` have `graded_by`"
            )
        return str(row.extra["graded_by"])


TASK = DemoTask()
