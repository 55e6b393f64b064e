"""What the tests of the environment of trainers have in common: a row, and what a policy does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sandbox_lite import Limits, SandboxSpec
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.tools import ToolCall
from sandbox_lite.bench import prompt, tasks
from sandbox_lite.bench.task import Row
from sandbox_lite.rl.env import Action, EnvSettings

if TYPE_CHECKING:
    from sandbox_lite.bench.grading import Grading

TRUTH = "1771.25"
ROW = Row(
    id="1",
    problem_statement="What is the sum of the values in values.txt?",
    ground_truth=TRUTH,
    domain="instruct_pretrain",
    input_files={"sub/values.txt": "1000\n700.25\n71\n"},
    extra={"qa_type": "free-form"},
)
ANSWER = "/testbed/output/answer.txt"
SUM = f"awk '{{s += $1}} END {{print s}}' /testbed/documents/sub/values.txt > {ANSWER}"
SUBMIT = Action(calls=(ToolCall(id="call_s", name="submit", arguments="{}"),))


def settings(grading: Grading, jail: Limits | None = None, **named: Any) -> EnvSettings:
    """Return those of episodes on `minimal`."""
    task = tasks.find("context")
    spec = SandboxSpec(rootfs="minimal", limits=jail or Limits.of(timeout=15))
    named = {"limits": AgentLimits(steps=6)} | named
    return EnvSettings(
        task=task, prompts=prompt.load(task.name), sandbox=spec, grading=grading, **named
    )


def bash(command: str, **named: Any) -> Action:
    """Return the action of one command."""
    arguments = json.dumps({"command": command})
    call = ToolCall(id="call_1", name="execute_bash", arguments=arguments)
    return Action(calls=(call,), **named)
