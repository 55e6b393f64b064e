"""What models are told: ours, the paper's, the user's."""

from __future__ import annotations

import importlib
import re
import sys
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.bench import paper, prompt, tasks
from sandbox_lite.bench.task import Row
from sandbox_lite.errors import HostError, TaskError

if TYPE_CHECKING:
    from pathlib import Path

ROW = Row(
    id="1",
    problem_statement="What is {x} in {documents}?",
    ground_truth="the secret truth",
    domain="d",
    input_files={"a.txt": "first {text}", "b/c.txt": "second"},
)


@pytest.mark.parametrize("task", list(tasks.TASKS))
def test_ours_say_all_that_is_needed(task: str) -> None:
    found = prompt.load(task)
    assert found.source == "ours"
    assert found.answer_path == "/testbed/output/answer.txt"
    system, user = found.sandbox.render(found.statement(ROW, "files"))
    assert "/testbed/output/answer.txt" in system
    assert "/testbed/output/answer.txt" in user
    assert "/testbed/documents" in system
    assert "`submit`" in system
    assert "What is {x} in {documents}?" in user
    plain_system, plain = found.plain(ROW)
    assert plain_system == ""
    assert "first {text}" in plain
    assert "second" in plain
    assert "What is {x} in {documents}?" in plain
    for text in (system, user, plain):
        assert "secret" not in text
        left = re.findall(r"\{(?:form|working_dir|input_dir|output_dir|problem_statement)\}", text)
        assert left == []
    for tool in ("execute_bash", "submit", "answer.txt"):
        assert tool not in plain


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("math", r"\boxed{}"), ("physics", r"\boxed{first, second}"), ("chem", "the letter"),
        ("biomed", "the letter"), ("context", "separated by commas"),
        ("long_context", "short plain text"), ("instruct_follow", "exactly the text"),
        ("demo", "the form that the question asks for"),
    ],
)  # fmt: skip
def test_each_task_says_the_form_of_its_answer(task: str, words: str) -> None:
    assert words in prompt.load(task).sandbox.instance_prompt
    _, plain = prompt.load(task).plain(ROW)
    assert (words in plain) == (task != "instruct_follow")


def test_documents_go_into_files_or_into_the_prompt() -> None:
    found = prompt.load("long_context")
    assert found.statement(ROW, "files") == ROW.problem_statement
    whole = found.statement(ROW, "prompt")
    assert '<document name="b/c.txt">\nsecond\n</document>' in whole
    assert whole.index("first {text}") < whole.index("What is {x}")
    bare = Row(id="1", problem_statement="Why?", ground_truth="", domain="d")
    assert found.statement(bare, "prompt") == "Why?"


def test_digests_follow_the_texts() -> None:
    assert prompt.load("math").digest == prompt.load("math").digest
    assert prompt.load("math").digest != prompt.load("physics").digest
    assert prompt.load("chem").digest == prompt.load("biomed").digest


OWN = """
form = "Only {x}."
output_dir = "/out"
[sandbox]
system_prompt = "S {working_dir} {form}"
instance_prompt = "I {problem_statement} {form}"
[plain]
system_prompt = "P"
instance_prompt = "Q {problem_statement}"
[documents]
whole = "{documents} | {problem_statement}"
one = "{name}={text}"
"""


def test_a_directory_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "default.toml").write_text(OWN)
    (tmp_path / "math.toml").write_text('form = "A number."\n[plain]\nsystem_prompt = "M"\n')
    own = prompt.load("math", tmp_path)
    assert own.source == str(tmp_path)
    assert own.answer_path == "/out/answer.txt"
    assert own.sandbox.render("T") == ("S /testbed A number.", "I T A number.")
    assert own.plain(ROW) == (
        "M", "Q a.txt=first {text}\n\nb/c.txt=second | What is {x} in {documents}?",
    )  # fmt: skip
    other = prompt.load("anything", tmp_path)
    assert other.sandbox.system_prompt == "S {working_dir} Only {x}."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts of math"),
        ("[", "cannot be read"),
        ("colour = 'red'", "unknown entry 'colour'"),
        ("[sandbox]\nuser = 'x'", "unknown entry 'sandbox.user'"),
        ("plain = 'x'", "plain in the prompt .* is no table"),
        ("form = 5", "no text in 'form'"),
        ("form = 'x'", r"lack system_prompt of \[sandbox\]"),
        (OWN.replace("I {problem_statement}", "I"), "never says {problem_statement}"),
        (OWN.replace("={text}", ""), "never says {text}"),
    ],
)
def test_bad_directories_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "math.toml").write_text(text)
    with pytest.raises(TaskError, match=message):
        prompt.load("math", tmp_path)


CONFIG = """
dataset: "x"
system_prompt: |-
  Work. The box is \\\\boxed{{}} in {output_dir}/answer.txt
instance_prompt: |-
  <p>{problem_statement}</p> in {working_dir}, {input_dir}
output_dir: "/testbed"
"""

PLAIN = """
def create_prompt(row):
    return "PAPER " + row["problem_statement"] + " ".join(row["input_files"].values())
"""

JUDGE = """
def create_judge_prompt(question, ground_truth, model_answer):
    return f"{question}|{ground_truth}|{model_answer}"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the same shape, which must not be imported."""
    package = tmp_path / "site" / "llm_in_sandbox"
    for task in ("math", "instruct_pretrain", "physics"):
        folder = package / "benchmark" / task
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(CONFIG)
        (folder / "vanilla_llm_prompt.py").write_text(PLAIN)
    (package / "benchmark" / "physics" / "judge.py").write_text(JUDGE)
    (package / "__init__.py").write_text("raise ImportError('no docker here')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("task", ["math", "context"])
def test_the_papers_are_read_from_its_package(task: str) -> None:
    found = prompt.load(task, "paper")
    assert found.source.startswith("paper (llm-in-sandbox ")
    assert found.answer_path == "/testbed/answer.txt"
    assert found.sandbox.input_dir == "/testbed/documents"
    system, user = found.sandbox.render("T {x}")
    assert system == r"Work. The box is \\boxed{} in /testbed/answer.txt"
    assert user == "<p>T {x}</p> in /testbed, /testbed/documents"
    assert found.plain(ROW) == ("", f"PAPER {ROW.problem_statement}first {{text}} second")
    assert found.statement(ROW, "files") == ROW.problem_statement
    assert found.statement(ROW, "prompt").startswith("PAPER ")
    assert "llm_in_sandbox" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_the_papers_judge() -> None:
    assert paper.judge_prompt()("q", "t", "a") == "q|t|a"
    with pytest.raises(TaskError, match="has no task 'chem'"):
        prompt.load("chem", "paper")


def test_without_its_package_the_papers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    with pytest.raises(HostError, match="is not installed") as raised:
        prompt.load("math", "paper")
    assert raised.value.hint == "pip install --no-deps llm-in-sandbox"
