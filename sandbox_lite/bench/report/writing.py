"""Writes `report.html`, a list of all episodes, and a page of each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_lite.agent import trajectory as records
from sandbox_lite.bench.answer import MAX_BYTES
from sandbox_lite.bench.report import stored, tables
from sandbox_lite.bench.task import Answer, NoAnswer, Ungraded
from sandbox_lite.errors import TaskError
from sandbox_lite.pages import pictures, runs
from sandbox_lite.pages.site import document, framed
from sandbox_lite.pages.site import write as write_page
from sandbox_lite.pages.text import flat
from sandbox_lite.spec import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite.agent.trajectory import Trajectory
    from sandbox_lite.bench.episode import Episode, Json
    from sandbox_lite.bench.report.stored import Stored

REPORT = "report.html"
_PAGES = "pages"
_MOST_ROWS = 3000
"""Episodes in the summary itself, which stays below 5 MB; the list beside it holds all."""
_MOST_FAULTS = 200
_TRAJECTORY = re.compile(r"trajectories/([A-Za-z0-9_-]+/[A-Za-z0-9_.-]+)\.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An episode in the list."""

    row: str
    task: str
    mode: str
    repeat: int
    score: str
    good: bool
    stop: str
    turns: int
    tokens: str
    seconds: str
    page: str
    """Below the directory of pages."""


def write(directory: Path) -> Path:
    """Write the report of a directory anew; return where it is.

    Raises:
        TaskError: There is no finished benchmark, or it is damaged.
        HostError: It cannot be written.
    """
    found = stored.load(directory)
    listed = [_listed(one) for one in found.episodes]
    for one, entry in zip(found.episodes, listed, strict=True):
        write_page(directory / _PAGES / entry.page, _episode_page(found, one))
    title = f"{found.model}: all episodes"
    write_page(
        directory / _PAGES / "index.html",
        document("list.html", title=title, listed=listed, up=f"../{REPORT}"),
    )
    write_page(directory / REPORT, _summary(found, listed))
    return directory / REPORT


def _summary(found: Stored, listed: list[Listed]) -> str:
    results = found.results
    counts = results["counts"]
    faults = counts["fault_list"][:_MOST_FAULTS]
    scores = tables.scores(results)
    return document(
        "report.html",
        title=f"{found.model} with and without a computer",
        results=results,
        scores=scores,
        seconds=tables.SECONDS,
        rows=[("", one) for one in scores],
        tests=tables.tests(results),
        repeated=tables.repeated(results),
        plots=tables.plots(results),
        spoiled=_spoiled(found),
        counts=counts,
        # what failed is told in words that a server, and so a model, may have chosen
        faults=framed(
            "faults.html", title="faults", size="part",
            faults=[{**one, "message": flat(str(one["message"]))[:500]} for one in faults],
            left=len(counts["fault_list"]) - len(faults),
        ) if faults else "",
        ungraded=framed(
            "words.html", title="without a score", size="part",
            words=[(number, flat(reason)[:500])
                   for reason, number in list(counts["ungraded"].items())[:_MOST_FAULTS]],
        ) if counts["ungraded"] else "",
        throughput=_throughput(results.get("throughput")),
        experiment=_experiment(results),
        tasks=_tasks(results),
        enforced=_enforced(results.get("enforcement")),
        versions=tuple(results.get("versions", {}).items()),
        listed=listed[:_MOST_ROWS],
        left=max(0, len(listed) - _MOST_ROWS),
        pages=f"{_PAGES}/",
    )  # fmt: skip


def _listed(one: Episode) -> Listed:
    about = "about " if one.spent.estimated else ""
    return Listed(
        row=one.key.row[:120],
        task=one.key.task,
        mode=one.key.mode,
        repeat=one.key.repeat,
        score=_score(one),
        good=one.value is not None and one.value >= 1,
        stop=one.stop.replace("_", " "),
        turns=one.turns,
        tokens=f"{about}{one.spent.tokens:,}",
        seconds=f"{one.spent.total_seconds:.1f}",
        page=_page_name(one),
    )


def _page_name(one: Episode) -> str:
    """Return where its page is: like its trajectory, or by a digest where that has no name."""
    found = _TRAJECTORY.fullmatch(one.trajectory or "")
    if found is not None:
        return f"{found[1]}.html"
    digest = hashlib.sha256(repr(one.key).encode(errors="replace")).hexdigest()
    return f"other/{digest[:24]}.html"


def _score(one: Episode) -> str:
    if one.value is not None:
        return f"{one.value:.3g}"
    return "fault" if one.fault is not None else "ungraded"


def _episode_page(found: Stored, one: Episode) -> str:
    record, lacks = _record(found, one)
    spent = one.spent
    unknown = "unknown" if spent.estimated else f"{spent.environment_tokens:,}"
    facts: list[tuple[str, str]] = [
        ("task", one.key.task if one.domain == one.key.task else f"{one.key.task}, {one.domain}"),
        ("mode", f"{one.key.mode}, try {one.key.repeat}"),
        ("score", _score(one)),
        ("ended", one.stop.replace("_", " ")),
        ("turns", str(one.turns)),
        ("tokens", f"{spent.prompt_tokens:,} prompt, {spent.completion_tokens:,} completion"),
        ("of which environment", unknown),
        ("seconds", f"{spent.model_seconds:.1f} model, {spent.environment_seconds:.1f} sandbox, "
         f"{spent.startup_seconds:.2f} start-up, {one.waiting_seconds:.1f} waiting, "
         f"{one.grading_seconds:.1f} grading"),
        ("spoiled tries", str(len(one.faults))),
        ("written", one.ended),
    ]  # fmt: skip
    if record is not None and record.enforcement is not None:
        facts += runs.enforced(record.enforcement)
    body = runs.frame(
        record or _without_record(one, lacks), made=_made(found, one), verdict=_verdict(one)
    )
    return document(
        "episode.html", title=f"{one.key.row[:120]}", facts_=facts, frame=body,
        up=f"../../{REPORT}", lacks=lacks,
    )  # fmt: skip


def _record(found: Stored, one: Episode) -> tuple[Trajectory | None, str]:
    """Return the trajectory, or why there is none: one damaged file must not cost the report."""
    path = found.place(one.trajectory)
    if path is None:
        return None, "no trajectory is kept of this episode"
    try:
        return records.load(path), ""
    except TaskError as error:
        return None, error.message


def _without_record(one: Episode, lacks: str) -> Trajectory:
    text = one.answer.text if isinstance(one.answer, Answer) else None
    error = lacks if one.fault is None else one.fault.message
    return records.Trajectory(task="not kept", answer=text, error=error)


def _verdict(one: Episode) -> str:
    """Return what was graded, and how: graders repeat what a model wrote."""
    parts = []
    if isinstance(one.answer, Answer):
        parts.append(f"graded: {one.answer.text[:MAX_BYTES]}")
    elif isinstance(one.answer, NoAnswer):
        parts.append(f"no answer: {one.answer.reason}, {one.answer.text}")
    if isinstance(one.score, Ungraded):
        parts.append(f"ungraded: {one.score.reason}")
    elif one.score is not None:
        parts.append(f"{one.score.grader} ({one.score.scorer}): {one.score.verdict}")
        parts += [f"{name}: {value}" for name, value in one.score.details.items()]
    parts += [f"spoiled try: {fault.stop}, {fault.message}" for fault in one.faults]
    return "\n".join(flat(part[:20_000]) for part in parts)


def _made(found: Stored, one: Episode) -> tuple[tuple[str, str], ...]:
    kept: Any = one.to_json().get("artefact")
    path = found.place(kept.get("file")) if isinstance(kept, dict) else None
    shown = None if path is None else pictures.of_file(path)
    return () if path is None or shown is None else ((path.name, shown),)


def _spoiled(found: Stored) -> str:
    tries = sum(len(one.faults) for one in found.episodes)
    tokens = sum(fault.spent.tokens for one in found.episodes for fault in one.faults)
    return f"{tries} tries, {tokens:,} tokens"


def _throughput(told: Any) -> str:
    if not isinstance(told, dict):
        return ""
    return (
        f"{told['episodes_per_second']:.3g} episodes a second: "
        f"{told['episodes']} in {told['seconds']:.1f} s, of the last start"
    )


def _experiment(results: Json) -> tuple[tuple[str, str], ...]:
    experiment = results["experiment"]
    model, judge = experiment["model"], experiment["judge"]
    sandbox = experiment["sandbox"] or {}
    limits = ", ".join(
        f"{name} {'unbounded' if value is None else f'{value:,}'}"
        for name, value in experiment["limits"].items()
        if isinstance(value, (int, float)) or value is None
    )
    return (
        ("model", model["model"]),
        ("server", model["base_url"] or "OpenAI's server"),
        ("temperature", "the server's" if model["temperature"] is None
         else str(model["temperature"])),
        ("scorer", experiment["scorer"]),
        ("judge", "none" if judge is None else str(judge["model"])),
        ("tries of each problem", str(experiment["repeats"])),
        ("documents", experiment["context"]),
        ("tools taken away", ", ".join(experiment["without_tools"]) or "none"),
        ("limits of an episode", limits),
        ("rootfs", str(sandbox.get("rootfs", "no sandbox"))),
        ("network", str(sandbox.get("network", "no sandbox"))),
        ("seed", str(results["statistics"]["seed"])),
        ("started", str(results.get("started"))),
        *((("graded again from", str(results["regraded"])),) if "regraded" in results else ()),
    )  # fmt: skip


def _tasks(results: Json) -> list[Json]:
    tried = results["experiment"]["tasks"]
    return [
        {"name": name, "title": about.get("title", ""), "version": about["version"],
         "data": about["data"]["name"], "revision": about["data"]["revision"] or "a file",
         "rows": tried[name]["rows"], "digest": tried[name]["rows_digest"],
         "prompts": f"{about['prompts']} {tried[name]['prompts_digest']}"}
        for name, about in results["tasks"].items()
    ]  # fmt: skip


def _enforced(enforcement: Any) -> list[tuple[str, str]]:
    if not isinstance(enforcement, dict):
        return []
    plain = [
        (name, str(enforcement.get(name) or "none"))
        for name in ("rootfs", "upper", "network", "reachable", "user", "ids", "backend")
    ]
    plain.append(("seccomp", ", ".join(enforcement.get("seccomp") or ()) or "none"))
    for one in enforcement.get("limits") or ():
        held = f"{_bound(one)}, held by {one['by']} {one.get('detail', '')}"
        plain.append((f"limit {one['name']}", held.strip()))
    return plain


def _bound(limit: Json) -> str:
    name, value = limit["name"], limit["value"]
    if value is None:
        return "unbounded"
    if name in ("memory", "disk", "shm", "output"):
        return format_size(int(value))
    return f"{value:g} s" if name in ("timeout", "wall") else f"{value:g}"
