"""The tools and the loop in a real sandbox; only the model's words come from a script."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits
from sandbox_lite.agent.loop import AgentLimits
from sandbox_lite.agent.model import ModelSettings
from sandbox_lite.agent.replay import Verdict
from sandbox_lite.agent.tools import ToolCall, ToolContext
from sandbox_lite.agent.trajectory import StopReason, TrajectoryWriter, load
from tests import faces
from tests.model_server import ModelServer, Scripted, says

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite import Sandbox
    from sandbox_lite.agent.model import Model
    from sandbox_lite.agent.tools import Observation
    from tests.faces import FaceName


@pytest.fixture
def sandbox(either: Sandbox) -> Sandbox:
    return either


def ask(
    sandbox: Sandbox, name: str, context: ToolContext | None = None, /, **given: object
) -> Observation:
    call = ToolCall(id="c", name=name, arguments=json.dumps(given))
    return faces.called(sandbox, call, context)


def bash(sandbox: Sandbox, command: str, timeout: float = 15) -> str:
    return ask(sandbox, "execute_bash", command=command, timeout=timeout).content


def test_state_carries_over(sandbox: Sandbox) -> None:
    bash(sandbox, "cd /tmp; X=5; f() { echo f$1; }")
    assert bash(sandbox, "echo $X $PWD; f 1") == "Exit code: 0\n[STDOUT]\n5 /tmp\nf1"


def test_time_out_is_told_and_the_state_stays(sandbox: Sandbox) -> None:
    bash(sandbox, "X=kept")
    seen = bash(sandbox, "echo begun; sleep 100", timeout=0.5)
    assert "begun" in seen
    assert "[NOTE] The command was stopped after 0.5 s." in seen
    assert "kept" in bash(sandbox, "echo $X")


@pytest.mark.parametrize("command", ["exit 3", "kill -9 $$", "exec false"])
def test_ended_shell_is_told_and_another_serves(sandbox: Sandbox, command: str) -> None:
    bash(sandbox, "cd /usr")
    assert "fresh one" in bash(sandbox, command)
    assert "/usr" in bash(sandbox, "pwd")


def test_background_job_is_told(sandbox: Sandbox) -> None:
    seen = bash(sandbox, "(sleep 0.3; echo late) & echo early")
    assert "early" in seen
    where = re.search(r"further output goes to (\S+)\.", seen)
    assert where is not None
    read = f"for i in {{1..100}}; do grep late {where[1]} && break; sleep 0.05; done"
    assert "late" in bash(sandbox, read)


@pytest.mark.parametrize("count", [20_000, 2_000_000])
def test_whole_of_a_long_output_can_be_read_inside(sandbox: Sandbox, count: int) -> None:
    seen = bash(sandbox, f"seq {count}")
    assert len(seen) < 30_000
    assert seen.rstrip().endswith(str(count))
    where = re.search(r"the whole text is in (\S+) ", seen)
    assert where is not None
    assert str(count) in bash(sandbox, f"wc -l < {where[1]}")


def test_editor_and_shell_see_the_same_bytes(sandbox: Sandbox) -> None:
    path = '/testbed/it\'s $(a) "b"/f.txt'
    text = "tab\there\n'quotes' \"too\" $HOME `id` \\n\nno newline at the end"
    given: dict[str, object] = {"command": "create", "path": path, "file_text": text}
    assert not ask(sandbox, "str_replace_editor", **given).is_error
    assert sandbox.files.read(path) == text.encode()
    bash(sandbox, "printf 'a\\r\\nb\\xff\\r\\n' > /testbed/g")
    given = {"command": "str_replace", "path": "/testbed/g", "old_str": "a", "new_str": "x\ny"}
    assert not ask(sandbox, "file_editor", **given).is_error
    assert sandbox.files.read("/testbed/g") == b"x\r\ny\r\nb\xff\r\n"


def test_editor_refuses_what_is_no_file(sandbox: Sandbox) -> None:
    bash(sandbox, "mkfifo /testbed/fifo; ln -s /testbed/loop /testbed/loop; chmod 000 /etc/motd")
    for path in ("/testbed/fifo", "/dev/zero", "/testbed/loop", "/proc/kmsg", "/usr/bin/bash"):
        seen = ask(sandbox, "str_replace_editor", command="view", path=path)
        assert seen.is_error, path
    listed = ask(sandbox, "str_replace_editor", command="view", path="/testbed")
    assert "/testbed/fifo" in listed.content


def test_full_disk_is_an_observation(home: Path, face: FaceName) -> None:
    with faces.made(face, "minimal", limits=Limits.of(disk="8MiB", timeout=10)) as sandbox:
        given = {"command": "create", "path": "/testbed/f", "file_text": "x" * 9_000_000}
        seen = ask(sandbox, "str_replace_editor", **given)
        assert seen.is_error
        assert "No space left" in seen.content
        assert "after" in bash(sandbox, "rm /testbed/f; echo after")


def _model(server: ModelServer, face: FaceName) -> Model:
    settings = ModelSettings(model="scripted", base_url=server.base_url, api_key="k")
    return faces.model(face, settings)


WORK = (
    says(
        "Two at once.",
        ("execute_bash", {"command": "cat input/n.txt; cd /tmp"}),
        (
            "str_replace_editor",
            {
                "command": "create",
                "path": "/testbed/s.py",
                "file_text": "n = sum(map(int, open('/testbed/input/n.txt')))\n"
                "open('/testbed/output/answer.txt', 'w').write(f'{n}')\nprint(n)\n",
            },
        ),
    ),
    says("Run it.", ("bash", {"command": "pwd; python3 /testbed/s.py"})),
    says("Done.", ("submit", {})),
)


def test_task_is_solved_recorded_and_replayed(
    sandbox: Sandbox, face: FaceName, tmp_path: Path
) -> None:
    sandbox.files.write("/testbed/input/n.txt", "1\n20\n300\n")
    path = tmp_path / "trajectory.jsonl"
    with (
        ModelServer(*WORK) as server,
        _model(server, face) as model,
        TrajectoryWriter(path) as writer,
    ):
        run = faces.agent(face, sandbox, model, writer=writer).run("Add the numbers up.")
    assert (run.stop, run.answer) == (StopReason.SUBMITTED, "321")
    assert run.spec == sandbox.spec
    assert run.enforcement == sandbox.enforcement
    assert "/tmp\n321" in run.steps[1].observations[0].content
    record = load(path)
    assert record.steps == run.steps
    with faces.made(face, "minimal") as fresh:
        fresh.files.write("/testbed/input/n.txt", "1\n20\n300\n")
        assert faces.replayed(record, fresh).ok
    with faces.made(face, "minimal") as other:
        other.files.write("/testbed/input/n.txt", "1\n20\n400\n")
        report = faces.replayed(record, other)
    assert [step.verdict for step in report.steps] == [
        Verdict.DRIFT,
        Verdict.SAME,
        Verdict.DRIFT,
        Verdict.SAME,
    ]


def test_interrupt_keeps_all_that_was_done(
    sandbox: Sandbox, face: FaceName, tmp_path: Path
) -> None:
    path = tmp_path / "trajectory.jsonl"
    script = (
        says("a", ("bash", {"command": "echo partial > output/answer.txt"})),
        says("b", ("bash", {"command": "echo ready; sleep 100"})),
    )

    def press(stream: str, data: bytes) -> None:
        if b"ready" in data:
            os.kill(os.getpid(), signal.SIGINT)

    with (
        ModelServer(*script) as server,
        _model(server, face) as model,
        TrajectoryWriter(path) as writer,
    ):
        context = ToolContext(on_output=press)
        agent = faces.agent(face, sandbox, model, writer=writer, context=context)
        # over asyncio Ctrl-C is the caller's, and the episode is cancelled
        with contextlib.suppress(KeyboardInterrupt):
            agent.run("x")
        run = agent.trajectory
    assert run.stop is StopReason.INTERRUPTED
    assert run.answer == "partial"
    assert len(run.steps) == 2
    record = load(path)
    assert (record.stop, record.steps) == (run.stop, run.steps)
    assert "still here" in bash(sandbox, "echo still here")


def test_sandbox_that_is_gone_ends_the_run(home: Path, face: FaceName) -> None:
    sandbox = faces.made(face, "minimal")

    def closes(request: dict[str, object]) -> Scripted:
        sandbox.close()
        return says("b", ("bash", {"command": "echo never"}))

    with sandbox, ModelServer(WORK[1], closes) as server, _model(server, face) as model:
        run = faces.agent(face, sandbox, model, limits=AgentLimits(steps=5)).run("x")
    assert run.stop is StopReason.SANDBOX_ERROR
    assert run.error
    assert len(run.steps) == 2
    assert run.steps[1].observations[0].is_error
