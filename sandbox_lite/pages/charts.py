"""Plots of bars and intervals as HTML with SVG in it, which needs no library to be looked at.

Words are HTML and lie beside the drawing, whose places are shares of its width: so that a narrow
screen makes the drawing narrow, and no letter smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.pages.site import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A mean with its interval."""

    label: str
    mean: float
    low: float | None
    high: float | None
    colour: int = 0
    """Which of the palette."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Parts that lie end to end; those that are None are not known."""

    label: str
    parts: tuple[float | None, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Part of a bar, in shares of the width."""

    colour: int
    left: str
    width: str


def intervals(spans: Sequence[Span], *, low: float, high: float, title: str) -> Markup | str:
    """Return a plot of means as points and intervals as lines between two bounds."""
    if not spans:
        return ""

    def place(value: float) -> str:
        return _share((min(max(value, low), high) - low) / (high - low))

    marks = [
        {
            "span": one,
            "mean": place(one.mean),
            "low": None if one.low is None else place(one.low),
            "high": None if one.high is None else place(one.high),
            "text": _numbers(one, signed=low < 0),
        }
        for one in spans
    ]
    ticks = [low + (high - low) * step / 4 for step in range(5)]
    return render(
        "intervals.html", title=title, marks=marks,
        ticks=[(place(one), f"{one:+g}" if low < 0 and one else f"{one:g}") for one in ticks],
        zero=place(0.0) if low < 0 else None,
    )  # fmt: skip


def bars(bars: Sequence[Bar], names: Sequence[str], *, title: str, unit: str) -> Markup | str:
    """Return a plot of stacked bars with their legend; nothing where there is nothing to show."""
    largest = max((sum(part or 0 for part in one.parts) for one in bars), default=0.0)
    if not largest > 0 or not math.isfinite(largest):
        return ""
    drawn = []
    for one in bars:
        pieces, left = [], 0.0
        for colour, part in enumerate(one.parts):
            if part:
                pieces.append(
                    _Piece(colour=colour, left=_share(left / largest), width=_share(part / largest))
                )
                left += part
        drawn.append({"bar": one, "pieces": pieces, "text": one.note or f"{short(left)} {unit}"})
    return render("bars.html", title=title, drawn=drawn, names=list(enumerate(names)))


def by_name(parts: Mapping[str, object], names: Sequence[str]) -> tuple[float | None, ...]:
    """Return the numbers of some names; None where there is no number."""
    found = (parts.get(name) for name in names)
    return tuple(float(one) if isinstance(one, (int, float)) else None for one in found)


def short(value: float) -> str:
    """Return a number as a person reads it."""
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= bound:
            return f"{value / (1e3 if letter == 'k' else bound):.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _share(value: float) -> str:
    return f"{100 * value:.2f}%"


def _numbers(one: Span, *, signed: bool) -> str:
    sign = "+" if signed else ""
    bounds = ""
    if one.low is not None and one.high is not None:
        bounds = f" [{one.low:{sign}.2f}, {one.high:{sign}.2f}]"
    return f"{one.mean:{sign}.3f}{bounds}"
