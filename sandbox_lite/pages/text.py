"""Text of a model or a program as harmless HTML: its colours stay, its commands do not."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CHARACTERS = 64_000
"""Shown of one text."""
PAGE_CHARACTERS = 1_000_000
"""Shown of all texts of a run."""

# CSI, OSC and its like up to their end, and what is shorter
_ESCAPE = re.compile(
    r"\x1b(?:\[([0-?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\"
    r"|[ -/]*[0-~])"
)
# all of C0 but tab and newline, DEL, C1, and what turns the direction of writing round
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# of a progress line only its last state would be seen; from its beginning alone, see cli.terminal
_OVERWRITTEN = re.compile(r"^[^\n]*\r(?=[^\n])", re.MULTILINE)

_ATTRIBUTES = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike"}
_OFF = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("inverse",), 29: ("strike",)}
_RGB = (
    (0, 0, 0), (170, 0, 0), (0, 170, 0), (170, 85, 0), (0, 0, 170), (170, 0, 170), (0, 170, 170),
    (170, 170, 170), (85, 85, 85), (255, 85, 85), (85, 255, 85), (255, 255, 85), (85, 85, 255),
    (255, 85, 255), (85, 255, 255), (255, 255, 255),
)  # fmt: skip


def clean(text: str) -> str:
    """Return text without anything that a browser would not show as a character."""
    text = text.encode(errors="replace").decode()
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def flat(text: str) -> str:
    """Return text without colours and commands."""
    text = _OVERWRITTEN.sub("", text.replace("\r\n", "\n")).replace("\r", "")
    return clean(_ESCAPE.sub("", text))


class Room:
    """How much of a run's text is still shown: a page of 100 MB helps nobody.

    Args:
        characters: In all.
    """

    def __init__(self, characters: int = PAGE_CHARACTERS) -> None:
        self.left = characters

    def cut(self, text: str) -> str:
        """Return the head and the tail of text, and say between them what is left out."""
        most = min(MAX_CHARACTERS, self.left)
        self.left -= min(most, len(text))
        if len(text) <= most:
            return text
        tail = most // 4
        note = f"[... {len(text) - most} characters are not shown here ...]"
        return f"{text[: most - tail]}\n{note}\n{text[len(text) - tail :]}"


def coloured(text: str) -> Markup:
    """Return what a terminal would show, as HTML: colours and weights become classes."""
    return Markup("").join(_spans(_OVERWRITTEN.sub("", text.replace("\r\n", "\n"))))


def _spans(text: str) -> Iterator[Markup]:
    style: frozenset[str] = frozenset()
    place = 0
    for found in _ESCAPE.finditer(text):
        yield _span(text[place : found.start()], style)
        place = found.end()
        if found[2] == "m":
            style = _restyled(style, found[1])
    yield _span(text[place:], style)


def _span(text: str, style: frozenset[str]) -> Markup:
    shown = escape(clean(text.replace("\r", "")))
    if not shown or not style:
        return shown
    return Markup('<span class="{}">{}</span>').format(" ".join(sorted(style)), shown)


def _restyled(style: frozenset[str], parameters: str) -> frozenset[str]:
    codes = [int(one) if one.isascii() and one.isdigit() else 0
             for one in parameters[:200].replace(":", ";").split(";")]  # fmt: skip
    names = set(style)
    while codes:
        code = codes.pop(0)
        if code == 0:
            names.clear()
        elif code in _ATTRIBUTES:
            names.add(_ATTRIBUTES[code])
        elif code in _OFF:
            names.difference_update(_OFF[code])
        elif code in (38, 48):
            _paint(names, "f" if code == 38 else "b", _extended(codes))
        elif 30 <= code <= 37 or 90 <= code <= 97:
            _paint(names, "f", code - 30 if code < 90 else code - 82)
        elif 40 <= code <= 47 or 100 <= code <= 107:
            _paint(names, "b", code - 40 if code < 100 else code - 92)
        elif code in (39, 49):
            _paint(names, "f" if code == 39 else "b", None)
    return frozenset(names)


def _paint(names: set[str], ground: str, colour: int | None) -> None:
    names.difference_update({f"{ground}{number}" for number in range(16)})
    if colour is not None:
        names.add(f"{ground}{colour}")


def _extended(codes: list[int]) -> int | None:
    """Take what follows 38 or 48, and return the nearest of the 16 colours."""
    kind = codes.pop(0) if codes else 0
    if kind == 5 and codes:
        return _of_palette(codes.pop(0))
    if kind == 2 and len(codes) >= 3:
        red, green, blue = (min(one, 255) for one in codes[:3])
        del codes[:3]
        return _nearest(red, green, blue)
    codes.clear()  # what follows belonged to it
    return None


def _of_palette(number: int) -> int | None:
    if number < 16:
        return number
    if number < 232:
        red, green, blue = ((number - 16) // part % 6 for part in (36, 6, 1))
        return _nearest(red * 51, green * 51, blue * 51)
    grey = min(255, 8 + (number - 232) * 10)
    return _nearest(grey, grey, grey)


@functools.lru_cache(maxsize=4096)
def _nearest(red: int, green: int, blue: int) -> int:
    def distance(number: int) -> int:
        return sum((a - b) ** 2 for a, b in zip(_RGB[number], (red, green, blue), strict=True))

    return min(range(16), key=distance)
