"""The inputs of the demo: three tables and two documents about a river that does not exist.

A seed decides weather, rating, what went wrong at the station and when, so that each seed has an
answer of its own. The same seed gives the same bytes everywhere.
"""

from __future__ import annotations

import datetime as dt
import math
import random
import re
import textwrap
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FIRST_DAY = dt.date(2023, 10, 1)
DAYS = 366
FILES = ("field_log.md", "nitrate.csv", "rain.csv", "stage.csv", "station_manual.md")

_ION_SHARE = 0.2259
"""Mass of nitrogen in the nitrate ion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Branch:
    """One branch of a rating: Q = factor * (h - zero) ^ power."""

    factor: float
    zero: float
    power: float

    def flow(self, stage: float) -> float:
        return self.factor * math.pow(max(0.0, stage - self.zero), self.power)

    def stage(self, flow: float) -> float:
        return self.zero + math.pow(flow / self.factor, 1 / self.power)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Days on which something was wrong, both included."""

    first: int
    last: int

    def __contains__(self, day: int) -> bool:
        return self.first <= day <= self.last

    def __str__(self) -> str:
        return f"from {_date(self.first)} to {_date(self.last)}, both included,"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Station:
    """All that the documents say of one seed's year."""

    turn: float
    """Stage at which the rating changes its branch, in metres."""
    low: _Branch
    high: _Branch
    storm_mm: float
    loq: str
    centimetres: _Window
    shifted: _Window
    shift: float
    errors: frozenset[int]
    first_nitrogen: int
    """Number of the first bottle that was reported as nitrogen."""
    void: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    bottle: int
    day: int
    nitrogen: float
    """Milligrams per litre."""


def write(directory: Path, seed: int) -> None:
    """Write the files of a seed into a directory, which is made.

    Raises:
        TaskError: They cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in make(seed).items():
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise TaskError(
            f"cannot write the inputs to {directory}: {error.strerror}",
            hint="name a directory that can be written with --output",
        ) from error


def make(seed: int) -> Mapping[str, str]:
    """Return the text of each file, by name."""
    # seeded by text: the numbers 1 and -1 alone would give the same year
    rng = random.Random(f"river Aune {seed}")
    station, bottles = _station(rng), _bottle_days(rng)
    rain, flow = _weather(rng)
    samples = _sampled(rng, flow, bottles)
    return {
        "station_manual.md": _manual(station),
        "field_log.md": _log(station, samples),
        "rain.csv": _table(
            "date,rain_mm", (f"{_date(n)},{_rain(n, v)}" for n, v in enumerate(rain))
        ),
        "stage.csv": _table("date,stage", _stage_rows(station, flow)),
        "nitrate.csv": _table("bottle,date,nitrate_mg_l", _nitrate_rows(station, samples)),
    }


def _date(day: int) -> str:
    return (FIRST_DAY + dt.timedelta(days=day)).isoformat()


def _between(rng: random.Random, low: int, high: int) -> int:
    """Return a whole number, both ends included; by `random()`, which no release changes."""
    return low + int(rng.random() * (high - low + 1))


def _station(rng: random.Random) -> _Station:
    turn = round(1.15 + 0.35 * rng.random(), 2)
    zero = round(0.18 + 0.08 * rng.random(), 3)
    low = _Branch(
        factor=round(7.6 + 1.8 * rng.random(), 3),
        zero=zero,
        power=round(1.56 + 0.12 * rng.random(), 3),
    )
    bend = _Branch(
        factor=1.0,
        zero=round(zero + 0.03 + 0.03 * rng.random(), 3),
        power=round(1.44 + 0.1 * rng.random(), 3),
    )
    factor = round(low.flow(turn) / bend.flow(turn), 3)
    in_centimetres = _between(rng, 58, 84)
    shifted = _between(rng, 172, 200)
    centimetres = _Window(first=in_centimetres, last=in_centimetres + _between(rng, 22, 38))
    # one gap lies at the edge of the days in centimetres: who interpolates first gets it wrong
    gaps = {centimetres.last, centimetres.last + 1, _between(rng, 20, 50), _between(rng, 140, 165)}
    summer = _between(rng, 260, 320)
    return _Station(
        turn=turn,
        low=low,
        high=_Branch(factor=factor, zero=bend.zero, power=bend.power),
        storm_mm=10.0 + 2.0 * _between(rng, 0, 2),
        loq=("0.30", "0.40", "0.50")[_between(rng, 0, 2)],
        centimetres=centimetres,
        shifted=_Window(first=shifted, last=shifted + _between(rng, 16, 30)),
        shift=round(0.06 + 0.12 * rng.random(), 3),
        errors=frozenset(gaps | {summer, summer + 1, summer + 2}),
        first_nitrogen=_between(rng, 38, 56),
        void=(_between(rng, 22, 34), _between(rng, 64, 80)),
    )


def _weather(rng: random.Random) -> tuple[list[float], list[float]]:
    """Return rain in mm and discharge in cubic metres per second, day by day."""
    rain, flow = [], []
    wet, quick, slow = False, 1.5, 2.0
    for day in range(DAYS):
        season = math.cos(2 * math.pi * (day - 45) / 365)  # wettest in mid November
        wet = rng.random() < (0.66 if wet else 0.27 + 0.08 * season)
        amount = -math.log(1 - rng.random()) * (5.6 + 2.2 * season) if wet else 0.0
        if wet and rng.random() < 0.07:
            amount += 12 + 22 * rng.random()
        amount = min(amount, 58.0)
        rain.append(round(amount, 3))
        evaporated = 1.1 - 0.9 * season
        runoff = max(0.0, amount - evaporated)
        quick = 0.52 * quick + 0.26 * runoff + 0.004 * runoff**2
        slow = 0.975 * slow + 0.036 * runoff
        flow.append(0.25 + quick + slow)
    return rain, flow


def _bottle_days(rng: random.Random) -> list[int]:
    """Return the day of each bottle: two visits a week, now and then two bottles."""
    days, day = [], 1
    while day < DAYS - 2:
        days += [day] * (2 if rng.random() < 0.07 else 1)
        day += 3 + (rng.random() < 0.5)
    return days


def _sampled(rng: random.Random, flow: list[float], days: list[int]) -> tuple[_Sample, ...]:
    samples = []
    for bottle, day in enumerate(days, 1):
        season = math.cos(2 * math.pi * (day - 130) / 365)  # highest in February
        flush = 0.75 * math.log1p(flow[day] / 6)
        noise = 0.85 + 0.3 * rng.random()
        nitrogen = max(0.04, (1.5 + 1.25 * season + flush * (1.4 + season)) * noise)
        if 265 < day < 340 and rng.random() < 0.2:
            nitrogen = 0.04 + 0.2 * rng.random()  # algae take it all in low and warm water
        samples.append(_Sample(bottle=bottle, day=day, nitrogen=nitrogen))
    return tuple(samples)


def _rain(day: int, amount: float) -> str:
    # none in the first rows: who only looks at those learns of traces later
    if 0 < amount < 0.3 and day > 9:
        return "T"
    return f"{amount:.1f}"


def _stage_rows(station: _Station, flow: list[float]) -> list[str]:
    rows = []
    for day, q in enumerate(flow):
        branch = station.low if q <= station.low.flow(station.turn) else station.high
        stage = branch.stage(q) + (station.shift if day in station.shifted else 0.0)
        text = f"{stage * 100:.1f}" if day in station.centimetres else f"{stage:.3f}"
        rows.append(f"{_date(day)},{'ERR' if day in station.errors else text}")
    return rows


def _nitrate_rows(station: _Station, samples: tuple[_Sample, ...]) -> list[str]:
    rows = []
    for sample in samples:
        share = 1.0 if sample.bottle >= station.first_nitrogen else _ION_SHARE
        value = sample.nitrogen / share
        if sample.bottle in station.void:
            value *= 2.6  # a void bottle that is used shows
        text = f"<{station.loq}" if value < float(station.loq) else f"{value:.2f}"
        rows.append(f"N-{sample.bottle:03},{_date(sample.day)},{text}")
    return rows


def _table(header: str, rows: Iterable[str]) -> str:
    return "\n".join([header, *rows]) + "\n"


def _manual(station: _Station) -> str:
    values = {
        "BREAK": f"{station.turn:.2f}",
        "A1": f"{station.low.factor:.3f}",
        "H1": f"{station.low.zero:.3f}",
        "B1": f"{station.low.power:.3f}",
        "A2": f"{station.high.factor:.3f}",
        "H2": f"{station.high.zero:.3f}",
        "B2": f"{station.high.power:.3f}",
        "LOQ": station.loq,
        "STORM": f"{station.storm_mm:.1f}",
    }
    return re.sub("@([A-Z0-9]+)@", lambda match: values[match[1]], _document("station_manual.md"))


def _log(station: _Station, samples: tuple[_Sample, ...]) -> str:
    day_of = {sample.bottle: sample.day for sample in samples}
    frozen, ditch = station.void
    nitrogen = station.first_nitrogen
    window, shifted = station.centimetres, station.shifted
    events = [
        (window.first - 1, "J", "Logger: firmware 4.2 installed, as the maker asks. Display on."),
        (
            window.last, "B",
            "The stage curve in the office looks mad. Cause: since the new firmware the logger "
            f"writes another unit. Set back today. The rows of stage.csv {window} are in "
            "centimetres.",
        ),
        (
            shifted.last, "J",
            "Levelled the sensor against BM3. Drift wood has lifted it in its pipe; pushed it down "
            f"again and tied it. The rows of stage.csv {shifted} are {station.shift:.3f} m too "
            "high.",
        ),
        (day_of[frozen], "B", f"Bottle N-{frozen:03} is void: the cap was off in the cool bag."),
        (
            day_of[ditch], "J",
            f"Bottle N-{ditch:03} is void: the trainee filled it in the ditch, not in the river.",
        ),
        (
            day_of[nitrogen], "B",
            "The old laboratory has closed. Results up to and including bottle "
            f"N-{nitrogen - 1:03} were reported as the nitrate ion (NO3); the new laboratory "
            f"reports bottle N-{nitrogen:03} and all later ones as nitrate nitrogen (NO3-N).",
        ),
    ]  # fmt: skip
    head, *entries = re.split(r"\n(?=### )", _document("field_log.md"))
    entries += [
        f"### {_date(day)} ({who})\n{textwrap.fill(text, 98)}\n" for day, who, text in events
    ]
    entries.sort(key=lambda entry: entry[: len("### 2024-01-01")])
    return "\n".join([head, *entries])


def _document(name: str) -> str:
    return (resources.files("sandbox_lite.demo") / "documents" / name).read_text(encoding="utf-8")
