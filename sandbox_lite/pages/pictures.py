"""Pictures as part of a page: only what begins as a picture does is shown as one."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1 << 20
"""Of one picture."""
_MOST = 12
_INLINE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,([A-Za-z0-9+/]{16,}={0,2})")


def kind(data: bytes) -> str | None:
    """Return the media type, by the first bytes; None of what is none.

    SVG is left out on purpose: it is a program's text and not a picture's.
    """
    for mark, name in ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"),
                       (b"GIF87a", "gif"), (b"GIF89a", "gif")):  # fmt: skip
        if data.startswith(mark):
            return f"image/{name}"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def address(data: bytes) -> str | None:
    """Return a data: address; None where it is no picture, or a large one."""
    found = kind(data)
    if found is None or len(data) > MAX_BYTES:
        return None
    return f"data:{found};base64,{base64.b64encode(data).decode()}"


def inline(text: str) -> tuple[str, ...]:
    """Return the pictures that a program printed as data: addresses."""
    found = []
    for one in _INLINE.finditer(text[: 4 * MAX_BYTES]):
        try:
            shown = address(base64.b64decode(one[1], validate=True))
        except binascii.Error:
            continue
        if shown is not None:
            found.append(shown)
    return tuple(found[:_MOST])


def below(directory: Path) -> tuple[tuple[str, str], ...]:
    """Return name and address of the pictures below a directory; links are not followed."""
    found: list[tuple[str, str]] = []
    for path in sorted(directory.rglob("*"))[:2000]:
        if path.is_symlink() or not path.is_file() or len(found) == _MOST:
            continue
        shown = of_file(path)
        if shown is not None:
            found.append((str(path.relative_to(directory)), shown))
    return tuple(found)


def of_file(path: Path) -> str | None:
    """Return the data: address of a file; None where it is no picture, large, or not there."""
    try:
        with path.open("rb") as file:
            return address(file.read(MAX_BYTES + 1))
    except OSError:
        return None
