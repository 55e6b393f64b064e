"""A language model's own computer on any Linux machine: no Docker, no daemon, no root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.errors import SandboxLiteError
from sandbox_lite.spec import (
    CommandResult,
    Enforcement,
    Limits,
    LimitState,
    Mount,
    Outcome,
    SandboxSpec,
    SandboxStats,
    Usage,
)

if TYPE_CHECKING:
    from sandbox_lite.jail.aio import AsyncSandbox
    from sandbox_lite.jail.pool import Pool
    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.jail.snapshots import Snapshot

__version__ = "0.1.0"

__all__ = [
    "AsyncSandbox",
    "CommandResult",
    "Enforcement",
    "LimitState",
    "Limits",
    "Mount",
    "Outcome",
    "Pool",
    "Sandbox",
    "SandboxLiteError",
    "SandboxSpec",
    "SandboxStats",
    "Snapshot",
    "Usage",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import what starts sandboxes when it is asked for: whoever wants a type pays nothing."""
    if name == "AsyncSandbox":
        from sandbox_lite.jail.aio import AsyncSandbox

        return AsyncSandbox
    if name == "Pool":
        from sandbox_lite.jail.pool import Pool

        return Pool
    if name == "Sandbox":
        from sandbox_lite.jail.sandbox import Sandbox

        return Sandbox
    if name == "Snapshot":
        from sandbox_lite.jail.snapshots import Snapshot

        return Snapshot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
