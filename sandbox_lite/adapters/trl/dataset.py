"""Rows as TRL's trainers take them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sandbox_lite.agent.episode import remaining

if TYPE_CHECKING:
    from sandbox_lite.bench.prompt import TaskPrompts
    from sandbox_lite.bench.task import Row


def columns(row: Row, texts: TaskPrompts, *, steps: int) -> dict[str, Any]:
    """Return one row of a dataset: the prompt as the agent and the benchmark begin, and the row.

    Args:
        row: The problem; its documents become files, never part of the prompt.
        texts: Prompts.
        steps: That an episode has, as the model is told.
    """
    system, instance = texts.sandbox.render(texts.statement(row, "files"))
    note = remaining(steps, texts.sandbox.output_dir)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": f"{instance}\n\n{note}"})
    return {
        "prompt": messages,
        "id": row.id,
        "problem_statement": row.problem_statement,
        "ground_truth": row.ground_truth,
        "domain": row.domain,
        "input_files": json.dumps(dict(row.input_files)),  # a table would give all rows all names
    }
