"""Tries all that is planned: many episodes at once, each written down once."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.agent.trajectory import TrajectoryWriter
from sandbox_lite.bench.episode import Fault
from sandbox_lite.bench.trial import Todo, given_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox_lite.agent.trajectory import Trajectory
    from sandbox_lite.bench.episode import Episode, Key
    from sandbox_lite.bench.ledger import Ledger
    from sandbox_lite.bench.plan import Planned
    from sandbox_lite.bench.task import Row
    from sandbox_lite.bench.trial import Engine, Pace

_LOOK_SECONDS = 0.5
_MOST_LOST = 3
"""Machines that one episode may be lost with: it may be what ends them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run went."""

    interrupted: bool
    out_of_tokens: bool
    left: int
    """Episodes that a second start would do."""
    out_of_money: bool = False
    episodes: int = 0
    """Written down by this start."""
    seconds: float = 0.0
    """Wall time of this start."""


class Runner:
    """Does what is left to do of a plan; `run` it once.

    Args:
        todo: See `plan.keys`; what the ledger holds already is left out.
        ledger: Where episodes are written down.
        engine: Where they are done.
        pace: How fast.
        told: Called for each episode that is written down.
    """

    def __init__(
        self,
        todo: Iterable[tuple[Planned, Row, Key]],
        ledger: Ledger,
        engine: Engine,
        pace: Pace,
        *,
        told: Callable[[Episode], None] = lambda _: None,
    ) -> None:
        self._waiting = deque(
            Todo(name=planned.name, task=planned.task, texts=planned.texts, row=row, key=key)
            for planned, row, key in todo
            if key not in ledger.done or ledger.done[key].fault is not None
        )
        self._ledger = ledger
        self._engine = engine
        self._pace = pace
        self._told = told
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._tokens = sum(one.tokens for one in ledger.done.values())
        self._cost = 0.0
        if pace.price is not None:
            self._cost = sum(pace.price.of_episode(one) for one in ledger.done.values())
        self._written = 0

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
            SandboxLiteError: The results cannot be written, or no machine is left; what runs is
                broken off.
        """
        broken_off, began = 0, time.monotonic()
        try:
            while self._may_begin() or self._running:
                await self._engine.look()
                while self._may_begin() and self._engine.has_room(len(self._running)):
                    task = asyncio.ensure_future(self._episode(self._waiting.popleft()))
                    self._running.add(task)
                for task in await self._some_end():
                    if task.cancelled():
                        broken_off += 1
                    else:
                        task.result()
        finally:
            await self._break_off()
        return Ended(
            interrupted=self._stopped,
            out_of_tokens=bool(self._waiting) and not self._stopped and self._out_of_tokens,
            out_of_money=bool(self._waiting) and not self._stopped and self._out_of_money,
            left=len(self._waiting) + broken_off,
            episodes=self._written,
            seconds=time.monotonic() - began,
        )

    async def _some_end(self) -> set[asyncio.Task[None]]:
        if not self._running:
            await asyncio.sleep(_LOOK_SECONDS)
            return set()
        done, _ = await asyncio.wait(
            self._running, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        self._running -= done
        return done

    async def _break_off(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    @property
    def _out_of_tokens(self) -> bool:
        most = self._pace.max_tokens_total
        return most is not None and self._tokens >= most

    @property
    def _out_of_money(self) -> bool:
        most = self._pace.max_cost
        return most is not None and self._cost >= most

    def _may_begin(self) -> bool:
        enough = self._out_of_tokens or self._out_of_money
        return bool(self._waiting) and not self._stopped and not enough

    async def _episode(self, todo: Todo) -> None:
        done = await self._engine.episode(todo)
        if isinstance(done, Fault):
            again = dataclasses.replace(todo, lost=(*todo.lost, done))
            if len(again.lost) < _MOST_LOST:
                self._waiting.appendleft(again)
            else:
                self._write(given_up(again))
            return
        episode = done.episode
        self._tokens += episode.tokens
        if self._pace.price is not None:
            self._cost += self._pace.price.of_episode(episode)
        if done.trajectory is not None:
            name = _record_name(todo.key)
            await asyncio.to_thread(self._record, name, done.trajectory)
            episode = dataclasses.replace(episode, trajectory=name)
        self._write(episode)

    def _write(self, episode: Episode) -> None:
        self._ledger.append(episode)
        self._written += 1
        self._told(episode)

    def _record(self, name: str, trajectory: Trajectory) -> None:
        with TrajectoryWriter(self._ledger.directory / name) as writer:
            writer.whole(trajectory)


def _record_name(key: Key) -> str:
    """Return where a trajectory is kept; an id may be any text, so it is spelled harmlessly."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in key.row)
    if plain != key.row or len(plain) > 80:
        import hashlib

        plain = f"{plain[:60]}-{hashlib.sha256(key.row.encode()).hexdigest()[:12]}"
    task = "".join(c if c.isalnum() or c in "-_" else "_" for c in key.task)
    return f"trajectories/{task}/{plain}.{key.mode}.{key.repeat}.jsonl"
