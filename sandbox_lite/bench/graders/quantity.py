"""One number, with a unit or without, within a tolerance."""

from __future__ import annotations

import json
import re

from sandbox_lite.bench.graders import notation
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, wrong

_NUMBER = (
    r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:(?<=\d)\.\d*|\.\d+|(?<=\d))"
    r"(?:\s*(?:[eE]|(?:\\times|\*|x|×)\s*10\s*\^?\s*\{?)\s*[-+]?\d+\s*\}?)?"
)
_WHOLE = re.compile(rf"\$?\s*(?:[A-Za-z]\w*\s*[=≈]\s*)?(?P<number>{_NUMBER})\s*(?P<unit>\D[^=]*)?")


def score(question: Question) -> Verdict:
    """Return 1 where the answer is one number near enough to the right one, else 0."""
    wanted = json.loads(question.truth)
    text = final(question.answer)
    content, open_box = notation.boxed(text)
    if open_box:
        return wrong("a box is never closed")
    text = notation.plain_signs(notation.without_box(content) if content is not None else text)
    text = text.strip(" `*$\n\t").removesuffix(".")
    found = _WHOLE.fullmatch(text)
    if found is None:
        return wrong("it is no single number", found=text[:200])
    value = _value(found["number"])
    unit = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}|\\[,; ]|[\s$~]", r"\1", found["unit"] or "")
    if unit not in ("", *wanted["units"]):
        return wrong("another unit", found=text[:200])
    near = abs(value - wanted["value"]) <= wanted["tolerance"] * abs(wanted["value"])
    return Verdict(
        value=float(near), text="correct" if near else "incorrect", details={"found": value}
    )


def _value(text: str) -> float:
    text = text.replace(",", "").replace(" ", "")
    text = re.sub(r"(?:\\times|\*|x|×)10\^?\{?([-+]?\d+)\}?", r"e\1", text)
    return float(text)


def final(text: str) -> str:
    """Return what stands below the last line `ANSWER:`, or the whole text where there is none."""
    *_, last = re.split(r"^[ \t]*[*_#]*ANSWER:[*_]*[ \t]*$\n?", text, flags=re.MULTILINE)
    return last


GRADER = Grader(name="quantity", score=score)
