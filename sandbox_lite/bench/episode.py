"""What one episode is, and what became of it; as a JSON line, and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench.task import Answer, NoAnswer, Score, Ungraded
from sandbox_lite.bench.tool_use import ToolUse

if TYPE_CHECKING:
    from sandbox_lite.bench.task import Mode

ANSWERED = "answered"
"""The stop of a plain model that answered; those of a sandbox are `StopReason`."""

MACHINE_LOST = "machine_lost"
"""The stop of a fault: its machine was gone before the episode had ended."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Which try of which problem, in which mode."""

    task: str
    row: str
    """Its id."""
    mode: Mode
    repeat: int
    """From 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Tokens, as the server counts them, and wall time."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    environment_tokens: int = 0
    """Part of the prompts that the sandbox wrote."""
    estimated: bool = False
    """The server gave no counts for some of it."""
    model_seconds: float = 0.0
    environment_seconds: float = 0.0
    startup_seconds: float = 0.0
    """Until the sandbox was there, with its documents."""
    total_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    """The most that a command had its sandbox take, see `Usage`; None where nobody told."""
    disk_bytes: int | None = None
    """The most that was in use of its disk at the end of a command; None where nobody told."""

    @property
    def tokens(self) -> int:
        """Prompt and completion, as they are billed."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A try that the server or the machine spoiled: it says nothing of the model."""

    stop: str
    message: str
    hint: str | None = None
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One line of `episodes.jsonl`."""

    key: Key
    problem: str
    """`Row.problem`."""
    row_digest: str
    domain: str
    """Of the row; scores are by task."""
    stop: str
    """`answered`, or a `StopReason`."""
    answer: Answer | NoAnswer | None
    """None after a fault."""
    score: Score | Ungraded | None
    """None after a fault."""
    fault: Fault | None = None
    """The last one, where no try came to an end."""
    faults: tuple[Fault, ...] = ()
    """All, also those after which another try went well."""
    turns: int = 0
    """Messages of the model."""
    spent: Spent = field(default_factory=Spent)
    """Of the try that counts."""
    waiting_seconds: float = 0.0
    """Spoiled tries, and the pauses after them."""
    grading_seconds: float = 0.0
    tool_use: ToolUse | None = None
    """Of the try that counts; None where that had no tools."""
    trajectory: str | None = None
    """File below the directory of the results."""
    ended: str = ""
    """ISO 8601, UTC."""

    @property
    def value(self) -> float | None:
        """Its score; None where it has none."""
        return self.score.value if isinstance(self.score, Score) else None

    @property
    def tokens(self) -> int:
        """All it took, spoiled tries included."""
        return self.spent.tokens + sum(fault.spent.tokens for fault in self.faults)

    def to_json(self) -> Json:
        """Return it as JSON has it."""
        data = dataclasses.asdict(self)
        return {**data.pop("key"), **data}

    @staticmethod
    def from_json(data: Json) -> Episode:
        """Return the episode of a line.

        Raises:
            KeyError: A member lacks, as for the next two.
            TypeError: See there.
            ValueError: See there.
        """
        names = {one.name for one in dataclasses.fields(Key)}
        used = data.get("tool_use")
        rest = {name: value for name, value in data.items() if name not in names}
        return Episode(
            **(
                rest
                | {
                    "key": Key(**{name: data[name] for name in names}),
                    "answer": _answer(data["answer"]),
                    "score": _score(data["score"]),
                    "fault": None if data["fault"] is None else _fault(data["fault"]),
                    "faults": tuple(_fault(one) for one in data["faults"]),
                    "spent": Spent(**data["spent"]),
                    "tool_use": used and ToolUse(**used),
                }
            )
        )


def _answer(data: Json | None) -> Answer | NoAnswer | None:
    if data is None:
        return None
    return NoAnswer(**data) if "reason" in data else Answer(**data)


def _score(data: Json | None) -> Score | Ungraded | None:
    if data is None:
        return None
    return Score(**data) if "value" in data else Ungraded(**data)


def _fault(data: Json) -> Fault:
    return Fault(**(data | {"spent": Spent(**data["spent"])}))
