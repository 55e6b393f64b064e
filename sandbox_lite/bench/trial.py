"""Does one episode: tries, pauses between them, the grade. Knows neither a queue nor who writes.

An engine says where that is done, on this machine or on the nodes of a cluster.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sandbox_lite.agent.trajectory import now
from sandbox_lite.bench import rollout, tool_use
from sandbox_lite.bench.episode import Episode, Fault
from sandbox_lite.bench.task import Ungraded
from sandbox_lite.errors import SandboxLiteError, SpecError

if TYPE_CHECKING:
    from sandbox_lite.agent.model import AsyncModel
    from sandbox_lite.agent.trajectory import Trajectory
    from sandbox_lite.bench.episode import Key
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.prices import Price
    from sandbox_lite.bench.prompt import TaskPrompts
    from sandbox_lite.bench.rollout import Attempt, Computers
    from sandbox_lite.bench.task import Answer, NoAnswer, Row, Score, Task
    from sandbox_lite.bench.tool_use import ToolUse

GRADING_FAILED = "grading failed"
"""What the reason of an `Ungraded` begins with where another try may help."""

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast, and how long."""

    concurrency: int | None = None
    """Episodes at once on one machine; None is what it bears."""
    retries: int = 2
    """Further tries after a fault of the server or the machine."""
    seconds: float | None = None
    """For the answer of a plain model."""
    max_tokens_total: int | None = None
    """No episode begins when all together have taken so many."""
    max_cost: float | None = None
    """No episode begins when all together have cost so much; needs a `price`."""
    price: Price | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise SpecError(
                "a bound of cost needs prices, and none are known",
                hint="give --prices FILE with what a million tokens of the model cost",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Todo:
    """One episode that is to be done."""

    name: str
    """By which its task was asked for."""
    task: Task
    texts: TaskPrompts
    row: Row
    key: Key
    lost: tuple[Fault, ...] = ()
    """Machines that were lost while it was done there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One episode that has ended, not written down yet."""

    episode: Episode
    trajectory: Trajectory | None


class Engine(Protocol):
    """Where episodes are done."""

    def has_room(self, running: int) -> bool:
        """Return whether another episode may begin, beside those that run."""

    async def look(self) -> None:
        """See what has become of its machines; called again and again while a run goes on.

        Raises:
            HostError: None is left, and none comes.
        """

    async def episode(self, todo: Todo) -> Done | Fault:
        """Do an episode; cancel it to break it off.

        Returns:
            What it came to; a fault where its machine was lost, from which nothing comes any more.
        """


class Trials(AbstractContextManager["Trials"]):
    """Does episodes on one loop, any number at once; close it in the end.

    Args:
        model: Who is asked.
        computers: None where no episode is in sandbox mode.
        grading: Who tells what an answer is worth.
        pace: How often, and how long.
        threads: How many answers wait for their grade at once.
    """

    def __init__(
        self,
        model: AsyncModel,
        computers: Computers | None,
        grading: Grading,
        pace: Pace,
        *,
        threads: int,
    ) -> None:
        self._model = model
        self._computers = computers
        self._grading = grading
        self._pace = pace
        self._graders = ThreadPoolExecutor(threads, "sandbox-lite grading")

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Grade nothing more."""
        # what a judge takes minutes for must not keep the results of the rest
        self._graders.shutdown(wait=False, cancel_futures=True)

    async def episode(self, todo: Todo) -> Done:
        """Try a problem until the model has had its try, and grade the answer."""
        began = time.monotonic()
        faults: list[Fault] = []
        while True:
            tried = time.monotonic()
            attempt = await self._attempt(todo)
            if attempt.fault is None:
                break
            faults.append(attempt.fault)
            if len(faults) > self._pace.retries:
                break
            await asyncio.sleep(_pause(len(faults)))
        ended = time.monotonic()
        score: Score | Ungraded | None = None
        if attempt.answer is not None:
            score = await self._graded(todo, attempt.answer)
        episode = Episode(
            key=todo.key,
            problem=todo.row.problem,
            row_digest=todo.row.digest,
            domain=todo.row.domain,
            stop=attempt.stop,
            answer=attempt.answer,
            score=score,
            fault=attempt.fault,
            faults=(*todo.lost, *faults),
            turns=_turns(attempt),
            spent=attempt.spent,
            waiting_seconds=(ended if attempt.fault else tried) - began,
            grading_seconds=time.monotonic() - ended,
            tool_use=_tool_use(todo.key, attempt),
            ended=now(),
        )
        return Done(episode=episode, trajectory=attempt.trajectory)

    async def _attempt(self, todo: Todo) -> Attempt:
        if todo.key.mode == "plain":
            seconds = self._pace.seconds
            return await rollout.plain(self._model, todo.texts, todo.row, seconds=seconds)
        assert self._computers is not None
        return await rollout.in_sandbox(self._model, todo.texts, todo.row, self._computers)

    async def _graded(self, todo: Todo, answer: Answer | NoAnswer) -> Score | Ungraded:
        """Return the score; where a grader or a judge fails, the answer is kept without one."""
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            try:
                return await loop.run_in_executor(
                    self._graders, self._grading.grade, todo.task, todo.row, answer
                )
            except SandboxLiteError as error:
                if tries == self._pace.retries:
                    name = todo.task.grader(todo.row, self._grading.scorer)
                    return Ungraded(reason=f"{GRADING_FAILED}: {error.message}", grader=name)
            tries += 1
            await asyncio.sleep(_pause(tries))


def given_up(todo: Todo) -> Episode:
    """Return the episode of a problem that was lost with its machine too often."""
    fault = todo.lost[-1]
    return Episode(
        key=todo.key, problem=todo.row.problem, row_digest=todo.row.digest,
        domain=todo.row.domain, stop=fault.stop, answer=None, score=None, fault=fault,
        faults=todo.lost, ended=now(),
    )  # fmt: skip


def _pause(tries: int) -> float:
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (tries - 1))


def _turns(attempt: Attempt) -> int:
    return 0 if attempt.trajectory is None else len(attempt.trajectory.steps)


def _tool_use(key: Key, attempt: Attempt) -> ToolUse | None:
    if key.mode == "plain" or attempt.trajectory is None:
        return None
    return tool_use.of_run(attempt.trajectory)
