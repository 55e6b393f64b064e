"""One right choice among letters.

The published scorer takes the last letter that stands alone in the upper-cased text, so that "It is
a cat" chooses A and "I do not know" chooses I. The default wants a choice that can be read as one,
and exactly one.
"""

from __future__ import annotations

import re

from sandbox_lite.bench.graders import mathematics, notation
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, right, wrong

_LOOKALIKES = str.maketrans("АВСЕНКМОРТХ", "ABCEHKMOPTX")
"""Cyrillic capitals that stand for the Latin ones of the options."""

_WRAPPED = re.compile(
    r"[\s*_`\"'({\[$]*(?:\\(?:text|mathrm|mathbf|textbf|textrm)\s*\{)?\s*"
    r"\(?([A-Za-z])\)?\s*\}?[\s*_`\"')}\]$.:。,;!]*"
)
_MORE = re.compile(
    r"\s*\)?\s*(?:,|;|/|&|、|\band\b|\bor\b|\bи\b|\bили\b|和|或)\s*(?:and\s+|or\s+)?"
    r"\(?([A-Z])\)?(?![A-Za-z])"
)
_SAID = re.compile(
    r"(?:\b(?:answer|choice|option|select|choose|pick)\b|ответ|вариант|выбираю|答案|选项|选择|选)"
    r"[\"'*]*\s*(?:\b(?:is|are|letter|option|choice)\b|это|является|应该是|应为|是|为|[:：=\-]|\*|\s)*"
    r"[\s*_`\"'(\[{$]*(?:\\(?:boxed|text|mathrm|mathbf|textbf)\s*\{\s*)*\(?([A-Z])(?![a-zа-яё\d_'’])",
    re.IGNORECASE,
)
_LED = re.compile(r"\s*[*_(\[]*([A-Z])[*_]*\s*[.):：\]、,，][*_]*(?:\s|$)")
_ALONE = re.compile(r"(?<![\w'’-])([A-Z])(?![\w'’-])")
_GOES_ON = re.compile(
    r"\s+(?!(?:because|since|as|and|or|but|for|is|are|in|with|which|due|и|или)\b)[a-zа-я]"
)
"""A lower-case word behind a letter: an article, `vitamin C deficiency`, the pronoun."""
_ENDS = re.compile(r"[\s)\]}\"'*.,;!$`_]*$", re.MULTILINE)


def score(question: Question) -> Verdict:
    """Return 1 where the chosen letter is the right one, else 0."""
    truth = question.truth.strip().upper()
    if question.scorer == "paper":
        if question.answer.strip().upper() == truth:
            return right(question.answer.strip(), truth, equal=True)
        found = _paper(question.answer)
        return right(found, truth, found == truth)
    letters = chosen(question.answer)
    truth = (chosen(question.truth) or [truth])[0]
    if len(letters) != 1:
        why = "several choices" if letters else "no choice can be read"
        return wrong(why, found=letters, truth=truth)
    return right(letters[0], truth, letters[0] == truth)


def chosen(text: str) -> list[str]:
    """Return the letters that a text chooses, in order, each once.

    A box comes first, then a text that is nothing but a letter, then the last "answer is X", then
    a letter with a stop at the beginning, then the only letter that stands alone.
    """
    content, open_box = notation.boxed(text)
    if open_box:
        return []
    if content is not None:
        return _list(notation.without_box(content))
    text = _latin(text)
    if match := _WRAPPED.fullmatch(text):
        return [match[1].upper()]
    said = [match for match in _SAID.finditer(text) if _is_said(match[1], text[match.end() :])]
    if said:
        return _with_more(said[-1][1].upper(), text[said[-1].end() :])
    lines = [line for line in text.splitlines() if line.strip()]
    led = [match[1] for line in lines if (match := _LED.match(line))]
    if len(led) > 1 and len(led) == len(lines):
        return _unique(led)
    lone = [match[1].upper() for line in lines if (match := _WRAPPED.fullmatch(line))]
    if len(lone) == 1 and any(_WRAPPED.fullmatch(line) for line in (lines[0], lines[-1])):
        return lone
    if match := re.match(r"[\s*_(\[]*([A-Z])(?![\w'’])", text):
        letters = _with_more(match[1], text[match.end() :])
        if len(letters) > 1:
            return letters
    if match := _LED.match(text):
        return [match[1]]
    return _unique(
        [match[1] for match in _ALONE.finditer(text)
         if match[1] != "I" and not _GOES_ON.match(text, match.end())]
    )  # fmt: skip


def _is_said(letter: str, rest: str) -> bool:
    if letter.islower():  # "the answer is a" and no more
        return bool(_ENDS.match(rest))
    return letter not in "AI" or not _GOES_ON.match(rest)


def _with_more(letter: str, rest: str) -> list[str]:
    """Return a letter and those joined to it: `A, C and D`."""
    letters, place = [letter], 0
    while match := _MORE.match(rest, place):
        letters.append(match[1])
        place = match.end()
    return _unique(letters)


def _latin(text: str) -> str:
    text = notation.plain_signs(text)
    # inside a Russian word the same letters are no choice
    return re.sub(r"(?<!\w)[АВСЕНКМОРТХ](?!\w)", lambda m: m[0].translate(_LOOKALIKES), text)


def _list(content: str) -> list[str]:
    content = re.sub(r"\\(?:text|mathrm|mathbf|textbf|textrm)\s*\{([^{}]*)\}", r"\1", content)
    content = _latin(content)
    if match := _WRAPPED.fullmatch(content):
        return [match[1].upper()]
    if match := _LED.match(content):
        rest = content[match.end() :]
        if not re.match(r"\s*\(?[A-Z]\)?\s*(?:[,;]|$)", rest):
            return [match[1]]
    return _unique(re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", content))


def _unique(letters: list[str]) -> list[str]:
    return list(dict.fromkeys(letters))


def _paper(text: str) -> str:
    """The published cascade, first match counts."""
    for pattern in (
        r'"answer"\s*:\s*"([A-Z])"',
        r"answer\s*[:：]\s*([A-Z])\b",
        r"(?:answer|choice)\s+is\s+([A-Z])\b",
    ):
        if match := re.search(pattern, text, re.IGNORECASE):
            return match[1].upper()
    stripped = text.strip()
    content = mathematics.last_box(text)
    if content != stripped and content and content[0].upper().isalpha():
        return content[0].upper()
    alone = re.findall(r"\b([A-Z])\b", text.upper())
    if alone:
        return str(alone[-1])
    return stripped[0].upper() if stripped and stripped[0].isalpha() else ""


GRADER = Grader(name="choice", score=score)
