"""instruct_follow on a small registry of our own, in the place of an installed `ifbench`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.bench import tasks
from sandbox_lite.bench.graders.ifbench import loose
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.task import Answer, Row, Score
from sandbox_lite.errors import HostError, TaskError
from tests.unit.test_graders import LEAST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)  # libraries are imported, on a machine that is busy

TASK = tasks.find("instruct_follow")

REGISTRY = '''
class Words:
    """At least so many words."""
    def __init__(self, name): self.name = name
    def build_description(self, *, least=None): self.least = least or 2
    def get_instruction_args(self): return {"least": self.least}
    def check_following(self, text): return len(text.split()) >= self.least

class Begins:
    """Begins with a word, exactly."""
    def __init__(self, name): self.name = name
    def build_description(self, *, word=None): self.word = word
    def get_instruction_args(self): return {"word": self.word}
    def check_following(self, text): return text.startswith(self.word)

class RepeatsPrompt:
    def __init__(self, name): self.prompt = None
    def build_description(self, *, prompt=None): self.prompt = prompt
    def get_instruction_args(self): return {"prompt": self.prompt}
    def check_following(self, text): return text.startswith(self.prompt)

class Fragile:
    def __init__(self, name): pass
    def build_description(self): pass
    def get_instruction_args(self): return None
    def check_following(self, text):
        if "?" in text: raise ValueError("a question")
        return True

class Broken(Fragile):
    def check_following(self, text): raise ValueError("always")

class NeedsData(Fragile):
    def check_following(self, text):
        raise LookupError("Resource punkt not found. Please use the NLTK Downloader")

INSTRUCTION_DICT = {
    "count:words": Words, "start:word": Begins, "copy:prompt": RepeatsPrompt,
    "odd:fragile": Fragile, "odd:broken": Broken, "odd:data": NeedsData,
}
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "ifbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "instructions_registry.py").write_text(REGISTRY)
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.fixture(params=["default", "paper"])
def grading(request: pytest.FixtureRequest) -> Iterator[Grading]:
    with Grading(scorer=request.param, timeout=10) as opened:
        yield opened


@pytest.fixture
def mended() -> Iterator[Grading]:
    with Grading(timeout=10) as opened:
        yield opened


@pytest.fixture
def published() -> Iterator[Grading]:
    with Grading(scorer="paper", timeout=10) as opened:
        yield opened


def row(*instructions: tuple[str, dict[str, object]], statement: str = "Say it.") -> Row:
    truth = {
        "instruction_id_list": [name for name, _ in instructions],
        "kwargs": [given for _, given in instructions],
    }
    return Row(
        id="1", problem_statement=statement, ground_truth=json.dumps(truth),
        domain="instruct_follow",
    )  # fmt: skip


def value(grading: Grading, row: Row, text: str) -> float:
    found = grading.grade(TASK, row, Answer(text=text, size_bytes=len(text)))
    assert isinstance(found, Score)
    assert found.scorer == grading.scorer
    return found.value


HELLO: tuple[str, dict[str, object]] = ("start:word", {"word": "Hello", "least": None})
THREE: tuple[str, dict[str, object]] = ("count:words", {"least": 3})

CASES = [
    ("Hello big world", 1.0),
    ("Hello world", 0.0),  # too short
    ("Good big world", 0.0),  # begins otherwise
    ("*Hello* big world", 1.0),  # without asterisks
    ("Sure!\nHello big world", 1.0),  # without the first line
    ("Hello big world\nBye", 1.0),
    ("Sure!\nHello big world\nBye", 1.0),
    ("Sure!\n\nHello big world", 1.0),
    ("a\nb\nHello big world", 0.0),  # two lines before it
    ("hello big world", 0.0),
    ("Hello", 0.0),
    ("**Hello** **big** world", 1.0),
    ("", 0.0),
    ("   ", 0.0),
    ("Привет большой мир", 0.0),
    ("你好 世界 你好", 0.0),
    ("Hello большой мир", 1.0),
    ("Hello 世界 你好", 1.0),
    ("Hello\nbig\nworld", 1.0),
    ("\n\nHello big world", 1.0),
    ("Hello big world\n\n", 1.0),
    ("Hello big world " * 1000, 1.0),
]


def test_the_table_holds_right_and_wrong_answers_enough() -> None:
    assert len({text for text, _ in CASES}) == len(CASES) >= LEAST
    assert min(sum(value == one for _, value in CASES) for one in (0.0, 1.0)) >= 8


@pytest.mark.usefixtures("installed")
def test_all_instructions_must_be_followed_loosely(grading: Grading) -> None:
    problem = row(HELLO, THREE)
    found = {text: value(grading, problem, text) for text, _ in CASES}
    assert found == dict(CASES)


@pytest.mark.usefixtures("installed")
def test_the_paper_leaves_three_variants_out(mended: Grading, published: Grading) -> None:
    problem = row(("start:word", {"word": "Hello"}))
    assert value(mended, problem, "Sure!\n*Hello*") == 1.0
    assert value(published, problem, "Sure!\n*Hello*") == 0.0
    assert len(loose("a\nb", published=False)) == 8
    assert len(loose("a\nb", published=True)) == 5


@pytest.mark.usefixtures("installed")
def test_a_checker_is_given_the_prompt_it_asks_for(mended: Grading, published: Grading) -> None:
    problem = row(("copy:prompt", {}), statement="Repeat me")
    assert value(mended, problem, "Repeat me, I said.") == 1.0
    assert value(mended, problem, "No.") == 0.0
    assert value(published, problem, "Repeat me, I said.") == 0.0


@pytest.mark.usefixtures("installed")
def test_a_checker_that_fails(mended: Grading, published: Grading) -> None:
    fragile, broken = row(("odd:fragile", {})), row(("odd:broken", {}))
    assert value(mended, fragile, "yes") == 1.0
    assert value(mended, fragile, "yes?") == 0.0
    assert value(published, fragile, "yes?") == 0.0
    with pytest.raises(TaskError, match="also on an answer of its own"):
        value(mended, broken, "yes")
    assert value(published, broken, "yes") == 0.0


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_checked_here_is_said(mended: Grading, published: Grading) -> None:
    for one in (mended, published):
        with pytest.raises(HostError, match="needs data of NLTK") as raised:
            value(one, row(("odd:data", {})), "yes")
        assert "nltk.downloader" in (raised.value.hint or "")
        with pytest.raises(HostError, match="1 of 2 rows cannot be graded here: odd:data needs"):
            one.check(TASK, [row(HELLO), row(("odd:data", {}))])
        assert one.check(TASK, [row(HELLO), row(THREE)]) == ()
    unknown = row(("another:benchmark", {}))
    for call in (lambda: value(mended, unknown, "yes"), lambda: mended.check(TASK, [unknown])):
        with pytest.raises(TaskError, match="has no checker 'another:benchmark'"):
            call()
    assert value(published, unknown, "yes") == 0.0
    no_json = Row(id="1", problem_statement="", ground_truth="x", domain="d")
    with pytest.raises(TaskError, match="is no JSON"):
        value(mended, no_json, "yes")
    assert value(published, no_json, "yes") == 0.0


@pytest.mark.usefixtures("installed")
def test_which_were_followed_is_kept(mended: Grading) -> None:
    found = mended.grade(TASK, row(HELLO, THREE), Answer(text="Hello", size_bytes=5))
    assert isinstance(found, Score)
    assert found.details["followed"] == {"0 start:word": True, "1 count:words": False}
    assert found.verdict == "an instruction is not followed"


def test_without_ifbench_the_task_refuses(
    grading: Grading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # shadows one that this machine may have
    (tmp_path / "ifbench.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "ifbench" not in sys.modules
    for call in (
        lambda: grading.check(TASK, [row(HELLO)]),
        lambda: value(grading, row(HELLO), "Hello"),
    ):
        with pytest.raises(HostError, match="ifbench") as raised:
            call()
        assert (raised.value.hint or "").startswith("pip install 'ifbench @ git+https://")


def test_an_ifbench_without_a_registry_is_refused(
    mended: Grading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ifbench").mkdir()
    (tmp_path / "ifbench" / "__init__.py").write_text("")
    (tmp_path / "ifbench" / "instructions_registry.py").write_text("CHECKERS = {}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HostError, match="holds no INSTRUCTION_DICT"):
        value(mended, row(HELLO), "Hello")
