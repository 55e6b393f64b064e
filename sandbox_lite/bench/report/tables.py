"""What the report says, as rows and plots: scores, tests, tokens, seconds, tools, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_lite.pages import charts
from sandbox_lite.spec import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markupsafe import Markup

    from sandbox_lite.bench.episode import Json

UNKNOWN = "unknown"
SECONDS = ("model", "environment", "startup", "grading", "waiting")
TOOLS = ("network", "files", "computation", "other")
_COLOURS = {"sandbox": 0, "plain": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One task in one mode."""

    task: str
    mode: str
    mean: str
    interval: str
    problems: int
    episodes: int
    turns: str
    """Of one episode."""
    prompt: str
    completion: str
    environment: str
    seconds: str
    """Of one episode, from start to end."""
    parts: tuple[str, ...]
    """Seconds of one episode, as `SECONDS` names them."""
    cost: str
    tools: str
    memory: str
    disk: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """Sandbox against plain on one task."""

    task: str
    difference: str
    p_value: str
    adjusted: str
    method: str
    better: int
    worse: int
    unpaired: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """Several tries of each problem."""

    task: str
    mode: str
    tries: int
    pass_at: str
    all_right: str
    agreement: str


def _groups(results: Json) -> Iterator[tuple[str, str, Json, Json | None]]:
    """Yield task, mode, what was spent, and the interval of its mean where it has a score."""
    domains = results["statistics"]["domains"]
    for task, modes in results["spent"].items():
        for mode, spent in modes.items():
            yield task, mode, spent, domains.get(task, {}).get("modes", {}).get(mode)


def scores(results: Json) -> tuple[Score, ...]:
    """Return a row for each task and mode."""
    return tuple(
        Score(
            task=task,
            mode=mode,
            mean=UNKNOWN if one is None else f"{one['mean']:.3f}",
            interval="" if one is None else interval(one),
            problems=0 if one is None else one["problems"],
            episodes=spent["episodes"],
            turns=_each(spent["turns"], spent["episodes"]),
            prompt=_count(spent["tokens"]["prompt"]),
            completion=_count(spent["tokens"]["completion"]),
            environment=_count(spent["tokens"]["environment"]),
            seconds=_each(spent["seconds"]["total"], spent["episodes"]),
            parts=tuple(
                f"{spent['seconds'][name] / max(1, spent['episodes']):,.2f}" for name in SECONDS
            ),
            cost=_cost(spent.get("cost"), results.get("price")),
            tools=_tools(tool_use(results, task, mode)),
            memory=_size(spent.get("memory_bytes")),
            disk=_size(spent.get("disk_bytes")),
        )
        for task, mode, spent, one in _groups(results)
    )


def tests(results: Json) -> tuple[Test, ...]:
    """Return a row for each task that was tried in both modes."""
    found = []
    for task, domain in results["statistics"]["domains"].items():
        one = domain["comparison"]
        if one is not None:
            found.append(
                Test(
                    task=task,
                    difference=f"{one['difference']['mean']:+.3f} "
                    f"{interval(one['difference'], sign='+')}".strip(),
                    p_value=f"{one['p_value']:.3g}",
                    adjusted=f"{domain['adjusted_p_value']:.3g}",
                    method=one["method"] + ("" if one["exact"] else ", drawn"),
                    better=one["better"],
                    worse=one["worse"],
                    unpaired=one["unpaired"],
                )
            )
    return tuple(found)


def repeated(results: Json) -> tuple[Repeated, ...]:
    """Return a row for each task and mode that was tried more than once."""
    return tuple(
        Repeated(
            task=task,
            mode=mode,
            tries=one["tries"],
            pass_at=", ".join(f"@{k} {value:.3f}" for k, value in one["pass_at"].items()),
            all_right=f"{one['all_right']:.3f}",
            agreement=UNKNOWN if one["agreement"] is None else f"{one['agreement']:.3f}",
        )
        for task, domain in results["statistics"]["domains"].items()
        for mode, one in domain["repeats"].items()
        if one["tries"] > 1
    )


def plots(results: Json) -> tuple[Markup | str, ...]:
    """Return the plots; one of which nothing is known is empty."""
    groups = list(_groups(results))
    means = [
        span(f"{task}, {mode}", one, _COLOURS.get(mode, 2))
        for task, mode, _, one in groups
        if one is not None
    ]
    differences = [
        span(task, domain["comparison"]["difference"], 2)
        for task, domain in results["statistics"]["domains"].items()
        if domain["comparison"] is not None
    ]
    return (
        charts.intervals(means, low=0, high=1, title="Mean score, with its 95 % interval"),
        charts.intervals(differences, low=-1, high=1, title="Sandbox less plain, by problem"),
        charts.bars(
            [_token_bar(f"{task}, {mode}", spent) for task, mode, spent, _ in groups],
            ("prompt, written by us or by the model", "prompt, written by the sandbox",
             "completion"),
            title="Tokens of one episode", unit="tokens",
        ),
        charts.bars(
            [_bar(f"{task}, {mode}", spent["seconds"], SECONDS, spent["episodes"])
             for task, mode, spent, _ in groups],
            SECONDS, title="Seconds of one episode", unit="s",
        ),
        charts.bars(
            [_tool_bar(f"{task}, {mode}", use, spent["episodes"])
             for task, mode, spent, _ in groups
             if (use := tool_use(results, task, mode)) is not None],
            TOOLS, title="What tools were used for in one episode", unit="uses",
        ),
    )  # fmt: skip


def tool_use(results: Json, task: str, mode: str) -> Json | None:
    """Return the counts by kind; None where nobody counted, or there are no tools."""
    found = results["spent"].get(task, {}).get(mode, {}).get("tool_use")
    return found if isinstance(found, dict) and any(found.values()) else None


def span(label: str, one: Json, colour: int) -> charts.Span:
    """Return a mean with its interval as plots have it."""
    return charts.Span(
        label=label, mean=one["mean"], low=one["low"], high=one["high"], colour=colour,
        note=f"{one['problems']} problems",
    )  # fmt: skip


def interval(one: Json, *, sign: str = "") -> str:
    """Return the bounds in brackets; nothing where one problem has none."""
    if one["low"] is None:
        return ""
    return f"[{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"


def _token_bar(label: str, spent: Json) -> charts.Bar:
    tokens, episodes = spent["tokens"], max(1, spent["episodes"])
    environment = tokens["environment"]
    known = environment if isinstance(environment, int) else 0
    parts = (tokens["prompt"] - known, known, tokens["completion"])
    total = charts.short((tokens["prompt"] + tokens["completion"]) / episodes)
    note = f"{total} tokens" + ("" if isinstance(environment, int) else ", parts unknown")
    return charts.Bar(label=label, parts=tuple(part / episodes for part in parts), note=note)


def _bar(label: str, values: Json, names: tuple[str, ...], episodes: int) -> charts.Bar:
    parts = charts.by_name(values, names)
    each = max(1, episodes)
    return charts.Bar(label=label, parts=tuple(one and one / each for one in parts))


def _tool_bar(label: str, use: Json, episodes: int) -> charts.Bar:
    """Return a bar by kind; one call may be of several, so their sum is not the calls."""
    note = f"{use['calls'] / max(1, episodes):.3g} calls" if use.get("calls") else ""
    return charts.Bar(label=label, parts=_bar(label, use, TOOLS, episodes).parts, note=note)


def _each(total: float, episodes: int) -> str:
    return UNKNOWN if not episodes else f"{total / episodes:,.1f}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else UNKNOWN


def _cost(value: Any, price: Any) -> str:
    if not isinstance(value, (int, float)):
        return UNKNOWN
    currency = price.get("currency", "") if isinstance(price, dict) else ""
    return f"{value:,.4g} {currency}".strip()


def _size(value: Any) -> str:
    if not isinstance(value, dict):
        return UNKNOWN
    return f"{format_size(int(value['mean']))}, at most {format_size(int(value['most']))}"


def _tools(use: Json | None) -> str:
    return UNKNOWN if use is None else ", ".join(f"{use.get(name, 0)} {name}" for name in TOOLS)
