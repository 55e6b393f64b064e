"""Tries all that is planned: many episodes on one loop, each graded, and written down once."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import resource
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from sandbox_lite.agent.trajectory import TrajectoryWriter, now
from sandbox_lite.bench import rollout
from sandbox_lite.bench.episode import Episode, Fault
from sandbox_lite.bench.ledger import write_whole
from sandbox_lite.bench.task import Artefact, NoAnswer, Ungraded
from sandbox_lite.errors import SandboxLiteError
from sandbox_lite.jail import pressure
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox_lite.agent.model import AsyncModel
    from sandbox_lite.agent.trajectory import Trajectory
    from sandbox_lite.bench.episode import Key
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.ledger import Ledger
    from sandbox_lite.bench.plan import Planned
    from sandbox_lite.bench.rollout import Attempt, Computers
    from sandbox_lite.bench.task import Answer, Row, Score

GRADING_FAILED = "grading failed"
"""What the reason of an `Ungraded` begins with where another try may help."""

_PER_CPU = 8
_SANDBOX_BYTES = 256 * MIB
_SANDBOX_DESCRIPTORS = 32
"""Of ours, for one sandbox with a proxy; what all share is left out."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_PRESSURE_SECONDS = 0.5


def default_concurrency() -> int:
    """Return how many episodes this machine can have at once: by cores, memory, descriptors."""
    cpus = len(os.sched_getaffinity(0))
    memory = int(psutil.virtual_memory().available // _SANDBOX_BYTES)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 10**6 if soft == resource.RLIM_INFINITY else soft // _SANDBOX_DESCRIPTORS
    return max(1, min(_PER_CPU * cpus, memory, files))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast, and how long."""

    concurrency: int
    retries: int = 2
    """Further tries after a fault of the server or the machine."""
    seconds: float | None = None
    """For the answer of a plain model."""
    max_tokens_total: int | None = None
    """No episode begins when all together have taken so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run went."""

    interrupted: bool
    out_of_tokens: bool
    left: int
    """Episodes that a second start would do."""


class Runner:
    """Does what is left to do of a plan; `run` it once.

    Args:
        todo: See `plan.keys`; what the ledger holds already is left out.
        ledger: Where episodes are written down.
        model: Who is asked.
        computers: None where no episode is in sandbox mode.
        grading: Who tells what an answer is worth.
        pace: How fast.
        told: Called for each episode that is written down.
    """

    def __init__(
        self,
        todo: Iterable[tuple[Planned, Row, Key]],
        ledger: Ledger,
        model: AsyncModel,
        computers: Computers | None,
        grading: Grading,
        pace: Pace,
        *,
        told: Callable[[Episode], None] = lambda _: None,
    ) -> None:
        self._waiting = deque(
            one
            for one in todo
            if one[2] not in ledger.done or ledger.done[one[2]].fault is not None
        )
        self._ledger = ledger
        self._model = model
        self._computers = computers
        self._grading = grading
        self._pace = pace
        self._told = told
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._tokens = sum(one.tokens for one in ledger.done.values())
        self._graders: ThreadPoolExecutor | None = None

    @property
    def left(self) -> int:
        """Episodes that have not been written down."""
        return len(self._waiting) + len(self._running)

    def stop(self) -> None:
        """Begin nothing more, and break off what runs; `run` returns when that has ended."""
        self._stopped = True
        for task in self._running:
            task.cancel()

    async def run(self) -> Ended:
        """Try all that is left.

        Raises:
            SandboxLiteError: The results cannot be written; what runs is broken off.
        """
        broken_off = 0
        threads = ThreadPoolExecutor(self._pace.concurrency, "sandbox-lite grading")
        self._graders = threads
        try:
            while self._may_begin() or self._running:
                while self._may_begin() and self._has_room():
                    task = asyncio.ensure_future(self._episode(*self._waiting.popleft()))
                    self._running.add(task)
                done, _ = await asyncio.wait(
                    self._running,
                    timeout=_PRESSURE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                self._running -= done
                for task in done:
                    if task.cancelled():
                        broken_off += 1
                    else:
                        task.result()
        finally:
            await self._break_off()
            # what a judge takes minutes for must not keep the results of the rest
            threads.shutdown(wait=False, cancel_futures=True)
        return Ended(
            interrupted=self._stopped,
            out_of_tokens=bool(self._waiting) and not self._stopped,
            left=len(self._waiting) + broken_off,
        )

    async def _break_off(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    def _may_begin(self) -> bool:
        most = self._pace.max_tokens_total
        enough = most is not None and self._tokens >= most
        return bool(self._waiting) and not self._stopped and not enough

    def _has_room(self) -> bool:
        if not self._running:
            return True
        return len(self._running) < self._pace.concurrency and not pressure.is_high()

    async def _episode(self, planned: Planned, row: Row, key: Key) -> None:
        began = time.monotonic()
        faults: list[Fault] = []
        while True:
            tried = time.monotonic()
            attempt = await self._attempt(planned, row, key)
            self._tokens += attempt.spent.tokens
            if attempt.fault is None:
                break
            faults.append(attempt.fault)
            if len(faults) > self._pace.retries:
                break
            pause = _FIRST_PAUSE * 2 ** (len(faults) - 1)
            await asyncio.sleep(min(_LONGEST_PAUSE, pause))
        ended = time.monotonic()
        score: Score | Ungraded | None = None
        if attempt.answer is not None:
            score = await self._graded(planned, row, attempt.answer, attempt.artefact)
        graded = time.monotonic()
        trajectory = None
        if attempt.trajectory is not None:
            trajectory = _record_name(key)
            await asyncio.to_thread(self._record, trajectory, attempt.trajectory)
        artefact: Artefact | NoAnswer | None = None
        if attempt.artefact is not None:
            artefact = await asyncio.to_thread(self._kept, key, row.artefact, attempt.artefact)
        episode = Episode(
            key=key,
            problem=row.problem,
            row_digest=row.digest,
            domain=row.domain,
            stop=attempt.stop,
            answer=attempt.answer,
            score=score,
            fault=attempt.fault,
            faults=tuple(faults),
            turns=_turns(attempt),
            spent=attempt.spent,
            waiting_seconds=(ended if attempt.fault else tried) - began,
            grading_seconds=graded - ended,
            trajectory=trajectory,
            artefact=artefact,
            ended=now(),
        )
        self._ledger.append(episode)
        self._told(episode)

    async def _attempt(self, planned: Planned, row: Row, key: Key) -> Attempt:
        if key.mode == "plain":
            seconds = self._pace.seconds
            return await rollout.plain(self._model, planned.texts, row, seconds=seconds)
        assert self._computers is not None
        return await rollout.in_sandbox(self._model, planned.texts, row, self._computers)

    async def _graded(
        self,
        planned: Planned,
        row: Row,
        answer: Answer | NoAnswer,
        file: bytes | NoAnswer | None,
    ) -> Score | Ungraded:
        """Return the score; where a grader or a judge fails, the answer is kept without one."""
        loop = asyncio.get_running_loop()
        grade = functools.partial(self._grading.grade, planned.task, row, answer, file=file)
        tries = 0
        while True:
            try:
                return await loop.run_in_executor(self._graders, grade)
            except SandboxLiteError as error:
                if tries == self._pace.retries:
                    name = planned.task.grader(row, self._grading.scorer)
                    return Ungraded(reason=f"{GRADING_FAILED}: {error.message}", grader=name)
            await asyncio.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tries))
            tries += 1

    def _kept(self, key: Key, name: str, made: bytes | NoAnswer) -> Artefact | NoAnswer:
        """Keep a file that a model made beside where its trajectory will be."""
        if isinstance(made, NoAnswer):
            return made
        file = f"{_record_name(key).removesuffix('.jsonl')}.{name}"
        write_whole(self._ledger.directory / file, made)
        digest = hashlib.sha256(made).hexdigest()
        return Artefact(file=file, size_bytes=len(made), sha256=digest)

    def _record(self, name: str, trajectory: Trajectory) -> None:
        with TrajectoryWriter(self._ledger.directory / name) as writer:
            writer.begin(trajectory)
            for step in trajectory.steps:
                writer.step(step)
            writer.end(trajectory)


def _turns(attempt: Attempt) -> int:
    return 0 if attempt.trajectory is None else len(attempt.trajectory.steps)


def _record_name(key: Key) -> str:
    """Return where a trajectory is kept; an id may be any text, so it is spelled harmlessly."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in key.row)
    if plain != key.row or len(plain) > 80:
        plain = f"{plain[:60]}-{hashlib.sha256(key.row.encode()).hexdigest()[:12]}"
    task = "".join(c if c.isalnum() or c in "-_" else "_" for c in key.task)
    return f"trajectories/{task}/{plain}.{key.mode}.{key.repeat}.jsonl"
