"""Pages of runs: what a model made is shown, and does nothing."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent.tools import Observation, ToolCall
from sandbox_lite.agent.trajectory import Step, StopReason, Trajectory, TrajectoryWriter
from sandbox_lite.errors import TaskError
from sandbox_lite.pages import charts, pictures, runs
from sandbox_lite.pages.edits import asked
from sandbox_lite.pages.site import write
from sandbox_lite.pages.text import MAX_CHARACTERS, Room, coloured, flat
from tests.pages import Page, check_harmless

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = (
    "</pre></iframe></style><script>parent.x=1</script><img src=x onerror=alert(1)>"
    '"><a href="javascript:alert(1)">\'`&#x3c;script&#x3e; srcdoc="x" \x1b]8;;http://e/\x07y\x1b\\'
    " \x1b[31m<b>\x1b[0m \x00 \ud800 \u202e -->]]> {{ 7*7 }} {% raw %}"
)
SEEN = "</pre></iframe></style><script>parent.x=1</script><img src=x onerror=alert(1)>"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(id="c", name=name, arguments=json.dumps(arguments))


def step(*calls: ToolCall, content: str = "", index: int = 1, **members: object) -> Step:
    seen = tuple(Observation(call_id=one.id, content=content) for one in calls)
    given: dict[str, object] = {"thought": "", "calls": calls, "observations": seen} | members
    return Step(index=index, **given)  # type: ignore[arg-type]


def run(*steps: Step, **members: object) -> Trajectory:
    given: dict[str, object] = {"task": "t", "steps": steps, "stop": StopReason.SUBMITTED}
    return Trajectory(**(given | members))  # type: ignore[arg-type]


def page(*records: Trajectory) -> Page:
    return Page.of(runs.page([runs.Run(name="r", record=one) for one in records]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[1;31mb\x1b[0mc", 'a<span class="bold f1">b</span>c'),
        ("\x1b[91;44mx\x1b[39my\x1b[mz",
         '<span class="b4 f9">x</span><span class="b4">y</span>z'),
        ("\x1b[38;5;196mx\x1b[38;2;0;0;160my",
         '<span class="f1">x</span><span class="f4">y</span>'),
        ("\x1b[38;5;9mx", '<span class="f9">x</span>'),
        ("\x1b[38mx\x1b[48;2;1my\x1b[999;;5m", "xy"),
        ("10%\r50%\r100%\nend", "100%\nend"),
        ("a\x1b]0;title\x07b\x1b[2Jc\x1b(Bd\x1bPq\x1b\\e", "abcde"),
        ("<\x1b[1m&\x1b[0m>", '&lt;<span class="bold">&amp;</span>&gt;'),
        ("\x00\ud800\u202e\x9b", "\ufffd?\ufffd\ufffd"),
        ("\x1b[31", "31"),
    ],
)  # fmt: skip
def test_colours_stay_and_commands_go(text: str, shown: str) -> None:
    assert str(coloured(text)) == shown


def test_a_hostile_run_is_shown_and_does_nothing() -> None:
    record = run(
        step(call("execute_bash", command=HOSTILE), content=HOSTILE, thought=HOSTILE,
             reasoning=HOSTILE, note=HOSTILE),
        step(call("str_replace_editor", command="create", path=HOSTILE, file_text=HOSTILE),
             content=HOSTILE),
        step(ToolCall(id=HOSTILE, name=HOSTILE, arguments=HOSTILE), content=HOSTILE),
        step(ToolCall(id="c", name="x", arguments="[" * 100_000), content="data:image/png;base64,"),
        step(call("x", command=["a"], path=3, more={HOSTILE: HOSTILE})),
        task=HOSTILE, model=HOSTILE, system_prompt=HOSTILE, instance_prompt=HOSTILE,
        answer=HOSTILE, error=HOSTILE, hint=HOSTILE, started=HOSTILE,
    )  # fmt: skip
    found = page(record)
    check_harmless(found)
    (frame,) = found.frames
    # task, thought, command, output, file and answer are there, letter by letter
    assert frame.text.count(SEEN) > 8
    assert "{{ 7*7 }}" in frame.text
    assert not {"\x00", "\x1b", "\x07", "\u202e"} & set(frame.text)
    # beside the frame stands nothing that a model wrote
    outside = found.text.replace("\n", " ")
    assert outside.count(SEEN) == 2  # the file's own header: model and start


def test_no_text_is_so_long_that_a_page_cannot_be_opened() -> None:
    many = [
        step(call("execute_bash", command="x" * 10_000_000), content=end * 10_000_000, index=n)
        for n, end in enumerate(('"', "\x1b[1mx", "<", "\r", "\x1b]0;"), 1)
    ]
    text = runs.page([runs.Run(name="r", record=run(*many))])
    assert len(text) < 8_000_000
    (frame,) = Page.of(text).frames
    assert f"[... {10_000_000 - MAX_CHARACTERS} characters are not shown here ...]" in frame.text
    room = Room(100)
    assert room.cut("ab" * 40) == "ab" * 40
    assert (
        room.cut("y" * 40) == "yyyyyyyyyyyyyyy\n[... 20 characters are not shown here ...]\nyyyyy"
    )
    assert room.left == 0


def test_an_edit_is_the_lines_it_changes() -> None:
    changed = asked(
        call("str_replace_editor", command="str_replace", path="/w/a", old_str="1\n2\n3",
             new_str="1\n4\n3\n5"),
        Room(),
    )  # fmt: skip
    assert changed.title == "str_replace /w/a"
    assert [f"{one.sign}{one.text}" for one in changed.lines] == [" 1", "-2", "+4", " 3", "+5"]
    made = asked(call("e", command="create", path="/w/a", file_text="x\ny\n"), Room())
    assert [f"{one.sign}{one.text}" for one in made.lines] == ["+x", "+y"]
    put = asked(call("e", command="insert", path="/a", insert_line=3, new_str="z"), Room())
    assert (put.title, put.lines[0].text) == ("insert /a 3", "z")
    gone = asked(call("e", command="str_replace", path="/a", old_str="z"), Room())
    assert [one.kind for one in gone.lines] == ["removed"]


def test_what_a_model_chooses_costs_no_time() -> None:
    old = "\n".join(f"{n % 7}" for n in range(30_000))
    edit = call("e", command="str_replace", path="/a", old_str=old, new_str=old[::-1])
    assert asked(edit, Room()).lines[-1].kind == "place"
    assert flat("a" * 1_000_000 + "\r\n\x1b") == "a" * 1_000_000 + "\n\ufffd"


def test_pictures_are_told_by_what_they_begin_with(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (files / "sub" / "a.txt").write_bytes(PNG)
    (files / "b.png").write_text("<svg onload=alert(1)>")
    (files / "c.png").symlink_to(files / "sub" / "a.txt")
    (files / "d.gif").write_bytes(b"GIF89a" + bytes(pictures.MAX_BYTES))
    shown = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert pictures.below(files) == (("sub/a.txt", shown),)
    lie = base64.b64encode(b"<svg onload=alert(1)></svg>").decode()
    assert pictures.inline(f"x {shown} data:image/png;base64,{lie}") == (shown,)
    with TrajectoryWriter(tmp_path / "trajectory.jsonl") as writer:
        record = run(step(call("execute_bash", command="ls"), content=f"see {shown}"))
        writer.begin(record)
        writer.step(record.steps[0])
        writer.end(record)
    found = Page.of(runs.page([runs.load(tmp_path)]))
    check_harmless(found)
    assert [one["src"] for one in found.frames[0].of_tag("img")] == [shown, shown]


def test_runs_stand_side_by_side() -> None:
    found = page(run(step(thought="left")), run(step(thought="right"), model="m"))
    check_harmless(found)
    assert [("left" in frame.text, "right" in frame.text) for frame in found.frames] == [
        (True, False), (False, True),
    ]  # fmt: skip
    with pytest.raises(TaskError):
        runs.page([])


def test_a_long_run_is_folded() -> None:
    for steps, unfolded in ((3, True), (4, False)):
        (frame,) = page(run(*(step(thought="x", index=n) for n in range(steps)))).frames
        folds = [one for one in frame.of_tag("details") if "step" in str(one.get("class"))]
        assert [("open" in one) for one in folds] == [unfolded] * steps


def test_plots_place_numbers_in_shares_of_the_width() -> None:
    spans = [
        charts.Span(label="<a>", mean=0.5, low=0.25, high=1.5),
        charts.Span(label="b", mean=-0.5, low=None, high=None),
    ]
    drawn = Page.of(str(charts.intervals(spans, low=-1, high=1, title="T")))
    assert [one["cx"] for one in drawn.of_tag("circle")] == ["75.00%", "25.00%"]
    lines = [one for one in drawn.of_tag("line") if one["class"] == "span"]
    assert [(one["x1"], one["x2"]) for one in lines] == [("62.50%", "100.00%")]
    bars = [charts.Bar(label="a", parts=(1, 3)), charts.Bar(label="b", parts=(None, 2))]
    drawn = Page.of(str(charts.bars(bars, ("x", "y"), title="T", unit="s")))
    pieces = [(one["x"], one["width"], one["class"]) for one in drawn.of_tag("rect") if "x" in one]
    assert pieces == [
        ("0.00%", "25.00%", "p0"), ("25.00%", "75.00%", "p1"), ("0.00%", "50.00%", "p1"),
    ]  # fmt: skip
    assert charts.bars([charts.Bar(label="a", parts=(0, None))], ("x",), title="", unit="") == ""


def test_a_page_is_whole_or_not_there(tmp_path: Path) -> None:
    write(tmp_path / "a" / "page.html", "\ud800<p>")
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["page.html"]
    assert (tmp_path / "a" / "page.html").read_bytes() == b"?<p>"
