"""`SandboxEnv`: a computer for each rollout, and a reward for the answer that is left in it.

The one neutral core: it knows no trainer. `SandboxEnv` and `AsyncSandboxEnv` are two faces of one
machine, as `Sandbox` and `AsyncSandbox` are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sandbox_lite.agent.trajectory import StopReason
from sandbox_lite.agent.work import finish, follow
from sandbox_lite.jail.aio import AsyncSandbox
from sandbox_lite.jail.coroutines import in_thread
from sandbox_lite.rl.machine import EnvSettings, Machine, Policy
from sandbox_lite.rl.source import Cold, Forks, Source, Start, Warm
from sandbox_lite.rl.turn import (
    OVERLONG,
    Action,
    Cause,
    Info,
    Observation,
    Result,
    actions_of,
    cause_of,
    observation_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_lite.agent.completion import Completion
    from sandbox_lite.bench.task import Row
    from sandbox_lite.jail.sandbox import Sandbox

__all__ = [
    "OVERLONG",
    "Action",
    "AsyncSandboxEnv",
    "Cause",
    "Cold",
    "EnvSettings",
    "Forks",
    "Info",
    "Observation",
    "Result",
    "SandboxEnv",
    "Source",
    "Start",
    "Warm",
    "actions_of",
    "cause_of",
    "observation_of",
]

_T = TypeVar("_T")


class _Told(Policy):
    def complete(self, *_: object, **__: object) -> Completion:
        return self.said()


class _AsyncTold(Policy):
    async def complete(self, *_: object, **__: object) -> Completion:
        return self.said()


class SandboxEnv(Machine):
    """Episodes with an outcome reward, one at a time, each in a sandbox of its own.

    Any number of environments may live in threads of one process, with one source and one grading.
    """

    def _do(self, kind: str, work: Callable[[], _T], *, surely: bool = False) -> _T:
        del kind, surely
        return work()

    def _around(self, sandbox: Sandbox) -> Sandbox:
        return sandbox

    def _policy(self) -> _Told:
        return _Told()

    def __enter__(self) -> Self:
        """Return itself; nothing is started before `reset`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def reset(self, row: Row, *, seed: int = 0) -> Observation:
        """Begin an episode in a fresh sandbox, with the row's documents in it; end the one before.

        Args:
            row: The problem; its ground truth never enters the sandbox.
            seed: For what differs by chance inside: bash's RANDOM and Python's hashes.

        Returns:
            The first messages of the conversation.

        Raises:
            SpecError: Nobody could reward this row, or the request makes no sense.
            SandboxLiteError: No sandbox could be had, at the second try either.
        """
        return finish(self.reset_work(row, seed))

    def step(self, action: Action) -> Result:
        """Execute what the policy said.

        Where that ends the episode, every process is stopped, the answer read, and the sandbox
        released. Where the sandbox fails, all actions are done again in a fresh one, once; where
        that fails too, or shows the policy something else than it has seen, the episode is masked.

        Raises:
            SpecError: There is no episode, or it is over.
        """
        return finish(self.step_work(action))

    def compute_final_reward(self, *, stop: StopReason = StopReason.SUBMITTED) -> float | None:
        """Return the reward, 0 to 1: what the grader says, or 0 for an overlong episode.

        A second call returns the same.

        Args:
            stop: Why an episode ends here that has not ended by itself: the trainer knows.

        Returns:
            None where the episode is masked: the sandbox or the judge failed, not the model.

        Raises:
            HostError: A library of the grader lacks.
            TaskError: The grader or the row is broken.
        """
        return finish(self.reward_work(stop))

    def replay(self, row: Row, *, seed: int, actions: Sequence[Action]) -> tuple[Result, ...]:
        """Begin an episode and do recorded actions, see `actions_of`, as far as it goes."""
        return finish(self.replay_work(row, seed, actions))

    def close(self) -> None:
        """Release the sandbox; a second call does nothing."""
        finish(self.close_work())


class AsyncSandboxEnv(Machine):
    """`SandboxEnv` for asyncio, with its names: any number of episodes on one loop.

    A call that is cancelled ends the episode, which is masked; close it then.
    """

    def _do(self, kind: str, work: Callable[[], Any], *, surely: bool = False) -> Any:
        if kind == "grading":  # a judge takes its time, and a thread of another kind
            return asyncio.to_thread(work)
        return in_thread(kind, work, surely=surely)

    def _around(self, sandbox: Sandbox) -> AsyncSandbox:
        return AsyncSandbox.around(sandbox)

    def _policy(self) -> _AsyncTold:
        return _AsyncTold()

    async def __aenter__(self) -> Self:
        """Return itself; nothing is started before `reset`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def reset(self, row: Row, *, seed: int = 0) -> Observation:
        """See `SandboxEnv.reset`."""
        return await follow(self.reset_work(row, seed))

    async def step(self, action: Action) -> Result:
        """See `SandboxEnv.step`."""
        return await follow(self.step_work(action))

    async def compute_final_reward(
        self, *, stop: StopReason = StopReason.SUBMITTED
    ) -> float | None:
        """See `SandboxEnv.compute_final_reward`."""
        return await follow(self.reward_work(stop))

    async def replay(self, row: Row, *, seed: int, actions: Sequence[Action]) -> tuple[Result, ...]:
        """See `SandboxEnv.replay`."""
        return await follow(self.replay_work(row, seed, actions))

    async def close(self) -> None:
        """See `SandboxEnv.close`."""
        await follow(self.close_work())
