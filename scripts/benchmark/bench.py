"""What every measure is given."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from benchmark.samples import Notes


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How often, how many and how long."""

    rounds: int = 60
    large: int = 20
    """Starts of each kind of host."""
    outputs_mb: tuple[int, ...] = (100, 1000)
    outputs: int = 3
    parallel: tuple[int, ...] = (1, 4, 16, 64)
    rate_seconds: float = 4.0
    alive: int = 1000
    depths: tuple[int, ...] = (1, 16, 64)
    peer_seconds: float = 30.0
    """Of a peer's turns, all together."""


_DESCRIPTORS_EACH = 25
"""A sandbox takes up to 20, and a command 5 more."""
_DESCRIPTORS_BESIDE = 200

QUICK = Amounts(
    rounds=12, large=6, outputs_mb=(100,), outputs=1, parallel=(1, 16), rate_seconds=1.0,
    alive=100, depths=(1,), peer_seconds=0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of the bench."""

    rootfs: str
    tree: Path
    amounts: Amounts
    notes: Notes
    trainer: str = ""
    """An interpreter that has TRL; empty where nothing is to be trained."""
    warming: bool = False
    """What is noted will be thrown away."""
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def most(self) -> int:
        """Return how many sandboxes descriptors can be had for."""
        free = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _DESCRIPTORS_BESIDE
        return max(1, free // _DESCRIPTORS_EACH)

    def room(self, wanted: int, *, programs: int = 1) -> int:
        """Return so many, or as many sandboxes as so many programs can have descriptors for."""
        found = min(wanted, programs * self.most())
        if found < wanted:
            self.notes.skip(f"{wanted} at once", f"there are descriptors for {found} (ulimit -Hn)")
        return found
