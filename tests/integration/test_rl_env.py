"""The environment of trainers over real sandboxes, with both faces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_lite import Limits, SandboxSpec
from sandbox_lite.agent import trajectory as trajectories
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.tools import ToolCall
from sandbox_lite.agent.trajectory import StopReason, TrajectoryWriter
from sandbox_lite.bench import prompt, tasks
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.task import Row, Score
from sandbox_lite.rl.env import (
    Action,
    AsyncSandboxEnv,
    EnvSettings,
    SandboxEnv,
)
from tests.faces import driven

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.rl.env import Source
    from tests.faces import FaceName

pytestmark = pytest.mark.timeout(60)

ROW = Row(
    id="1",
    problem_statement="What is the sum of the values in values.txt?",
    ground_truth="1771.25",
    domain="instruct_pretrain",
    input_files={"sub/values.txt": "1000\n700.25\n71\n"},
    extra={"qa_type": "free-form"},
)
SUM = "awk '{s += $1} END {print s}' /testbed/documents/sub/values.txt > /testbed/output/answer.txt"


@pytest.fixture(scope="module")
def grading() -> Iterator[Grading]:
    with Grading(timeout=15) as found:
        yield found


def settings(grading: Grading, **named: Any) -> EnvSettings:
    task = tasks.find("context")
    named.setdefault("limits", AgentLimits(steps=6))
    limits = Limits.of(timeout=15)
    sandbox = SandboxSpec(rootfs="minimal", limits=named.pop("sandbox_limits", limits))
    return EnvSettings(
        task=task, prompts=prompt.load(task.name), sandbox=sandbox, grading=grading, **named
    )


def bash(command: str, number: int = 1, **named: Any) -> Action:
    arguments = json.dumps({"command": command})
    call = ToolCall(id=f"call_{number}", name="execute_bash", arguments=arguments)
    return Action(calls=(call,), **named)


SUBMIT = Action(calls=(ToolCall(id="call_s", name="submit", arguments="{}"),))


@pytest.fixture
def face_of(home: Path, face: FaceName) -> type[Any]:
    del home
    return SandboxEnv if face == "sync" else AsyncSandboxEnv


def env(kind: type[Any], asked: EnvSettings, source: Source | None = None) -> SandboxEnv:
    made: SandboxEnv = kind(asked, source=source)
    return made if kind is SandboxEnv else driven(made)


def test_an_episode_is_rewarded_for_its_outcome(
    face_of: type[Any], grading: Grading, tmp_path: Path
) -> None:
    with env(face_of, settings(grading)) as one:
        first = one.reset(ROW, seed=3)
        assert [message["role"] for message in first.messages][-1] == "user"
        assert ROW.problem_statement in first.text
        assert "700.25" not in first.text
        assert "1771.25" not in first.text
        assert "[6 steps remaining]" in first.text
        result = one.step(bash(SUM, tokens=7))
        assert (result.done, result.reward) == (False, 0.0)
        assert result.observation.messages[0]["role"] == "tool"
        assert "[5 steps remaining]" in result.observation.text
        assert (result.info.steps, result.info.steps_left) == (1, 5)
        result = one.step(SUBMIT)
        assert result.done
        assert result.info.cause is None
        assert result.info.score is None
        assert one.compute_final_reward() == 1.0
        assert one.compute_final_reward() == 1.0
        assert isinstance(one.info.score, Score)
        with TrajectoryWriter(tmp_path / "one.jsonl") as writer:
            writer.begin(one.trajectory)
            for step in one.trajectory.steps:
                writer.step(step)
            writer.end(one.trajectory)
    found = trajectories.load(tmp_path / "one.jsonl")
    assert (found.stop, found.answer) == (StopReason.SUBMITTED, "1771.25\n")
    assert found.steps[0].tokens.completion == 7
