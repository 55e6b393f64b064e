"""Whatever lies where the answer should be: every grader gives it nothing, and none waits."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.bench.answer import HUGE_BYTES, read_answer
from sandbox_lite.bench.graders import GRADERS
from sandbox_lite.bench.graders.judge import Judge
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.task import NoAnswer, Row, Score
from sandbox_lite.jail.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox_lite.agent.completion import Completion
    from sandbox_lite.bench.task import HubSource, Mode, Scorer

TRUTH = "A"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedBy:
    """A task with the grader that its rows name."""

    name: str = "any"
    title: str = "any"
    version: str = "1"
    modes: tuple[Mode, ...] = ("sandbox",)
    source: HubSource | None = None

    def grader(self, row: Row, scorer: Scorer) -> str:
        """See `Task.grader`."""
        del scorer
        return row.domain


class Unasked:
    """A model that is asked nothing."""

    def complete(self, *_: object, **__: object) -> Completion:
        """Fail."""
        raise AssertionError("a judge is asked about no answer")


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text(TRUTH)
    path.symlink_to(path.parent / "elsewhere")


def _socket(path: Path) -> None:
    before = os.getcwd()  # noqa: PTH109  # a socket's path is short
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(before)


def _sparse(path: Path) -> None:
    path.write_text(TRUTH)
    os.truncate(path, 1 << 40)


LEFT: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "missing"),
    "no directory": (lambda path: path.parent.rmdir(), "missing"),
    "an empty file": (lambda path: path.write_bytes(b""), "empty"),
    "white space": (lambda path: path.write_text(" \n\t\u2003"), "empty"),
    "a huge file": (lambda path: path.write_bytes(b"A" * (HUGE_BYTES + 1)), "huge"),
    "a hole of a terabyte": (_sparse, "huge"),
    "a picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0A"), "binary"),
    "a NUL behind the truth": (lambda path: path.write_bytes(b"A\0"), "binary"),
    "a link": (_link, "link"),
    "a link to itself": (lambda path: path.symlink_to(path), "link"),
    "a link to nothing": (lambda path: path.symlink_to("/nowhere"), "link"),
    "a link out": (lambda path: path.symlink_to("../../../../etc/passwd"), "link"),
    "a FIFO": (lambda path: os.mkfifo(path), "special"),
    "a socket": (_socket, "special"),
    "a directory": (lambda path: path.mkdir(), "directory"),
    "a directory with the truth": (lambda path: (path / TRUTH).mkdir(parents=True), "directory"),
}


@pytest.fixture(scope="module")
def grading() -> Iterator[Grading]:
    with Grading(judge=Judge(Unasked(), name="unasked"), timeout=20) as opened:
        yield opened


@pytest.mark.parametrize("kind", LEFT)
def test_it_is_worth_nothing_to_every_grader(grading: Grading, tmp_path: Path, kind: str) -> None:
    make, reason = LEFT[kind]
    (tmp_path / "output").mkdir()
    make(tmp_path / "output" / "answer.txt")
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        found = read_answer(Files(root), "/output/answer.txt")
    finally:
        os.close(root)
    assert isinstance(found, NoAnswer)
    assert found.reason == reason
    for name in GRADERS:
        row = Row(id="1", problem_statement="Which?", ground_truth=TRUTH, domain=name)
        score = grading.grade(GradedBy(), row, found)
        assert isinstance(score, Score)
        assert (score.value, score.grader) == (0.0, name)
        assert score.verdict == f"no answer: {reason}"
