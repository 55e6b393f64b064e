"""A name: the same words, whatever their case and what stands around them."""

from __future__ import annotations

import re

from sandbox_lite.bench.graders import notation, quantity
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, right, wrong


def score(question: Question) -> Verdict:
    """Return 1 where the answer is the name and no other, else 0."""
    text = quantity.final(question.answer)
    content, open_box = notation.boxed(text)
    if open_box:
        return wrong("a box is never closed")
    found = _plain(notation.without_box(content) if content is not None else text)
    return right(found, question.truth, found == _plain(question.truth))


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    words = re.sub(r"[^\w'’-]+", " ", notation.plain_signs(text).casefold()).split()
    return " ".join(words[1:] if words[:1] == ["the"] else words).replace("’", "'")


GRADER = Grader(name="name", score=score)
