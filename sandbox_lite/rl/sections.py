"""A long document as several files: cut at headings, and where a section is too long, within it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+\S")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_LEAST_BYTES = 64
_SLUG_CHARACTERS = 40


def split(name: str, text: str, max_bytes: int) -> tuple[tuple[str, str], ...]:
    """Return a document as files of at most `max_bytes`, which joined are the document.

    A document that is short enough stays as it is. A longer one is cut at its Markdown headings;
    neighbours share a file while they fit into one. A section that fits into no file is cut
    between paragraphs, else between lines, else between characters.

    Args:
        name: Of the document; its parts are named after it and their first heading.
        text: The document.
        max_bytes: Of one file, as UTF-8.

    Raises:
        SpecError: `max_bytes` is too small to hold a line.
    """
    if max_bytes < _LEAST_BYTES:
        raise SpecError(f"sections of {max_bytes} bytes hold nothing", hint="name 64 or more")
    if _size(text) <= max_bytes:
        return ((name, text),)
    sections = [part for section in _sections(text) for part in _bounded(section, max_bytes)]
    files = list(_packed(sections, max_bytes))
    path = PurePosixPath(name)
    width = max(2, len(str(len(files))))
    return tuple(
        (str(path.with_name(f"{path.stem}-{number:0{width}}{_slug(part)}{path.suffix}")), part)
        for number, part in enumerate(files, 1)
    )


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _sections(text: str) -> Iterator[str]:
    """Yield the text from each heading to the next; a `#` in a block of code is none."""
    current: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif fence:
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif _HEADING.match(line) and current:
            yield "".join(current)
            current = []
        current.append(line)
    yield "".join(current)


def _bounded(section: str, max_bytes: int) -> Iterator[str]:
    """Yield a section in parts that fit."""
    if _size(section) <= max_bytes:
        yield section
        return
    for pattern in (r"(?<=\n)\n+", r"(?<=\n)"):
        pieces = _cut(section, pattern)
        if len(pieces) > 1:
            small = [part for piece in pieces for part in _bounded(piece, max_bytes)]
            yield from _packed(small, max_bytes)
            return
    start = 0
    size = 0
    for position, character in enumerate(section):
        wide = _size(character)
        if size + wide > max_bytes:
            yield section[start:position]
            start, size = position, 0
        size += wide
    yield section[start:]


def _cut(text: str, pattern: str) -> list[str]:
    """Return the text cut after each match, nothing lost."""
    ends = [match.end() for match in re.finditer(pattern, text) if 0 < match.end() < len(text)]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def _packed(parts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """Yield neighbours together while they fit."""
    current: list[str] = []
    size = 0
    for part in parts:
        more = _size(part)
        if current and size + more > max_bytes:
            yield "".join(current)
            current, size = [], 0
        current.append(part)
        size += more
    if current:
        yield "".join(current)


def _slug(part: str) -> str:
    """Return a part's first heading as the end of a file's name."""
    line = next((line for line in part.splitlines() if line.strip()), "")
    if not _HEADING.match(line):
        return ""
    slug = re.sub(r"[^a-z0-9]+", "-", line.lower()).strip("-")[:_SLUG_CHARACTERS].strip("-")
    return f"-{slug}" if slug else ""
