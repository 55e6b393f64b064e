"""Whether a run's results are right: everything is computed again from the inputs.

Plain Python on the host, which shares no code with the inputs' maker, nor with the programs that
run in the sandbox: the rules are read from the manual and the log, the rows from the tables.
"""

from __future__ import annotations

import base64
import binascii
import csv
import datetime as dt
import re
import struct
import zlib
from bisect import bisect_left
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TOLERANCE = 0.0501
"""A correctly rounded figure is at most half a digit off."""

MAX_FILE_BYTES = 32 * 1024 * 1024

_PNG = b"\x89PNG\r\n\x1a\n"
_SIDE = range(400, 8001)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The two figures that the task asks for, unrounded."""

    load_tonnes: float
    storm_share_percent: float

    def __str__(self) -> str:
        return f"{self.load_tonnes:.1f} t, {self.storm_share_percent:.1f} %"

    def near(self, other: Figures) -> bool:
        """Return whether `other` is these figures, rounded to one decimal."""
        return (
            abs(self.load_tonnes - other.load_tonnes) <= TOLERANCE
            and abs(self.storm_share_percent - other.storm_share_percent) <= TOLERANCE
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one thing that was asked for."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found of a run's results."""

    expected: Figures
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as it should be."""
        return all(finding.ok for finding in self.findings)


def check(inputs: Path, outputs: Path) -> Check:
    """Compare what a run put out with what its inputs demand.

    Args:
        inputs: Directory of the five input files.
        outputs: Directory with `answer.txt`, `plot.png` and `report.html`, or without.

    Raises:
        TaskError: The inputs cannot be understood.
    """
    expected = compute(inputs)
    return Check(
        expected=expected,
        findings=(
            _checked("answer.txt", outputs, lambda data: _answer(data, expected)),
            _checked("plot.png", outputs, _picture),
            _checked("report.html", outputs, lambda data: _report(data, expected)),
        ),
    )


class _WrongError(Exception):
    """A result is not what was asked for."""


def _checked(name: str, outputs: Path, look: Callable[[bytes], str]) -> Finding:
    path = outputs / name
    try:
        if path.is_symlink() or not path.is_file():
            raise _WrongError("is not there")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _WrongError("is larger than can be right")
        return Finding(name=name, ok=True, detail=look(path.read_bytes()))
    except _WrongError as wrong:
        return Finding(name=name, ok=False, detail=str(wrong))
    except OSError as error:
        return Finding(name=name, ok=False, detail=f"cannot be read: {error.strerror}")


# -- the figures ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What manual and log say."""

    turn: float
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    ion: float
    storm: float
    centimetres: tuple[str, str]
    shifted: tuple[str, str]
    shift: float
    last_ion: int
    void: frozenset[int]

    def flow(self, stage: float) -> float:
        factor, zero, power = self.low if stage <= self.turn else self.high
        return factor * (stage - zero) ** power if stage > zero else 0.0


class _Series:
    """Values of some days, and what lies between."""

    def __init__(self, values: dict[int, float]) -> None:
        if not values:
            raise TaskError("a table of the demo's inputs holds no values")
        self._days = sorted(values)
        self._values = [values[day] for day in self._days]

    def at(self, day: int) -> float:
        place = bisect_left(self._days, day)
        if place == len(self._days):
            return self._values[-1]
        if place == 0 or self._days[place] == day:
            return self._values[place]
        left, right = self._days[place - 1], self._days[place]
        weight = (right - day) / (right - left)
        return weight * self._values[place - 1] + (1 - weight) * self._values[place]


def compute(inputs: Path) -> Figures:
    """Return the figures that the inputs in a directory demand.

    Raises:
        TaskError: A file is missing, or cannot be understood.
    """
    try:
        return _compute(inputs)
    except OSError as error:
        raise TaskError(f"cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise TaskError(
            f"the inputs in {inputs} cannot be understood: {type(error).__name__} {error}",
            hint="let the demo make fresh ones",
        ) from error


def _compute(inputs: Path) -> Figures:
    rules = _rules(inputs)
    rain = {day: 0.0 if text == "T" else float(text) for day, text in _column(inputs, "rain")}
    flow = _Series({day: _stage(day, text, rules) for day, text in _column(inputs, "stage")
                    if text != "ERR"})  # fmt: skip
    nitrogen = _Series(_nitrogen(inputs, rules))
    total = stormy = 0.0
    for day in rain:
        load = rules.flow(flow.at(day)) * nitrogen.at(day) * 86.4
        total += load
        if rain[day] >= rules.storm or rain.get(day - 1, 0.0) >= rules.storm:
            stormy += load
    return Figures(load_tonnes=total / 1000, storm_share_percent=stormy / total * 100)


def _column(inputs: Path, name: str) -> list[tuple[int, str]]:
    with (inputs / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [(dt.date.fromisoformat(row[0]).toordinal(), row[1]) for row in rows if row]


def _stage(day: int, text: str, rules: _Rules) -> float:
    date, stage = dt.date.fromordinal(day).isoformat(), float(text)
    if rules.centimetres[0] <= date <= rules.centimetres[1]:
        stage /= 100
    if rules.shifted[0] <= date <= rules.shifted[1]:
        stage -= rules.shift
    return stage


def _nitrogen(inputs: Path, rules: _Rules) -> dict[int, float]:
    sums: dict[int, tuple[float, int]] = {}
    with (inputs / "nitrate.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            number = int(row["bottle"].removeprefix("N-"))
            if number in rules.void:
                continue
            text = row["nitrate_mg_l"]
            value = float(text.removeprefix("<")) / (2 if text.startswith("<") else 1)
            value *= rules.ion if number <= rules.last_ion else 1.0
            day = dt.date.fromisoformat(row["date"]).toordinal()
            total, count = sums.get(day, (0.0, 0))
            sums[day] = (total + value, count + 1)
    return {day: total / count for day, (total, count) in sums.items()}


def _rules(inputs: Path) -> _Rules:
    manual, log = (
        " ".join((inputs / name).read_text(encoding="utf-8").split())
        for name in ("station_manual.md", "field_log.md")
    )
    in_force = manual[manual.index("### 5.3") : manual.index("### 5.4")]
    turn = _found(r"h = (\S+) m", in_force)
    curves = re.findall(r"Q = (\S+) \* \(h - (\S+)\) \^ (\S+)", in_force)
    if len(curves) != 2:
        raise ValueError(f"{len(curves)} branches of the rating, not 2")
    low, high = ((float(a), float(b), float(c)) for a, b, c in curves)
    days = r"rows of stage\.csv from (\S+) to (\S+), both included, are"
    centimetres, shifted = _found(f"{days} in centimetres", log), _found(
        rf"{days} (\S+) m too (high|low)", log
    )  # fmt: skip
    return _Rules(
        turn=float(turn[0]),
        low=low,
        high=high,
        ion=float(_found(r"multiply by (\d\.\d+)", manual)[0]),
        storm=float(_found(r"or of the day before it, is at least (\S+) mm", manual)[0]),
        centimetres=(centimetres[0], centimetres[1]),
        shifted=(shifted[0], shifted[1]),
        shift=float(shifted[2]) * (1 if shifted[3] == "high" else -1),
        last_ion=int(_found(r"including bottle N-(\d+) were reported as the nitrate ion", log)[0]),
        void=frozenset(int(number) for number in re.findall(r"Bottle N-(\d+) is void", log)),
    )


def _found(pattern: str, text: str) -> Sequence[str]:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern!r} in the documents")
    return [str(group) for group in match.groups()]


# -- the results ------------------------------------------------------------------------------


def _answer(data: bytes, expected: Figures) -> str:
    text = data.decode(errors="replace").strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?t(?:onnes)?[,;]? *(\d+(?:\.\d+)?) ?%\.?", text)
    if match is None:
        raise _WrongError(f"is not written such as `12.3 t, 45.6 %`: {text[:80]!r}")
    found = Figures(load_tonnes=float(match[1]), storm_share_percent=float(match[2]))
    if not expected.near(found):
        raise _WrongError(f"{text} is wrong: the inputs give {expected}")
    return f"{text}: the same as computed again from the inputs"


def _picture(data: bytes) -> str:
    width, height = png_size(data)
    return f"a picture of {width} x {height}"


def png_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels of a PNG whose every byte was checked.

    Raises:
        Exception: It is damaged, of no sensible size, or all of one colour.
    """
    if not data.startswith(_PNG):
        raise _WrongError("is not a PNG")
    chunks = _chunks(data)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise _WrongError("is a PNG without a header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if width not in _SIDE or height not in _SIDE or width * height > 40_000_000:
        raise _WrongError(f"is {width} x {height}, which is no sensible size")
    packed = b"".join(body for name, body in chunks if name == b"IDAT")
    row = (width * _CHANNELS.get(colour, 4) * depth + 7) // 8
    unpacker = zlib.decompressobj()
    try:
        pixels = unpacker.decompress(packed, (row + 1) * height * 2)
    except zlib.error as error:
        raise _WrongError(f"holds damaged pixels: {error}") from None
    if not interlaced and len(pixels) != (row + 1) * height:
        raise _WrongError(f"holds {len(pixels)} bytes of pixels, not {(row + 1) * height}")
    if len({pixels[at : at + row + 1] for at in range(0, len(pixels), row + 1)}) < 20:
        raise _WrongError("is blank")
    return width, height


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if at + 12 + length > len(data):
            break
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if zlib.crc32(name + body) != int.from_bytes(data[at + 8 + length : at + 12 + length]):
            raise _WrongError("is damaged: a checksum is wrong")
        chunks.append((name, body))
        at += 12 + length
        if name == b"IEND":
            return chunks
    raise _WrongError("is cut off")


class _Page(HTMLParser):
    """Text and sources of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.images: list[str] = []
        self.outside: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        source = named.get("src") or (named.get("href") if tag == "link" else None) or ""
        if tag == "img" and source.startswith("data:image/png;base64,"):
            self.images.append(source.partition(",")[2])
        elif source and not source.startswith("data:"):
            self.outside.append(source)
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if self._hidden <= 0:
            self.text.append(data)


def _report(data: bytes, expected: Figures) -> str:
    page = _Page()
    page.feed(data.decode(errors="replace"))
    page.close()
    if page.outside:
        raise _WrongError(f"needs another file: {page.outside[0][:80]}")
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", " ".join(page.text))]
    for name, value in (
        ("load", expected.load_tonnes),
        ("storm share", expected.storm_share_percent),
    ):
        if not any(abs(number - value) <= TOLERANCE for number in numbers):
            raise _WrongError(f"does not hold the {name}, {value:.1f}")
    for image in page.images:
        try:
            png_size(base64.b64decode("".join(image.split()), validate=True))
        except (binascii.Error, _WrongError) as error:
            raise _WrongError(f"embeds a picture that {error}") from None
    if not page.images:
        raise _WrongError("embeds no plot")
    return "holds both figures and the plot, and needs no other file"
