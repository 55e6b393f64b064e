"""The editor on files of this host: bytes outside the edit never change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent import tools
from sandbox_lite.agent.tools import ToolCall, ToolContext
from tests.fake_sandbox import FakeSandbox

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/testbed/a b'c.txt"


@pytest.fixture
def sandbox(tmp_path: Path) -> FakeSandbox:
    return FakeSandbox(tmp_path)


def edit(
    sandbox: FakeSandbox,
    command: str,
    path: str = PATH,
    /,
    context: ToolContext | None = None,
    **arguments: object,
) -> str:
    text = json.dumps({"command": command, "path": path, **arguments})
    seen = tools.call(sandbox, ToolCall(id="c", name="str_replace_editor", arguments=text), context)
    assert seen.is_error == seen.content.startswith("Error: ")
    return seen.content


@pytest.mark.parametrize("text", ["", "x", "x\n", "a\tb\r\n'\"$(id)`\\", "ünï\n\n\n"])
def test_create_writes_exactly_what_was_given(sandbox: FakeSandbox, text: str) -> None:
    edit(sandbox, "create", "/testbed/new/dir/f", file_text=text)
    assert sandbox.files.read("/testbed/new/dir/f") == text.encode()


def test_create_shows_the_file(sandbox: FakeSandbox) -> None:
    assert edit(sandbox, "create", file_text="one\n\ttwo") == (
        f"File created at {PATH}. Here's the result of running `cat -n` on {PATH}:\n"
        "     1\tone\n     2\t\ttwo\n"
        "Review the file and make sure that it is as expected. Edit the file if necessary."
    )


def test_create_refuses_a_directory_and_a_missing_text(sandbox: FakeSandbox) -> None:
    assert "Is a directory" in edit(sandbox, "create", "/testbed", file_text="")
    assert "is a directory" in edit(sandbox, "create", "/testbed/x/", file_text="")
    assert "needs `file_text`" in edit(sandbox, "create")
    assert "File name too long" in edit(sandbox, "create", "/x" * 4000, file_text="")


def test_full_disk_leaves_the_file_as_it_was(sandbox: FakeSandbox) -> None:
    sandbox.files.write(PATH, "precious\n")
    sandbox.files.fail_once = True
    assert "No space" in edit(sandbox, "str_replace", old_str="precious", new_str="x" * 100)
    assert sandbox.files.read(PATH) == b"precious\n"
    sandbox.files.fail_once = True
    assert "No space" in edit(sandbox, "create", file_text="x" * 100)
    assert sandbox.files.read(PATH) == b"precious\n"


def test_view_numbers_lines_as_cat_does(sandbox: FakeSandbox) -> None:
    sandbox.files.write(PATH, "a\n\x0cb\n\nd\n")
    head = f"Here's the result of running `cat -n` on {PATH}:\n"
    assert edit(sandbox, "view") == head + "     1\ta\n     2\t\x0cb\n     3\t\n     4\td\n"
    assert edit(sandbox, "view", view_range=[2, 3]) == head + "     2\t\x0cb\n     3\t\n"
    assert edit(sandbox, "view", view_range=[4, -1]) == head + "     4\td\n"
    assert edit(sandbox, "view", view_range="[4, 90]").endswith("(the file has 4 lines)\n")


@pytest.mark.parametrize(
    ("view_range", "said"),
    [
        ([0, 2], "from 1 to 2"),
        ([3, -1], "from 1 to 2"),
        ([2, 1], "before it begins"),
        ([1], "two line numbers"),
        (["a", 2], "a list of integers"),
        ("all", "a list of integers"),
    ],
)
def test_view_refuses_a_bad_range(sandbox: FakeSandbox, view_range: object, said: str) -> None:
    sandbox.files.write(PATH, "a\nb\n")
    assert said in edit(sandbox, "view", view_range=view_range)


def test_view_of_what_is_no_text(sandbox: FakeSandbox) -> None:
    sandbox.files.write(PATH, b"\x7fELF\0\0")
    assert "not a text file (6 B" in edit(sandbox, "view")
    sandbox.files.write(PATH, b"")
    assert edit(sandbox, "view") == f"(empty file: {PATH})"
    assert "does not exist" in edit(sandbox, "view", "/nowhere/x")
    assert "must be absolute" in edit(sandbox, "view", "testbed/x")


def test_view_stops_at_whole_lines_and_says_where_to_go_on(sandbox: FakeSandbox) -> None:
    sandbox.files.write(PATH, "".join(f"line {n}\n" for n in range(1, 1001)))
    seen = edit(sandbox, "view", context=ToolContext(max_lines=100))
    assert "\n   100\tline 100\n[... lines 101 to 1000 left out; view on" in seen
    assert "view_range [101, 1000]" in seen
    sandbox.files.write(PATH, "x" * 100_000)
    seen = edit(sandbox, "view", context=ToolContext(max_bytes=1000))
    assert len(seen) < 1300
    assert "cut -c" in seen


def test_huge_file_is_refused_unread(sandbox: FakeSandbox) -> None:
    with sandbox.files.on_host(PATH).open("wb") as file:
        file.truncate(10 * 1024**3)
    assert "longer than 16.0 MiB, too long for the editor" in edit(sandbox, "view")


def test_view_of_a_directory_lists_two_levels(sandbox: FakeSandbox) -> None:
    for path in ("/testbed/b/c/d", "/testbed/a", "/testbed/.git/x", "/testbed/b/.hidden"):
        sandbox.files.write(path, "")
    (sandbox.workdir / "loop").symlink_to("/")
    assert edit(sandbox, "view", "/testbed").splitlines()[1:] == [
        "/testbed",
        "/testbed/a",
        "/testbed/b",
        "/testbed/b/c",
        "/testbed/loop",
    ]
    assert "leave `view_range` out" in edit(sandbox, "view", "/testbed", view_range=[1, 2])


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (b"a\nb\nc\n", "b", "B", b"a\nB\nc\n"),
        (b"a\nb\nc", "b\nc", "x\ny", b"a\nx\ny"),
        (b"a\r\nb\r\nc\r\n", "a\nb", "1\n2\n3", b"1\r\n2\r\n3\r\nc\r\n"),
        (b"a\r\nb\nc\r\nd\n", "b\nc", "x\ny", b"a\r\nx\ny\r\nd\n"),
        (b"\xff\xfe a \x80\n", "a", "b", b"\xff\xfe b \x80\n"),
        (b"\xef\xbb\xbfone\n", "one", "two", b"\xef\xbb\xbftwo\n"),
        (b"\tx\n", "x", "\ty", b"\t\ty\n"),
        (b"a.b\n", "a.b", r"\1\g<0>", b"\\1\\g<0>\n"),
        ("ä\u2028ö\n".encode(), "ä", "é", "é\u2028ö\n".encode()),
        (b"only", "only", "", b""),
    ],
)
def test_str_replace_changes_nothing_else(
    sandbox: FakeSandbox, before: bytes, old: str, new: str, after: bytes
) -> None:
    sandbox.files.write(PATH, before)
    seen = edit(sandbox, "str_replace", old_str=old, new_str=new)
    assert seen.startswith(f"The file {PATH} has been edited."), seen
    assert sandbox.files.read(PATH) == after


def test_str_replace_shows_four_lines_around(sandbox: FakeSandbox) -> None:
    sandbox.files.write(PATH, "".join(f"{n}\n" for n in range(1, 31)))
    seen = edit(sandbox, "str_replace", old_str="15\n", new_str="x\ny\n")
    shown = [line.split("\t") for line in seen.splitlines()[1:-1]]
    assert shown[0] == ["    11", "11"]
    assert shown[4:6] == [["    15", "x"], ["    16", "y"]]
    assert len(shown) == 11


def test_str_replace_refusals_name_the_repair(sandbox: FakeSandbox) -> None:
    sandbox.files.write(PATH, "if x:\n    y\nif x:\n    z\n")
    assert "occurs 2 times" in edit(sandbox, "str_replace", old_str="if x:", new_str="")
    assert "(lines 1, 3)" in edit(sandbox, "str_replace", old_str="if x:", new_str="")
    assert "at line 1, but white space" in edit(sandbox, "str_replace", old_str="if x:\n  y")
    assert "copy the text exactly" in edit(sandbox, "str_replace", old_str="nothing like it")
    assert "needs `old_str`" in edit(sandbox, "str_replace", new_str="x")
    assert "needs `old_str`" in edit(sandbox, "str_replace", old_str="", new_str="x")
    assert sandbox.files.read(PATH) == b"if x:\n    y\nif x:\n    z\n"


@pytest.mark.parametrize(
    ("before", "line", "new", "after"),
    [
        (b"a\nb\n", 0, "x", b"x\na\nb\n"),
        (b"a\nb\n", 1, "x\ny\n", b"a\nx\ny\nb\n"),
        (b"a\nb\n", 2, "x", b"a\nb\nx\n"),
        (b"a\nb", 2, "x\n", b"a\nb\nx"),
        (b"a\r\nb\r\n", 1, "x\ny", b"a\r\nx\r\ny\r\nb\r\n"),
        (b"\x80\n", 1, "x", b"\x80\nx\n"),
        (b"", 0, "x", b"x\n"),
        (b"a\n", 1, "\n", b"a\n\n"),
    ],
)
def test_insert(sandbox: FakeSandbox, before: bytes, line: int, new: str, after: bytes) -> None:
    sandbox.files.write(PATH, before)
    seen = edit(sandbox, "insert", insert_line=line, new_str=new)
    assert seen.startswith(f"The file {PATH} has been edited."), seen
    assert sandbox.files.read(PATH) == after


def test_insert_takes_the_other_packages_parameter_and_text_numbers(sandbox: FakeSandbox) -> None:
    sandbox.files.write(PATH, "a\n")
    edit(sandbox, "insert", insert_line="1", insert_text="b")
    assert sandbox.files.read(PATH) == b"a\nb\n"


def test_insert_refusals(sandbox: FakeSandbox) -> None:
    sandbox.files.write(PATH, "a\n")
    assert "from 0 to 1" in edit(sandbox, "insert", insert_line=2, new_str="x")
    assert "from 0 to 1" in edit(sandbox, "insert", insert_line=-1, new_str="x")
    assert "needs `insert_line`" in edit(sandbox, "insert", new_str="x")
    assert "must be one of: view, create" in edit(sandbox, "undo_edit")
