"""A red ball that falls, bounces and rolls on, as a GIF: every frame is looked at."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass

from sandbox_lite.bench import gif
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, demanded, wrong

_RED = bytes(value >= 200 for value in range(256))
_DARK = bytes(value <= 60 for value in range(256))
_LIGHT = bytes(value >= 200 for value in range(256))
_ROUND = 0.06
"""How far the share of a box that a ball fills may be from that of a circle."""

_EDGE = 2
"""Pixels by which a smoothed edge may make a ball look smaller or larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ball:
    """Where the red is in one frame, in pixels."""

    left: int
    top: int
    width: int
    height: int
    share: float
    """Of its box."""
    alone: bool
    """All else is white."""

    @property
    def round(self) -> bool:
        """Whether it is a whole disc, and nothing beside it."""
        near = abs(self.share - math.pi / 4) <= _ROUND
        return near and abs(self.width - self.height) <= 1 and self.alone


def score(question: Question) -> Verdict:
    """Return 1 where the file shows what was asked for, else 0."""
    wanted = json.loads(question.truth)
    try:
        seen = gif.read(question.file or b"")
    except gif.NotGifError as error:
        return wrong(str(error))
    balls = [ball(frame, seen.width) for frame in seen.frames]
    whole = [one for one in balls if one is not None and one.round]
    first, last = wanted["frames"]
    shortest, longest = wanted["frame_seconds"]
    thin, thick = wanted["diameter"]
    at_once = len({(one.left, one.top) for one in whole})
    size = f"{wanted['width']} x {wanted['height']} pixels"
    demands = [
        (size, (seen.width, seen.height) == (wanted["width"], wanted["height"])),
        (f"{first} to {last} frames", first <= len(seen.frames) <= last),
        ("it repeats for ever", seen.plays == 0),
        ("the time of each frame", all(shortest <= f.seconds <= longest for f in seen.frames)),
        ("one round red ball on white in every frame", bool(balls) and len(whole) == len(balls)),
        ("its diameter", all(thin - _EDGE <= one.width <= thick + _EDGE for one in whole)),
        ("it is somewhere else in almost every frame", at_once >= 0.9 * len(balls)),
        ("it moves from the left third to the right third", _crosses(whole, seen.width)),
        ("it starts in the upper half", bool(whole) and _middle(whole[0]) < seen.height / 2),
        *_bounces(whole, seen.height, wanted["bounces"]),
    ]
    return demanded(demands, frames=len(seen.frames))


def ball(frame: gif.Frame, width: int) -> Ball | None:
    """Return where the red of a frame is; None where there is none."""
    red = _both(frame.red.translate(_RED), frame.green.translate(_DARK), frame.blue, _DARK)
    white = _both(frame.red.translate(_LIGHT), frame.green.translate(_LIGHT), frame.blue, _LIGHT)
    count = red.count(1)
    if not count:
        return None
    rows = [red[at : at + width].count(1) for at in range(0, len(red), width)]
    columns = [red[x::width].count(1) for x in range(width)]
    top, bottom = _ends(rows)
    left, right = _ends(columns)
    box = (bottom - top + 1, right - left + 1)
    # where the edge is smoothed it is neither red nor white
    edge = len(red) - count - white.count(1)
    return Ball(
        left=left, top=top, width=box[1], height=box[0], share=count / (box[0] * box[1]),
        alone=edge <= 6 * max(box),
    )  # fmt: skip


def _both(one: bytes, two: bytes, three: bytes, table: bytes) -> bytes:
    """Return 1 where all three are."""
    numbers = (int.from_bytes(part) for part in (one, two, three.translate(table)))
    return (next(numbers) & next(numbers) & next(numbers)).to_bytes(len(one))


def _ends(counts: list[int]) -> tuple[int, int]:
    there = [place for place, count in enumerate(counts) if count]
    return there[0], there[-1]


def _middle(one: Ball) -> float:
    return one.top + one.height / 2


def _crosses(balls: list[Ball], width: int) -> bool:
    if len(balls) < 2:
        return False
    centres = [one.left + one.width / 2 for one in balls]
    onwards = all(after >= before - 1 for before, after in itertools.pairwise(centres))
    return onwards and centres[0] <= width / 3 and centres[-1] >= width * 2 / 3


def _bounces(balls: list[Ball], height: int, least: int) -> list[tuple[str, bool]]:
    """Return what is to be said of the ground, and of the heights between two touches."""
    lowest = [one.top + one.height for one in balls]
    ground = max(lowest, default=0)
    heights = [ground - low for low in lowest]
    peaks: list[int] = []
    touches, highest, up = 0, heights[0] if heights else 0, True
    for now in heights:
        if now <= 3:
            if up and highest >= 8:
                touches += 1
                peaks.append(highest)
            up, highest = False, 0
        else:
            up, highest = True, max(highest, now)
    if up and highest >= 8:
        peaks.append(highest)
    falling = all(after < before for before, after in itertools.pairwise(peaks))
    return [
        ("the ground is at the lower edge", height - 4 <= ground <= height),
        (f"it touches the ground {least} times or more", touches >= least),
        ("each rise is lower than the one before", len(peaks) >= 2 and falling),
    ]


GRADER = Grader(
    name="animation",
    score=score,
    control_file=(
        b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00"
        b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b"
    ),
)
