"""The environment of trainers over real sandboxes, with both faces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Limits, Pool
from sandbox_lite.agent import trajectory as trajectories
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.trajectory import StopReason, TrajectoryWriter
from sandbox_lite.bench import tasks
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.task import NoAnswer, Row, Score
from sandbox_lite.errors import LaunchError, SandboxClosedError, SpecError
from sandbox_lite.rl.env import (
    Action,
    AsyncSandboxEnv,
    Cause,
    Cold,
    Forks,
    SandboxEnv,
    Start,
    Warm,
    actions_of,
)
from tests import faces
from tests.rollouts import ANSWER, ROW, SUBMIT, SUM, TRUTH, bash, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.jail.sandbox import Sandbox
    from tests.faces import FaceName

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def grading() -> Iterator[Grading]:
    with Grading(timeout=15) as found:
        yield found


class Watched(Cold):
    """Remembers the sandboxes it handed out; the first `failing` ones cannot be had."""

    def __init__(self, failing: int = 0) -> None:
        super().__init__()
        self.pids: list[int] = []
        self.failing = failing

    @contextlib.contextmanager
    def take(self, start: Start) -> Iterator[Sandbox]:
        if self.failing:
            self.failing -= 1
            raise LaunchError("the jail did not start")
        with super().take(start) as sandbox:
            self.pids.append(sandbox.pid)
            yield sandbox

    def kill(self) -> None:
        os.kill(self.pids[-1], signal.SIGKILL)
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(self.pids[-1]).wait(5)


def test_an_episode_is_rewarded_for_its_outcome(
    home: Path, face: FaceName, grading: Grading, tmp_path: Path
) -> None:
    with faces.env(face, settings(grading)) as one:
        first = one.reset(ROW, seed=3)
        assert first.messages[-1]["role"] == "user"
        assert ROW.problem_statement in first.text
        assert "[6 steps remaining]" in first.text
        assert "700.25" not in first.text
        assert TRUTH not in first.text
        result = one.step(bash(SUM, tokens=7))
        assert (result.done, result.reward) == (False, 0.0)
        assert result.observation.messages[0]["role"] == "tool"
        assert result.observation.text.startswith("Exit code: 0")
        assert "[5 steps remaining]" in result.observation.text
        assert (result.info.steps, result.info.steps_left) == (1, 5)
        result = one.step(SUBMIT)
        assert (result.done, result.info.cause, result.info.score) == (True, None, None)
        assert one.compute_final_reward() == 1.0
        assert one.compute_final_reward() == 1.0
        assert isinstance(one.info.score, Score)
        record = one.trajectory
        one.close()
        one.close()
    with TrajectoryWriter(tmp_path / "one.jsonl") as writer:
        writer.begin(record)
        for step in record.steps:
            writer.step(step)
        writer.end(record)
    found = trajectories.load(tmp_path / "one.jsonl")
    assert (found.stop, found.answer) == (StopReason.SUBMITTED, f"{TRUTH}\n")
    assert found.steps[0].tokens.completion == 7
    assert actions_of(found) == (bash(SUM, tokens=7), SUBMIT)


def test_documents_may_stand_in_the_prompt(home: Path, face: FaceName, grading: Grading) -> None:
    with faces.env(face, settings(grading, documents="prompt")) as one:
        assert "700.25" in one.reset(ROW).text
        assert "values" not in one.step(bash("ls -R /testbed")).observation.text


@pytest.mark.parametrize(
    ("penalty", "reward"),
    [(True, 0.0), (False, 1.0)],
)
def test_overlong_episodes_are_penalized(
    home: Path, face: FaceName, grading: Grading, penalty: bool, reward: float
) -> None:
    asked = settings(grading, limits=AgentLimits(steps=2), overlong_penalty=penalty)
    with faces.env(face, asked) as one:
        one.reset(ROW)
        assert "[1 step remaining" in one.step(bash(SUM)).observation.text
        result = one.step(bash("true"))
        assert (result.done, result.info.overlong) == (True, True)
        assert (result.info.stop, result.info.cause) == (StopReason.STEP_LIMIT, Cause.LIMIT)
        assert one.compute_final_reward() == reward
        assert isinstance(one.info.score, Score)
        assert (one.info.score.value, one.info.masked) == (1.0, False)
        with pytest.raises(SpecError, match="over"):
            one.step(SUBMIT)


def test_who_is_to_blame_is_told_apart(home: Path, face: FaceName, grading: Grading) -> None:
    asked = settings(grading, limits=AgentLimits(steps=9, tokens=10, silent=2))
    with faces.env(face, asked) as one:
        one.reset(ROW)
        assert "called no tool" in one.step(Action(text="hm")).observation.text
        result = one.step(Action(text="hm"))
        assert (result.info.stop, result.info.cause) == (StopReason.NO_TOOL_CALL, Cause.MODEL)
        assert one.compute_final_reward() == 0.0
        one.reset(ROW)
        assert not one.step(bash(SUM, tokens=9)).done
        result = one.step(bash("true", tokens=1))
        assert (result.info.stop, result.info.cause) == (StopReason.TOKEN_LIMIT, Cause.LIMIT)
        assert result.info.overlong
        one.reset(ROW)
        info = one.step(SUBMIT).info
        assert isinstance(info.answer, NoAnswer)
        assert (info.stop, info.cause, info.masked) == (StopReason.SUBMITTED, Cause.MODEL, False)
        assert one.compute_final_reward() == 0.0


def test_time_is_a_limit_that_is_no_fault(home: Path, face: FaceName, grading: Grading) -> None:
    with faces.env(face, settings(grading, limits=AgentLimits(seconds=1.0))) as one:
        one.reset(ROW)
        one.step(bash(SUM))
        result = one.step(bash("sleep 30"))
        assert (result.info.stop, result.info.cause) == (StopReason.TIME_LIMIT, Cause.LIMIT)
        assert one.compute_final_reward() == 1.0
    limits = Limits.of(timeout=15, wall=1)
    with faces.env(face, settings(grading, limits)) as one:
        one.reset(ROW)
        while not (result := one.step(bash("sleep 0.5"))).done:
            assert result.info.steps < 6
        assert (result.info.stop, result.info.cause) == (StopReason.TIME_LIMIT, Cause.LIMIT)
        assert one.compute_final_reward() == 0.0


def test_the_trainer_may_end_an_episode(home: Path, face: FaceName, grading: Grading) -> None:
    with faces.env(face, settings(grading)) as one:
        one.reset(ROW)
        one.step(bash(SUM))
        assert one.compute_final_reward() == 1.0
        assert one.trajectory.stop is StopReason.SUBMITTED
        one.reset(ROW)
        one.step(bash(SUM))
        assert one.compute_final_reward(stop=StopReason.CONTEXT_FULL) == 0.0
        assert one.info.overlong


def test_a_fault_is_replayed_once_and_then_masks(
    home: Path, face: FaceName, grading: Grading
) -> None:
    source = Watched()
    with faces.env(face, settings(grading), source) as one:
        one.reset(ROW)
        one.step(bash(f"cd /tmp; word=kept; {SUM}"))
        source.kill()
        result = one.step(bash("echo $word $PWD"))
        assert "kept /tmp" in result.observation.text
        assert (result.done, result.info.replays, result.info.masked) == (False, 1, False)
        assert result.info.fault is not None
        assert len(set(source.pids)) == 2
        assert one.step(SUBMIT).done
        assert one.compute_final_reward() == 1.0
        assert len(one.trajectory.steps) == 3

        one.reset(ROW)
        one.step(bash(SUM))
        source.kill()
        assert one.compute_final_reward() == 1.0  # the same where only the answer is to be read
        assert one.info.replays == 1

        one.reset(ROW)
        one.step(bash(SUM))
        source.kill()
        one.step(bash("true"))
        source.kill()
        result = one.step(bash("true"))
        assert (result.done, result.info.masked, result.info.cause) == (True, True, Cause.FAULT)
        assert one.compute_final_reward() is None
        assert (one.trajectory.stop, one.trajectory.answer) == (StopReason.SANDBOX_ERROR, None)
        assert one.trajectory.error


def test_a_replay_that_shows_something_else_masks(
    home: Path, face: FaceName, grading: Grading
) -> None:
    source = Watched()
    with faces.env(face, settings(grading), source) as one:
        one.reset(ROW)
        one.step(bash("date +%s.%N"))
        source.kill()
        result = one.step(bash(SUM))
        assert (result.done, result.info.masked, result.info.cause) == (True, True, Cause.FAULT)
        assert result.info.fault is not None
        assert "step 1" in result.info.fault.message
        assert one.compute_final_reward() is None


def test_a_sandbox_that_cannot_be_had_is_tried_twice(
    home: Path, face: FaceName, grading: Grading
) -> None:
    with faces.env(face, settings(grading), Watched(failing=1)) as one:
        one.reset(ROW)
        assert one.info.replays == 1
        assert one.step(bash("true")).info.fault is not None
    with faces.env(face, settings(grading), Watched(failing=2)) as one:
        with pytest.raises(LaunchError):
            one.reset(ROW)
        with pytest.raises(SpecError, match="no episode"):
            one.step(SUBMIT)


def test_an_episode_is_replayed_from_task_seed_and_actions(
    home: Path, face: FaceName, grading: Grading
) -> None:
    actions = (bash("echo $RANDOM $RANDOM $PYTHONHASHSEED"), bash(SUM), SUBMIT, bash("true"))
    with faces.env(face, settings(grading)) as one:
        first = one.replay(ROW, seed=5, actions=actions)
        assert first[-1].done
        assert one.compute_final_reward() == 1.0
        recorded = actions_of(one.trajectory)
        assert recorded == actions[:3]
        again = one.replay(ROW, seed=5, actions=recorded)
        assert [each.observation for each in again] == [each.observation for each in first]
        other = one.replay(ROW, seed=6, actions=recorded)
        assert other[0].observation != first[0].observation


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (f"echo {TRUTH} > /tmp/a; ln -s /tmp/a {ANSWER}", "link"),
        (f"mkdir {ANSWER}", "directory"),
        (f"mkfifo {ANSWER}", "special"),
        (f"echo {TRUTH} > {ANSWER}; truncate -s 1G {ANSWER}", "huge"),
        ("rmdir /testbed/output; mkdir /tmp/o; echo 1 > /tmp/o/answer.txt", "missing"),
    ],
)
def test_what_is_no_answer(
    home: Path, face: FaceName, grading: Grading, command: str, reason: str
) -> None:
    with faces.env(face, settings(grading)) as one:
        one.reset(ROW)
        one.step(bash(command))
        info = one.step(SUBMIT).info
        assert isinstance(info.answer, NoAnswer)
        assert (info.answer.reason, info.cause) == (reason, Cause.MODEL)
        assert one.compute_final_reward() == 0.0


def test_every_rollout_has_a_sandbox_of_its_own(
    home: Path, face: FaceName, grading: Grading
) -> None:
    source = Watched()
    look = bash("cat /tmp/left /testbed/left; echo ${left-none}")
    with faces.env(face, settings(grading), source) as one:
        one.reset(ROW)
        one.step(bash("left=1; touch /tmp/left /testbed/left"))
        one.reset(ROW)
        assert not psutil.pid_exists(source.pids[0])
        text = one.step(look).observation.text
        assert text.count("No such file") == 2
        assert "none" in text
        assert len(set(source.pids)) == 2


def test_warm_sandboxes(home: Path, face: FaceName, grading: Grading) -> None:
    asked = settings(grading)
    with Pool(asked.spec, size=1) as pool:
        assert pool.await_ready()
        with faces.env(face, asked, Warm(pool)) as one:
            for _ in range(2):
                one.reset(ROW)
                assert (
                    "left"
                    not in one.step(bash(f"ls /tmp; touch /tmp/left; {SUM}")).observation.text
                )
                assert one.compute_final_reward() == 1.0


def test_forks_of_one_prepared_sandbox(
    home: Path, face: FaceName, grading: Grading, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    real = Start.prepare

    def prepare(start: Start, sandbox: Sandbox) -> None:
        prepared.append(start.key)
        real(start, sandbox)

    monkeypatch.setattr(Start, "prepare", prepare)
    other = Row(id="2", problem_statement="?", ground_truth="2", domain="instruct_pretrain")
    with Forks(groups=1) as forks, contextlib.ExitStack() as stack:
        group = [stack.enter_context(faces.env(face, settings(grading), forks)) for _ in range(3)]
        for number, one in enumerate(group):
            one.reset(ROW, seed=number)
            one.step(bash(f"touch /testbed/from{number}"))
        assert prepared == [ROW.digest]
        seen = [one.step(bash("pwd; ls; echo $RANDOM")).observation.text for one in group]
        for number, text in enumerate(seen):
            assert "/testbed\n" in text
            assert [f"from{n}" in text for n in range(3)] == [n == number for n in range(3)]
        assert len(set(seen)) == 3
        for one in group:
            one.step(bash(SUM))
            assert one.compute_final_reward() == 1.0
        group[0].reset(other)
        group[0].reset(ROW)  # only one beginning is kept
        assert prepared == [ROW.digest, other.digest, ROW.digest]
    with pytest.raises(SandboxClosedError), faces.env(face, settings(grading), forks) as one:
        one.reset(ROW)


def test_a_row_that_nobody_could_reward(home: Path, face: FaceName, grading: Grading) -> None:
    asked = replace(settings(grading), task=tasks.find("long_context"))
    with faces.env(face, asked) as one, pytest.raises(SpecError, match="judge"):
        one.reset(ROW)
    with faces.env(face, settings(grading)) as one:
        with pytest.raises(SpecError, match="asks for a file"):
            one.reset(replace(ROW, extra={**ROW.extra, "artefact": "poster.svg"}))
        with pytest.raises(SpecError, match="no episode"):
            one.compute_final_reward()


def test_many_episodes_on_one_loop(home: Path, grading: Grading) -> None:
    async def episode(right: bool, forks: Forks) -> float | None:
        async with AsyncSandboxEnv(settings(grading), source=forks) as one:
            await one.reset(ROW)
            await one.step(bash(SUM if right else f"echo 1 > {ANSWER}"))
            await one.step(SUBMIT)
            return await one.compute_final_reward()

    async def run() -> list[float | None]:
        with Forks() as forks:
            return await asyncio.gather(*(episode(n % 2 == 0, forks) for n in range(8)))

    assert asyncio.run(run()) == [1.0, 0.0] * 4


def test_a_cancelled_step_masks_its_episode(home: Path, grading: Grading) -> None:
    async def run() -> AsyncSandboxEnv:
        source = Watched()
        async with AsyncSandboxEnv(settings(grading), source=source) as one:
            await one.reset(ROW)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.step(bash("sleep 10")), 0.5)
            assert (one.info.stop, one.info.masked) == (StopReason.INTERRUPTED, True)
            assert await one.compute_final_reward() is None
        assert not psutil.pid_exists(source.pids[0])
        return one

    assert asyncio.run(run()).trajectory.stop is StopReason.INTERRUPTED


def test_an_interrupted_step_masks_its_episode(home: Path, grading: Grading) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with SandboxEnv(settings(grading)) as one:
            one.reset(ROW)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                one.step(bash("sleep 10"))
            assert one.compute_final_reward() is None
    finally:
        signal.signal(signal.SIGALRM, before)
