"""Prompts: texts and placeholders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent.prompt import load
from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from pathlib import Path


def test_default_prompt_names_places_and_tools() -> None:
    system, instance = load().render("Count {things} in {input_dir}.")
    assert "Count {things} in {input_dir}." in instance
    assert "/testbed/output/answer.txt" in instance
    for word in ("execute_bash", "str_replace_editor", "submit", "/testbed/input"):
        assert word in system
    for name in ("working_dir", "output_dir", "problem_statement"):
        assert "{" + name + "}" not in system + instance


def test_own_prompt_and_braces(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        'instance_prompt = "{problem_statement} in {working_dir} to {output_dir} {x} {{}}"\n'
        'working_dir = "/w"\n'
    )
    assert load(path).render("{working_dir}") == (
        "",
        "{working_dir} in /w to /testbed/output {x} {{}}",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "no TOML"),
        ('instance_prompt = "no task"', "never names the task"),
        ('prompt = "{problem_statement}"', "unknown entry 'prompt'"),
        ("instance_prompt = 5", "no text"),
        ('instance_prompt = "{problem_statement}"\ninput_dir = "in"', "absolute"),
    ],
)
def test_bad_prompt_is_one_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(TaskError, match=said):
        load(path)


def test_missing_prompt(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="No such file"):
        load(tmp_path / "missing.toml")
