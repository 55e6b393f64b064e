"""`sandbox-lite rl demo` as a program, on TRL: what it writes, and what it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from sandbox_lite.adapters.trl.demo import policy
from sandbox_lite.adapters.trl.demo import recipe as recipes
from sandbox_lite.agent import trajectory as trajectories
from sandbox_lite.jail import layers, places

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(560)


def command(out: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "sandbox_lite", "rl", "demo", "--rootfs", "minimal",
        "--out", str(out), "--evaluate", "2", *options,
    ]  # fmt: skip


def wait_until(what: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != "zombie"]


def directories(pid: int) -> list[Path]:
    return list(places.run_dir().glob(f"{pid}-*"))


@pytest.mark.parametrize(
    "options",
    [("--algorithm", "grpo"), ("--algorithm", "rloo"), ("--multi-turn", "--stub")],
    ids=["grpo", "rloo", "multi-turn"],
)
def test_a_training_writes_all_and_leaves_nothing(
    home: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    del home
    out = tmp_path / "out"
    with subprocess.Popen(
        command(out, "--steps", "2", *options), stderr=subprocess.PIPE, text=True
    ) as program:
        _, said = program.communicate(timeout=500)
    assert program.returncode == 0, said
    assert not directories(program.pid)
    assert "a whole tool call is one token" in " ".join(said.split())
    assert "step 2 of 2" in " ".join(said.split())
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["rewards"]) == 2
    assert summary["rollouts"] == 2 * 128
    assert summary["masked"] == 0
    assert (out / "reward.svg").read_text().startswith("<svg")
    assert (out / "checkpoint" / "model.safetensors").is_file()
    sampled = [trajectories.load(path) for path in (out / "trajectories").iterdir()]
    assert sampled
    assert all(one.instance_prompt.startswith("What does document") for one in sampled)
    if "--stub" in options:
        assert "no sandbox is started" in " ".join(said.split())
        assert summary["warm_up"]["copied"] >= 0.97
        return
    assert all(one.spec is not None for one in sampled)
    assert {one.stop for one in sampled} == {"submitted"}
    for when in ("before", "after"):
        assert set(summary[when]) == {"sandbox", "plain"}
        results = json.loads((out / f"bench-{when}" / "results.json").read_text())
        assert results["counts"]["faults"] == 0


def test_killed_in_the_middle_nothing_is_left(home: Path, tmp_path: Path) -> None:
    del home
    out = tmp_path / "out"
    with subprocess.Popen(
        command(out, "--steps", "80", "--evaluate", "0"), stderr=subprocess.PIPE
    ) as program:
        steps = out / "steps.jsonl"
        assert wait_until(lambda: steps.exists() and bool(steps.read_text()), 500)
        below = descendants(program.pid)
        assert "bwrap" in {one.name() for one in below}
        program.send_signal(signal.SIGKILL)
        program.wait()
    try:
        assert wait_until(lambda: not alive(below), 20), alive(below)
        layers.sweep()  # as the next start does
        assert wait_until(lambda: not directories(program.pid), 20)
    finally:
        for one in alive(below):
            one.kill()


def test_the_template_continues_what_it_wrote_and_parses_the_last_turn_alone() -> None:
    recipe = recipes.MULTI
    frames = recipes.Frames(
        first="What does document k1 say?", read="[STDOUT]\nv3\n\n[2 steps remaining]",
        written="done", asked="k1", said="v3",
    )  # fmt: skip
    calls = [policy.bash(line) for line in recipe.calls]
    tokenizer = policy.tokenizer_of(
        frames.all(recipe.lookup, multi_turn=True), [*calls, policy.SUBMIT]
    )
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": frames.first},
        recipes.call("execute_bash", {"command": "cat documents/k1.txt"}),
        {"role": "tool", "content": frames.read},
    ]
    first, second = (policy.prompt_ids(tokenizer, messages[:count]) for count in (1, 3))
    assert second[: len(first)] == first
    assert tokenizer.unk_token_id not in second
    said = tokenizer.convert_tokens_to_ids(policy.SUBMIT)
    found = policy.parsed(tokenizer, [said, tokenizer.eos_token_id], second)
    assert [call["function"]["name"] for call in found["tool_calls"]] == ["submit"]
    silent = policy.parsed(tokenizer, [tokenizer.eos_token_id], second)
    assert not silent.get("tool_calls")


def test_trl_makes_the_tables_schema_of_every_tool() -> None:
    from transformers.utils import get_json_schema

    from sandbox_lite.adapters.trl.environment import SandboxEnvironment
    from sandbox_lite.agent.tools import TOOLS

    for tool in TOOLS:
        made = get_json_schema(getattr(SandboxEnvironment, tool.name))["function"]
        assert made["name"] == tool.name
        assert set(made["parameters"]["properties"]) == set(tool.parameters)
        assert set(made["parameters"].get("required", ())) == set(tool.required)
