"""A page of one run, or of several side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.agent import trajectory as records
from sandbox_lite.errors import TaskError
from sandbox_lite.pages import pictures
from sandbox_lite.pages.site import document, framed
from sandbox_lite.pages.steps import viewed
from sandbox_lite.pages.text import PAGE_CHARACTERS, Room

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from markupsafe import Markup

    from sandbox_lite.agent.trajectory import Trajectory
    from sandbox_lite.spec import Enforcement

Facts = tuple[tuple[str, str], ...]
"""Name and value, which the sandbox or we know: no model wrote them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A recorded run, with what it left."""

    name: str
    record: Trajectory
    pictures: tuple[tuple[str, str], ...] = ()


def load(place: Path) -> Run:
    """Return the run of a directory, or of a trajectory's file.

    Raises:
        TaskError: There is none.
    """
    path = place / "trajectory.jsonl" if place.is_dir() else place
    record = records.load(path)
    made = pictures.below(path.parent / "files") if path.name == "trajectory.jsonl" else ()
    shown = path.parent.name if path.name == "trajectory.jsonl" else path.stem
    return Run(name=shown, record=record, pictures=made)


def page(runs: Sequence[Run]) -> str:
    """Return the page of some runs, beside each other.

    Raises:
        TaskError: There are none.
    """
    if not runs:
        raise TaskError("no run is named", hint="name the directory of a run")
    share = PAGE_CHARACTERS // len(runs)
    return document(
        "runs.html",
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        runs=[
            {"name": one.name, "facts": facts(one.record),
             "frame": frame(one.record, made=one.pictures, characters=share)}
            for one in runs
        ],
    )  # fmt: skip


def frame(
    record: Trajectory,
    *,
    made: tuple[tuple[str, str], ...] = (),
    characters: int = PAGE_CHARACTERS,
    verdict: str | None = None,
) -> Markup:
    """Return the frame that shows all a model did in one run."""
    view = viewed(record, made=made, room=Room(characters))
    return framed("steps.html", title="what the model did", size="page", run=view, verdict=verdict)


def facts(record: Trajectory) -> Facts:
    """Return what is known of a run beside what its model made."""
    tokens, seconds = record.tokens, record.seconds
    about = "about " if tokens.estimated else ""
    found = [
        ("model", record.model or "not recorded"),
        ("ended", "cut off" if record.stop is None else record.stop.value.replace("_", " ")),
        ("steps", f"{len(record.steps)}"),
        ("tokens", f"{about}{tokens.prompt:,} prompt, {tokens.completion:,} completion"),
        ("of which environment", "unknown" if tokens.estimated else f"{tokens.environment:,}"),
        ("seconds", f"{seconds.model:.1f} model, {seconds.environment:.1f} sandbox"),
    ]
    if record.started:
        found.append(("started", record.started))
    if record.enforcement is not None:
        found += enforced(record.enforcement)
    return tuple(found)


def _short(rootfs: str) -> str:
    name, _, digest = rootfs.partition(" ")
    return f"{name} {digest[:19]}".strip()


def enforced(enforcement: Enforcement) -> Facts:
    """Return what was in force."""
    limits = ", ".join(f"{one.name}: {one.by}" for one in enforcement.limits)
    return (
        ("rootfs", _short(enforcement.rootfs)),
        ("network", enforcement.network),
        ("user", f"{enforcement.user}, ids {enforcement.ids}"),
        ("limits held by", limits or "not recorded"),
    )
