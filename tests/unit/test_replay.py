"""Replay: what counts as the same, what as drift, and what an expectation may excuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent.comparison import parse, same_output
from sandbox_lite.agent.replay import (
    Compare,
    Expectation,
    ReplayReport,
    Verdict,
    load_expectations,
    replay,
)
from sandbox_lite.agent.tools import Observation, ToolCall
from sandbox_lite.agent.trajectory import Step, Trajectory
from sandbox_lite.errors import TaskError
from tests.fake_sandbox import FakeSandbox

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = "Exit code: {code}\nExecution output of \\[execute_bash]:\n\\[STDOUT]\n{out}"


@pytest.fixture
def sandbox(tmp_path: Path) -> FakeSandbox:
    return FakeSandbox(tmp_path)


def recorded(*steps: tuple[str, dict[str, object], str]) -> Trajectory:
    made = []
    for index, (tool, given, seen) in enumerate(steps, 1):
        call = ToolCall(id=f"c{index}", name=tool, arguments=json.dumps(given))
        observation = Observation(call_id=call.id, content=seen)
        made.append(Step(index=index, thought="", calls=(call,), observations=(observation,)))
    return Trajectory(task="t", steps=tuple(made), source="published")


def again(
    sandbox: FakeSandbox, command: str, code: object, out: str, *known: Expectation
) -> ReplayReport:
    text = PUBLISHED.format(code=code, out=out)
    return replay(recorded(("execute_bash", {"command": command}, text)), sandbox, known)


def known(**given: object) -> Expectation:
    return Expectation(**{"step": 1, "cause": "why", "kind": "date", **given})  # type: ignore[arg-type]


def verdict(report: ReplayReport) -> Verdict:
    (one,) = report.steps
    return one.verdict


@pytest.mark.parametrize(
    ("command", "code", "out"),
    [
        ("echo a", 0, "a\n"),
        ("echo a; exit 7", "Error: Exit code 7", "a\n"),
        ("true", 0, "(no output)"),
        ("true", 0, ""),
        ("printf 'a  \\n\\n\\033[1mb\\033[0m\\r\\n\\n'", 0, "a\n\nb\n"),
        ("echo a; echo b >&2", 0, "a\n\n\\[STDERR]\nb\n"),
        ("printf a; printf b >&2", 0, "a\n\\[STDERR]\nb"),
        ("cd input; pwd >/dev/null", 0, "(no output)"),
    ],
)
def test_the_same(sandbox: FakeSandbox, command: str, code: object, out: str) -> None:
    report = again(sandbox, command, code, out)
    assert verdict(report) is Verdict.SAME, report
    assert report.ok


@pytest.mark.parametrize(
    ("command", "code", "out", "fields"),
    [
        ("echo a", 0, "b\n", ("output",)),
        ("echo a; exit 1", 0, "a\n", ("exit_code",)),
        ("exit 2", "Error: Exit code 1", "b\n", ("exit_code", "output")),
        ("echo '(no output)'; echo a", 0, "a", ("output",)),
        ("echo a >&2", 0, "a", ("output",)),
        ("echo ' a'", 0, "a", ("output",)),
    ],
)
def test_drift(
    sandbox: FakeSandbox, command: str, code: object, out: str, fields: tuple[str, ...]
) -> None:
    report = again(sandbox, command, code, out)
    assert verdict(report) is Verdict.DRIFT
    assert report.steps[0].fields == fields
    assert not report.ok


def test_difference_shows_both_sides(sandbox: FakeSandbox) -> None:
    shown = again(sandbox, "seq 3", 0, "1\n5\n3\n").steps[0].difference.splitlines()
    assert shown[:2] == ["--- recorded", "+++ replayed"]
    assert {"-5", "+2"} <= set(shown)


def test_commands_of_a_published_run_each_start_in_the_working_directory(
    sandbox: FakeSandbox,
) -> None:
    again(sandbox, "true", 0, "")
    assert sandbox.commands == ["cd -- /testbed", "true"]


@pytest.mark.parametrize(
    ("text", "found", "same"),
    [
        ("a\nb\n[... 9 bytes left out (2 lines) ...]\ny\nz", "a\nb\nc\nd\ny\nz", True),
        ("a\nb\n[... 9 bytes left out (2 lines) ...]\ny\nz", "a\nX\nc\nd\ny\nz", False),
        ("a\nb\n[... 9 bytes left out (2 lines) ...]\ny\nz", "a\nb\nc\nd\nX\nz", False),
        ("a\nb\n[... 9 bytes left out (2 lines) ...]\nb\nz", "a\nb\nz", False),
        ("line 1\nli\n<response clipped>", "line 1\nline 2\nline 3", True),
        ("line 1\nli<response clipped><NOTE>more</NOTE>", "line 1\nline 2", True),
        ("line 1\nlx\n<response clipped>", "line 1\nline 2\nline 3", False),
        (
            "a\n" + "-" * 50 + "\n<Observation truncated in middle for saving context>\n"
            + "-" * 50 + "\nz",
            "a\nb\nz",
            True,
        ),
        ("a\n[... 5 left out ...]\nm\n[... 5 left out ...]\nz", "a\nb\nm\nc\nz", True),
        ("a\n[... 5 left out ...]\nm\n[... 5 left out ...]\nz", "a\nb\nn\nc\nz", False),
        ("ab\n[... 5 left out ...]\nyz", "a\n[... 7 left out ...]\nz", True),
        ("ab\n[... 5 left out ...]\nyz", "b\n[... 7 left out ...]\nz", False),
        ("a", "b", False),
    ],
)  # fmt: skip
def test_what_was_cut_out_is_not_compared(text: str, found: str, same: bool) -> None:
    assert same_output(text, found) is same
    assert same_output(found, text) is same


def test_the_recorders_editor_is_understood() -> None:
    ours = "Here's the result of running `cat -n` on /f:\n     1\ta\tb\n     2\t\n     3\tc\n"
    theirs = "Here's the result of running `cat -n` on /f:\n     1\ta       b\n     2\t\n     3\tc"
    assert parse(ours, "str_replace_editor") == parse(theirs, "str_replace_editor")
    more = theirs + "\n     4\t\n     5\t"
    assert parse(ours, "str_replace_editor") == parse(more, "str_replace_editor")
    reviewed = "\nReview the file and make sure that it is as expected."
    assert parse(more + reviewed, "str_replace_editor") == parse(
        theirs + reviewed, "str_replace_editor"
    )
    other = ours.replace("\tc", "\td")
    assert parse(ours, "str_replace_editor") != parse(other, "str_replace_editor")


def test_notes_are_not_output() -> None:
    text = "Exit code: 0\n[STDOUT]\na\n[NOTE] kept\n[NOTE] in /tmp/x"
    found = parse(text, "execute_bash")
    assert (found.exit_code, found.output) == (0, "[STDOUT]\na")


def test_our_own_run_replays_as_itself(sandbox: FakeSandbox, tmp_path: Path) -> None:
    from sandbox_lite.agent import tools
    from sandbox_lite.agent.tools import ToolContext

    actions: list[tuple[str, dict[str, object]]] = [
        ("execute_bash", {"command": "seq 2000; echo e >&2; exit 4"}),
        ("str_replace_editor", {"command": "create", "path": "/testbed/f", "file_text": "a\tb\n"}),
        ("str_replace_editor", {"command": "view", "path": "/testbed/f"}),
        ("str_replace_editor", {"command": "str_replace", "path": "/testbed/f", "old_str": "zz"}),
        ("nonsense", {}),
        ("submit", {}),
    ]
    seen = []
    for name, given in actions:
        call = ToolCall(id="c", name=name, arguments=json.dumps(given))
        context = ToolContext(max_lines=20)
        seen.append((name, given, tools.call(sandbox, call, context).content))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    report = replay(recorded(*seen), FakeSandbox(fresh))
    assert [step.verdict for step in report.steps] == [Verdict.SAME] * len(actions)
    assert [step.exit_code for step in report.steps][:2] == [4, None]


@pytest.mark.parametrize(
    ("command", "out", "expectation", "good"),
    [
        ("echo b a", "a b", known(), True),
        ("echo b a", "a b", known(compare=Compare.WORDS), True),
        ("echo b c", "a b", known(compare=Compare.WORDS), False),
        ("seq 3 -1 1", "1\n2\n3", known(compare=Compare.LINES), True),
        ("seq 4 -1 1", "1\n2\n3", known(compare=Compare.LINES), False),
        ("echo x; echo end", "y\nend", known(compare=Compare.LAST_LINE), True),
        ("echo x; echo END", "y\nend", known(compare=Compare.LAST_LINE), False),
        ("echo done 2026", "done 2025", known(match=r"^done \d+$"), True),
        ("echo failed", "done 2025", known(match=r"^done \d+$"), False),
        ("echo a; exit 1", "b", known(), False),
        ("echo a; exit 1", "b", known(fields=("exit_code", "output")), True),
        ("echo a", "b", known(fields=("exit_code",)), False),
        ("echo a", "b", known(step=2), False),
    ],
)
def test_expectation_excuses_what_its_cause_can_do(
    sandbox: FakeSandbox, command: str, out: str, expectation: Expectation, good: bool
) -> None:
    report = again(sandbox, command, 0, out, expectation)
    assert report.ok is good
    assert verdict(report) is (Verdict.EXPECTED if good else Verdict.DRIFT)
    assert (report.steps[0].cause == "date: why") is good


def test_expectation_that_no_longer_holds_is_told(sandbox: FakeSandbox) -> None:
    assert not again(sandbox, "echo a", 0, "a", known(always=False)).steps[0].stale
    report = again(sandbox, "echo a", 0, "a", known(), known(step=9))
    assert report.ok
    assert report.steps[0].stale
    assert [one.step for one in report.unused] == [9]


def test_expectations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(
        '[[step]]\nstep = 2\nkind = "hash seed"\ncause = "order of a set"\ncompare = "words"\n'
        '[[step]]\nstep = 3\nkind = "mirror"\ncause = "pip"\nmatch = "^ok"\n'
        'fields = ["exit_code", "output"]\n'
    )
    first, second = load_expectations(path)
    assert (first.step, first.compare, first.fields) == (2, Compare.WORDS, ("output",))
    assert (second.match, second.fields) == ("^ok", ("exit_code", "output"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "no TOML"),
        ("a = 1", r"list of \[\[step\]\]"),
        ("step = 1", r"list of \[\[step\]\]"),
        ("[[step]]\nstep = 1", "makes no sense"),
        ('[[step]]\nstep = 1\nkind = "magic"\ncause = "x"', "the kinds are"),
        ('[[step]]\nstep = 1\nkind = "date"\ncause = " "', "no cause"),
        ('[[step]]\nstep = 0\nkind = "date"\ncause = "x"', "from 1"),
        ('[[step]]\nstep = "a"\nkind = "date"\ncause = "x"', "makes no sense"),
        ('[[step]]\nstep = 1\nkind = "date"\ncause = "x"\nmatch = "("', "makes no sense"),
        ('[[step]]\nstep = 1\nkind = "date"\ncause = "x"\ncompare = "y"', "makes no sense"),
        ('[[step]]\nstep = 1\nkind = "date"\ncause = "x"\nfields = ["z"]', "none of"),
        ('[[step]]\nstep = 1\nkind = "date"\ncause = "x"\nother = 1', "makes no sense"),
    ],
)
def test_bad_expectations_are_one_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "e.toml"
    path.write_text(text)
    with pytest.raises(TaskError, match=said):
        load_expectations(path)
    with pytest.raises(TaskError, match="No such file"):
        load_expectations(tmp_path / "missing")
