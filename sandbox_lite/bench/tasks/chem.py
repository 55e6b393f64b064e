"""ChemBench4K: chemistry with four options."""

from __future__ import annotations

from sandbox_lite.bench.task import DataTask, HubSource

TASK = DataTask(
    name="chem",
    title="chemistry: ChemBench4K",
    graded_by="choice",
    source=HubSource(repository="daixuancheng/llm-in-sandbox-bench", config="chem", split="test"),
)
