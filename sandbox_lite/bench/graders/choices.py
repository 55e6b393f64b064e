"""Several right choices among letters: F1 of the chosen set against the right one."""

from __future__ import annotations

import re

from sandbox_lite.bench.graders import choice, notation
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict

_ONE_BOX = r"\$?\\boxed\{\s*(?:\\text\{)?([A-Za-z])\}?\s*\}\$?"


def score(question: Question) -> Verdict:
    """Return the F1 of two sets of choices: harmonic mean of precision and recall."""
    read = _pieces if question.scorer == "paper" else _letters
    found, truth = read(question.answer), read(question.truth)
    common = len(found & truth)
    value = 2 * common / (len(found) + len(truth)) if common else 0.0
    text = "correct" if value == 1.0 else f"{common} of {len(truth)} right, {len(found)} chosen"
    return Verdict(value=value, text=text, details={"found": sorted(found), "truth": sorted(truth)})


def _pieces(text: str) -> set[str]:
    """The published scorer: whatever stands between commas."""
    return {piece.strip().upper() for piece in text.split(",") if piece.strip()}


def _letters(text: str) -> set[str]:
    content, open_box = notation.boxed(text)
    if open_box:
        return set()
    if re.fullmatch(rf"\s*{_ONE_BOX}(?:[\s,;/、&$]*(?:and\s+)?{_ONE_BOX})+[\s.$]*", text):
        return {one.upper() for one in re.findall(_ONE_BOX, text)}  # a box for each
    inner = notation.plain_signs(notation.without_box(content) if content is not None else text)
    inner = re.sub(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", inner).strip(
        " \n.[](){}$*`\"'"
    )
    if re.fullmatch(r"[A-Z]{2,10}", inner) and len(set(inner)) == len(inner):
        return set(inner)  # ACD
    if re.fullmatch(r"[A-Za-z](?:[\s,;/、&和и]+(?:and\s+)?[A-Za-z])*", inner):
        return set(re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", inner.upper().replace("AND", " ")))
    lines = [line for line in inner.splitlines() if line.strip()]
    led = [re.match(r"[\s*\-(]*([A-Z])[*]*[.):：]", line) for line in lines]
    if len(lines) > 1 and all(led):
        return {match[1] for match in led if match}  # a list of the options, one a line
    return set(choice.chosen(text))


GRADER = Grader(name="choices-f1", score=score)
