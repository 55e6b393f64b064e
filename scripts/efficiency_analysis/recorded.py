"""Recorded runs, from a folder of the user's; none is shipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.agent import trajectory as records
from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandbox_lite.agent.trajectory import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One run that is replayed."""

    name: str
    trajectory: Trajectory
    inputs: Mapping[str, bytes]
    """By the path below the input directory."""


def load(folder: Path, only: tuple[str, ...] = ()) -> tuple[Recorded, ...]:
    """Return the runs of a folder: `NAME.json` as published, `NAME.jsonl` as ours are written.

    The files of `NAME_input` are what a run was given.

    Raises:
        TaskError: There is none, or one that is named is not there.
    """
    found = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.jsonl")]):
        if only and path.stem not in only:
            continue
        record = records.load(path)
        if not record.seconds.model:
            raise TaskError(f"{path} does not tell how long the model took")
        inputs = folder / f"{path.stem}_input"
        files = sorted(one for one in inputs.rglob("*") if one.is_file())
        found.append(
            Recorded(
                name=path.stem,
                trajectory=record,
                inputs={str(one.relative_to(inputs)): one.read_bytes() for one in files},
            )
        )
    lacking = set(only) - {one.name for one in found}
    if lacking or not found:
        what = f"no run {sorted(lacking)[0]!r}" if lacking else "no recorded run"
        raise TaskError(f"{folder} holds {what}", hint="name a folder of NAME.json or NAME.jsonl")
    return tuple(found)
