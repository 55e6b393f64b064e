"""The demo's task: documents that each hold one word, and the question what one of them says.

Needs neither torch nor TRL: a grading process imports this module.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.bench import prompt
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, right
from sandbox_lite.bench.task import DataTask, Row

if TYPE_CHECKING:
    from sandbox_lite.bench.prompt import TaskPrompts

PROMPTS = Path(__file__).with_name("prompts")


def _score(question: Question) -> Verdict:
    found, truth = question.answer.strip(), question.truth.strip()
    return right(found, truth, found == truth)


GRADER = Grader(name="exact", score=_score)
TASK = DataTask(
    name="lookup",
    title="the demo of rl: what does document k3 say?",
    graded_by=f"{__name__}:GRADER",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """How many documents an episode has, and how many words there are to find in one."""

    keys: int
    values: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the documents."""
        return tuple(f"k{number}" for number in range(self.keys))

    @property
    def words(self) -> tuple[str, ...]:
        """That a document may say."""
        return tuple(f"v{number}" for number in range(self.values))

    def row(self, number: int, *, asked: str, said: dict[str, str]) -> Row:
        """Return one problem."""
        return Row(
            id=f"lookup-{number}",
            problem_statement=f"What does document {asked} say?",
            ground_truth=said[asked],
            domain="lookup",
            input_files={f"{name}.txt": f"{word}\n" for name, word in said.items()},
        )

    def rows(self, count: int, *, seed: int) -> tuple[Row, ...]:
        """Return problems, each with documents of its own; the same for the same seed.

        Every document is asked for once before any is asked for again: where one comes often in a
        step by chance, a policy learns to read that one whatever it is asked.
        """
        drawn = random.Random(f"{seed}-{self.keys}-{self.values}")
        asked: list[str] = []
        while len(asked) < count:
            asked += drawn.sample(self.names, self.keys)
        return tuple(
            self.row(
                number,
                asked=name,
                said={name: drawn.choice(self.words) for name in self.names},
            )
            for number, name in enumerate(asked[:count])
        )


def texts() -> TaskPrompts:
    """Return the demo's own prompts."""
    return prompt.load(TASK.name, PROMPTS)
