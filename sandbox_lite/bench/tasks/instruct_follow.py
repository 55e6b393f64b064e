"""IFBench, loose: answers whose form is prescribed, checked by its own checkers."""

from __future__ import annotations

from sandbox_lite.bench.task import DataTask, HubSource

TASK = DataTask(
    name="instruct_follow",
    title="instruction following: IFBench",
    graded_by="ifbench",
    source=HubSource(
        repository="daixuancheng/llm-in-sandbox-bench", config="instruct_follow", split="test"
    ),
)
