"""AA-LCR: questions about sets of long documents; only a judge can compare the answers."""

from __future__ import annotations

from sandbox_lite.bench.task import DataTask, HubSource

TASK = DataTask(
    name="long_context",
    title="long context: AA-LCR",
    graded_by="judge",
    source=HubSource(
        repository="daixuancheng/llm-in-sandbox-bench", config="long_context", split="test"
    ),
)
