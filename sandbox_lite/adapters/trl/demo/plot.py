"""The curve of a training, as an SVG of a few lines: no library is needed to see it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 360, 56, 44, 34


def draw(path: Path, rewards: Sequence[float], *, title: str) -> None:
    """Write the mean reward (0 to 1) of each step."""
    wide, high = _WIDTH - _LEFT - 16, _HEIGHT - _BOTTOM - _TOP
    last = max(2, len(rewards))

    def across(step: float) -> float:
        return _LEFT + wide * (step - 1) / (last - 1)

    def up(reward: float) -> float:
        return _TOP + high * (1 - reward)

    points = " ".join(f"{across(n):.1f},{up(one):.1f}" for n, one in enumerate(rewards, 1))
    lines = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - 16}" y1="{up(tick / 4):.1f}" y2="{up(tick / 4):.1f}" '
        f'stroke="#ddd"/><text x="{_LEFT - 8}" y="{up(tick / 4) + 4:.1f}" text-anchor="end">'
        f"{tick / 4:g}</text>"
        for tick in range(5)
    ]
    steps = sorted({1, *(round(last * part / 4) for part in range(1, 5))} - {0})
    lines += [
        f'<text x="{across(step):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{step}'
        "</text>"
        for step in steps
    ]
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" '
        f'fill="white"/><text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>'
        + "".join(lines)
        + f'<polyline points="{points}" fill="none" stroke="#0b62a4" stroke-width="2"/>'
        f'<text x="{_LEFT + wide / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">step</text>'
        '<text x="14" y="190" text-anchor="middle" transform="rotate(-90 14 190)">'
        "mean reward</text></svg>\n",
        encoding="utf-8",
    )
