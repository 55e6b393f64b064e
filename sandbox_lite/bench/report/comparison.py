"""How the results of several directories compare: a table by model, task and mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.bench.report import stored, tables
from sandbox_lite.errors import SpecError
from sandbox_lite.pages import charts
from sandbox_lite.pages.site import document
from sandbox_lite.pages.site import write as write_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox_lite.bench.report.stored import Stored
    from sandbox_lite.bench.report.tables import Score

_SAME = ("rows_digest", "version", "prompts_digest")
"""Of a task, what must agree."""
_SAME_OF_ALL = ("scorer", "judge", "context", "without_tools", "limits", "repeats", "sandbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One directory among several."""

    name: str
    """The model, and the directory where two are of one model."""
    directory: str
    scores: tuple[Score, ...]
    complete: bool
    faults: int


def compare(directories: Sequence[Path], target: Path) -> tuple[str, ...]:
    """Write a page that compares directories.

    Args:
        directories: Two or more.
        target: The file.

    Returns:
        What differs between them besides the model, in words; such scores do not compare.

    Raises:
        SpecError: There are fewer than two.
        TaskError: One holds no finished benchmark.
        HostError: The page cannot be written.
    """
    if len(directories) < 2:
        raise SpecError("one directory compares with nothing", hint="name two or more")
    found = [stored.load(one) for one in directories]
    names = _names(found)
    warnings = differences(found, names)
    compared = [
        Compared(
            name=name,
            directory=str(one.directory),
            scores=tables.scores(one.results),
            complete=bool(one.results["complete"]),
            faults=one.results["counts"]["faults"],
        )
        for one, name in zip(found, names, strict=True)
    ]
    page = document(
        "comparison.html", title=f"{len(found)} results compared", compared=compared,
        warnings=warnings,
        rows=[(one.name, score) for one in compared for score in one.scores],
        plots=[_plot(task, found, names) for task in _tasks(found)],
    )  # fmt: skip
    write_page(target, page)
    return warnings


def differences(found: Sequence[Stored], names: Sequence[str]) -> tuple[str, ...]:
    """Return what differs besides the model, each in one line."""
    lines = []
    first = found[0].results["experiment"]
    for one, name in zip(found[1:], names[1:], strict=True):
        other = one.results["experiment"]
        lines += [
            f"{what}: {_short(first[what])} of {names[0]}, {_short(other[what])} of {name}"
            for what in _SAME_OF_ALL
            if first[what] != other[what]
        ]
        for task in sorted(first["tasks"].keys() | other["tasks"].keys()):
            before, after = first["tasks"].get(task), other["tasks"].get(task)
            if before is None or after is None:
                lines.append(f"{task} was tried only by {names[0] if before else name}")
                continue
            lines += [
                f"{task} {what.removesuffix('_digest')}: {before[what]} of {names[0]}, "
                f"{after[what]} of {name}"
                for what in _SAME
                if before[what] != after[what]
            ]
    return tuple(lines)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _names(found: Sequence[Stored]) -> tuple[str, ...]:
    models = [one.model for one in found]
    return tuple(
        one.model if models.count(one.model) == 1 else f"{one.model} ({one.directory})"
        for one in found
    )


def _tasks(found: Sequence[Stored]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(task for one in found for task in one.results["spent"]))


def _plot(task: str, found: Sequence[Stored], names: Sequence[str]) -> str:
    spans = []
    for one, name in zip(found, names, strict=True):
        modes = one.results["statistics"]["domains"].get(task, {}).get("modes", {})
        spans += [
            tables.span(f"{name}, {mode}", interval, 0 if mode == "sandbox" else 1)
            for mode, interval in modes.items()
        ]
    return charts.intervals(spans, low=0, high=1, title=f"{task}: mean score")
