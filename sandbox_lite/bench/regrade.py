"""Scores stored answers again: another scorer or judge, and no episode is tried anew."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.bench import data, tasks
from sandbox_lite.bench.ledger import Ledger, load_episodes, load_header, stored
from sandbox_lite.bench.task import Ungraded
from sandbox_lite.bench.trial import GRADING_FAILED
from sandbox_lite.errors import SandboxLiteError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox_lite.bench.episode import Episode, Json
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.task import Row, Task


def regrade(
    directory: Path,
    target: Path,
    grading: Grading,
    *,
    judge: Json | None = None,
    names: Mapping[str, str] | None = None,
    file: Path | None = None,
    threads: int = 4,
    told: Callable[[Episode], None] = lambda _: None,
) -> tuple[Json, tuple[Episode, ...]]:
    """Grade what a directory holds, and write header and episodes to another.

    Args:
        directory: Where a benchmark was run; it stays as it is.
        target: Where the new scores are written; what was graded there before is not done again.
        grading: Who grades.
        judge: How the judge is asked, for the record.
        names: Of a task, where it is of a third party: what `tasks.find` takes.
        file: Where the rows are, in place of where they were.
        threads: How many answers at once.
        told: Called for each answer.

    Returns:
        The new header, and all episodes.

    Raises:
        SpecError: A row is not there any more, or is another one.
        TaskError: The directory, or data, cannot be read.
        HostError: Data cannot be fetched, or the scores not be written.
    """
    header = load_header(directory)
    tried = _first(directory)
    episodes = load_episodes(directory)
    found = {
        name: tasks.find((names or {}).get(name, about["name"]))
        for name, about in header["tasks"].items()
    }
    rows = {name: _rows(task, header["tasks"][name], file) for name, task in found.items()}
    for one in episodes.values():
        row = rows[one.key.task].get(one.key.row)
        if row is None or row.digest != one.row_digest:
            raise SpecError(
                f"the row {one.key.row!r} of {one.key.task} is not what it was",
                hint="name the file with the rows that were tried: --data",
            )
    for name, task in found.items():
        those = {one.key.row for one in episodes.values() if one.key.task == name}
        grading.check(task, [rows[name][number] for number in sorted(those)])

    def graded(one: Episode) -> Episode:
        if one.answer is None:
            return one
        began = time.monotonic()
        task, row = found[one.key.task], rows[one.key.task][one.key.row]
        try:
            score = grading.grade(task, row, one.answer, file=stored(one.artefact, tried))
        except SandboxLiteError as error:
            name = task.grader(row, grading.scorer)
            failed = Ungraded(reason=f"{GRADING_FAILED}: {error.message}", grader=name)
            return dataclasses.replace(one, score=failed)
        seconds = time.monotonic() - began
        return dataclasses.replace(one, score=score, grading_seconds=seconds)

    experiment = {**header["experiment"], "scorer": grading.scorer, "judge": judge}
    about = {
        **{k: v for k, v in header.items() if k not in ("experiment", "format")},
        "regraded": str(directory),
    }
    with Ledger(target, experiment, about) as ledger, ThreadPoolExecutor(threads) as pool:
        left = [one for key, one in episodes.items() if _unfinished(ledger.done.get(key))]
        for one in pool.map(graded, left):
            ledger.append(one)
            told(one)
        return load_header(target), tuple(ledger.done.values())


def _first(directory: Path) -> Path:
    """Return where the episodes were tried: files that models made are there alone."""
    while (before := load_header(directory).get("regraded")) is not None:
        directory = Path(before)
    return directory


def _unfinished(one: Episode | None) -> bool:
    if one is None:
        return True
    return isinstance(one.score, Ungraded) and one.score.reason.startswith(GRADING_FAILED)


def _rows(task: Task, about: Json, file: Path | None) -> dict[str, Row]:
    origin = about["data"]
    if file is None and not origin["revision"]:
        file = Path(origin["name"])
    revision = None if file is not None else origin["revision"]
    return {row.id: row for row in data.load(task, data=file, revision=revision).rows}
