"""The loop: ask the model, answer its calls, append, until a reason to stop.

`messages` only ever grows. Who draws is told through callbacks; why a run ended is data. Who waits
is not said here: see `loop.Agent` and `aio.AsyncAgent`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from sandbox_lite.agent import prompt as prompts
from sandbox_lite.agent import tools
from sandbox_lite.agent.completion import message_of
from sandbox_lite.agent.model import AsyncChat, Chat
from sandbox_lite.agent.tools import AnyComputer, Observation, ToolCall, ToolContext
from sandbox_lite.agent.trajectory import Seconds, Step, StopReason, Tokens, Trajectory, now
from sandbox_lite.agent.work import answer
from sandbox_lite.errors import (
    ContextLengthError,
    HostError,
    ModelError,
    SandboxClosedError,
    SandboxLiteError,
    SpecError,
)
from sandbox_lite.spec import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_lite.agent.completion import Completion, Message
    from sandbox_lite.agent.prompt import Prompt
    from sandbox_lite.agent.trajectory import TrajectoryWriter
    from sandbox_lite.agent.work import Work
    from sandbox_lite.spec import Enforcement, NetworkRequest, SandboxSpec

FIRST_SHRUNK_TOKENS = 4096
LEAST_TOKENS = 256
"""A completion budget below this is no use: a call would be cut off."""

ANSWER_BYTES = 256 * KIB
_LONGEST_ANSWER_BYTES = 8 * MIB
"""A file that is longer is no answer."""

_REMINDER = (
    "Your message called no tool. Every message must call one: `execute_bash` or "
    "`str_replace_editor` to go on, `submit` when the results are in {output_dir}. Nobody will "
    "answer questions."
)
_CUT_OFF = (
    "Your message was cut off at its length limit before it called a tool. Be brief, and write "
    "long files in several parts."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """Bounds of one run."""

    steps: int = 100
    """Messages of the model."""
    tokens: int | None = None
    """Prompt and completion of all steps together, as they are billed."""
    seconds: float | None = 3600.0
    """Wall time of the whole run."""
    silent: int = 3
    """Messages in a row without a tool call."""

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("tokens", self.tokens)):
            if value is not None and value < 1:
                raise SpecError(f"the limit of {name} must be positive, not {value}")
        if self.seconds is not None and not self.seconds > 0:
            raise SpecError(f"the limit of seconds must be positive, not {self.seconds}")


_ComputerT = TypeVar("_ComputerT", bound=AnyComputer)
_ChatT = TypeVar("_ChatT", bound=Chat | AsyncChat)


def make_directories(sandbox: AnyComputer, directories: Sequence[str]) -> Work[None]:
    """Make the directories of a task, and go to the first.

    Raises:
        CommandFailedError: One of them cannot be made.
    """
    spec: SandboxSpec | None = getattr(sandbox, "spec", None)
    if spec is not None and not spec.programs:
        return  # whoever asked for such a sandbox named them as its `directories`
    words = " ".join(shlex.quote(directory) for directory in directories)
    there = " && ".join(f"-d {shlex.quote(directory)}" for directory in directories)
    # most are there already, and a program takes a shell ten times as long to start as to look
    command = f"{{ [[ {there} ]] || mkdir -p -- {words}; }} && cd -- {shlex.quote(directories[0])}"
    (yield from answer(sandbox.run(command))).check()


def remaining(steps: int, output_dir: str) -> str:
    """Return what a model is told of the steps that it has left."""
    if steps == 1:
        return f"[1 step remaining: the results must be in {output_dir} now; call `submit`]"
    return f"[{steps} steps remaining]"


class Episode(Generic[_ComputerT, _ChatT]):
    """A model at work in one sandbox, on one task: what `Agent` and `AsyncAgent` have in common."""

    def __init__(
        self,
        sandbox: _ComputerT,
        model: _ChatT,
        prompt: Prompt | None = None,
        limits: AgentLimits | None = None,
        *,
        model_name: str = "",
        context: ToolContext | None = None,
        writer: TrajectoryWriter | None = None,
        on_call: Callable[[ToolCall], None] | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        """Take the parts.

        Args:
            sandbox: Where the calls are executed.
            model: Who is asked.
            prompt: None is the default one.
            limits: None is the default ones.
            model_name: For the record.
            context: Time and room of the tools, and who hears their output.
            writer: Where each step is recorded at once.
            on_call: Told of a call before it is executed.
            on_step: Told of a step when it is complete.
        """
        self._sandbox = sandbox
        self._model = model
        self._prompt = prompt or prompts.load()
        self._limits = limits or AgentLimits()
        self._context = context or ToolContext()
        self._writer = writer
        self._on_call = on_call
        self._on_step = on_step
        self._model_name = model_name or getattr(getattr(model, "settings", None), "model", "")
        self.messages: list[Message] = []
        self._begin_at = 0.0
        self._budget: int | None = None
        self._silent = 0
        self._requests = 0
        self._record = Trajectory(task="")

    @property
    def trajectory(self) -> Trajectory:
        """What happened so far."""
        return self._record

    def run_work(self, task: str, after: Trajectory | None = None) -> Work[Trajectory]:
        """Return the work of `Agent.run`."""
        stop, error = StopReason.INTERRUPTED, None
        try:
            if after is None or not after.steps:
                yield from self.begin_work(task)
            else:
                self._resume(after)
            stop = yield from self._loop()
        except KeyboardInterrupt:
            pass
        except SandboxLiteError as caught:
            stop, error = self.reason(caught), caught
        return (yield from self.end_work(stop, error))

    def begin_work(self, task: str) -> Work[None]:
        """Return the work of `Agent.begin`."""
        self.open_record(task)
        yield from make_directories(self._sandbox, self._prompt.directories)

    def open_record(self, task: str) -> None:
        """Start the conversation and the record; nothing is asked of the sandbox.

        Raises:
            HostError: The record could not be written.
        """
        system, instance = self._prompt.render(task)
        first = [{"role": "system", "content": system}] if system else []
        remaining = self._remaining(self._limits.steps)
        self.messages[:] = [*first, {"role": "user", "content": f"{instance}\n\n{remaining}"}]
        self._begin_at = time.monotonic()
        self._budget, self._silent = None, 0
        spec: SandboxSpec | None = getattr(self._sandbox, "spec", None)
        enforcement: Enforcement | None = getattr(self._sandbox, "enforcement", None)
        self._record = Trajectory(
            task=task,
            model=self._model_name,
            system_prompt=system,
            instance_prompt=instance,
            directories=self._prompt.directories,
            started=now(),
            spec=spec,
            enforcement=enforcement,
        )
        if self._writer is not None:
            self._writer.begin(self._record)

    def _resume(self, record: Trajectory) -> None:
        """Bring the conversation of a record back, whose sandbox is as its last step left it."""
        first: list[Message] = []
        if record.system_prompt:
            first.append({"role": "system", "content": record.system_prompt})
        remaining = self._remaining(self._limits.steps)
        first.append({"role": "user", "content": f"{record.instance_prompt}\n\n{remaining}"})
        self.messages[:] = first
        self._begin_at = time.monotonic()
        self._budget, self._silent = None, 0
        self._record = dataclasses.replace(
            record,
            model=self._model_name,
            started=now(),
            spec=getattr(self._sandbox, "spec", None),
            enforcement=getattr(self._sandbox, "enforcement", None),
        )
        if self._writer is not None:
            self._writer.begin(self._record)
        for step in record.steps:
            self.messages.append(message_of(step.thought, step.reasoning, step.calls))
            self._say(step.observations, step.note)
            self._silent = 0 if step.calls else self._silent + 1
            if self._writer is not None:
                self._writer.step(step)

    def _say(self, observations: Sequence[Observation], note: str) -> None:
        """Tell the model what its calls brought."""
        if not observations:
            self.messages.append({"role": "user", "content": note})
            return
        contents = [observation.content for observation in observations]
        contents[-1] += f"\n\n{note}"
        self.messages += [
            {"role": "tool", "tool_call_id": observation.call_id, "content": content}
            for observation, content in zip(observations, contents, strict=True)
        ]

    def step_work(self) -> Work[Step]:
        """Return the work of `Agent.step`."""
        completion = yield from self._complete()
        self.messages.append(completion.message)
        observations: list[Observation] = []
        started = time.monotonic()
        try:
            yield from self._answer(completion.calls, observations)
        finally:  # cancelled, or when the sandbox fails, too: what was done stays on record
            for call in completion.calls[len(observations) :]:
                text = "Error: not finished: the run was interrupted."
                observations.append(Observation(call_id=call.id, content=text, is_error=True))
            step = self._append(completion, tuple(observations), time.monotonic() - started)
        return step

    def _loop(self) -> Work[StopReason]:
        while True:
            reason = self.limit()
            if reason is not None:
                return reason
            step = yield from self.step_work()
            if any(observation.final for observation in step.observations):
                return StopReason.SUBMITTED

    def limit(self) -> StopReason | None:
        """Return the limit that has been reached, None where another step may be taken."""
        tokens = self._record.tokens
        if self._silent >= self._limits.silent:
            return StopReason.NO_TOOL_CALL
        if len(self._record.steps) >= self._limits.steps:
            return StopReason.STEP_LIMIT
        if self._limits.tokens is not None and (
            tokens.prompt + tokens.completion >= self._limits.tokens
        ):
            return StopReason.TOKEN_LIMIT
        left = self.seconds_left()
        return StopReason.TIME_LIMIT if left is not None and left <= 0 else None

    def seconds_left(self) -> float | None:
        """Return the seconds until the limit of time, None where there is none."""
        if self._limits.seconds is None:
            return None
        return self._limits.seconds - (time.monotonic() - self._begin_at)

    def _complete(self) -> Work[Completion]:
        """Ask; where the context is full, ask for less before giving up."""
        while True:
            try:
                asked = self._model.complete(
                    self.messages,
                    tools.schemas(self._context.without),
                    max_tokens=self._budget,
                    timeout=self.seconds_left(),
                )
                return (yield from answer(asked))
            except ContextLengthError:
                settings = getattr(self._model, "settings", None)
                budget = self._budget or getattr(settings, "max_tokens", None)
                smaller = min(budget // 2, FIRST_SHRUNK_TOKENS) if budget else FIRST_SHRUNK_TOKENS
                if smaller < LEAST_TOKENS:
                    raise
                self._budget = smaller  # for good: the conversation never gets shorter

    def _answer(self, calls: tuple[ToolCall, ...], observations: list[Observation]) -> Work[None]:
        for call in calls:
            if any(observation.final for observation in observations):
                text = "Error: not executed: the task was submitted before."
                observations.append(Observation(call_id=call.id, content=text, is_error=True))
                continue
            if self._on_call is not None:
                self._on_call(call)
            context = dataclasses.replace(self._context, seconds_left=self.seconds_left())
            observations.append((yield from tools.call_work(self._sandbox, call, context)))

    def _append(
        self, completion: Completion, observations: tuple[Observation, ...], seconds: float
    ) -> Step:
        index = len(self._record.steps) + 1
        note = self._note(completion, index)
        self._say(observations, note)
        self._silent = 0 if completion.calls else self._silent + 1
        step = Step(
            index=index,
            thought=completion.text,
            reasoning=completion.reasoning,
            calls=completion.calls,
            observations=observations,
            note=note,
            finish_reason=completion.finish_reason,
            tokens=self._tokens(completion),
            seconds=Seconds(model=completion.seconds, environment=seconds),
            requests=self._fresh_requests(),
        )
        self._record = dataclasses.replace(self._record, steps=(*self._record.steps, step))
        if self._writer is not None:
            self._writer.step(step)
        if self._on_step is not None:
            self._on_step(step)
        return step

    def _fresh_requests(self) -> tuple[NetworkRequest, ...]:
        requests = getattr(self._sandbox, "requests", None)
        fresh: tuple[NetworkRequest, ...] = () if requests is None else requests(self._requests)
        self._requests += len(fresh)
        return fresh

    def _note(self, completion: Completion, index: int) -> str:
        remaining = self._remaining(self._limits.steps - index)
        if completion.calls:
            return remaining
        text = _CUT_OFF if completion.finish_reason == "length" else _REMINDER
        return text.replace("{output_dir}", self._prompt.output_dir) + f"\n\n{remaining}"

    def _remaining(self, steps: int) -> str:
        return remaining(steps, self._prompt.output_dir)

    def _tokens(self, completion: Completion) -> Tokens:
        usage, environment = completion.usage, 0
        if self._record.steps:
            last = self._record.steps[-1].tokens
            # reasoning that the template leaves out of the history can make this negative
            environment = max(0, usage.prompt_tokens - last.prompt - last.completion)
        return Tokens(
            prompt=usage.prompt_tokens,
            completion=usage.completion_tokens,
            environment=environment,
            estimated=usage.estimated,
        )

    def reason(self, error: SandboxLiteError) -> StopReason:
        """Return why an episode ends that an error broke off."""
        if isinstance(error, ContextLengthError):
            return StopReason.CONTEXT_FULL
        if isinstance(error, ModelError):
            left = self.seconds_left()
            late = left is not None and left <= 0
            return StopReason.TIME_LIMIT if late else StopReason.MODEL_ERROR
        if isinstance(error, SandboxClosedError) and error.expired:
            return StopReason.TIME_LIMIT
        return StopReason.SANDBOX_ERROR

    def end_work(self, stop: StopReason, error: SandboxLiteError | None = None) -> Work[Trajectory]:
        """Return the work of completing the record, which is the last."""
        return self.close_record(stop, (yield from self._read_answer()), error)

    def close_record(
        self, stop: StopReason, answer: str | None, error: SandboxLiteError | None = None
    ) -> Trajectory:
        """Complete the record with an answer that is known already, and return it."""
        self._record = dataclasses.replace(
            self._record,
            stop=stop,
            answer=answer,
            error=None if error is None else error.message,
            hint=None if error is None else error.hint,
        )
        if self._writer is not None:
            try:
                self._writer.end(self._record)
            except HostError as unwritten:  # the run itself must not be lost with its record
                self._record = dataclasses.replace(
                    self._record,
                    error=self._record.error or unwritten.message,
                    hint=self._record.hint or unwritten.hint,
                )
        return self._record

    def _read_answer(self) -> Work[str | None]:
        path = f"{self._prompt.output_dir.rstrip('/')}/answer.txt"
        with contextlib.suppress(SandboxLiteError):
            # the model may have made it of any length, a hole of terabytes say
            asked = self._sandbox.files.read(path, max_bytes=_LONGEST_ANSWER_BYTES)
            data = yield from answer(asked)
            return data[:ANSWER_BYTES].decode(errors="replace").strip()
        return None
