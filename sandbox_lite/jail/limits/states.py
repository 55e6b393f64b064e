"""What is asked of a rung, how each limit is held there, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sandbox_lite.errors import HostError
from sandbox_lite.jail.limits.backend import Ask
from sandbox_lite.spec import LimitState, format_size

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sandbox_lite.jail.limits.backend import Probe
    from sandbox_lite.spec import LimitName, Limits, Mount, SandboxSpec

UpperKind = Literal["tmpfs", "directory", "copy"]


def ask(
    limits: Limits, upper: UpperKind, mounts: Sequence[Mount], *, several_ids: bool = False
) -> Ask:
    """Return what the rung is to hold: pages of a tmpfs are memory to the kernel."""
    stored = [limits.shm_bytes, *(one.size_bytes for one in mounts if one.mode == "tmpfs")]
    if upper == "tmpfs":
        stored.append(limits.disk_bytes)
    parts = [size for size in (limits.memory_bytes, *stored) if size is not None]
    whole = len(parts) == 1 + len(stored)
    return Ask(
        memory_bytes=sum(parts) if whole else None,
        pids=limits.pids,
        cpus=limits.cpus,
        several_ids=several_ids,
    )


def states(
    limits: Limits, holds: Collection[LimitName], upper: UpperKind, asked: Ask
) -> tuple[LimitState, ...]:
    """Return how each limit is held."""
    kernel_memory = "memory" in holds and asked.memory_bytes is not None
    memory = "the memory of all processes, looked at again and again"
    if kernel_memory:
        total = format_size(asked.memory_bytes or 0)
        memory = f"memory, disk and /dev/shm together are held to {total} by the kernel"
    disk = "a tmpfs" if upper == "tmpfs" else "a directory, measured by walking it"
    found = (
        LimitState(name="memory", value=limits.memory_bytes, by="sampling", detail=memory),
        LimitState(
            name="cpus", value=limits.cpus, by="kernel" if "cpus" in holds else "none",
            detail="" if "cpus" in holds else "it takes a control group with the controller cpu",
        ),
        LimitState(
            name="pids", value=limits.pids, by="kernel" if "pids" in holds else "sampling",
            detail="" if "pids" in holds else "processes can fork faster than anybody looks",
        ),
        LimitState(
            name="disk", value=limits.disk_bytes, detail=disk,
            by="kernel" if upper == "tmpfs" else "sampling",
        ),
        LimitState(name="shm", value=limits.shm_bytes, by="kernel"),
        LimitState(
            name="timeout", value=limits.timeout_seconds, by="sampling",
            detail="SIGINT, SIGTERM, SIGKILL at the deadline",
        ),
        LimitState(
            name="wall", value=limits.wall_seconds, by="sampling",
            detail="process 1 is killed at the deadline",
        ),
        LimitState(
            name="output", value=limits.output_bytes, by="sampling", detail="cut as it is read"
        ),
    )  # fmt: skip
    return tuple(
        state if state.value is not None else LimitState(name=state.name, value=None, by="none")
        for state in found
    )


def check(spec: SandboxSpec, found: Collection[LimitState], probe: Probe, refused: str) -> None:
    """Refuse a sandbox of which a limit that was named is not held.

    Args:
        spec: What was asked for.
        found: How each limit is held.
        probe: Of the rung that was chosen.
        refused: What would help to reach a firmer one.

    Raises:
        HostError: One is not held, and `allow_weaker` does not name it.
    """
    for state in found:
        wanted = state.name in spec.limits.named and state.value is not None
        # Samples alone do not stop a fork storm, and the host would stand still: that is no default
        # to weaken to.
        storm = state.name == "pids" and state.by == "sampling"
        if (storm or (wanted and state.by == "none")) and state.name not in spec.allow_weaker:
            raise HostError(
                f"the limit {state.name} cannot be held here: {state.detail} ({probe.detail})",
                hint=f"leave it out, or allow less by name: allow_weaker={{{state.name!r}}}"
                + (f"; to have it: {refused}" if refused else ""),
            )
