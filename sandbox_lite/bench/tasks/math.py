"""AIME 2025: competition problems, each with an integer for an answer."""

from __future__ import annotations

from sandbox_lite.bench.task import DataTask, HubSource

TASK = DataTask(
    name="math",
    title="mathematics: AIME 2025",
    graded_by="math-verify",
    source=HubSource(repository="daixuancheng/llm-in-sandbox-bench", config="math", split="test"),
)
