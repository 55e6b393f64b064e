"""MedXpertQA: medicine with up to ten options."""

from __future__ import annotations

from sandbox_lite.bench.task import DataTask, HubSource

TASK = DataTask(
    name="biomed",
    title="biomedicine: MedXpertQA",
    graded_by="choice",
    source=HubSource(repository="daixuancheng/llm-in-sandbox-bench", config="biomed", split="test"),
)
