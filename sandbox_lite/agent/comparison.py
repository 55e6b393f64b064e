"""Whether two observations say the same, whoever recorded them.

Taken away is only what a recorder's formatting brought: white space at line ends, terminal escapes,
tabs that its editor expanded, newlines that it added, and the middle of a text that it cut out.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.agent.tools.tool import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXIT = re.compile(r"Exit code: (?:Error: Exit code )?(-?\d+)\n?")
_HEADING = re.compile(r"Execution output of \\?\[\w+\]:\n?")
_STREAM = re.compile(r"^\\?\[(STDOUT|STDERR)\]$", re.MULTILINE)
_NOTES = re.compile(r"(?:\n\[NOTE\] [^\n]*)+\Z")
_CLIPPED = re.compile(
    r"\n?\[\.\.\. [^\n]* left out[^\n]* \.\.\.\]\n?"
    + r"|\n?<response clipped>.*"
    + r"|\n?-{50}\n<Observation truncated in middle[^\n]*>\n-{50}\n?",
    re.DOTALL,
)
_NUMBERED = re.compile(r"^( *\d+)\t(.*)$", re.MULTILINE)
_EMPTY_TAIL = re.compile(r"(?:\n *\d+\t?)+(?=\nReview the |\s*\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """An observation in the form in which two recorders' can be compared."""

    output: str
    exit_code: int | None = None


def parse(text: str, tool: str) -> Parsed:
    """Return exit code and output of an observation, ours or a published one."""
    text = readable(text).replace("\r", "")
    exit_code = None
    if tool == "execute_bash":
        match = _EXIT.match(text)
        if match is not None:
            exit_code, text = int(match[1]), text[match.end() :]
        text = _NOTES.sub("", text)
    heading = _HEADING.match(text)
    if heading is not None:
        text = text[heading.end() :]
    if tool == "execute_bash":
        text = re.sub(r"\n+\[STDERR\]\n", "\n[STDERR]\n", _STREAM.sub(r"[\1]", text))
        text = re.sub(r"^\[STDOUT\]\n\(no output\)\s*\Z", "[STDOUT]", text)
    else:
        # the recorder's editor expanded tabs, and ended every file with one more newline
        text = _NUMBERED.sub(lambda m: f"{m[1]}\t{m[2].expandtabs()}", text)
        text = _EMPTY_TAIL.sub("", text)
    lines = (line.rstrip() for line in text.split("\n"))
    return Parsed(output="\n".join(lines).rstrip("\n"), exit_code=exit_code)


def same_output(recorded: str, found: str) -> bool:
    """Return whether two outputs are the same as far as both show them."""
    if recorded == found:
        return True
    pieces, other = (
        [piece.strip() for piece in _CLIPPED.split(text)] for text in (recorded, found)
    )
    if len(pieces) == 1:
        pieces, other = other, pieces
    if len(pieces) == 1:
        return False
    if len(other) == 1:
        return _holds_in_order(other[0], pieces)
    heads = sorted((pieces[0], other[0]), key=len)
    tails = sorted((pieces[-1], other[-1]), key=len)
    return heads[1].startswith(heads[0]) and tails[1].endswith(tails[0])


def _holds_in_order(whole: str, pieces: Sequence[str]) -> bool:
    """Return whether `whole` begins with the first piece, ends with the last, has all between."""
    if not whole.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    for piece in pieces[1:-1]:
        start = whole.find(piece, at)
        if start < 0:
            return False
        at = start + len(piece)
    return len(whole) - at >= len(pieces[-1]) and whole.endswith(pieces[-1])


def difference(recorded: str, found: str, most: int = 60) -> str:
    """Return a unified difference of at most so many lines."""
    rows = difflib.unified_diff(
        recorded.split("\n"), found.split("\n"), "recorded", "replayed", lineterm="", n=1
    )
    lines = list(rows)
    if len(lines) > most:
        lines = [*lines[:most], f"... {len(lines) - most} more lines"]
    return "\n".join(lines)
