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
    from sandbox_lite.agent.aio import AsyncAgent
    from sandbox_lite.agent.loop import Agent
    from sandbox_lite.agent.model import AsyncModel, Model, ModelSettings
    from sandbox_lite.jail.aio import AsyncSandbox
    from sandbox_lite.jail.pool import Pool
    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.jail.snapshots import Snapshot

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AsyncAgent",
    "AsyncModel",
    "AsyncSandbox",
    "CommandResult",
    "Enforcement",
    "LimitState",
    "Limits",
    "Model",
    "ModelSettings",
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


_LAZY = {
    "Agent": "sandbox_lite.agent.loop",
    "AsyncAgent": "sandbox_lite.agent.aio",
    "AsyncModel": "sandbox_lite.agent.model",
    "AsyncSandbox": "sandbox_lite.jail.aio",
    "Model": "sandbox_lite.agent.model",
    "ModelSettings": "sandbox_lite.agent.model",
    "Pool": "sandbox_lite.jail.pool",
    "Sandbox": "sandbox_lite.jail.sandbox",
    "Snapshot": "sandbox_lite.jail.snapshots",
}


def __getattr__(name: str) -> object:
    """Import what starts sandboxes when it is asked for: whoever wants a type pays nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found: object = getattr(importlib.import_module(_LAZY[name]), name)
    return found
