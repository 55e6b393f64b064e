"""Tasks: one file each, one line in the table; a third party's by dotted path or folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from sandbox_lite.bench import plugin
from sandbox_lite.bench.tasks import (
    biomed,
    chem,
    context,
    demo,
    instruct_follow,
    long_context,
    math,
    physics,
)
from sandbox_lite.errors import SpecError, TaskError

if TYPE_CHECKING:
    from types import ModuleType

    from sandbox_lite.bench.task import Task

_ALL: tuple[Task, ...] = (
    math.TASK, physics.TASK, chem.TASK, biomed.TASK, long_context.TASK, instruct_follow.TASK,
    context.TASK, demo.TASK,
)  # fmt: skip
TASKS = {task.name: task for task in _ALL}

_FACE = ("name", "title", "version", "modes", "source", "grader")


def find(name: str) -> Task:
    """Return a task.

    Args:
        name: One of the table, a module (`package.module`, or `package.module:NAME`) or a folder
            with a file `task.py`; these hold it as `TASK` where no name is given.

    Raises:
        SpecError: There is none.
        TaskError: Its code cannot be imported, or holds no task.
    """
    if name in TASKS:
        return TASKS[name]
    if "/" in name or Path(name).is_dir():
        path = Path(name) / "task.py"
        if not path.is_file():
            raise SpecError(f"no task in {name}", hint="a task's folder holds a file task.py")
        return _task(plugin.module(str(path)), "TASK", name)
    if "." not in name and ":" not in name:
        raise SpecError(
            f"no task {name!r}",
            hint=f"one of: {', '.join(TASKS)}; or package.module:NAME, or a folder with task.py",
        )
    module, _, attribute = name.partition(":")
    return _task(plugin.module(module), attribute or "TASK", name)


def _task(module: ModuleType, attribute: str, name: str) -> Task:
    found = getattr(module, attribute, None)
    missing = [member for member in _FACE if not hasattr(found, member)]
    if missing:
        raise TaskError(
            f"{name} holds no task: {attribute} lacks {', '.join(missing)}",
            hint="see sandbox_lite.bench.task.Task for what a task has",
        )
    return cast("Task", found)
