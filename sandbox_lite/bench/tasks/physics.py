"""UGPhysics: undergraduate problems, often of several parts; only a judge can compare them."""

from __future__ import annotations

from sandbox_lite.bench.task import DataTask, HubSource

TASK = DataTask(
    name="physics",
    title="physics: UGPhysics",
    graded_by="judge",
    source=HubSource(
        repository="daixuancheng/llm-in-sandbox-bench", config="physics", split="test"
    ),
)
