"""Trajectories: written line by line, read back, also torn, foreign or damaged ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sandbox_lite.agent.tools import Observation, ToolCall
from sandbox_lite.agent.trajectory import (
    Seconds,
    Step,
    StopReason,
    Tokens,
    Trajectory,
    TrajectoryWriter,
    load,
)
from sandbox_lite.errors import HostError, TaskError
from sandbox_lite.spec import Enforcement, Limits, LimitState, Mount, SandboxSpec, Usage

STEP = Step(
    index=1,
    thought="ä\u2028 \x00",
    reasoning="because",
    calls=(
        ToolCall(id="c", name="bash", arguments='{"command": "ls"}'),
        ToolCall(id="d", name="submit", arguments=""),
    ),
    observations=(
        Observation(
            call_id="c",
            content="Exit code: 0",
            exit_code=0,
            usage=Usage(cpu_seconds=0.5, peak_memory_bytes=4096, disk_bytes=0),
        ),
        Observation(call_id="d", content="no command"),
    ),
    note="[9 steps remaining]",
    finish_reason="tool_calls",
    tokens=Tokens(prompt=5, completion=2, environment=1),
    seconds=Seconds(model=0.5, environment=0.25),
)
RUN = Trajectory(
    task="do it",
    model="m",
    system_prompt="s",
    instance_prompt="i",
    directories=("/w", "/w/in", "/w/out"),
    started="2026-01-01T00:00:00+00:00",
    spec=SandboxSpec(
        rootfs="paper",
        limits=Limits.of(timeout=None, memory="1GiB"),
        allow_weaker=("cpus",),
        mounts=(Mount(target="/data", source=Path("/srv/data")),),
    ),
    enforcement=Enforcement(
        rootfs="paper sha256:0",
        upper="tmpfs",
        network="none",
        seccomp=("a",),
        limits=(LimitState(name="disk", value=5, by="kernel"),),
    ),
    steps=(STEP, dataclasses.replace(STEP, index=2)),
    stop=StopReason.STEP_LIMIT,
    answer="42",
)


def write(path: Path, run: Trajectory) -> None:
    with TrajectoryWriter(path) as writer:
        writer.begin(run)
        for step in run.steps:
            writer.step(step)
        writer.end(run)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.jsonl"
    write(path, RUN)
    assert load(path) == RUN
    end = json.loads(path.read_text().split("\n")[-2])
    assert end["tokens"] == {"prompt": 10, "completion": 4, "environment": 2, "estimated": False}
    assert end["seconds"] == {"model": 1.0, "environment": 0.5}


def test_a_run_that_is_over_is_written_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", RUN)
    with TrajectoryWriter(tmp_path / "b.jsonl") as writer:
        writer.whole(RUN)
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_each_step_is_on_the_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryWriter(path) as writer:
        writer.begin(RUN)
        writer.step(STEP)
        seen = load(path)
    assert (seen.steps, seen.stop, seen.answer) == ((STEP,), None, None)


def test_every_torn_end_keeps_the_whole_lines(tmp_path: Path) -> None:
    whole, torn = tmp_path / "t.jsonl", tmp_path / "torn.jsonl"
    write(whole, RUN)
    data = whole.read_bytes()
    header = data.index(b"\n") + 1
    for cut in range(header, len(data), 7):
        torn.write_bytes(data[:cut])
        seen = load(torn)
        whole_lines = data[:cut].split(b"\n")[:-1]
        ended = sum(line.startswith(b'{"kind": "step"') for line in whole_lines)
        assert ended <= len(seen.steps) <= ended + 1
        assert seen.steps == RUN.steps[: len(seen.steps)]


def test_values_of_variables_are_not_recorded(tmp_path: Path) -> None:
    spec = SandboxSpec(env={"API_TOKEN": "planted-secret"})
    write(tmp_path / "t.jsonl", dataclasses.replace(RUN, spec=spec))
    text = (tmp_path / "t.jsonl").read_text()
    assert "planted-secret" not in text
    assert "API_TOKEN" in text


def test_half_a_surrogate_pair_can_be_recorded(tmp_path: Path) -> None:
    step = dataclasses.replace(STEP, thought="\ud83d")
    write(tmp_path / "t.jsonl", dataclasses.replace(RUN, steps=(step,)))
    assert load(tmp_path / "t.jsonl").steps[0].thought == "\ud83d"


def test_later_version_may_say_more(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write(path, RUN)
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    for line in lines:
        line["novelty"] = 1
    path.write_text("\n".join(map(json.dumps, lines)))
    assert load(path) == RUN


def test_published_format(tmp_path: Path) -> None:
    data = {
        "problem_statement": "why?",
        "steps": [
            {
                "thought": "t",
                "reasoning_content": "r",
                "action": {"function": "execute_bash", "parameters": {"command": "ls"}},
                "observation": "Exit code: 0",
                "metadata": {"step": 1, "exec_time": 1.5},
            },
            {"thought": "no call", "action": {}, "observation": "You forgot"},
        ],
        "metadata": {"total_steps": 2},
    }
    path = tmp_path / "p.json"
    path.write_text(json.dumps(data, indent=1))
    run = load(path)
    assert (run.task, run.source, run.stop) == ("why?", "published", None)
    assert json.loads(run.steps[0].calls[0].arguments) == {"command": "ls"}
    assert run.steps[0].observations[0].content == "Exit code: 0"
    assert run.steps[0].seconds.model == 1.5
    assert (run.steps[1].calls, run.steps[1].note) == ((), "You forgot")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no trajectory"),
        (b"[]", "no trajectory"),
        (b"{}", "no trajectory"),
        (b'{"problem_statement": "x", "steps": 5}', "no trajectory"),
        (b'{"problem_statement": "x", "steps": ["x"]}', "no trajectory"),
        (b"\xff\xfe", "no trajectory"),
        (b'{"kind": "header"}\n', "no trajectory"),
        (b'{"kind": "header", "format": 99, "task": ""}\n', "format 99"),
        (b'{"kind": "header", "format": 1, "task": ""}\nx\n{}\n', "line 2 is no JSON"),
        (b'{"kind": "header", "format": 1, "task": ""}\n{"kind": "step"}\n', "no trajectory"),
    ],
)
def test_bad_file_is_one_error_with_a_hint(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=said):
        load(path)


def test_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="No such file"):
        load(tmp_path / "missing")
    with pytest.raises(TaskError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot write"):
        TrajectoryWriter(tmp_path / "file" / "t.jsonl")


def test_full_disk_says_so() -> None:
    with pytest.raises(HostError, match="No space left") as caught:
        write(Path("/dev/full"), RUN)
    assert caught.value.hint
