"""A directory of results as its report reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench.ledger import RESULTS, load_episodes, load_header
from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from sandbox_lite.bench.episode import Episode, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a directory holds."""

    directory: Path
    results: Json
    episodes: tuple[Episode, ...]

    @property
    def model(self) -> str:
        """Whose scores they are."""
        return str(self.results["experiment"]["model"]["model"])

    def place(self, name: str | None) -> Path | None:
        """Return a file of an episode; None where it is not there, or outside.

        What was graded again lies where it was tried.
        """
        if name is None:
            return None
        origin = self.results.get("regraded")
        for base in (self.directory, *([Path(origin)] if origin else [])):
            path = base / name
            if path.is_file() and path.resolve().is_relative_to(base.resolve()):
                return path
        return None


def load(directory: Path) -> Stored:
    """Return what a directory holds.

    Raises:
        TaskError: There is no finished benchmark, or it is damaged.
    """
    load_header(directory)
    path = directory / RESULTS
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        for name in ("experiment", "statistics", "spent", "counts", "tasks"):
            if not isinstance(found[name], dict):
                raise TypeError(f"{name} is no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(
            f"{path} is no result of a benchmark: {error}",
            hint="start the bench again with this --out: it does what is left and writes it",
        ) from error
    episodes = sorted(
        load_episodes(directory).values(),
        key=lambda one: (one.key.task, one.key.row, one.key.mode, one.key.repeat),
    )
    return Stored(directory=directory, results=found, episodes=tuple(episodes))
