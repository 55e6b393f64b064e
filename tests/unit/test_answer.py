"""What counts as an answer, from bytes; from a real sandbox see integration/test_answers.py."""

from __future__ import annotations

import errno

import pytest

from sandbox_lite.bench.answer import (
    HUGE_BYTES,
    MAX_BYTES,
    answer_of_bytes,
    answer_of_text,
    no_answer,
)
from sandbox_lite.bench.task import Answer, NoAnswer
from sandbox_lite.errors import FileAccessError


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"204\n", "204\n"),
        ("ответ 答案".encode(), "ответ 答案"),
        (b"\xef\xbb\xbfA", "A"),
        (b"5 \xb0C", "5 \ufffdC"),
    ],
)
def test_text_is_an_answer(data: bytes, text: str) -> None:
    assert answer_of_bytes(data) == Answer(text=text, size_bytes=len(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "binary"),
        (b"5\0", "binary"),
        (b"x" * (HUGE_BYTES + 1), "huge"),
    ],
)
def test_what_is_none(data: bytes, reason: str) -> None:
    found = answer_of_bytes(data)
    assert isinstance(found, NoAnswer)
    assert found.reason == reason


def test_a_long_file_is_its_head() -> None:
    data = b"5\n" + b"x" * MAX_BYTES
    found = answer_of_bytes(data)
    assert isinstance(found, Answer)
    assert found.truncated
    assert found.size_bytes == MAX_BYTES + 2
    assert len(found.text.encode()) == MAX_BYTES
    assert found.text.startswith("5\n")
    exact = answer_of_bytes(b"x" * MAX_BYTES)
    assert isinstance(exact, Answer)
    assert not exact.truncated


def test_no_character_is_cut_in_two() -> None:
    found = answer_of_bytes(b"x" + "ы".encode() * MAX_BYTES)
    assert isinstance(found, Answer)
    assert set(found.text) == {"x", "ы"}
    assert len(found.text.encode()) == MAX_BYTES - 1


def test_a_long_message_is_its_tail() -> None:
    found = answer_of_text("x" * MAX_BYTES + "The answer is 5")
    assert isinstance(found, Answer)
    assert found.truncated
    assert found.text.endswith("The answer is 5")
    assert len(found.text.encode()) == MAX_BYTES


def test_thoughts_are_no_answer() -> None:
    found = answer_of_text("<think>6? no, 5</think>The answer is 5")
    assert found == Answer(text="The answer is 5", size_bytes=15)
    assert isinstance(answer_of_text("<think>5</think>"), NoAnswer)
    odd = answer_of_text("\udcff5")
    assert isinstance(odd, Answer)
    assert odd.text == "?5"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOENT, "missing"),
        (errno.ENOTDIR, "missing"),
        (errno.EISDIR, "directory"),
        (errno.ELOOP, "link"),
        (errno.EINVAL, "special"),
        (errno.EFBIG, "huge"),
    ],
)
def test_reasons(number: int, reason: str) -> None:
    found = no_answer(FileAccessError("no", errno=number, path="/a"))
    assert found.reason == reason


def test_a_fault_of_the_disk_is_no_missing_answer() -> None:
    with pytest.raises(FileAccessError):
        no_answer(FileAccessError("no", errno=errno.EIO, path="/a"))
