"""What tokens cost: by the user's own file and nothing else, since prices change and we know none.

The file is TOML or JSON: a table `models` with, for each model, what a million tokens of `prompt`
and of `completion` cost, and as far as wanted a `currency`.
"""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite.bench.episode import Episode, Spent

_SHAPE = '[models."NAME"] with prompt = X and completion = Y, for a million tokens each'
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one model's tokens cost."""

    prompt: float
    """For a million tokens, as for the next."""
    completion: float
    currency: str = ""
    """For people; nothing is converted."""

    def __post_init__(self) -> None:
        for name, value in (("prompt", self.prompt), ("completion", self.completion)):
            if not math.isfinite(value) or value < 0:
                raise SpecError(f"the price of {name} must be a number from 0, not {value!r}")

    def of(self, spent: Spent) -> float:
        """Return the cost of one try, in `currency`."""
        return (
            spent.prompt_tokens * self.prompt + spent.completion_tokens * self.completion
        ) / _MILLION

    def of_episode(self, episode: Episode) -> float:
        """Return the cost of all its tries, the spoiled ones too: they are billed as well."""
        tries = [fault.spent for fault in episode.faults]
        if episode.fault is None:
            tries.append(episode.spent)
        return sum(self.of(one) for one in tries)


def load(path: Path, model: str) -> Price:
    """Return what a model's tokens cost, by a file of the user's.

    Raises:
        SpecError: The file cannot be read, is none of prices, or does not know the model.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the prices {path}: {error}", hint="check --prices") from error
    try:
        data: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        models = data["models"]
        known = {str(name): dict(entry) for name, entry in models.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path} holds no prices: {error}", hint=f"write {_SHAPE}") from error
    if model not in known:
        names = ", ".join(sorted(known)) or "nothing"
        raise SpecError(f"{path} has no price of {model!r}, but of {names}", hint=f"add {_SHAPE}")
    entry: dict[str, Any] = {"currency": str(data.get("currency", ""))} | known[model]
    try:
        return Price(**entry)
    except TypeError as error:
        raise SpecError(
            f"the price of {model!r} in {path} makes no sense: {error}", hint=f"write {_SHAPE}"
        ) from error
