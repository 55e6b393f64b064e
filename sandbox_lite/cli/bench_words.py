"""What the words of `bench`'s flags stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from sandbox_lite.bench.prompt import Documents
from sandbox_lite.bench.task import Scorer
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.bench.task import Mode


def modes(name: str) -> tuple[Mode, ...]:
    """Return the modes that a word stands for."""
    known: dict[str, tuple[Mode, ...]] = {
        "sandbox": ("sandbox",), "plain": ("plain",), "both": ("sandbox", "plain"),
    }  # fmt: skip
    if name not in known:
        raise SpecError(f"no mode {name!r}", hint=f"one of: {', '.join(known)}")
    return known[name]


def documents(name: str) -> Documents:
    """Return where documents go."""
    return cast("Documents", _one_of(name, get_args(Documents), "--context"))


def prompts(name: str) -> Literal["ours", "paper"] | Path:
    """Return whose prompts a word names; another word is a directory."""
    known: dict[str, Literal["ours", "paper"]] = {"ours": "ours", "paper": "paper"}
    if name in known:
        return known[name]
    if not Path(name).is_dir():
        raise SpecError(f"no prompts {name!r}", hint="ours, paper, or a directory of your own")
    return Path(name)


def scorer(name: str) -> Scorer:
    """Return which scorer a word names."""
    return cast("Scorer", _one_of(name, get_args(Scorer), "--scorer"))


def _one_of(name: str, known: Sequence[str], flag: str) -> str:
    if name not in known:
        raise SpecError(f"{flag} {name!r} is not known", hint=f"one of: {', '.join(known)}")
    return name
