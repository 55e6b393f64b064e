"""One episode after another, driven by whoever owns the policy: what both faces have in common.

It is the agent's own `Episode`, whose model is told from outside what to say, and the benchmark's
sealed answer and grading: training and evaluation cannot drift apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sandbox_lite.agent.completion import Completion, Usage, message_of
from sandbox_lite.agent.episode import AgentLimits, Episode
from sandbox_lite.agent.tools import ToolContext
from sandbox_lite.agent.trajectory import StopReason, Trajectory
from sandbox_lite.agent.work import answer
from sandbox_lite.bench import graders
from sandbox_lite.bench.answer import sealed_answer
from sandbox_lite.bench.episode import Fault
from sandbox_lite.bench.task import Answer, NoAnswer, Score, Ungraded
from sandbox_lite.errors import (
    ModelError,
    RootfsError,
    SandboxClosedError,
    SandboxLiteError,
    SpecError,
    TaskError,
)
from sandbox_lite.rl.source import Cold, Start
from sandbox_lite.rl.turn import OVERLONG, Info, Result, cause_of, observation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_lite.agent.completion import Message
    from sandbox_lite.agent.work import Work
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.prompt import Documents, TaskPrompts
    from sandbox_lite.bench.task import Row, Task
    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.rl.source import Source
    from sandbox_lite.rl.turn import Action, Observation
    from sandbox_lite.spec import SandboxSpec

_MASKED = frozenset({StopReason.SANDBOX_ERROR, StopReason.MODEL_ERROR, StopReason.INTERRUPTED})
_HOPELESS = (SpecError, TaskError, RootfsError)
"""Another sandbox would meet the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvSettings:
    """What the episodes of one training have in common."""

    task: Task
    prompts: TaskPrompts
    sandbox: SandboxSpec
    """Of every sandbox; commands start in the directory that the prompts name."""
    grading: Grading
    """Who tells what an answer is worth; it stays its owner's, and may be shared."""
    limits: AgentLimits = field(default_factory=AgentLimits)
    """The model is told how many steps it has left; seconds include the policy's."""
    documents: Documents = "files"
    context: ToolContext = field(default_factory=ToolContext)
    overlong_penalty: bool = True
    """Reward 0 for episodes that end in `OVERLONG`, as the paper's script does."""
    policy: str = "policy"
    """Its name, for the record."""

    @property
    def spec(self) -> SandboxSpec:
        """What is asked of every sandbox; a warm pool is made for this."""
        return dataclasses.replace(self.sandbox, workdir=self.prompts.sandbox.working_dir)

    def start(self, row: Row) -> Start:
        """Return what the sandbox of a row begins as; the ground truth is no part of it."""
        files = row.input_files if self.documents == "files" else {}
        place = self.prompts.sandbox.input_dir
        return Start(
            spec=self.spec,
            directories=self.prompts.sandbox.directories,
            files={f"{place}/{name}": text for name, text in files.items()},
            key=row.digest,
        )

    def check(self, row: Row) -> None:
        """Refuse a row that nobody could reward.

        Raises:
            SpecError: Its task needs a judge, and none is named.
        """
        name = self.task.grader(row, self.grading.scorer)
        if self.grading.judge is None and graders.find(name).score is None:
            raise SpecError(
                f"{self.task.name} needs a judge: without one no episode has a reward",
                hint="open one with bench.grading.opened_judge, and give it to Grading",
            )


class Policy:
    """The model of an `Episode`: it says what it was told to say."""

    def __init__(self) -> None:
        self._next: Completion | None = None

    def told(self, action: Action, seconds: float) -> None:
        """Take what it says next, and how long that took."""
        self._next = Completion(
            text=action.text,
            reasoning="",
            calls=action.calls,
            finish_reason="length" if action.cut_off else "tool_calls" if action.calls else "stop",
            usage=Usage(prompt_tokens=0, completion_tokens=action.tokens),
            seconds=seconds,
            message=message_of(action.text, "", action.calls),
        )

    def said(self) -> Completion:
        """Return it."""
        assert self._next is not None
        said, self._next = self._next, None
        return said


@dataclass(slots=True)
class _Try:
    """One episode of one row, in whatever sandboxes it took."""

    row: Row
    seed: int
    actions: list[Action] = field(default_factory=list)
    seen: list[tuple[Message, ...]] = field(default_factory=list)
    """What the policy was shown after each action."""
    stop: StopReason | None = None
    answer: Answer | NoAnswer | None = None
    score: Score | Ungraded | None = None
    fault: Fault | None = None
    replays: int = 0
    graded: bool = False


class Machine:
    """What `SandboxEnv` and `AsyncSandboxEnv` have in common; a face says who waits."""

    def __init__(self, settings: EnvSettings, *, source: Source | None = None) -> None:
        """Take the parts; nothing is started.

        Args:
            settings: Of all episodes.
            source: Where sandboxes come from; by default each is opened when it is needed.
        """
        self.settings = settings
        self._source: Source = source or Cold()
        self._stack = contextlib.ExitStack()
        self._sandbox: Sandbox | None = None
        self._try: _Try | None = None
        self._episode: Episode[Any, Any] | None = None
        self._said: Policy = self._policy()
        self._shown_at = 0.0

    def _do(self, kind: str, work: Callable[[], Any], *, surely: bool = False) -> Any:
        """Return what blocking work comes to, or a coroutine of it."""
        raise NotImplementedError

    def _around(self, sandbox: Sandbox) -> Any:
        """Return the face of a sandbox whose calls this one's driver can wait for."""
        raise NotImplementedError

    def _policy(self) -> Policy:
        """Return a `Policy` with this face."""
        raise NotImplementedError

    # -- what may be asked ---------------------------------------------------------------------

    @property
    def trajectory(self) -> Trajectory:
        """What happened so far in this episode, as `sandbox-lite view` opens it."""
        if self._episode is None:
            raise SpecError("no episode was begun", hint="call reset first")
        return self._episode.trajectory

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation of this episode."""
        return () if self._episode is None else tuple(self._episode.messages)

    @property
    def info(self) -> Info:
        """How this episode stands."""
        one = self._begun()
        steps = len(one.actions)
        most = self.settings.limits.steps
        return Info(
            stop=one.stop,
            cause=cause_of(one.stop, isinstance(one.answer, Answer)),
            masked=one.stop in _MASKED or (one.graded and not isinstance(one.score, Score)),
            overlong=one.stop in OVERLONG,
            steps=steps,
            steps_left=0 if one.stop else max(0, most - steps),
            environment_seconds=self.trajectory.seconds.environment,
            replays=one.replays,
            fault=one.fault,
            answer=one.answer,
            score=one.score,
        )

    def _begun(self) -> _Try:
        if self._try is None:
            raise SpecError("no episode was begun", hint="call reset first")
        return self._try

    # -- the works -----------------------------------------------------------------------------

    def reset_work(self, row: Row, seed: int) -> Work[Observation]:
        """Return the work of `SandboxEnv.reset`."""
        self.settings.check(row)
        yield from self.close_work()
        self._try, self._episode = None, None
        one = _Try(row=row, seed=seed)
        try:
            yield from self._open(one)
        except _HOPELESS:
            raise
        except SandboxLiteError as error:
            one.fault, one.replays = _fault(error), 1
            yield from self._open(one)
        self._try = one
        assert self._episode is not None
        self._shown_at = time.monotonic()
        return observation_of(tuple(self._episode.messages))

    def step_work(self, action: Action) -> Work[Result]:
        """Return the work of `SandboxEnv.step`."""
        one = self._begun()
        if one.stop is not None:
            raise SpecError(f"the episode is over: {one.stop}", hint="reset it")
        one.actions.append(action)
        yield from self._carry_out(None)
        assert self._episode is not None
        said = observation_of(_last(self._episode.messages))
        one.seen.append(said.messages)
        self._shown_at = time.monotonic()
        return Result(observation=said, done=one.stop is not None, info=self.info)

    def reward_work(self, stop: StopReason) -> Work[float | None]:
        """Return the work of `SandboxEnv.compute_final_reward`."""
        one = self._begun()
        if one.stop is None:
            yield from self._carry_out(stop)
        if one.answer is not None and not one.graded:
            yield from self._grade(one, one.answer)
            one.graded = True
        if not isinstance(one.score, Score) or one.stop in _MASKED:
            return None
        if self.settings.overlong_penalty and one.stop in OVERLONG:
            return 0.0
        return one.score.value

    def replay_work(
        self, row: Row, seed: int, actions: Sequence[Action]
    ) -> Work[tuple[Result, ...]]:
        """Return the work of `SandboxEnv.replay`."""
        yield from self.reset_work(row, seed)
        results: list[Result] = []
        for action in actions:
            results.append((yield from self.step_work(action)))
            if results[-1].done:
                break
        return tuple(results)

    def close_work(self) -> Work[None]:
        """Return the work of `SandboxEnv.close`."""
        one = self._try
        if one is not None and one.stop is None:
            self._end(StopReason.INTERRUPTED)
        yield from self._release()

    def _grade(self, one: _Try, found: Answer | NoAnswer) -> Work[None]:
        settings = self.settings
        work = partial(settings.grading.grade, settings.task, one.row, found)
        for last in (False, True):
            try:
                one.score = yield from answer(self._do("grading", work))
                return
            except ModelError as error:
                # the judge's server: that is no fault of the answer
                if last:
                    name = settings.task.grader(one.row, settings.grading.scorer)
                    one.fault = _fault(error, StopReason.MODEL_ERROR)
                    one.score = Ungraded(reason=error.message, grader=name)

    # -- one sandbox, and another after a fault ------------------------------------------------

    def _open(self, one: _Try) -> Work[None]:
        """Have a fresh sandbox, prepared, and a conversation that has just begun."""
        yield from answer(self._do("opening", partial(self._take, one)))
        assert self._sandbox is not None
        settings = self.settings
        limits = settings.limits
        left = None if self._episode is None else self._episode.seconds_left()
        if left is not None:
            # what comes after a fault has what is left of the time, not all of it again
            limits = dataclasses.replace(limits, seconds=max(1.0, left))
        self._episode = Episode(
            self._around(self._sandbox), self._said, settings.prompts.sandbox, limits,
            model_name=settings.policy, context=settings.context,
        )  # fmt: skip
        self._episode.open_record(settings.prompts.statement(one.row, settings.documents))

    def _take(self, one: _Try) -> None:
        start = self.settings.start(one.row)
        try:
            # into the stack in the very thread that opens it: a cancellation loses nothing
            sandbox = self._stack.enter_context(self._source.take(start))
            # what would differ by chance alone is the same when the actions are done again
            seed = one.seed % 2**32
            sandbox.run(f"export PYTHONHASHSEED={seed}; RANDOM={seed}").check()
        except BaseException:
            self._stack.close()
            raise
        self._sandbox = sandbox

    def _release(self) -> Work[None]:
        self._sandbox = None
        yield from answer(self._do("closing", self._stack.close, surely=True))

    def _carry_out(self, end: StopReason | None) -> Work[None]:
        """Do what was not done yet, and end where it ends; after a fault once more from the start.

        What breaks it off otherwise, such as a cancellation, ends the episode.
        """
        one = self._begun()
        try:
            try:
                yield from self._advance(end)
                return
            except SandboxLiteError as error:
                one.fault = _fault(error)
            before = self._episode
            if not one.replays:
                one.replays = 1
                try:
                    yield from self._release()
                    yield from self._open(one)
                    yield from self._advance(end)
                    return
                except SandboxLiteError as error:
                    one.fault = _fault(error)
                    self._episode = before
            self._end(StopReason.SANDBOX_ERROR)
            yield from self._release()
        except BaseException:
            if one.stop is None:
                self._end(StopReason.INTERRUPTED)
            raise

    def _advance(self, end: StopReason | None) -> Work[None]:
        """Do the actions that this sandbox has not seen; read the answer where that is the end.

        Raises:
            SandboxLiteError: The sandbox failed, or is another than the policy has seen.
        """
        one = self._begun()
        assert self._episode is not None
        assert self._sandbox is not None
        stop: StopReason | None = None
        for number in range(len(self._episode.trajectory.steps), len(one.actions)):
            stop = yield from self._act(one.actions[number])
            if number < len(one.seen) and (
                stop is not None or _last(self._episode.messages) != one.seen[number]
            ):
                raise SandboxLiteError(
                    f"done again, step {number + 1} showed something else than the policy had seen"
                )
        stop = stop or end
        if stop is None:
            return
        # at once: what the model left running may not work on the answer while a trainer waits
        seal = partial(_sealed, self._sandbox, self.settings.prompts.answer_path)
        one.answer = yield from answer(self._do("snapshots", seal))
        self._end(stop)
        yield from self._release()

    def _act(self, action: Action) -> Work[StopReason | None]:
        episode = self._episode
        assert episode is not None
        self._said.told(action, time.monotonic() - self._shown_at)
        try:
            step = yield from episode.step_work()
        except SandboxLiteError as error:
            stop = episode.reason(error)
            if stop in _MASKED:
                raise
            return stop
        if any(observation.final for observation in step.observations):
            return StopReason.SUBMITTED
        return episode.limit()

    def _end(self, stop: StopReason) -> None:
        one = self._begun()
        one.stop = stop
        if self._episode is not None:
            text = one.answer.text if isinstance(one.answer, Answer) else None
            fault = one.fault if stop in _MASKED else None
            error = None if fault is None else SandboxLiteError(fault.message, hint=fault.hint)
            self._episode.close_record(stop, text, error)


def _sealed(sandbox: Sandbox, path: str) -> Answer | NoAnswer:
    """Return the sealed answer; its files can be read after a kill too, and may be half written.

    Raises:
        SandboxLiteError: The sandbox failed.
    """
    found = sealed_answer(sandbox, path)
    with contextlib.suppress(SandboxClosedError):  # its time is over, as `found` says
        if sandbox.pid and not sandbox.alive:
            raise SandboxLiteError("process 1 of the sandbox was killed")
    return found


def _last(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return what follows the policy's last message."""
    found: list[Message] = []
    for message in reversed(messages):
        if message["role"] == "assistant":
            break
        found.insert(0, message)
    return tuple(found)


def _fault(error: SandboxLiteError, stop: StopReason = StopReason.SANDBOX_ERROR) -> Fault:
    return Fault(stop=str(stop), message=error.message, hint=error.hint)
