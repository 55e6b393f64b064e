"""The general tasks of LLM-in-Sandbox-RL: questions about documents, of three kinds.

One right choice, several, or a free answer. The same set holds small samples of the other domains,
which are graded as those are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.bench.task import HubSource

if TYPE_CHECKING:
    from sandbox_lite.bench.task import Mode, Row, Scorer

_BY_DOMAIN = {
    "math": "math-verify", "physics": "math-verify", "chem": "choice", "biomed": "choice",
    "instruct_follow": "ifbench",
}  # fmt: skip
"""As in the published routing, where training needs a verdict without a judge."""

_SOURCE = HubSource(
    repository="daixuancheng/llm-in-sandbox-rl", config="instruct_pretrain", split="train"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextTask:
    """A task whose rows are graded by their kind of question."""

    name: str = "context"
    title: str = "questions about documents: LLM-in-Sandbox-RL"
    version: str = "1"
    modes: tuple[Mode, ...] = ("sandbox", "plain")
    source: HubSource | None = _SOURCE

    def grader(self, row: Row, scorer: Scorer) -> str:
        """See `Task.grader`. A row without `qa_type` is an open question."""
        del scorer
        domain = row.domain.lower()
        for prefix, name in _BY_DOMAIN.items():
            if domain.startswith(prefix):
                return name
        if "multiple choice" in str(row.extra.get("qa_type") or "").lower():
            return "choices-f1" if "," in row.ground_truth else "choice"
        return "open"


TASK = ContextTask()
