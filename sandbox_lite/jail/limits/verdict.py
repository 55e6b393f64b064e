"""Pure: from what was counted while a command ran to how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.spec import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection

    from sandbox_lite.jail.limits.backend import Counters
    from sandbox_lite.spec import LimitName

_OUTCOMES: tuple[tuple[LimitName, Outcome], ...] = (
    ("memory", Outcome.OUT_OF_MEMORY),
    ("disk", Outcome.DISK_FULL),
    ("shm", Outcome.DISK_FULL),
    ("pids", Outcome.PIDS_LIMIT),
)
"""In the order in which they are named, where a command met several."""


def hit(before: Counters, after: Counters) -> tuple[LimitName, ...]:
    """Return the limits that were reached in between."""
    found: list[LimitName] = []
    if after.out_of_memory > before.out_of_memory:
        found.append("memory")
    if after.disk_filled > before.disk_filled:
        found.append("disk")
    if after.shm_filled > before.shm_filled:
        found.append("shm")
    if after.pids_refused > before.pids_refused:
        found.append("pids")
    return tuple(found)


def outcome(ended: Outcome, exit_code: int, limits_hit: Collection[LimitName]) -> Outcome:
    """Return how a command ended.

    One that ended well did so whatever it met on its way; one that ran out of time had not ended.
    """
    if ended is Outcome.TIMED_OUT or exit_code == 0:
        return ended
    return next((verdict for name, verdict in _OUTCOMES if name in limits_hit), ended)
