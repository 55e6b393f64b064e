"""The tools against commands and files of this host: what a model is told of each."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent import tools
from sandbox_lite.agent.tools import ToolCall, ToolContext
from sandbox_lite.agent.tools.bash import _notes
from sandbox_lite.errors import SandboxClosedError, ShellDiedError
from sandbox_lite.spec import CommandResult, Limits, Outcome
from tests.fake_sandbox import FakeSandbox

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite.agent.tools import Observation


@pytest.fixture
def sandbox(tmp_path: Path) -> FakeSandbox:
    return FakeSandbox(tmp_path)


def ask(
    sandbox: FakeSandbox, name: str, context: ToolContext | None = None, /, **arguments: object
) -> Observation:
    return tools.call(
        sandbox, ToolCall(id="c1", name=name, arguments=json.dumps(arguments)), context
    )


def test_command_reports_exit_code_and_both_streams(sandbox: FakeSandbox) -> None:
    seen = ask(sandbox, "execute_bash", command="echo out; echo err >&2; exit 3")
    assert seen.content == "Exit code: 3\n[STDOUT]\nout\n[STDERR]\nerr"
    assert (seen.exit_code, seen.is_error, seen.call_id) == (3, False, "c1")


def test_silent_command_says_so(sandbox: FakeSandbox) -> None:
    assert ask(sandbox, "bash", command="true").content == "Exit code: 0\n[STDOUT]\n(no output)"


def test_escapes_and_nul_are_readable(sandbox: FakeSandbox) -> None:
    seen = ask(sandbox, "bash", command=r"printf '\033[31mred\033[0m \0 \377'")
    assert seen.content.endswith("[STDOUT]\nred \\0 \ufffd")


def test_long_output_is_cut_and_kept(sandbox: FakeSandbox) -> None:
    seen = ask(sandbox, "bash", ToolContext(max_lines=10), command="seq 1000")
    lines = seen.content.splitlines()
    assert lines[2:7] == ["1", "2", "3", "4", "5"]
    assert lines[-5:] == ["996", "997", "998", "999", "1000"]
    where = re.search(r"990 lines\); the whole text is in (\S+) ", seen.content)
    assert where is not None
    assert sandbox.files.read(where[1]).decode().split() == [str(n) for n in range(1, 1001)]


def test_one_endless_line_is_cut_by_bytes(sandbox: FakeSandbox) -> None:
    seen = ask(sandbox, "bash", ToolContext(max_bytes=1000), command="printf %0100000d 7")
    assert len(seen.content) < 1200
    assert "99000 bytes left out" in seen.content
    assert seen.content.endswith("07")


def test_cut_keeps_characters_whole(sandbox: FakeSandbox) -> None:
    command = "for i in {1..500}; do printf 'äöü€'; done"
    seen = ask(sandbox, "bash", ToolContext(max_bytes=1001), command=command)
    assert "\ufffd" not in seen.content


def test_timed_out_command_tells_what_to_do(sandbox: FakeSandbox) -> None:
    seen = ask(sandbox, "bash", command="echo begun; sleep 60", timeout=0.3)
    assert "begun" in seen.content
    assert "[NOTE] The command was stopped after 0.3 s." in seen.content
    assert not seen.is_error


def test_time_left_of_the_run_bounds_a_command(sandbox: FakeSandbox) -> None:
    ask(sandbox, "bash", ToolContext(seconds_left=2.5), command="true", timeout=100)
    ask(sandbox, "bash", ToolContext(timeout_seconds=7), command="true")
    assert sandbox.timeouts == [2.5, 7]


@pytest.mark.parametrize("timeout", [0, -1, 1e9, "soon", float("nan"), True])
def test_timeout_out_of_range_is_refused(sandbox: FakeSandbox, timeout: object) -> None:
    seen = ask(sandbox, "bash", command="true", timeout=timeout)
    assert seen.is_error
    assert "`timeout` must be" in seen.content
    assert sandbox.commands == []


def test_restarted_shell_and_background_job_are_told(sandbox: FakeSandbox) -> None:
    result = CommandResult(
        command="x",
        outcome=Outcome.EXITED,
        exit_code=0,
        stdout_bytes=b"",
        stderr_bytes=b"",
        merged_bytes=b"",
        background=True,
        restarted=True,
        full_output="/run/out",
    )
    restarted, background = _notes(result, 5, None)
    assert "fresh one" in restarted
    assert "/run/out" in background


def ended(outcome: Outcome, code: int, **more: object) -> CommandResult:
    return CommandResult(
        command="c", outcome=outcome, exit_code=code, stdout_bytes=b"", stderr_bytes=b"",
        merged_bytes=b"", **more,  # type: ignore[arg-type]
    )  # fmt: skip


BOUNDS = Limits.of(memory="256MiB", disk="64MiB", shm="8MiB", pids=64)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            ended(Outcome.OUT_OF_MEMORY, 137, limits_hit=("memory",)),
            ["killed: the command needed more than 256.0 MiB of memory, the limit of this sandbox"],
        ),
        (
            ended(Outcome.OUT_OF_MEMORY, 137, limits_hit=("memory",), repeats=2, shared=True),
            ["or one that ran meanwhile", "3 commands in a row"],
        ),
        (ended(Outcome.EXITED, 0, limits_hit=("memory",)), ["the command went on"]),
        (ended(Outcome.DISK_FULL, 1, limits_hit=("disk",)), ["the disk is full: 64.0 MiB"]),
        (ended(Outcome.DISK_FULL, 1, limits_hit=("shm",)), ["/dev/shm is full: 8.0 MiB"]),
        (ended(Outcome.PIDS_LIMIT, 1, limits_hit=("pids",)), ["64 at once"]),
        (ended(Outcome.EXITED, 0, leftovers_killed=61), ["61 processes that earlier commands"]),
        (ended(Outcome.TIMED_OUT, 137, limits_hit=("wall",)), ["no further command can run"]),
        (ended(Outcome.TIMED_OUT, 130, limits_hit=("timeout",), repeats=1), ["2 commands in a"]),
    ],
)
def test_a_limit_is_told_in_a_line_to_act_on(result: CommandResult, words: list[str]) -> None:
    notes = _notes(result, 5, BOUNDS)
    for part in words:
        assert any(part in note for note in notes), notes


def test_dead_shell_with_a_fresh_one_is_an_observation(sandbox: FakeSandbox) -> None:
    sandbox.raises = ShellDiedError("killed by signal 9", restarted=True)
    seen = ask(sandbox, "bash", command="kill -9 $$")
    assert seen.is_error
    assert "fresh one is ready" in seen.content


@pytest.mark.parametrize("error", [ShellDiedError("gone"), SandboxClosedError("closed")])
def test_fault_of_the_sandbox_is_an_exception(sandbox: FakeSandbox, error: Exception) -> None:
    sandbox.raises = error
    with pytest.raises(type(error)):
        ask(sandbox, "bash", command="true")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"command": "ls', "not valid JSON"),
        ("[1]", "one JSON object"),
        ('"ls"', "one JSON object"),
        ("{}", "needs `command`"),
        ("", "needs `command`"),
        ('{"command": 5}', "`command` must be of type string"),
        ('{"command": "ls", "path": "/"}', "no parameter `path`"),
        ('{"command": "  "}', "is empty"),
        ('{"command": "a\\u0000b"}', "NUL"),
        ('{"command": "\\ud83d"}', "surrogate"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_malformed_call_is_refused(sandbox: FakeSandbox, arguments: str, said: str) -> None:
    seen = tools.call(sandbox, ToolCall(id="c", name="execute_bash", arguments=arguments))
    assert seen.is_error
    assert said in seen.content
    assert sandbox.commands == []


@pytest.mark.parametrize(
    "arguments",
    ['{"command": "echo a\necho b"}', '"{\\"command\\": \\"echo a; echo b\\"}"'],
)
def test_what_can_be_meant_in_one_way_is_taken(sandbox: FakeSandbox, arguments: str) -> None:
    seen = tools.call(sandbox, ToolCall(id="c", name="execute_bash", arguments=arguments))
    assert seen.content == "Exit code: 0\n[STDOUT]\na\nb"


def test_unknown_tool_names_the_known_ones(sandbox: FakeSandbox) -> None:
    seen = ask(sandbox, "browser", url="x")
    assert seen.is_error
    assert "execute_bash, str_replace_editor, submit" in seen.content


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("bash", "execute_bash"),
        ("str_replace_based_edit_tool", "str_replace_editor"),
        ("file_editor", "str_replace_editor"),
        ("finish", "submit"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    found = tools.find(alias)
    assert found is not None
    assert found.name == name


def test_submit_ends_the_run_whatever_it_is_given(sandbox: FakeSandbox) -> None:
    for name, given in (("submit", {}), ("finish", {"message": "done"})):
        seen = ask(sandbox, name, **given)
        assert seen.final
        assert not seen.is_error


def test_schemas_are_plain_json_with_the_three_names() -> None:
    schemas = json.loads(json.dumps(tools.schemas()))
    assert [s["function"]["name"] for s in schemas] == [
        "execute_bash",
        "str_replace_editor",
        "submit",
    ]
    for schema in schemas:
        parameters = schema["function"]["parameters"]
        assert set(parameters["required"]) <= set(parameters["properties"])
