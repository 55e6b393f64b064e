"""What runs on a node of the cluster: the local engine, in an actor."""

from __future__ import annotations

import asyncio
import platform
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sandbox_lite
from sandbox_lite.bench import tasks
from sandbox_lite.bench.engines import local
from sandbox_lite.bench.rollout import computer
from sandbox_lite.bench.trial import Done, Todo
from sandbox_lite.errors import HostError, SandboxLiteError

if TYPE_CHECKING:
    from sandbox_lite.bench.engines.local import Local
    from sandbox_lite.bench.engines.work import Work
    from sandbox_lite.bench.episode import Fault, Key
    from sandbox_lite.bench.prompt import TaskPrompts
    from sandbox_lite.bench.task import Row, Task
    from sandbox_lite.spec import Enforcement


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One task, as a node is told of it."""

    name: str
    version: str
    texts: TaskPrompts
    samples: tuple[Row, ...]
    """One row of each grader, to see whether it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a node is told when it begins."""

    work: Work
    """Without its plan."""
    tasks: tuple[Told, ...]
    versions: tuple[str, str]
    """Of this package and of Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A node can begin."""

    concurrency: int
    enforced: Enforcement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A node cannot do what is asked for."""

    message: str
    hint: str | None


def versions() -> tuple[str, str]:
    """Return which release of this package this is, and of Python."""
    return (f"sandbox-lite {sandbox_lite.__version__}", f"Python {platform.python_version()}")


class Node:
    """The actor: runs on the loop of a worker of Ray's, in a thread that is not the main one."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._stack = AsyncExitStack()
        self._tasks: dict[str, tuple[Task, TaskPrompts]] = {}
        self._local: Local | None = None
        self._running: set[asyncio.Task[Done]] = set()

    async def begin(self) -> Ready | Refusal:
        """Open what episodes need."""
        try:
            return await self._begin()
        except SandboxLiteError as error:
            return Refusal(message=error.message, hint=error.hint)

    async def _begin(self) -> Ready:
        ours, theirs = versions(), self._orders.versions
        if ours != theirs:
            raise HostError(
                f"it has {' and '.join(ours)}, the driver {' and '.join(theirs)}",
                hint="install the same on every node",
            )
        work = self._orders.work
        grading = self._stack.enter_context(work.grading.opened())
        for told in self._orders.tasks:
            task = tasks.find(told.name)
            if task.version != told.version:
                raise HostError(
                    f"its {told.name} is of version {task.version}, the driver's {told.version}",
                    hint="install the same on every node",
                )
            self._tasks[told.name] = (task, told.texts)
            await asyncio.to_thread(grading.check, task, told.samples)
        enforced = None
        if work.computers is not None:
            async with computer(work.computers, self._orders.tasks[0].texts) as probe:
                enforced = probe.enforcement
        opened = local.opened(work, grading, None, lambda _: None)
        self._local = await self._stack.enter_async_context(opened)
        return Ready(concurrency=self._local.concurrency, enforced=enforced)

    async def episode(self, name: str, row: Row, key: Key, lost: tuple[Fault, ...]) -> Done:
        """Do one episode, as soon as the memory of this node allows."""
        assert self._local is not None
        while not self._local.has_room(len(self._running)):
            await asyncio.sleep(local.PRESSURE_SECONDS)
        task, texts = self._tasks[name]
        todo = Todo(name=name, task=task, texts=texts, row=row, key=key, lost=lost)
        running = asyncio.ensure_future(self._local.episode(todo))
        self._running.add(running)
        try:
            return await running
        finally:
            self._running.discard(running)

    async def end(self) -> None:
        """Break off what runs, and close what is open; on return no sandbox is left."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._stack.aclose()
