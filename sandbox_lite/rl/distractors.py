"""Documents of other rows beside a row's own, and the sides on which rows may stand.

Rows that share a document, or are copies of each other, stand on one side: what is validated was
never trained on. For the same reason training rows have their distractors from training rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.bench.task import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Rows to train on and to validate on, each in the order of the source."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]


def sides(rows: Sequence[Row], share: float, seed: int) -> Sides:
    """Return the rows on two sides.

    Args:
        rows: All.
        share: Of the rows, that is for validation; 0 for none. Groups stay together, so that it
            is met as nearly as whole groups allow, and never exceeded.
        seed: Of the draw.

    Raises:
        TaskError: All rows hang together, so that no validation is possible.
    """
    wanted = round(len(rows) * share)
    if wanted == 0 and share > 0:
        wanted = 1
    groups = _groups(rows)
    random.Random(f"sides {seed}").shuffle(groups)
    chosen: set[int] = set()
    for group in groups:
        if len(chosen) + len(group) <= min(wanted, len(rows) - 1):
            chosen.update(group)
    if wanted and not chosen:
        raise TaskError(
            f"none of the {len(rows)} rows can be set aside: they share their documents",
            hint="add questions about other documents, or set nothing aside: --validation 0",
        )
    return Sides(
        train=tuple(row for index, row in enumerate(rows) if index not in chosen),
        validation=tuple(row for index, row in enumerate(rows) if index in chosen),
    )


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Return the rows' numbers, in groups that share a document or a problem."""
    leader = list(range(len(rows)))

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        for mark in (row.problem, *(digest(text) for text in row.input_files.values())):
            leader[lead(index)] = lead(first.setdefault(mark, index))
    groups: dict[int, list[int]] = {}
    for index in range(len(rows)):
        groups.setdefault(lead(index), []).append(index)
    return list(groups.values())


def digest(text: str) -> str:
    """Return what tells documents apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Pool:
    """Documents of rows, and which rows they may not be shown to.

    Args:
        rows: With their documents as they will be.
        sources: Of each row, the digests of its documents before they were cut.
    """

    def __init__(self, rows: Sequence[Row], sources: Sequence[frozenset[str]]) -> None:
        self._texts: dict[str, tuple[str, str]] = {}
        self._sources: dict[str, set[str]] = {}
        for row, theirs in zip(rows, sources, strict=True):
            for name, text in row.input_files.items():
                mark = digest(text)
                self._texts.setdefault(mark, (name, text))
                self._sources.setdefault(mark, set()).update(theirs)
        self._marks = sorted(self._texts)

    def beside(self, row: Row, own: frozenset[str], count: int, seed: int) -> Row:
        """Return a row with `count` documents of others beside its own, if it has any.

        The draw depends on the seed, the row's id and the pool. A row with a document in common
        gives none: it might hold the answer. Files are in the order of their names, so that a
        place in a list tells nothing; where names coincide, all of that name are numbered in a
        drawn order, unless the question speaks of the right one by its name.

        Raises:
            TaskError: The others hold too few documents.
        """
        if not row.input_files or count == 0:
            return row
        draw = random.Random(f"distractors {seed} {row.id}")
        mine = {digest(text) for text in row.input_files.values()}
        fit: list[str] = []
        for size in (4 * count + 32, len(self._marks)):  # few are enough, but for odd sets
            drawn = draw.sample(self._marks, min(size, len(self._marks)))
            fit = [m for m in drawn if m not in mine and own.isdisjoint(self._sources[m])]
            if len(fit) >= count:
                chosen = [self._texts[mark] for mark in fit[:count]]
                return dataclasses.replace(row, input_files=_named(row, chosen, draw))
        raise TaskError(
            f"there are {len(fit)} documents of other rows for {row.id!r}, not {count}",
            hint="name fewer with --distractors, or give more documents",
        )


def _named(row: Row, chosen: Sequence[tuple[str, str]], draw: random.Random) -> dict[str, str]:
    """Return all files by names of their own, none of which says which is right."""
    wanted: dict[str, list[str]] = {}
    for name, text in (*row.input_files.items(), *chosen):
        wanted.setdefault(name, []).append(text)
    files: dict[str, str] = {}
    for name, texts in sorted(wanted.items()):
        kept = len(texts) == 1 or (
            name in row.input_files and PurePosixPath(name).name in row.problem_statement
        )
        if kept:
            files[name] = texts[0]
        rest = texts[1:] if kept else draw.sample(texts, len(texts))
        path = PurePosixPath(name)
        number = 1 + kept
        for text in rest:
            while (free := str(path.with_name(f"{path.stem}-{number}{path.suffix}"))) in wanted or (
                free in files
            ):
                number += 1
            files[free] = text
    return dict(sorted(files.items()))
