"""The agent for asyncio: any number of episodes on one loop, and no thread for any of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sandbox_lite.agent.episode import Episode
from sandbox_lite.agent.model import AsyncChat
from sandbox_lite.agent.tools import AsyncComputer
from sandbox_lite.agent.trajectory import StopReason
from sandbox_lite.agent.work import follow

if TYPE_CHECKING:
    from sandbox_lite.agent.trajectory import Step, Trajectory


class AsyncAgent(Episode[AsyncComputer, AsyncChat]):
    """`Agent` for asyncio, with its names: an `AsyncSandbox` and an `AsyncModel` at work.

    Callbacks are plain functions, as there; they are called on the loop.
    """

    async def run(self, task: str, *, after: Trajectory | None = None) -> Trajectory:
        """Work on a task until it is submitted or a limit is reached; see `Agent.run`.

        Cancelled, it ends the command that runs, and completes the record as `INTERRUPTED` before
        it raises; `trajectory` has it.
        """
        try:
            return await follow(self.run_work(task, after))
        except asyncio.CancelledError:
            await follow(self.end_work(StopReason.INTERRUPTED))
            raise

    async def begin(self, task: str) -> None:
        """See `Agent.begin`."""
        await follow(self.begin_work(task))

    async def step(self) -> Step:
        """See `Agent.step`."""
        return await follow(self.step_work())
