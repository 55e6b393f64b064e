"""Formulas and numbers, compared by the library math-verify.

What it takes for equal is its business; what of an answer it is given is ours. The published scorer
wraps the whole text in a box where there is none. The default mends what goes wrong there: text
around the answer, a box that is never closed (a cut-off number is another number), `3e8`, signs
that are no ASCII, a backslash that a shell has swallowed, units, and words, which math-verify takes
for products of letters, so that anagrams are equal.
"""

from __future__ import annotations

import logging
import re

from sandbox_lite.bench.graders import notation
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, right, wrong
from sandbox_lite.bench.libraries import need

_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
_LONGEST = 4000
"""Characters of a formula; beyond it, it is a text."""
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,(?:\d{1,2}|\d{4,})")
_DENIED = re.compile(r"(?:\bnot\b|\bне\b|不是|并非)\s*\$?[-+]?\d[\d.,]*", re.IGNORECASE)
"""A number that is said not to be the answer."""
_FUNCTIONS = re.compile(
    "(?:arc|a)?(?:sin|cos|tan|cot|sec|csc)h?|log|exp|sqrt|lim|max|min|mod|gcd|lcm|inf"
)


def score(question: Question) -> Verdict:
    """Return 1 where the answer equals the truth, else 0."""
    return _paper(question) if question.scorer == "paper" else _default(question)


def is_formula(text: str) -> bool:
    """Return whether text is a number or formula, not words."""
    if len(text) > _LONGEST:
        return False
    value, _ = notation.split_unit(notation.latex(text))
    bare = _COMMAND.sub(" ", re.sub(r"\\(?:text|mathrm)\s*\{[^{}]*\}", " ", value))
    words = [word for word in _WORD.findall(bare) if not _FUNCTIONS.fullmatch(word)]
    return not words and bool(re.search(r"\w", value))


def is_number(text: str) -> bool:
    """Return whether text is one number, with or without a unit."""
    value, _ = notation.split_unit(notation.latex(text))
    return bool(re.fullmatch(r"[-+]?\$?\d[\d,. ]*(?:\\times\s*10\^\{?-?\d+\}?)?\s*\\?%?", value))


def _default(question: Question) -> Verdict:
    content, open_box = notation.boxed(question.answer)
    if open_box:
        return wrong("the last box is never closed")
    found = content if content is not None else _said(question.answer)
    if not found or len(found) > _LONGEST:
        return wrong("too long for a formula" if found else "nothing to compare")
    truth = notation.boxed(question.truth)[0] or question.truth.strip()
    if not is_formula(truth):
        same = _words(found) == _words(truth)
        return right(found, truth, same)
    ours, our_unit = notation.split_unit(notation.latex(found))
    theirs, their_unit = notation.split_unit(notation.latex(truth))
    if our_unit and their_unit and our_unit != their_unit:
        return wrong("the units differ", found=found[:500], truth=truth[:500])
    equal = _equal(ours, theirs)
    if not equal and _DECIMAL_COMMA.fullmatch(ours) and is_number(theirs) and "," not in theirs:
        equal = _equal(ours.replace(",", "."), theirs)
    if not equal and content is None and not is_formula(found):
        # a sentence with the number in it
        equal = _equal(_DENIED.sub(" ", ours), theirs, whole=False)
    return right(found, truth, equal)


def _said(answer: str) -> str:
    """Return the answer in a text without a box.

    It stands behind the last lead-in, else on the last line, else, where that is no formula, on the
    first line that is one: an explanation may follow it.
    """
    found = notation.behind_lead_in(answer)
    if found:
        return found
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if not lines or is_formula(lines[-1]):
        return lines[-1] if lines else ""
    return next((line for line in lines if is_formula(line)), lines[-1])


def _words(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = notation.plain_signs(text).strip("$ ").casefold()
    return " ".join(re.findall(r"[\w+\-/.%]+", text)).rstrip(".")


def _equal(found: str, truth: str, *, whole: bool = True) -> bool:
    """Ask the library. Its own time-outs need SIGALRM and are off: the process is bounded."""
    library = need("math_verify", "grading mathematics")
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    of_latex = library.LatexExtractionConfig()
    of_expression = library.ExprExtractionConfig()
    gold = library.parse(_box(truth), [of_latex], parsing_timeout=None)
    given = library.parse(
        _box(found) if whole else found, [of_expression, of_latex], parsing_timeout=None
    )
    return bool(library.verify(gold, given, 6, timeout_seconds=None))


def _box(text: str) -> str:
    return f"\\boxed{{{text}}}"


def _paper(question: Question) -> Verdict:
    """The published scorer: the last box, or everything, boxed again; any trouble is a 0."""
    content = last_box(question.answer)
    try:
        return right(content, question.truth, _equal(content, question.truth))
    except Exception as error:  # noqa: BLE001  # so does the original
        return wrong("incorrect", error=f"{type(error).__name__}: {error}"[:500])


def last_box(text: str) -> str:
    """Return what the published scorers take for the content of the last box."""
    start = text.rfind("\\boxed{")
    content = None if start < 0 else _braces_alone(text, start + len("\\boxed{"))
    return text.strip() if content is None else content.strip()


def _braces_alone(text: str, start: int) -> str | None:
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None


GRADER = Grader(
    name="math-verify",
    score=score,
    libraries=("math_verify",),
    warm_up=Question(answer=r"\boxed{\sqrt{2}+\frac{1}{2}}", truth="x^2+0.5"),
)
