"""The loop: a scripted model on loopback, the real client, commands on this host."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_lite.agent.aio import AsyncAgent
from sandbox_lite.agent.loop import Agent, AgentLimits
from sandbox_lite.agent.model import AsyncModel, Model, ModelSettings
from sandbox_lite.agent.prompt import Prompt
from sandbox_lite.agent.tools import ToolContext
from sandbox_lite.agent.trajectory import StopReason, Trajectory, TrajectoryWriter, load
from sandbox_lite.errors import SandboxClosedError, ShellDiedError, SpecError
from tests import faces
from tests.fake_sandbox import AsyncFakeSandbox, FakeSandbox
from tests.model_server import ModelServer, Scripted, refuses, says

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.agent.trajectory import Step
    from sandbox_lite.spec import CommandResult
    from tests.faces import FaceName

PROMPT = Prompt(
    system_prompt="You work in {working_dir}.", instance_prompt="Do: {problem_statement}"
)
SUBMIT = says("done", ("submit", {}))
TALK = says("I wonder.")
FULL = refuses(400, "too long", code="context_length_exceeded")

_names = (f"loop-model-{number}" for number in itertools.count())

Reply = "Scripted | Callable[[dict[str, Any]], Scripted]"


def bash(command: str, usage: tuple[int, int] | None = (100, 10)) -> Scripted:
    return says("so", ("execute_bash", {"command": command}), usage=usage)


class Bench:
    """A model, a sandbox and a record; what one run left."""

    def __init__(self, tmp_path: Path, face: FaceName) -> None:
        self.face: FaceName = face
        self.sandbox = FakeSandbox(tmp_path)
        self.record = tmp_path / "run" / "trajectory.jsonl"
        self.requests: list[dict[str, Any]] = []
        self.steps: list[Step] = []
        self.messages: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {"timeout": 5.0, "max_retries": 0}

    def run(
        self,
        *replies: Scripted | Callable[[dict[str, Any]], Scripted],
        limits: AgentLimits | None = None,
    ) -> Trajectory:
        with ModelServer(*replies) as server:
            settings = ModelSettings(
                model=next(_names), base_url=server.base_url, api_key="secret-key", **self.settings
            )
            with (
                faces.model(self.face, settings) as model,
                TrajectoryWriter(self.record) as writer,
            ):
                agent = faces.agent(
                    self.face,
                    self.sandbox,
                    model,
                    PROMPT,
                    limits,
                    writer=writer,
                    on_step=self.steps.append,
                )
                trajectory = agent.run("the {problem_statement} {task}")
            self.requests, self.messages = server.requests, agent.messages
        assert trajectory == agent.trajectory
        written = load(self.record)
        assert written == trajectory
        assert list(trajectory.steps) == self.steps
        assert "secret-key" not in self.record.read_text()
        return trajectory


@pytest.fixture
def bench(tmp_path: Path, face: FaceName) -> Bench:
    return Bench(tmp_path, face)


def test_task_is_solved_and_submitted(bench: Bench) -> None:
    write = "echo 42 > /testbed/output/answer.txt; echo written"
    run = bench.run(bash(write, (100, 10)), says("end", ("submit", {}), usage=(150, 5)))
    assert (run.stop, run.answer, run.error) == (StopReason.SUBMITTED, "42", None)
    assert run.stop is not None
    assert run.stop.exit_code == 0
    first, last = run.steps
    assert first.observations[0].content == "Exit code: 0\n[STDOUT]\nwritten"
    assert (first.tokens.prompt, first.tokens.completion, first.tokens.environment) == (100, 10, 0)
    assert last.tokens.environment == 40
    assert run.tokens.prompt == 250
    assert first.seconds.environment > 0
    assert first.seconds.model > 0


def test_conversation_only_grows_and_tells_the_steps_left(bench: Bench) -> None:
    bench.run(bash("echo a"), bash("echo b"), SUBMIT, limits=AgentLimits(steps=4))
    assert bench.requests[0]["messages"] == [
        {"role": "system", "content": "You work in /testbed."},
        {"role": "user", "content": "Do: the {problem_statement} {task}\n\n[4 steps remaining]"},
    ]
    for earlier, later in itertools.pairwise(bench.requests):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
    contents = [m["content"] for m in bench.requests[-1]["messages"] if m["role"] == "tool"]
    assert contents[0] == "Exit code: 0\n[STDOUT]\na\n\n[3 steps remaining]"
    assert bench.messages[-1]["content"].endswith("call `submit`]")


def test_every_parallel_call_is_answered_in_order(bench: Bench) -> None:
    calls = says(
        None,
        ("execute_bash", {"command": "echo 1"}),
        ("nonsense", {}),
        ("execute_bash", "{"),
        ("submit", {}),
        ("execute_bash", {"command": "echo never"}),
    )
    run = bench.run(calls)
    assert run.stop is StopReason.SUBMITTED
    answers = bench.messages[-5:]
    assert [a["tool_call_id"] for a in answers] == [f"call_{n}" for n in range(5)]
    assert [a["role"] for a in answers] == ["tool"] * 5
    texts = [o.content for o in run.steps[0].observations]
    assert "no tool 'nonsense'" in texts[1]
    assert "not valid JSON" in texts[2]
    assert "submitted before" in texts[4]
    assert bench.sandbox.commands == ["echo 1"]


def test_message_without_call_is_reminded_then_ends_the_run(bench: Bench) -> None:
    run = bench.run(TALK, TALK, bash("true"), TALK, TALK, TALK, SUBMIT)
    assert run.stop is StopReason.NO_TOOL_CALL
    assert len(run.steps) == 6
    reminder = bench.requests[1]["messages"][-1]
    assert reminder["role"] == "user"
    assert reminder["content"].startswith("Your message called no tool.")
    assert "/testbed/output" in reminder["content"]


def test_message_cut_off_is_told_so(bench: Bench) -> None:
    bench.run(says("long", finish_reason="length"), SUBMIT)
    assert "cut off" in bench.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("limits", "stop", "steps"),
    [
        (AgentLimits(steps=2), StopReason.STEP_LIMIT, 2),
        (AgentLimits(tokens=250), StopReason.TOKEN_LIMIT, 3),
        (AgentLimits(seconds=0.7), StopReason.TIME_LIMIT, None),
    ],
)
def test_limits_end_the_run(
    bench: Bench, limits: AgentLimits, stop: StopReason, steps: int | None
) -> None:
    run = bench.run(bash("sleep 0.2"), limits=limits)
    assert run.stop is stop
    assert stop.exit_code == 1
    assert steps is None or len(run.steps) == steps


def test_wall_time_holds_against_a_hanging_server_and_a_long_command(bench: Bench) -> None:
    hanging = bench.run(Scripted(hang=True), limits=AgentLimits(seconds=0.5))
    assert hanging.stop is StopReason.TIME_LIMIT
    bench.steps.clear()
    long = bench.run(bash("sleep 100"), limits=AgentLimits(seconds=1.5))
    assert long.stop is StopReason.TIME_LIMIT
    assert "stopped after" in long.steps[0].observations[0].content


def test_limit_counts_estimates_where_the_server_counts_nothing(bench: Bench) -> None:
    run = bench.run(bash("true", None), limits=AgentLimits(tokens=2000))
    assert run.stop is StopReason.TOKEN_LIMIT
    assert run.tokens.estimated


def test_full_context_shrinks_the_completion_before_giving_up(bench: Bench) -> None:
    def small(request: dict[str, Any]) -> Scripted:
        return FULL if request.get("max_tokens", 10**6) > 1500 else bash("true")

    bench.settings["max_tokens"] = 8000
    run = bench.run(small, limits=AgentLimits(steps=2))
    assert run.stop is StopReason.STEP_LIMIT
    asked = [request["max_tokens"] for request in bench.requests]
    assert asked == [8000, 4000, 2000, 1000, 1000, 1000][: len(asked)]
    assert len(asked) == 5


def test_context_full_for_good(bench: Bench) -> None:
    run = bench.run(bash("echo kept"), FULL)
    assert run.stop is StopReason.CONTEXT_FULL
    assert len(run.steps) == 1
    asked = [request.get("max_tokens") for request in bench.requests[1:]]
    assert asked == [None, 4096, 2048, 1024, 512, 256]


def test_server_failure_ends_the_run_and_keeps_the_steps(bench: Bench) -> None:
    run = bench.run(bash("echo kept"), refuses(401, "bad key"))
    assert run.stop is StopReason.MODEL_ERROR
    assert run.stop.exit_code == 125
    assert len(run.steps) == 1
    assert "bad key" in (run.error or "")
    assert "OPENAI_API_KEY" in (run.hint or "")


@pytest.mark.parametrize(
    ("error", "stop"),
    [
        (SandboxClosedError("closed"), StopReason.SANDBOX_ERROR),
        (ShellDiedError("gone"), StopReason.SANDBOX_ERROR),
        (KeyboardInterrupt(), StopReason.INTERRUPTED),
    ],
)
def test_what_was_done_in_a_broken_step_stays(
    bench: Bench, error: BaseException, stop: StopReason
) -> None:
    bench.sandbox.files.write("/testbed/output/answer.txt", "so far")

    def breaks(request: dict[str, Any]) -> Scripted:
        bench.sandbox.raises = error
        return says(None, ("submit", {"x": 1}), ("bash", {"command": "echo x"}))

    def first(request: dict[str, Any]) -> Scripted:
        bench.sandbox.raises = error
        return says(
            "both",
            ("str_replace_editor", {"command": "create", "path": "/testbed/f", "file_text": "x"}),
            ("execute_bash", {"command": "echo"}),
            ("execute_bash", {"command": "echo"}),
        )

    run = bench.run(first, breaks)
    assert run.stop is stop
    (step,) = run.steps
    assert [o.is_error for o in step.observations] == [False, True, True]
    assert "interrupted" in step.observations[2].content
    assert run.answer == "so far"
    assert bench.sandbox.files.read("/testbed/f") == b"x"


def test_shell_that_died_and_came_back_goes_on(bench: Bench) -> None:
    bench.sandbox.raises = ShellDiedError("killed", restarted=True)
    run = bench.run(bash("kill -9 $$"), SUBMIT)
    assert run.stop is StopReason.SUBMITTED
    assert run.steps[0].observations[0].is_error


def test_interrupt_while_the_model_thinks(bench: Bench) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    class Interrupted:
        complete = interrupt

    agent = faces.agent(bench.face, bench.sandbox, Interrupted(), PROMPT)
    run = agent.run("x")
    assert (run.stop, run.steps) == (StopReason.INTERRUPTED, ())


def test_reasoning_goes_back_to_the_server(bench: Bench) -> None:
    run = bench.run(says("a", ("bash", {"command": "true"}), reasoning_content="deep"), SUBMIT)
    assert run.steps[0].reasoning == "deep"
    assert bench.requests[1]["messages"][2]["reasoning_content"] == "deep"


def test_callbacks_hear_calls_and_output(bench: Bench) -> None:
    heard: list[str] = []
    with ModelServer(bash("echo live"), SUBMIT) as server:
        settings = ModelSettings(model=next(_names), base_url=server.base_url, api_key="k")
        with faces.model(bench.face, settings) as model:
            faces.agent(
                bench.face,
                bench.sandbox,
                model,
                PROMPT,
                context=ToolContext(on_output=lambda stream, data: heard.append(data.decode())),
                on_call=lambda call: heard.append(call.name),
                on_step=lambda step: heard.append(f"step {step.index}"),
            ).run("x")
    assert heard == ["execute_bash", "live\n", "step 1", "submit", "step 2"]


def test_full_disk_of_the_record_ends_the_run_in_one_line(tmp_path: Path, face: FaceName) -> None:
    sandbox = FakeSandbox(tmp_path)
    with ModelServer(bash("true"), SUBMIT) as server:
        settings = ModelSettings(model=next(_names), base_url=server.base_url, api_key="k")
        with (
            faces.model(face, settings) as model,
            TrajectoryWriter(Path("/dev/full")) as writer,
        ):
            run = faces.agent(face, sandbox, model, PROMPT, writer=writer).run("x")
    assert run.stop is StopReason.SANDBOX_ERROR
    assert "No space left" in (run.error or "")
    assert run.hint


def test_limits_that_make_no_sense() -> None:
    for bad in ({"steps": 0}, {"tokens": 0}, {"seconds": 0.0}, {"seconds": float("nan")}):
        with pytest.raises(SpecError):
            dataclasses.replace(AgentLimits(), **bad)


def test_parts_of_the_other_face_are_refused(tmp_path: Path) -> None:
    settings = ModelSettings(model=next(_names), base_url="http://127.0.0.1:9/v1", api_key="k")
    sandbox = FakeSandbox(tmp_path)
    with Model(settings) as model, pytest.raises(TypeError, match="use AsyncAgent"):
        Agent(AsyncFakeSandbox(sandbox), model).run("x")  # type: ignore[arg-type]

    async def run() -> None:
        async with AsyncModel(settings) as asked:
            with pytest.raises(TypeError, match="use Agent"):
                await AsyncAgent(sandbox, asked).run("x")  # type: ignore[arg-type]

    asyncio.run(run())


def test_one_step_at_a_time(bench: Bench) -> None:
    with ModelServer(bash("echo one"), SUBMIT) as server:
        settings = ModelSettings(model=next(_names), base_url=server.base_url, api_key="k")
        with faces.model(bench.face, settings) as model:
            agent = faces.agent(bench.face, bench.sandbox, model, PROMPT)
            agent.begin("x")
            first = agent.step()
            assert "one" in first.observations[0].content
            assert agent.trajectory.steps == (first,)
            assert agent.step().observations[0].final
            assert agent.trajectory.stop is None


@pytest.mark.parametrize("how", ["thinking", "working"])
def test_episode_that_is_cancelled_is_on_record(tmp_path: Path, how: str) -> None:
    fake = FakeSandbox(tmp_path)
    fake.files.write("/testbed/output/answer.txt", "so far")
    record = tmp_path / "run" / "trajectory.jsonl"
    loop = asyncio.new_event_loop()
    reached = asyncio.Event()

    class Sleeping(AsyncFakeSandbox):
        async def run(self, command: str, **named: Any) -> CommandResult:
            if command == "sleep":
                reached.set()
                await asyncio.sleep(100)
            return await super().run(command, **named)

    def thinks(request: dict[str, Any]) -> Scripted:
        loop.call_soon_threadsafe(reached.set)
        return Scripted(hang=True)

    async def run(server: ModelServer) -> AsyncAgent:
        settings = ModelSettings(model=next(_names), base_url=server.base_url, api_key="k")
        async with AsyncModel(settings) as model:
            with TrajectoryWriter(record) as writer:
                agent = AsyncAgent(Sleeping(fake), model, PROMPT, writer=writer)
                task = asyncio.ensure_future(agent.run("x"))
                await asyncio.wait_for(reached.wait(), 10)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        return agent

    second = thinks if how == "thinking" else bash("sleep")
    with ModelServer(bash("echo one"), second) as server:
        with contextlib.closing(loop):
            agent = loop.run_until_complete(run(server))
    found = agent.trajectory
    assert (found.stop, found.answer) == (StopReason.INTERRUPTED, "so far")
    assert load(record) == found
    assert len(found.steps) == (1 if how == "thinking" else 2)
    if how == "working":
        assert found.steps[1].observations[0].is_error
