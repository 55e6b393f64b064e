"""What this machine can do, probed with exactly the words that a sandbox is started with."""

from __future__ import annotations

from sandbox_lite.jail.host.blocked import Block, explain, identify
from sandbox_lite.jail.host.probe import copies, hidden, inner_bwrap, probed, upper_kind

__all__ = [
    "Block", "copies", "explain", "hidden", "identify", "inner_bwrap", "probed", "upper_kind",
]  # fmt: skip
