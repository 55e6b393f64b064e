"""An open question about a text: equal by math-verify is right, else ROUGE-L is the score.

The default lets math-verify see formulas alone (it takes words for products of letters), and a
number that is not the right one is wrong, however much its digits look alike.
"""

from __future__ import annotations

from dataclasses import replace

from sandbox_lite.bench.graders import mathematics, rouge
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict


def score(question: Question) -> Verdict:
    """Return 1 for an equal value, else the F measure of ROUGE-L."""
    published = question.scorer == "paper"
    truth = question.truth.strip()
    if published:
        question = replace(question, answer=question.answer.strip(), truth=truth)
    if published or mathematics.is_formula(truth):
        found = mathematics.score(question)
        if found.value > 0 or (not published and mathematics.is_number(truth)):
            return replace(found, details={**found.details, "by": "math-verify"})
    overlap = rouge.score(question)
    return replace(overlap, details={**overlap.details, "by": "rouge-l"})


GRADER = Grader(
    name="open",
    score=score,
    warm_up=mathematics.GRADER.warm_up,
    libraries=(*mathematics.GRADER.libraries, *rouge.GRADER.libraries),
)
