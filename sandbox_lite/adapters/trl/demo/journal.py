"""What a training came to, step by step: a line for each, and some rollouts as trajectories."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from sandbox_lite.agent.trajectory import TrajectoryWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox_lite.adapters.trl.rollouts import Ended

STEPS = "steps.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step of training."""

    step: int
    reward: float
    """Mean of what is known."""
    rollouts: int
    masked: int
    """Rollouts whose sandbox failed: neither rewarded nor punished."""
    overlong: int
    """Rollouts that met a limit."""
    groups: int
    flat_groups: int
    """Groups whose rewards are all the same, from which nothing is learned."""
    seconds: float
    """Of the whole step."""
    waited_seconds: float
    """Of it, that the trainer spent in environments."""


class Journal:
    """Takes ended rollouts, and closes a step when the trainer says so.

    Args:
        directory: Gets `steps.jsonl` and `trajectories/`.
        every: Of how many steps one has a rollout of each reward written down.
    """

    def __init__(self, directory: Path, *, every: int) -> None:
        self.directory = directory
        self.records: list[StepRecord] = []
        self._every = every
        self._ended: list[Ended] = []
        directory.mkdir(parents=True, exist_ok=True)
        (directory / STEPS).write_text("")

    def ended(self, rollout: Ended) -> None:
        """Take one that is over."""
        self._ended.append(rollout)

    def close_step(self, *, seconds: float, waited_seconds: float) -> StepRecord:
        """Return what the rollouts since the last step come to."""
        ended, self._ended = sorted(self._ended, key=lambda one: one.number), []
        step = len(self.records) + 1
        known = [one.reward for one in ended if one.reward is not None]
        groups: defaultdict[str, list[float | None]] = defaultdict(list)
        for one in ended:
            groups[one.row.id].append(one.reward)
        record = StepRecord(
            step=step,
            reward=fmean(known) if known else 0.0,
            rollouts=len(ended),
            masked=sum(one.reward is None for one in ended),
            overlong=sum(one.info is not None and one.info.overlong for one in ended),
            groups=len(groups),
            flat_groups=sum(len({*rewards} - {None}) < 2 for rewards in groups.values()),
            seconds=seconds,
            waited_seconds=waited_seconds,
        )
        self.records.append(record)
        with (self.directory / STEPS).open("a") as file:
            file.write(json.dumps(dataclasses.asdict(record)) + "\n")
        if step == 1 or step % self._every == 0:
            self._sample(step, ended)
        return record

    def _sample(self, step: int, ended: Sequence[Ended]) -> None:
        for reward in sorted({one.reward for one in ended if one.reward is not None}):
            one = next(one for one in ended if one.reward == reward)
            if one.trajectory is None:
                continue
            path = self.directory / "trajectories" / f"step-{step:04d}-reward-{reward:g}.jsonl"
            with TrajectoryWriter(path) as writer:
                writer.begin(one.trajectory)
                for said in one.trajectory.steps:
                    writer.step(said)
                writer.end(one.trajectory)
