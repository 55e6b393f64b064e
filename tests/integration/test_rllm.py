"""Environment and agent of rllm's duck type, over real sandboxes, in a loop like its engine's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_lite import Limits, SandboxSpec
from sandbox_lite.adapters import rllm
from sandbox_lite.adapters.rllm import environment as environments
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.tools import ToolContext
from sandbox_lite.bench import data, prompt, tasks
from sandbox_lite.bench.data import DataOrigin, Rows
from sandbox_lite.bench.grading import Grading
from sandbox_lite.errors import HostError, LaunchError, SpecError
from sandbox_lite.rl import data as training
from sandbox_lite.rl.env import Cold, EnvSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.rl.env import Source, Start

pytestmark = pytest.mark.timeout(120)

ENTRY = {
    "id": "1",
    "problem_statement": "What does k3.txt say?",
    "ground_truth": "zebra",
    "domain": "instruct_pretrain",
    "input_files": json.dumps({"k3.txt": "zebra\n", "k4.txt": "gnu\n"}),
    "qa_type": "free-form",
}
COPY = "cp documents/{}.txt output/answer.txt"


def says(command: str | None = None, *, name: str = "execute_bash", **named: Any) -> Any:
    """A turn as the fork's rollout engine gives it."""
    calls: list[Any] = []
    if command is not None:
        calls = [SimpleNamespace(id="c1", name=name, arguments={"command": command})]
    elif name == "submit":
        calls = [{"name": "submit", "arguments": "{}"}]
    return SimpleNamespace(
        text="raw", content="", reasoning="hm", tool_calls=calls, completion_length=7, **named
    )


SUBMIT = says(name="submit")


@dataclass
class Engine:
    """What the fork's engine does with an environment and an agent, as far as they can tell."""

    max_steps: int = 5
    max_response_length: int = 10_000
    trajectory_timeout: float = 60.0
    overlong_step_penalty: bool = True
    retry_limit: int = 3
    executor: concurrent.futures.ThreadPoolExecutor = field(
        default_factory=lambda: concurrent.futures.ThreadPoolExecutor(8)
    )
    reasons: list[str] = field(default_factory=list)
    original_rewards: list[float] = field(default_factory=list)

    async def run(self, env: Any, agent: Any, turns: Sequence[Any]) -> Any:
        loop = asyncio.get_running_loop()
        observation, info = await loop.run_in_executor(self.executor, env.reset)
        info["max_steps"] = self.max_steps
        agent.reset()
        agent.update_from_env(observation=observation, reward=0.0, done=False, info=info)
        reason, spent, length = "MAX_STEPS", 0.0, 0
        assert agent.get_tools()
        for turn in turns[: self.max_steps]:
            prompt_messages = agent.chat_completions.copy()
            assert prompt_messages[-1]["role"] in ("user", "tool")
            action = agent.update_from_model(turn).action
            began = time.monotonic()
            try:
                observation, reward, done, info = await asyncio.wait_for(
                    loop.run_in_executor(self.executor, env.step, action),
                    timeout=self.trajectory_timeout - spent,
                )
            except TimeoutError:
                agent.get_current_state().done = True
                reason = "ENV_TIMEOUT"
                break
            spent += time.monotonic() - began
            info["max_steps"] = self.max_steps
            agent.update_from_env(observation=observation, reward=reward, done=done, info=info)
            state = agent.get_current_state()
            state.reward, state.done = reward, done
            state.info.update(info)
            length += len(json.dumps(agent.chat_completions[len(prompt_messages) :]))
            if length >= self.max_response_length:
                reason = "TRUNCATION"
                break
            if done:
                reason = "ENV_DONE"
                break
        self.reasons.append(reason)
        original = await loop.run_in_executor(self.executor, env.compute_final_reward)
        self.original_rewards.append(original)
        overlong = self.overlong_step_penalty and reason in ("MAX_STEPS", "TRUNCATION")
        agent.get_current_state().reward = 0.0 if overlong else original
        await loop.run_in_executor(self.executor, env.close)
        assert original >= 0
        trajectory = agent.trajectory
        trajectory.reward = sum(step.reward for step in trajectory.steps)
        return trajectory

    async def with_retry(self, env: Any, agent: Any, turns: Sequence[Any]) -> Any:
        for _ in range(self.retry_limit):
            with contextlib.suppress(Exception):
                return await self.run(env, agent, turns)
        raise RuntimeError("the trajectory cannot complete")


@pytest.fixture(scope="module")
def grading() -> Iterator[Grading]:
    with Grading(timeout=15) as found:
        yield found


@pytest.fixture
def made(home: Path, grading: Grading) -> Callable[..., type[rllm.SandboxEnvironment]]:
    def make(
        source: Source | None = None, steps: int = 10, seconds: float = 15
    ) -> type[rllm.SandboxEnvironment]:
        settings = EnvSettings(
            task=tasks.find("context"),
            prompts=prompt.load("context"),
            sandbox=SandboxSpec(rootfs="minimal", limits=Limits.of(timeout=15)),
            grading=grading,
            limits=AgentLimits(steps=steps, seconds=60),
            context=ToolContext(timeout_seconds=seconds),
        )
        return rllm.environment_of(settings, source)

    return make


def rollout(engine: Engine, kind: type[rllm.SandboxEnvironment], *turns: Any) -> Any:
    env, agent = kind.from_dict(json.dumps(ENTRY)), rllm.SandboxAgent()
    trajectory = asyncio.run(engine.run(env, agent, turns))
    return env, agent, trajectory


def test_the_right_answer_is_rewarded_and_the_wrong_one_is_not(made: Any) -> None:
    engine = Engine()
    env, agent, trajectory = rollout(
        engine, made(), says("ls documents"), says(COPY.format("k3")), SUBMIT
    )
    assert (engine.reasons, trajectory.reward) == (["ENV_DONE"], 1.0)
    assert [step.reward for step in trajectory.steps] == [0.0, 0.0, 1.0]
    assert "k3.txt" in trajectory.steps[0].next_observation
    assert trajectory.steps[1].thought == "hm"
    assert json.loads(json.dumps(trajectory.to_dict()))["steps"][2]["info"]["stop"] == "submitted"
    roles = [message["role"] for message in agent.chat_completions]
    assert roles == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]
    said = json.dumps(agent.chat_completions)
    assert "gnu" not in said
    assert "zebra" not in said  # neither document nor truth is in what the policy is told
    # what the agent sends is what the environment has on record, but for the fork's own member
    ours = [{k: v for k, v in m.items() if k != "reasoning"} for m in agent.chat_completions]
    assert ours == list(env.env.messages)
    env, _, trajectory = rollout(engine, made(), says(COPY.format("k4")), SUBMIT)
    assert trajectory.reward == 0.0
    assert env.env.info.score.value == 0.0


def test_an_episode_begins_with_the_very_prompt_of_the_training_rows(
    made: Any, tmp_path: Path
) -> None:
    rows = Rows(rows=(data.row_of(ENTRY, "context", "row"),), origin=DataOrigin(name="test"))
    settings = training.DataSettings(forms=("trl", "verl"), validation=0, turns=7)
    written = training.write(rows, tmp_path / "rows", settings)
    env = made(steps=7).from_dict(ENTRY)
    _, info = env.reset()
    env.close()
    for name in written.files:
        (record,) = data.fields_of(written.folder / name)
        assert record["prompt"] == info["messages"]


def test_the_engine_zeroes_what_it_cut_short_and_knows_the_score(made: Any) -> None:
    right = says(COPY.format("k3"))
    engine = Engine(max_steps=2)
    *_, trajectory = rollout(engine, made(), right, says("true"), SUBMIT)
    assert (engine.reasons, engine.original_rewards) == (["MAX_STEPS"], [1.0])
    assert trajectory.reward == 0.0
    engine = Engine(max_response_length=200)
    *_, trajectory = rollout(engine, made(), right, SUBMIT)
    assert (engine.reasons, engine.original_rewards) == (["TRUNCATION"], [1.0])
    assert trajectory.reward == 0.0


def test_our_own_budget_of_steps_ends_it_with_nothing(made: Any) -> None:
    engine = Engine(overlong_step_penalty=False)
    env, _, trajectory = rollout(
        engine, made(steps=2), says(COPY.format("k3")), says("true"), SUBMIT
    )
    assert (engine.reasons, trajectory.reward) == (["ENV_DONE"], 0.0)
    assert env.env.info.overlong
    assert env.env.info.score.value == 1.0
    assert trajectory.steps[-1].info["cause"] == "limit"


def test_a_step_that_was_left_running_is_waited_for_and_then_scored(made: Any) -> None:
    engine = Engine(trajectory_timeout=0.5)
    began = time.monotonic()
    slow = says(f"{COPY.format('k3')}; sleep 30")
    env, _, trajectory = rollout(engine, made(seconds=3), slow, SUBMIT)
    assert engine.reasons == ["ENV_TIMEOUT"]
    assert trajectory.reward == 1.0
    assert 2 < time.monotonic() - began < 25
    assert len(env.env.trajectory.steps) == 1
    env.close()


def test_a_policy_that_calls_nothing_is_told_so(made: Any) -> None:
    engine = Engine()
    env, agent, trajectory = rollout(engine, made(), says(), says(COPY.format("k3")), SUBMIT)
    assert trajectory.reward == 1.0
    assert agent.chat_completions[3]["role"] == "user"
    assert env.env.info.steps == 3


class Failing:
    """The first sandboxes cannot be had."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.opened = 0

    @contextlib.contextmanager
    def take(self, start: Start) -> Iterator[Sandbox]:
        if self.left:
            self.left -= 1
            raise LaunchError("no luck")
        self.opened += 1
        with Cold().take(start) as sandbox:
            yield sandbox


def test_a_machine_that_fails_is_tried_again_and_never_rewarded_zero(made: Any) -> None:
    source = Failing(3)  # twice within the first trajectory, once within the second
    engine = Engine()
    env, agent = made(source).from_dict(ENTRY), rllm.SandboxAgent()
    turns = (says(COPY.format("k3")), SUBMIT)
    trajectory = asyncio.run(engine.with_retry(env, agent, turns))
    assert trajectory.reward == 1.0
    assert (source.left, source.opened) == (0, 1)
    env = made(Failing(99)).from_dict(ENTRY)
    with pytest.raises(RuntimeError, match="cannot complete"):
        asyncio.run(engine.with_retry(env, agent, turns))
    assert engine.original_rewards == [1.0]


def test_a_fault_in_the_middle_raises_instead_of_a_reward(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = made().from_dict(ENTRY)
    env.reset()
    monkeypatch.setattr(env.env.settings.grading, "grade", lambda *_: _ungraded())
    env.step(rllm.SandboxAgent().update_from_model(SUBMIT).action)
    with pytest.raises(HostError, match="row '1' has no reward"):
        env.compute_final_reward()
    env.close()


def _ungraded() -> Any:
    from sandbox_lite.bench.task import Ungraded

    return Ungraded(reason="no judge", grader="open")


def test_many_at_once_have_sandboxes_of_their_own(made: Any) -> None:
    engine = Engine()
    kind = made()

    async def all_of_them() -> list[Any]:
        runs = []
        for number in range(4):
            turns = (says(f"ls output; {COPY.format('k3' if number % 2 else 'k4')}"), SUBMIT)
            runs.append(engine.run(kind.from_dict(ENTRY), rllm.SandboxAgent(), turns))
        return list(await asyncio.gather(*runs))

    trajectories = asyncio.run(all_of_them())
    assert [one.reward for one in trajectories] == [0.0, 1.0, 0.0, 1.0]
    assert not [one for one in trajectories if "answer.txt" in one.steps[0].next_observation]
    assert kind.is_multithread_safe()


def test_the_forks_own_actions_are_understood(made: Any) -> None:
    env = made().from_dict(ENTRY)
    env.reset()
    own = SimpleNamespace(function_name="execute_bash", parameters={"command": COPY.format("k3")})
    assert env.step(own)[1:3] == (0.0, False)
    assert env.step(SimpleNamespace(function_name="submit", parameters={}))[2] is True
    assert env.compute_final_reward() == 1.0
    env.close()
    env.close()
    env.reset()
    with pytest.raises(SpecError, match="no action"):
        env.step(3)
    env.close()


def test_settings_in_the_class_or_beside_the_row(made: Any, home: Path) -> None:
    with pytest.raises(SpecError, match="settings stand in the class and in rootfs"):
        made().from_dict({**ENTRY, "rootfs": "minimal"})
    env = rllm.SandboxEnvironment.from_dict({**ENTRY, "rootfs": "minimal"})
    same = rllm.SandboxEnvironment.from_dict({**ENTRY, "rootfs": "minimal"})
    assert env.env.settings is same.env.settings  # one set of grading processes
    assert env.env.settings.sandbox.rootfs == "minimal"
    assert "rootfs" not in env.entry
    env.env.settings.grading.close()
    environments._default.cache_clear()


def test_rllm_is_not_imported_and_install_says_what_lacks(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from sandbox_lite.adapters import rllm\n"
        "from sandbox_lite.errors import HostError\n"
        "assert 'rllm' not in sys.modules\n"
        "try:\n    rllm.install()\n"
        "except HostError as error:\n    print(error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rllm 0.2" in done.stdout
    for name, text in {
        "environments/base/base_env.py": "import abc\nclass BaseEnv(abc.ABC): pass\n",
        "agents/agent.py": "import abc\nclass BaseAgent(abc.ABC): pass\n",
        "trainer/env_agent_mappings.py": "ENV_CLASS_MAPPING = {}\nAGENT_CLASS_MAPPING = {}\n",
    }.items():
        path = tmp_path / "rllm" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from sandbox_lite.adapters import rllm as ours\n"
        "ours.install()\n"
        "from rllm.environments.base.base_env import BaseEnv\n"
        "from rllm.agents.agent import BaseAgent\n"
        "from rllm.trainer.env_agent_mappings import ENV_CLASS_MAPPING, AGENT_CLASS_MAPPING\n"
        "assert issubclass(ENV_CLASS_MAPPING['sandbox_lite'], BaseEnv)\n"
        "assert isinstance(AGENT_CLASS_MAPPING['sandbox_lite_agent'](), BaseAgent)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
