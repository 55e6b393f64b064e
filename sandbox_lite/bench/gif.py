"""Reads GIF files: every frame as a viewer shows it. Plain Python, for files nobody can trust.

Source: Graphics Interchange Format, version 89a (CompuServe, 1990), and the application extension
NETSCAPE2.0 for repetition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SIDE = 640
MAX_FRAMES = 200
_MAX_CODES = 4096
_CLEAR_BACKGROUND, _CLEAR_TO_BEFORE = 2, 3


class NotGifError(Exception):
    """The bytes are no GIF that can be shown, or a larger one than is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is seen, and for how long."""

    red: bytes
    """One byte for each pixel, row by row; as the next two."""
    green: bytes
    blue: bytes
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Animation:
    """A whole file."""

    width: int
    height: int
    frames: tuple[Frame, ...]
    plays: int
    """How often it is shown; 0 is for ever."""


@dataclass(slots=True)
class _Control:
    """What stands before an image about how to show it."""

    seconds: float = 0.0
    disposal: int = 0
    transparent: int | None = None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise NotGifError("the file is cut off")
        self._at += count
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def word(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def blocks(self) -> bytes:
        """Return the content of sub-blocks up to the empty one."""
        found = bytearray()
        while size := self.byte():
            found += self.take(size)
        return bytes(found)

    def colours(self, flags: int) -> bytes | None:
        return self.take(3 << ((flags & 7) + 1)) if flags & 0x80 else None


def read(data: bytes) -> Animation:
    """Return all frames of a file.

    Raises:
        NotGifError: It is damaged, cut off, or larger than is looked at.
    """
    reader = _Reader(data)
    if reader.take(6) not in (b"GIF87a", b"GIF89a"):
        raise NotGifError("the file is no GIF")
    width, height, flags = reader.word(), reader.word(), reader.byte()
    reader.take(2)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise NotGifError(f"{width} x {height} pixels are not looked at")
    shared = reader.colours(flags)
    screen = _Screen(width, height)
    frames: list[Frame] = []
    plays, control = 1, _Control()
    while (kind := reader.byte()) != 0x3B:
        if kind == 0x21:
            label, content = reader.byte(), reader.blocks()
            if label == 0xF9 and len(content) == 4:
                control = _control(content)
            elif label == 0xFF and content[:11] == b"NETSCAPE2.0" and content[11:12] == b"\1":
                plays = int.from_bytes(content[12:14], "little")
        elif kind == 0x2C:
            if len(frames) == MAX_FRAMES:
                raise NotGifError(f"more than {MAX_FRAMES} frames are not looked at")
            frames.append(screen.show(reader, shared, control))
            control = _Control()
        else:
            raise NotGifError(f"no block begins with {kind:#04x}")
    return Animation(width=width, height=height, frames=tuple(frames), plays=plays)


def _control(content: bytes) -> _Control:
    return _Control(
        seconds=int.from_bytes(content[1:3], "little") / 100,
        disposal=content[0] >> 2 & 7,
        transparent=content[3] if content[0] & 1 else None,
    )


class _Screen:
    """What is on it. Where nothing was drawn it is white, as on a page."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._planes = tuple(bytearray(b"\xff" * (width * height)) for _ in range(3))

    def show(self, reader: _Reader, shared: bytes | None, control: _Control) -> Frame:
        """Draw the next image, and make the screen ready for the one after it."""
        left, top, width, height = (reader.word() for _ in range(4))
        flags = reader.byte()
        colours = reader.colours(flags) or shared
        if colours is None:
            raise NotGifError("a frame has no colours")
        if not width or not height or left + width > self._width or top + height > self._height:
            raise NotGifError("a frame leaves the picture")
        bits = reader.byte()
        pixels = unpacked(reader.blocks(), bits, width * height)
        before = tuple(bytes(plane) for plane in self._planes)
        rows = list(_interlaced(height)) if flags & 0x40 else list(range(height))
        for plane, offset in zip(self._planes, range(3), strict=True):
            table = (colours[offset::3] + bytes(256))[:256]
            drawn = pixels.translate(table)
            for number, row in enumerate(rows):
                at, of = (top + row) * self._width + left, number * width
                if control.transparent is None:
                    plane[at : at + width] = drawn[of : of + width]
                else:
                    for x in range(width):
                        if pixels[of + x] != control.transparent:
                            plane[at + x] = drawn[of + x]
        red, green, blue = (bytes(plane) for plane in self._planes)
        self._dispose(control, before, left, top, width, height)
        return Frame(red=red, green=green, blue=blue, seconds=control.seconds)

    def _dispose(
        self, control: _Control, before: tuple[bytes, ...], left: int, top: int, width: int,
        height: int,
    ) -> None:  # fmt: skip
        for plane, old in zip(self._planes, before, strict=True):
            if control.disposal == _CLEAR_TO_BEFORE:
                plane[:] = old
            elif control.disposal == _CLEAR_BACKGROUND:
                for row in range(top, top + height):
                    at = row * self._width + left
                    plane[at : at + width] = b"\xff" * width


def _interlaced(height: int) -> Iterator[int]:
    for start, step in ((0, 8), (4, 8), (2, 4), (1, 2)):
        yield from range(start, height, step)


def unpacked(data: bytes, bits: int, count: int) -> bytes:
    """Return exactly `count` pixels of data that GIF's LZW has packed.

    Raises:
        NotGifError: The data is damaged, or too short.
    """
    if not 2 <= bits <= 8:
        raise NotGifError(f"{bits} bits for a pixel")
    clear, end = 1 << bits, (1 << bits) + 1
    fresh = [bytes((value,)) for value in range(clear)] + [b"", b""]
    table, size, previous = fresh.copy(), bits + 1, b""
    found = bytearray()
    held = kept = 0
    for byte in data:
        held |= byte << kept
        kept += 8
        while kept >= size:
            code = held & ((1 << size) - 1)
            held >>= size
            kept -= size
            if code == clear:
                table, size, previous = fresh.copy(), bits + 1, b""
                continue
            if code == end or len(found) >= count:
                return _exactly(found, count)
            if code < len(table):
                entry = table[code]
            elif code == len(table) and previous:
                entry = previous + previous[:1]
            else:
                raise NotGifError("the pixels are damaged")
            found += entry
            if previous and len(table) < _MAX_CODES:
                table.append(previous + entry[:1])
                if len(table) == 1 << size and size < 12:
                    size += 1
            previous = entry
    return _exactly(found, count)


def _exactly(found: bytearray, count: int) -> bytes:
    if len(found) < count:
        raise NotGifError("a frame lacks pixels")
    return bytes(found[:count])
