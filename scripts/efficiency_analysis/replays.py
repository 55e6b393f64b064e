"""Replays at once: the agent's own loop, a model that takes the recorded time, real sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.scripted import ScriptedModel

from efficiency_analysis.memory import MemoryLooks, available_bytes, own_bytes
from sandbox_lite import AsyncSandbox, Limits
from sandbox_lite.agent import prompt as prompts
from sandbox_lite.agent.aio import AsyncAgent
from sandbox_lite.agent.comparison import parse
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.tools import ToolContext, find

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from efficiency_analysis.recorded import Recorded
    from sandbox_lite.agent.completion import Completion, Message
    from sandbox_lite.agent.trajectory import Step

_SETTLING_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How it is to be done."""

    rootfs: str
    network: str = "none"
    allow_private: tuple[str, ...] = ()
    count: int = 64
    speed: float = 1.0
    """The model is so many times faster than it was."""
    seconds: float | None = None
    """Of each replay; what is not done then is left out."""
    interval: float = 2.0
    """Between two looks at memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """One step of one replay, in seconds."""

    model: float
    """As recorded."""
    environment: float
    trip: float
    """There and back of a command that does nothing, taken just before."""
    around: float
    """All else between two turns of the model: the loop, the record, timers that are late."""

    @property
    def overhead(self) -> float:
        """What is ours: the way of a command, and all around it."""
        return self.trip + self.around


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One replay."""

    name: str
    steps: tuple[Stepped, ...]
    startup_seconds: float
    seconds: float
    disk_bytes: int | None
    """The most that was in use."""
    limit_peak_bytes: int | None
    """As the limits count it: with the pages of files and of the disk, where the kernel counts."""
    unlike: int
    """Commands that ended with another exit code than in the record."""
    whole: bool
    """All recorded steps were done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All replays together."""

    replays: tuple[Replayed, ...]
    memory: MemoryLooks
    idle_bytes: float
    """Less memory to be had of the host for each open sandbox; below 0 where the host gave back."""
    seconds: float
    """From the first turn to the last."""
    busy_share: float | None
    """Of that time in which somebody on this host waited for a processor."""


class _Timed(ScriptedModel):
    """A recorded model that measures the way of a command before each turn, and its own lateness.

    What it measures is no part of a step: it is taken out again.
    """

    def __init__(self, recorded: Recorded, box: AsyncSandbox, speed: float) -> None:
        steps = recorded.trajectory.steps
        pauses = [step.seconds.model / speed for step in steps]
        super().__init__([step.calls for step in steps], pauses)
        self._box = box
        self.asked: list[float] = []
        """When each turn was asked for, the measurement left out."""
        self.trips: list[float] = []

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        *,
        max_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Completion:
        """See `ScriptedModel.complete`."""
        began = time.monotonic()
        await self._box.run(":")
        now = time.monotonic()
        self.trips.append(now - began)
        self.asked.append(now)
        return await super().complete(messages, tools, max_tokens=max_tokens, timeout=timeout)


async def measure(runs: Sequence[Recorded], asked: Asked) -> Measured:
    """Open all sandboxes, look at them idle, and replay one run in each, by turns.

    Raises:
        SandboxLiteError: A sandbox cannot be had.
    """
    async with AsyncSandbox(asked.rootfs, network=asked.network) as first:
        await first.run("true")  # what all share is loaded
    before, available = own_bytes(), available_bytes(_SETTLING_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        opened: list[tuple[Recorded, AsyncSandbox, float]] = []
        looks = MemoryLooks(interval=asked.interval, program_before=before)
        for number in range(asked.count):
            recorded = runs[number % len(runs)]
            began = time.monotonic()
            box = await stack.enter_async_context(
                AsyncSandbox(
                    asked.rootfs, network=asked.network, allow_private=asked.allow_private,
                    workdir=recorded.trajectory.directories[0],
                    limits=Limits(timeout_seconds=900.0),
                )
            )  # fmt: skip
            opened.append((recorded, box, time.monotonic() - began))
        idle = (available - available_bytes(_SETTLING_SECONDS)) / asked.count
        for _, box, _ in opened:
            looks.add(box.pid)
        with looks:
            began, waited = time.monotonic(), _waited()
            found = await asyncio.gather(*(_replay(*one, asked) for one in opened))
            seconds = time.monotonic() - began
            after = _waited()
            looks.look()
    busy = None if waited is None or after is None else (after - waited) / seconds
    return Measured(
        replays=tuple(found), memory=looks, idle_bytes=idle, seconds=seconds, busy_share=busy
    )


async def _replay(recorded: Recorded, box: AsyncSandbox, startup: float, asked: Asked) -> Replayed:
    _, inside, _ = recorded.trajectory.directories
    for name, data in recorded.inputs.items():
        await box.files.write(f"{inside}/{name}", data)
    model = _Timed(recorded, box, asked.speed)
    ended: list[float] = []
    limits = AgentLimits(steps=len(recorded.trajectory.steps), seconds=asked.seconds, silent=10**6)
    agent = AsyncAgent(
        box, model, prompts.load(), limits, context=ToolContext(timeout_seconds=900.0),
        on_step=lambda _: ended.append(time.monotonic()),
    )  # fmt: skip
    began = time.monotonic()
    record = await agent.run(recorded.trajectory.task)
    seconds = time.monotonic() - began
    steps = []
    for number, (step, was) in enumerate(
        zip(record.steps, recorded.trajectory.steps, strict=False)
    ):
        pause = was.seconds.model / asked.speed
        # until the model is asked again: what it is told has to be put together
        until = ended[number]
        if number + 1 < len(model.asked):
            until = model.asked[number + 1] - model.trips[number + 1]
        around = until - model.asked[number] - pause - step.seconds.environment
        steps.append(
            Stepped(
                model=was.seconds.model, environment=step.seconds.environment,
                trip=model.trips[number], around=max(0.0, around),
            )
        )  # fmt: skip
    usages = [one.usage for step in record.steps for one in step.observations if one.usage]
    peaks = [one.peak_memory_bytes for one in usages if one.peak_memory_bytes is not None]
    disks = [one.disk_bytes for one in usages if one.disk_bytes is not None]
    return Replayed(
        name=recorded.name, steps=tuple(steps), startup_seconds=startup, seconds=seconds,
        disk_bytes=max(disks, default=None), limit_peak_bytes=max(peaks, default=None),
        unlike=sum(map(_unlike, record.steps, recorded.trajectory.steps)),
        whole=len(record.steps) == len(recorded.trajectory.steps),
    )  # fmt: skip


def _unlike(step: Step, was: Step) -> int:
    """Return how many commands ended otherwise than in the record."""
    found = 0
    for call, one, other in zip(step.calls, step.observations, was.observations, strict=False):
        tool = find(call.name)
        if tool is not None and tool.name == "execute_bash":
            found += parse(one.content, tool.name).exit_code != (
                parse(other.content, tool.name).exit_code
            )
    return found


def _waited() -> float | None:
    """Return the seconds in which somebody on this host waited for a processor, since its start."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        some = Path("/proc/pressure/cpu").read_text(encoding="ascii").splitlines()[0]
        return int(some.rsplit("total=", 1)[1]) / 1e6
    return None
