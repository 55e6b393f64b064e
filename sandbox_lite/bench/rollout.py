"""One try of one problem: a model alone, or a model with a computer of its own."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.agent.aio import AsyncAgent
from sandbox_lite.agent.episode import FIRST_SHRUNK_TOKENS, LEAST_TOKENS
from sandbox_lite.agent.trajectory import Seconds, Step, StopReason, Tokens, Trajectory, now
from sandbox_lite.bench.answer import HUGE_BYTES, answer_of_bytes, answer_of_text, no_answer
from sandbox_lite.bench.episode import ANSWERED, Fault, Spent
from sandbox_lite.bench.task import NoAnswer
from sandbox_lite.errors import (
    ContextLengthError,
    FileAccessError,
    HostError,
    ModelError,
    SandboxClosedError,
    SandboxLiteError,
)
from sandbox_lite.jail.aio import AsyncSandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sandbox_lite.agent.completion import Completion, Message
    from sandbox_lite.agent.episode import AgentLimits
    from sandbox_lite.agent.model import AsyncModel
    from sandbox_lite.agent.tools import ToolContext
    from sandbox_lite.bench.prompt import Documents, TaskPrompts
    from sandbox_lite.bench.task import Answer, Row
    from sandbox_lite.spec import Limits

_FAULTS = (StopReason.MODEL_ERROR, StopReason.SANDBOX_ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What one try came to."""

    stop: str
    answer: Answer | NoAnswer | None
    """None after a fault."""
    fault: Fault | None
    spent: Spent
    trajectory: Trajectory | None


async def plain(
    model: AsyncModel, texts: TaskPrompts, row: Row, *, seconds: float | None
) -> Attempt:
    """Ask a model once, without a computer."""
    system, user = texts.plain(row)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    started = time.monotonic()

    def left() -> float | None:
        return None if seconds is None else seconds - (time.monotonic() - started)

    try:
        said = await _asked(model, messages, left)
    except ContextLengthError as error:
        spent = Spent(total_seconds=time.monotonic() - started)
        answer = NoAnswer(reason="context", text=error.message)
        return _attempt(StopReason.CONTEXT_FULL, answer, spent)
    except ModelError as error:
        spent = Spent(total_seconds=time.monotonic() - started)
        if seconds is not None and spent.total_seconds >= seconds:
            answer = NoAnswer(reason="missing", text="there was no answer in time")
            return _attempt(StopReason.TIME_LIMIT, answer, spent)
        return _spoiled(StopReason.MODEL_ERROR, error, spent)
    spent = Spent(
        prompt_tokens=said.usage.prompt_tokens,
        completion_tokens=said.usage.completion_tokens,
        estimated=said.usage.estimated,
        model_seconds=said.seconds,
        total_seconds=time.monotonic() - started,
    )
    record = _plain_record(model, system, user, row, said)
    return _attempt(ANSWERED, answer_of_text(said.text), spent, record)


async def _asked(
    model: AsyncModel, messages: Sequence[Message], left: Callable[[], float | None]
) -> Completion:
    """Return the answer; as the loop with a computer, ask for less before the context is full."""
    budget: int | None = None
    while True:
        try:
            return await model.complete(messages, (), max_tokens=budget, timeout=left())
        except ContextLengthError:
            before = budget or model.settings.max_tokens
            budget = min(before // 2, FIRST_SHRUNK_TOKENS) if before else FIRST_SHRUNK_TOKENS
            if budget < LEAST_TOKENS:
                raise


def _plain_record(
    model: AsyncModel, system: str, user: str, row: Row, said: Completion
) -> Trajectory:
    step = Step(
        index=1,
        thought=said.text,
        reasoning=said.reasoning,
        finish_reason=said.finish_reason,
        tokens=Tokens(
            prompt=said.usage.prompt_tokens,
            completion=said.usage.completion_tokens,
            estimated=said.usage.estimated,
        ),
        seconds=Seconds(model=said.seconds),
    )
    return Trajectory(
        task=row.problem_statement,
        model=model.settings.model,
        system_prompt=system,
        instance_prompt=user,
        directories=(),
        started=now(),
        steps=(step,),
        stop=StopReason.SUBMITTED,
        answer=said.text,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """How a sandbox is made: data, so that another machine makes the same."""

    rootfs: str
    network: str
    allow: tuple[str, ...] = ()
    allow_private: tuple[str, ...] = ()
    limits: Limits
    files: bool = True
    """False: nothing but the answer can be written."""
    programs: bool = True
    """False: nothing runs."""

    def make(self, workdir: str) -> AsyncSandbox:
        """Return a sandbox that is not open yet."""
        made = AsyncSandbox(
            self.rootfs, network=self.network, allow=self.allow,
            allow_private=self.allow_private, workdir=workdir, limits=self.limits,
        )  # fmt: skip
        if self.files and self.programs:
            return made
        writable = None if self.files else ()
        return made.like(dataclasses.replace(made.spec, writable=writable, programs=self.programs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Computers:
    """What the sandboxes of a benchmark have in common."""

    make: Callable[[str], AsyncSandbox]
    """Makes one, not yet open; it is told the working directory."""
    limits: AgentLimits
    context: ToolContext
    documents: Documents


def computer(computers: Computers, texts: TaskPrompts) -> AsyncSandbox:
    """Return a sandbox for a task, not open yet.

    Where one is asked for that takes no files, the answer is the only one; where nothing may run,
    the directories of the task must be there without.
    """
    made = computers.make(texts.sandbox.working_dir)
    spec = made.spec
    if spec.writable is None and spec.programs:
        return made
    return made.like(
        dataclasses.replace(
            spec,
            directories=texts.sandbox.directories,
            writable=None if spec.writable is None else (texts.answer_path,),
        )
    )


async def in_sandbox(
    model: AsyncModel, texts: TaskPrompts, row: Row, computers: Computers
) -> Attempt:
    """Let a model work on a problem; its answer is read when nothing inside runs any more.

    The ground truth stays outside; the answer is read from outside, with every process stopped,
    and the sandbox is closed before anybody looks at it.
    """
    started = time.monotonic()
    startup = 0.0
    agent: AsyncAgent | None = None
    try:
        async with computer(computers, texts) as sandbox:
            if computers.documents == "files":
                for name, text in row.input_files.items():
                    await sandbox.files.write(f"{texts.sandbox.input_dir}/{name}", text)
            startup = time.monotonic() - started
            agent = AsyncAgent(
                sandbox, model, texts.sandbox, computers.limits, context=computers.context
            )
            record = await agent.run(texts.statement(row, computers.documents))
            stop = record.stop or StopReason.SANDBOX_ERROR
            answer = None if stop in _FAULTS else await _sealed(sandbox, texts.answer_path)
    except SandboxLiteError as error:
        spent = _spent(agent, startup, started)
        done = None if agent is None else agent.trajectory
        return _spoiled(StopReason.SANDBOX_ERROR, error, spent, done)
    spent = _spent(agent, startup, started)
    if answer is None:
        failed = SandboxLiteError(record.error or "the run was cut off", hint=record.hint)
        return _spoiled(stop, failed, spent, record)
    return _attempt(stop, answer, spent, record)


async def _sealed(sandbox: AsyncSandbox, path: str) -> Answer | NoAnswer:
    """Return the answer as it is when every process has been stopped.

    Raises:
        SandboxLiteError: The sandbox failed.
    """
    try:
        async with sandbox.still():
            try:
                data = await sandbox.files.read(path, max_bytes=HUGE_BYTES, follow_links=False)
            except FileAccessError as error:
                return no_answer(error)
    except SandboxClosedError as error:
        if not error.expired:
            raise
        return NoAnswer(reason="missing", text="the sandbox's time was over, and its files gone")
    except HostError as error:
        # its own processes multiply on: were it a fault, that would be a way out of a wrong answer
        return NoAnswer(reason="unstoppable", text=error.message)
    return answer_of_bytes(data)


def _spent(agent: AsyncAgent | None, startup: float, started: float) -> Spent:
    total = time.monotonic() - started
    if agent is None:
        return Spent(startup_seconds=startup, total_seconds=total)
    tokens, seconds = agent.trajectory.tokens, agent.trajectory.seconds
    usages = [
        observation.usage
        for step in agent.trajectory.steps
        for observation in step.observations
        if observation.usage is not None
    ]
    return Spent(
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        environment_tokens=tokens.environment,
        estimated=tokens.estimated,
        model_seconds=seconds.model,
        environment_seconds=seconds.environment,
        startup_seconds=startup,
        total_seconds=total,
        peak_memory_bytes=_most(usage.peak_memory_bytes for usage in usages),
        disk_bytes=_most(usage.disk_bytes for usage in usages),
    )


def _most(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


def _attempt(
    stop: str,
    answer: Answer | NoAnswer,
    spent: Spent,
    trajectory: Trajectory | None = None,
) -> Attempt:
    return Attempt(stop=str(stop), answer=answer, fault=None, spent=spent, trajectory=trajectory)


def _spoiled(
    stop: StopReason, error: SandboxLiteError, spent: Spent, trajectory: Trajectory | None = None
) -> Attempt:
    fault = Fault(stop=str(stop), message=error.message, hint=error.hint, spent=spent)
    return Attempt(stop=str(stop), answer=None, fault=fault, spent=spent, trajectory=trajectory)
