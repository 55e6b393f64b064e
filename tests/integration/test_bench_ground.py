"""From a row to a score: prompts, a real sandbox, a scripted model, the answer read and graded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent.loop import Agent, AgentLimits
from sandbox_lite.agent.model import Model, ModelSettings
from sandbox_lite.agent.trajectory import StopReason
from sandbox_lite.bench import data, prompt, tasks
from sandbox_lite.bench.answer import answer_of_text, read_answer
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.task import Score
from tests.model_server import ModelServer, says

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite.jail.sandbox import Sandbox

TRUTH = "1771.25"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("command", "value"),
    [
        ("awk '{s += $1} END {print s}' {in}/sub/values.txt > {out}/answer.txt", 1.0),
        ("cat {in}/sub/values.txt > {out}/answer.txt", 0.0),
        ("ln -s {in}/sub/values.txt {out}/answer.txt", 0.0),
        ("true", 0.0),
    ],
)
def test_a_row_becomes_a_score(
    sandbox: Sandbox, tmp_path: Path, command: str, value: float
) -> None:
    fields = {
        "id": "1", "domain": "instruct_pretrain", "qa_type": "free-form", "ground_truth": TRUTH,
        "problem_statement": "What is the sum of {the} values?",
        "input_files": json.dumps({"sub/values.txt": "1000\n700.25\n71\n"}),
    }  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(fields))
    task = tasks.find("context")
    (row,) = data.load(task, data=tmp_path / "rows.jsonl").rows
    texts = prompt.load(task.name)
    for name, text in row.input_files.items():
        sandbox.files.write(f"{texts.sandbox.input_dir}/{name}", text)
    command = command.replace("{in}", texts.sandbox.input_dir)
    command = command.replace("{out}", texts.sandbox.output_dir)
    replies = (says(None, ("execute_bash", {"command": command})), says(None, ("submit", {})))
    with ModelServer(*replies) as server:
        settings = ModelSettings(model="m", base_url=server.base_url)
        with Model(settings) as model:
            agent = Agent(sandbox, model, texts.sandbox, AgentLimits(steps=5))
            trajectory = agent.run(texts.statement(row, "files"))
    assert trajectory.stop is StopReason.SUBMITTED
    assert TRUTH not in json.dumps(server.requests[0])
    assert "What is the sum of {the} values?" in json.dumps(server.requests[0])
    assert sandbox.run(f"grep -rsF {TRUTH} /testbed/documents /root /etc /tmp").exit_code == 1
    with Grading(timeout=15) as grading:
        found = grading.grade(task, row, read_answer(sandbox.files, texts.answer_path))
        system, user = texts.plain(row)
        assert (system, "700.25" in user, TRUTH in user) == ("", True, False)
        plain = grading.grade(task, row, answer_of_text(f"<think>hm</think>{TRUTH}"))
    assert isinstance(found, Score)
    assert isinstance(plain, Score)
    assert (found.value, plain.value) == (value, 1.0)
