"""What is to be tried: tasks with their rows and prompts, and the experiment as data."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from sandbox_lite.bench import data, prompt, tasks
from sandbox_lite.bench.episode import Key
from sandbox_lite.config import masked
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path
    from typing import Literal

    from sandbox_lite.agent.episode import AgentLimits
    from sandbox_lite.agent.model import ModelSettings
    from sandbox_lite.bench.data import DataOrigin
    from sandbox_lite.bench.episode import Json
    from sandbox_lite.bench.prompt import Documents, TaskPrompts
    from sandbox_lite.bench.task import Mode, Row, Scorer, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows of each task."""

    ids: tuple[str, ...] = ()
    """Empty is all."""
    limit: int | None = None
    shuffle: bool = False
    seed: int = 0

    def of(self, rows: Sequence[Row], task: str) -> tuple[Row, ...]:
        """Return those that are meant, in the order in which they are tried.

        Raises:
            SpecError: One that is named is not there.
        """
        chosen = list(rows)
        if self.ids:
            known = {row.id: row for row in rows}
            lacking = [name for name in self.ids if name not in known]
            if lacking:
                raise SpecError(
                    f"{task} has no row {lacking[0]!r}", hint=f"the first is {rows[0].id!r}"
                )
            chosen = [known[name] for name in dict.fromkeys(self.ids)]
        if self.shuffle:
            random.Random(self.seed).shuffle(chosen)
        return tuple(chosen[: self.limit])


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One task with all that is needed to try it."""

    name: str
    """By which it was asked for."""
    task: Task
    rows: tuple[Row, ...]
    origin: DataOrigin
    texts: TaskPrompts
    modes: tuple[Mode, ...]

    @property
    def rows_digest(self) -> str:
        """Of the rows that are tried, in order."""
        return hashlib.sha256("".join(row.digest for row in self.rows).encode()).hexdigest()[:16]


def planned(
    names: Sequence[str],
    *,
    modes: Sequence[Mode],
    selection: Selection,
    file: Path | None = None,
    prompts: Literal["ours", "paper"] | Path = "ours",
    offline: bool = False,
) -> tuple[Planned, ...]:
    """Return tasks with their rows and prompts.

    Args:
        names: See `tasks.find`.
        modes: What is tried of those in which a task makes sense.
        selection: Which rows.
        file: Rows of the user's own; for one task alone.
        prompts: See `prompt.load`.
        offline: Never look at the network for data.

    Raises:
        SpecError: The request makes no sense.
        TaskError: A task, its data or its prompts are broken.
        HostError: Data cannot be fetched, or a library lacks.
    """
    if not names:
        raise SpecError("no task is named", hint=f"one or more of: {', '.join(tasks.TASKS)}")
    if file is not None and len(names) > 1:
        raise SpecError("a file of rows is for one task", hint="name one task with --data")
    found = []
    for name in dict.fromkeys(names):
        task = tasks.find(name)
        possible = tuple(mode for mode in modes if mode in task.modes)
        if not possible:
            raise SpecError(f"{task.name} makes no sense in mode {' or '.join(modes)}")
        rows = data.load(task, data=None if file is None else file.absolute(), offline=offline)
        chosen = selection.of(rows.rows, task.name)
        if not any(mode in row.modes for row in chosen for mode in possible):
            raise SpecError(
                f"all of these problems of {task.name} ask for files, and need a computer",
                hint="choose other problems, or --mode sandbox",
            )
        found.append(
            Planned(
                name=name,
                task=task,
                rows=chosen,
                origin=rows.origin,
                texts=prompt.load(task.name, prompts),
                modes=possible,
            )
        )
    by_name = {one.task.name for one in found}
    if len(by_name) != len(found):
        raise SpecError("two of the tasks have the same name")
    return tuple(found)


def keys(plan: Sequence[Planned], repeats: int) -> Iterator[tuple[Planned, Row, Key]]:
    """Yield all that is to be tried: both modes of a problem together, so that a run that is
    broken off can be compared. A problem that asks for a file is for a computer alone.
    """
    for repeat in range(1, repeats + 1):
        for one in plan:
            for row in one.rows:
                for mode in (mode for mode in one.modes if mode in row.modes):
                    yield one, row, Key(task=one.task.name, row=row.id, mode=mode, repeat=repeat)


def experiment(
    plan: Sequence[Planned],
    *,
    repeats: int,
    documents: Documents,
    without: Collection[str],
    model: ModelSettings,
    limits: AgentLimits,
    command_seconds: float,
    sandbox: Json | None,
    scorer: Scorer,
    judge: Json | None,
) -> Json:
    """Return what must be the same for two episodes to be compared, as JSON has it.

    Args:
        plan: What is tried.
        repeats: Tries of each problem.
        documents: Where documents go in sandbox mode.
        without: Tools that a sandbox's model does not have.
        model: Keys and what looks like one are left out.
        limits: Of each episode.
        command_seconds: For one command inside.
        sandbox: Its root file system and what is enforced; None where there is none.
        scorer: Which.
        judge: Which model, and how it is asked; None where there is none.
    """
    return {
        "tasks": {
            one.task.name: {
                "version": one.task.version,
                "modes": list(one.modes),
                "rows": len(one.rows),
                "rows_digest": one.rows_digest,
                "prompts": one.texts.source,
                "prompts_digest": one.texts.digest,
            }
            for one in plan
        },
        "repeats": repeats,
        "context": documents,
        "without_tools": sorted(without),
        "model": described_model(model),
        "limits": dataclasses.asdict(limits) | {"command_seconds": command_seconds},
        "sandbox": sandbox,
        "scorer": scorer,
        "judge": judge,
    }


def described_model(model: ModelSettings) -> Json:
    """Return which model, where, and how it is asked, without any key."""
    return {
        "model": model.model,
        "base_url": model.base_url and _without_password(model.base_url),
        "temperature": model.temperature,
        "max_tokens": model.max_tokens,
        "extra_body": masked(dict(model.extra_body)),
    }


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def described_tasks(plan: Sequence[Planned]) -> Json:
    """Return where tasks and their rows come from, for the record and for grading again."""
    return {
        one.task.name: {
            "name": one.name,
            "title": one.task.title,
            "version": one.task.version,
            "data": dataclasses.asdict(one.origin),
            "prompts": one.texts.source,
        }
        for one in plan
    }
