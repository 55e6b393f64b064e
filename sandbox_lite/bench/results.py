"""`results.json`: what all finished episodes say together."""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from statistics import fmean
from typing import TYPE_CHECKING

import sandbox_lite
from sandbox_lite.bench import statistics
from sandbox_lite.bench.task import Ungraded
from sandbox_lite.bench.tool_use import ToolUse
from sandbox_lite.bench.trial import GRADING_FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandbox_lite.bench.episode import Episode, Json
    from sandbox_lite.bench.prices import Price

MOST_FAULTS = 0.05
"""Share of episodes that may end in a fault of the server or the machine."""

UNKNOWN = "unknown"

_PACKAGES = (
    "openai", "math-verify", "sympy", "latex2sympy2-extended", "rouge-score", "numpy", "scipy",
    "pyarrow", "ifbench", "llm-in-sandbox",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of what shapes a score, of packages that are installed."""
    found = {"sandbox-lite": sandbox_lite.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def results(
    header: Json,
    episodes: Iterable[Episode],
    *,
    left: int = 0,
    seed: int = 0,
    price: Price | None = None,
    throughput: Json | None = None,
) -> Json:
    """Return all that `results.json` holds.

    Args:
        header: What `run.json` holds.
        episodes: The last line of each.
        left: Episodes that were not tried yet.
        seed: Of every random draw.
        price: Of the model's tokens; None leaves every cost unknown.
        throughput: See `throughput`; None where nothing was rolled out.

    Raises:
        HostError: scipy lacks.
    """
    every = sorted(
        episodes, key=lambda one: (one.key.task, one.key.row, one.key.mode, one.key.repeat)
    )
    tries = [
        statistics.Try(domain=one.key.task, mode=one.key.mode, problem=one.problem, value=one.value)
        for one in every
        if one.value is not None
    ]
    summary = statistics.summarize(tries, seed=seed)
    groups: dict[str, dict[str, list[Episode]]] = {}
    for one in every:
        groups.setdefault(one.key.task, {}).setdefault(one.key.mode, []).append(one)
    return {
        **{name: value for name, value in header.items() if name != "started"},
        "started": header.get("started"),
        "versions": versions(),
        "complete": left == 0 and not any(one.fault for one in every),
        "left": left,
        "statistics": dataclasses.asdict(summary),
        "score": headline(summary),
        "spent": {
            task: {mode: _spent(some, price) for mode, some in modes.items()}
            for task, modes in groups.items()
        },
        "price": None if price is None else dataclasses.asdict(price),
        "throughput": throughput,
        "counts": counts(every),
    }


def headline(summary: statistics.Summary) -> dict[str, float]:
    """Return the mean over tasks, by mode."""
    means: dict[str, list[float]] = {}
    for domain in summary.domains.values():
        for mode, interval in domain.modes.items():
            means.setdefault(mode, []).append(interval.mean)
    return {mode: fmean(values) for mode, values in means.items()}


def counts(episodes: Sequence[Episode]) -> Json:
    """Return how episodes ended."""
    ungraded = [one.score for one in episodes if isinstance(one.score, Ungraded)]
    failed = sum(one.reason.startswith(GRADING_FAILED) for one in ungraded)
    faults = [one for one in episodes if one.fault is not None]
    return {
        "episodes": len(episodes),
        "graded": sum(one.value is not None for one in episodes),
        "ungraded": _tally(one.reason for one in ungraded),
        "stops": _tally(one.stop for one in episodes),
        "faults": len(faults),
        "fault_share": (len(faults) + failed) / len(episodes) if episodes else 0.0,
        "fault_list": [
            {**dataclasses.asdict(one.key), "stop": one.stop,
             "message": one.fault.message, "hint": one.fault.hint}
            for one in faults if one.fault is not None
        ],
        "retried": _tally(fault.stop for one in episodes for fault in one.faults),
    }  # fmt: skip


def _tally(names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def throughput(episodes: int, seconds: float) -> Json:
    """Return how fast one start was: a second start counts for itself."""
    rate = episodes / seconds if seconds > 0 else 0.0
    return {"episodes": episodes, "seconds": seconds, "episodes_per_second": rate}


def _spent(episodes: Sequence[Episode], price: Price | None) -> Mapping[str, object]:
    """Return sums over the tries that count; what spoiled tries took stands beside them."""
    counted = [one for one in episodes if one.fault is None]
    unknown = any(one.spent.estimated for one in counted)
    return {
        "episodes": len(counted),
        "turns": sum(one.turns for one in counted),
        "tokens": {
            "prompt": sum(one.spent.prompt_tokens for one in counted),
            "completion": sum(one.spent.completion_tokens for one in counted),
            "environment": (
                UNKNOWN if unknown else sum(one.spent.environment_tokens for one in counted)
            ),
            "estimated": unknown,
            "spoiled": sum(fault.spent.tokens for one in episodes for fault in one.faults),
        },
        "seconds": {
            "model": sum(one.spent.model_seconds for one in counted),
            "environment": sum(one.spent.environment_seconds for one in counted),
            "startup": sum(one.spent.startup_seconds for one in counted),
            "grading": sum(one.grading_seconds for one in counted),
            "waiting": sum(one.waiting_seconds for one in counted),
            "total": sum(one.spent.total_seconds for one in counted),
        },
        # of spoiled tries as well: they are billed
        "cost": UNKNOWN if price is None else sum(price.of_episode(one) for one in episodes),
        "tool_use": _tool_use(counted),
        "memory_bytes": _sizes([one.spent.peak_memory_bytes for one in counted]),
        "disk_bytes": _sizes([one.spent.disk_bytes for one in counted]),
    }


def _tool_use(episodes: Sequence[Episode]) -> Json | str:
    """Return sums; unknown where an older version wrote one of the lines."""
    used = [one.tool_use for one in episodes if one.key.mode == "sandbox"]
    known = [one for one in used if one is not None]
    if len(known) != len(used):
        return UNKNOWN
    return dataclasses.asdict(sum(known, start=ToolUse()))


def _sizes(sizes: Sequence[int | None]) -> Json | str:
    """Return the sizes of sandboxes: the mean and the greatest of those that are known."""
    known = [size for size in sizes if size is not None]
    if not known:
        return UNKNOWN
    return {"mean": fmean(known), "most": max(known), "sandboxes": len(known)}
