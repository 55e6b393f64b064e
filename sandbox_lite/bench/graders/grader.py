"""What a grader is: a pure function of a question, which a bounded process calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sandbox_lite.bench.task import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that a grader knows."""

    answer: str
    truth: str
    statement: str = ""
    domain: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the row."""
    scorer: Scorer = "default"
    file: bytes | None = None
    """What is in the file that the row asks for; None where it asks for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a grader finds."""

    value: float
    """0 to 1."""
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


def right(found: str, truth: str, equal: bool) -> Verdict:
    """Return the verdict of a comparison."""
    details = {"found": found[:500], "truth": truth[:500]}
    return Verdict(value=float(equal), text="correct" if equal else "incorrect", details=details)


def wrong(why: str, **details: object) -> Verdict:
    """Return the verdict on an answer that holds nothing to compare."""
    return Verdict(value=0.0, text=why, details=details)


def demanded(demands: Iterable[tuple[str, bool]], **details: object) -> Verdict:
    """Return the verdict on a file: right where every demand is met, each said in a few words."""
    found = tuple(demands)
    failed = [text for text, met in found if not met]
    return Verdict(
        value=float(not failed),
        text=f"not met: {failed[0]}" if failed else "correct",
        details={"failed": failed, "met": [text for text, met in found if met], **details},
    )


def the_truth(question: Question) -> str:
    """Return an answer that any grader in order can grade: the truth itself."""
    return question.truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Grader:
    """One way to tell right answers from wrong ones."""

    name: str
    score: Callable[[Question], Verdict] | None
    """None: a model is asked, see `graders.judge`; all others run in a bounded process."""
    libraries: tuple[str, ...] = ()
    """Modules of the extra `bench` that it needs; they are imported before its clock starts."""
    install: str | None = None
    """The command that installs them where it is not that of the extra."""
    warm_up: Question | None = None
    """Of ours, graded once beforehand: what libraries do at their first use is then done."""
    tried_by_row: bool = False
    """Whether some rows need what others do not, so that each is tried before a run."""
    control_file: bytes | None = None
    """The same of a file, where the grader looks at one."""
    control: Callable[[Question], str] = the_truth
    """An answer that must be gradable: where even this fails, the grader is broken, and an answer
    is not to blame."""
