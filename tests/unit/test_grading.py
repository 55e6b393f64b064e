"""Grading by task: routes, missing answers, missing judges; and tasks of a third party."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent.model import ModelSettings
from sandbox_lite.bench import tasks
from sandbox_lite.bench.graders import find
from sandbox_lite.bench.grading import Grading, opened_judge
from sandbox_lite.bench.task import (
    Answer,
    HubSource,
    NoAnswer,
    PackagedSource,
    Row,
    Score,
    Ungraded,
)
from sandbox_lite.errors import HostError, SpecError, TaskError
from tests.model_server import ModelServer, says

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.bench.task import Task

pytestmark = pytest.mark.timeout(60)  # libraries are imported, on a machine that is busy

NAMES = ["math", "physics", "chem", "biomed", "long_context", "instruct_follow", "context", "demo"]


@pytest.fixture
def grading() -> Iterator[Grading]:
    with Grading(timeout=15) as opened:
        yield opened


def row(truth: str, *, domain: str = "d", **extra: object) -> Row:
    return Row(id="1", problem_statement="What?", ground_truth=truth, domain=domain, extra=extra)


def answer(text: str, *, truncated: bool = False) -> Answer:
    return Answer(text=text, size_bytes=len(text.encode()), truncated=truncated)


def value(grading: Grading, task: Task, row: Row, text: str) -> float:
    found = grading.grade(task, row, answer(text))
    assert isinstance(found, Score)
    return found.value


def test_the_table_is_the_domains() -> None:
    assert list(tasks.TASKS) == NAMES
    for name, task in tasks.TASKS.items():
        assert task.name == name
        assert task.modes == ("sandbox", "plain")
        if name == "demo":
            assert task.source == PackagedSource(folder="demo")
            continue
        assert isinstance(task.source, HubSource)
        assert task.source.repository.startswith("daixuancheng/llm-in-sandbox-")


@pytest.mark.parametrize(
    ("task", "domain", "qa_type", "truth", "grader"),
    [
        ("math", "math", None, "5", "math-verify"),
        ("physics", "physics", None, "5", "judge"),
        ("chem", "chem", None, "A", "choice"),
        ("biomed", "biomed", None, "A", "choice"),
        ("long_context", "long_context", None, "x", "judge"),
        ("instruct_follow", "instruct_follow", None, "{}", "ifbench"),
        ("context", "instruct_pretrain", "Multiple choice", "A", "choice"),
        ("context", "instruct_pretrain", "multiple choice (several)", "A, C", "choices-f1"),
        ("context", "instruct_pretrain", "free-form", "A, C", "open"),
        ("context", "instruct_pretrain", None, "x", "open"),
        ("context", "instruct_pretrain", "something else", "x", "open"),
        ("context", "math_mini", None, "5", "math-verify"),
        ("context", "physics_mini", None, "5", "math-verify"),
        ("context", "chem_mini", "multiple choice", "A", "choice"),
        ("context", "long_context_mini", None, "x", "open"),
    ],
)
def test_routes(task: str, domain: str, qa_type: str | None, truth: str, grader: str) -> None:
    one = row(truth, domain=domain, qa_type=qa_type)
    assert tasks.find(task).grader(one, "default") == grader
    assert find(grader).name == grader


def test_context_grades_its_three_kinds(grading: Grading) -> None:
    context = tasks.find("context")
    choice, several = row("B", qa_type="multiple choice"), row("A, C", qa_type="multiple choice")
    assert value(grading, context, choice, "(B)") == 1.0
    assert value(grading, context, several, "C,A") == 1.0
    assert value(grading, context, several, "C") == pytest.approx(2 / 3)
    assert value(grading, context, row("-5", qa_type="free-form"), "5") == 0.0
    assert value(grading, context, row("the cat", qa_type="free-form"), "cat") == pytest.approx(
        2 / 3
    )


def test_scores_name_their_grader_and_scorer(grading: Grading) -> None:
    math = tasks.find("math")
    found = grading.grade(math, row("5"), answer("The answer is 5"))
    assert isinstance(found, Score)
    assert (found.value, found.grader, found.scorer) == (1.0, "math-verify", "default")
    with Grading(scorer="paper", timeout=15) as published:
        found = published.grade(math, row("5"), answer("The answer is 5"))
    assert isinstance(found, Score)
    assert (found.value, found.grader, found.scorer) == (0.0, "math-verify", "paper")
    with pytest.raises(SpecError, match="no scorer 'mine'"):
        Grading(scorer="mine")  # type: ignore[arg-type]


def test_no_answer_is_wrong_and_a_cut_one_is_marked(grading: Grading) -> None:
    math = tasks.find("math")
    none = grading.grade(math, row("5"), NoAnswer(reason="missing", text="there is no x"))
    assert isinstance(none, Score)
    assert (none.value, none.verdict) == (0.0, "no answer: missing")
    cut = grading.grade(math, row("5"), Answer(text="5", size_bytes=70_000, truncated=True))
    assert isinstance(cut, Score)
    assert cut.details["answer_bytes"] == 70_000


@pytest.mark.parametrize("name", ["physics", "long_context"])
def test_without_a_judge_answers_stay_ungraded(grading: Grading, name: str) -> None:
    task = tasks.find(name)
    notes = grading.check(task, [row("5")])
    assert notes == (f"{name} needs a judge: its answers are kept and stay ungraded",)
    assert grading.check(tasks.find("chem"), [row("A")]) == ()
    for one in (answer("5"), NoAnswer(reason="missing", text="")):
        found = grading.grade(task, row("5"), one)
        assert found == Ungraded(reason="no judge is named", grader="judge")


def test_with_a_judge_they_are_graded() -> None:
    def reply(request: dict[str, object]) -> object:
        text = str(request["messages"])
        check = text.rsplit('"check": "', 1)[1][:16]
        return says(f'{{"verdict": "correct", "check": "{check}"}}')

    with ModelServer(reply) as server:  # type: ignore[arg-type]
        settings = ModelSettings(model="j", base_url=server.base_url)
        with opened_judge(settings) as judge, Grading(judge=judge) as judged:
            found = judged.grade(tasks.find("physics"), row("5"), answer("5.0"))
            assert isinstance(found, Score)
            assert (found.value, found.grader, found.details["judge"]) == (1.0, "judge", "j")
            assert server.requests[0]["temperature"] == 0.0
            asked = len(server.requests)
            none = judged.grade(
                tasks.find("physics"), row("5"), NoAnswer(reason="empty", text="empty")
            )
            assert isinstance(none, Score)
            assert none.value == 0.0
            assert len(server.requests) == asked
            with pytest.raises(SpecError, match="the paper's judge goes with"):
                Grading(scorer="paper", judge=judge)


def test_the_papers_judge_runs_as_in_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "llm_in_sandbox" / "benchmark" / "physics"
    folder.mkdir(parents=True)
    (tmp_path / "llm_in_sandbox" / "__init__.py").write_text("raise ImportError")
    (folder / "judge.py").write_text(
        "def create_judge_prompt(q, truth, answer): return f'{q} {truth} {answer}'"
    )
    with ModelServer(says("CORRECT"), says("INCORRECT"), says("CORRECT")) as server:
        settings = ModelSettings(model="j", base_url=server.base_url)
        with (
            pytest.raises(HostError, match="llm-in-sandbox"),
            opened_judge(settings, scorer="paper"),
        ):
            pass
        monkeypatch.syspath_prepend(tmp_path)
        with (
            opened_judge(settings, scorer="paper") as judge,
            Grading(scorer="paper", judge=judge) as judged,
        ):
            found = judged.grade(tasks.find("physics"), row("5"), answer("5.0"))
        assert isinstance(found, Score)
        assert (found.value, found.scorer) == (0.75, "paper")
        assert len(server.requests) == 4
        assert server.requests[0]["temperature"] == 0.7
        assert server.requests[0]["max_tokens"] == 16_384
        assert server.requests[0]["messages"] == [{"role": "user", "content": "What? 5 5.0"}]


THIRD = """
from sandbox_lite.bench.graders.grader import Grader, Verdict
from sandbox_lite.bench.task import DataTask

GRADER = Grader(
    name="own", score=lambda q: Verdict(value=float(q.answer == q.truth[::-1]), text="own")
)
TASK = DataTask(name="own", title="backwards", graded_by=f"{__file__}:GRADER")
OTHER = DataTask(name="other", title="the same", graded_by=f"{__name__}:GRADER")
"""


def test_a_task_of_a_third_party(
    grading: Grading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "task.py").write_text(THIRD)
    (tmp_path / "thirdparty_task.py").write_text(THIRD)
    monkeypatch.syspath_prepend(tmp_path)
    for name in (str(tmp_path / "folder"), "thirdparty_task:TASK", "thirdparty_task:OTHER"):
        task = tasks.find(name)
        assert value(grading, task, row("abc"), "cba") == 1.0
        assert value(grading, task, row("abc"), "abc") == 0.0
    assert tasks.find(str(tmp_path / "folder")) is tasks.find(str(tmp_path / "folder"))


def test_tasks_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="no task 'algebra'"):
        tasks.find("algebra")
    with pytest.raises(SpecError, match="no task in"):
        tasks.find(str(tmp_path))
    (tmp_path / "task.py").write_text("1/0")
    with pytest.raises(TaskError, match="ZeroDivisionError"):
        tasks.find(str(tmp_path))
    (tmp_path / "task.py").write_text("TASK = 5")
    with pytest.raises(TaskError, match="holds no task: TASK lacks name"):
        tasks.find(str(tmp_path))
    with pytest.raises(TaskError, match="cannot be imported"):
        tasks.find("no.such.package")


def test_importing_needs_no_library_of_the_extra() -> None:
    code = (
        "import sys\n"
        "import sandbox_lite.bench.grading, sandbox_lite.bench.statistics\n"
        "import sandbox_lite.bench.data, sandbox_lite.bench.prompt, sandbox_lite.bench.answer\n"
        "heavy = {'scipy', 'numpy', 'pyarrow', 'math_verify', 'sympy', 'rouge_score', 'nltk',\n"
        "  'huggingface_hub', 'yaml', 'openai', 'httpx2', 'ifbench'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "[]\n"
