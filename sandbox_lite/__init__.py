"""A language model's own computer on any Linux machine: no Docker, no daemon, no root."""

from __future__ import annotations

from sandbox_lite.errors import SandboxLiteError
from sandbox_lite.spec import CommandResult, Enforcement, Limits, Mount, Outcome, SandboxSpec

__version__ = "0.1.0"

__all__ = [
    "CommandResult",
    "Enforcement",
    "Limits",
    "Mount",
    "Outcome",
    "SandboxLiteError",
    "SandboxSpec",
    "__version__",
]
