"""What the benchmark speaks of: a row, an answer or none, a score or none, and a task.

All are data that a JSON line can hold. Knows neither graders nor prompts nor where rows come from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["sandbox", "plain"]
Scorer = Literal["default", "paper"]
"""`paper` reproduces the published scorers with their quirks, `default` mends those."""

NoAnswerReason = Literal[
    "missing", "empty", "directory", "link", "special", "huge", "binary", "unstoppable", "context"
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One problem."""

    id: str
    problem_statement: str
    ground_truth: str
    """Never enters a sandbox or a prompt."""
    domain: str
    input_files: Mapping[str, str] = field(default_factory=dict)
    """Text by relative path; none leaves the directory."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the data, as JSON has them; its grader may need them."""

    @property
    def artefact(self) -> str:
        """Name of the file in the output directory that is graded; empty where a text is.

        A model without a computer makes no files: such a problem exists in mode `sandbox` alone.
        """
        return str(self.extra.get("artefact") or "")

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Modes in which it can be tried."""
        return ("sandbox",) if self.artefact else ("sandbox", "plain")

    @cached_property
    def problem(self) -> str:
        """A digest of what makes the problem: rows that are copies of each other have the same.

        It is the unit of the statistics: some published sets hold every problem several times.
        """
        return self._digest(
            self.problem_statement, self.ground_truth, dict(self.input_files), self.domain
        )

    @cached_property
    def digest(self) -> str:
        """A digest of every field, by which a changed row is told."""
        return self._digest(self.id, self.problem, dict(self.extra))

    @staticmethod
    def _digest(*parts: object) -> str:
        text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model answered, at most `answer.MAX_BYTES` of it."""

    text: str
    size_bytes: int
    """Before it was cut."""
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """There is none; that is the model's doing, and scores 0."""

    reason: NoAnswerReason
    text: str
    """For people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file that a model made, and that is kept beside the episode's trajectory."""

    file: str
    """Below the directory of the results."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What an answer is worth."""

    value: float
    """0 to 1."""
    verdict: str
    """Why, in a few words."""
    grader: str
    scorer: Scorer
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the grader saw, as JSON has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ungraded:
    """The answer is kept and has no score yet: `reason` says what is missing."""

    reason: str
    grader: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A public data set."""

    repository: str
    config: str
    split: str
    revision: str = "main"
    """A name is resolved to a commit when it is first fetched, and stays that commit since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedSource:
    """Rows that come with the package."""

    folder: str
    """In `bench/problems`: it holds `rows.toml` and the documents that rows name."""


class Task(Protocol):
    """A set of problems with one way to tell right answers from wrong ones."""

    @property
    def name(self) -> str:
        """Its name in the table, and of its prompts."""

    @property
    def title(self) -> str:
        """One line for people."""

    @property
    def version(self) -> str:
        """Goes up when scores of before and after may not be compared."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Modes in which it makes sense."""

    @property
    def source(self) -> HubSource | PackagedSource | None:
        """Where its data is; None where it has to be named."""

    def grader(self, row: Row, scorer: Scorer) -> str:
        """Return the name in `graders.GRADERS`, or `module:NAME`, of what grades this row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTask:
    """A task whose rows are all graded alike."""

    name: str
    title: str
    graded_by: str
    source: HubSource | PackagedSource | None = None
    version: str = "1"
    modes: tuple[Mode, ...] = ("sandbox", "plain")

    def grader(self, row: Row, scorer: Scorer) -> str:
        """See `Task.grader`."""
        del row, scorer
        return self.graded_by
