"""What all episodes of a run have in common: frozen, and nothing in it is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_lite.agent.model import ModelSettings
    from sandbox_lite.bench.grading import GradingSettings
    from sandbox_lite.bench.plan import Planned
    from sandbox_lite.bench.rollout import Computers
    from sandbox_lite.bench.trial import Pace
    from sandbox_lite.spec import Enforcement


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a machine needs for episodes, beside the episode."""

    model: ModelSettings
    """With its key."""
    computers: Computers | None
    """None where no episode is in sandbox mode."""
    enforced: Enforcement | None
    """Of a sandbox on this machine; those of another must have the same root file system."""
    grading: GradingSettings
    pace: Pace
    plan: tuple[Planned, ...]
