"""A text in a prescribed form: every character counts, only empty lines around it do not."""

from __future__ import annotations

from sandbox_lite.bench.graders import quantity
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, right


def score(question: Question) -> Verdict:
    """Return 1 where the answer is the text, else 0."""
    found = _lines(quantity.final(question.answer))
    truth = _lines(question.truth)
    if found == truth:
        return right("\n".join(found), "\n".join(truth), equal=True)
    place = next(
        (n for n, (a, b) in enumerate(zip(found, truth, strict=False)) if a != b),
        min(len(found), len(truth)),
    )
    shown = found[place] if place < len(found) else ""
    return Verdict(value=0.0, text=f"line {place + 1} is wrong", details={"found": shown[:200]})


def _lines(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[0].strip():
        del lines[0]
    while lines and not lines[-1].strip():
        del lines[-1]
    return lines


GRADER = Grader(name="exact", score=score)
