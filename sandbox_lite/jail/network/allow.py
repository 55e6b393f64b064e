"""What the caller names, and nothing else."""

from __future__ import annotations

from sandbox_lite.jail.network.mode import Mode

MODE = Mode(name="allow", summary="what was named, nothing else", rules=tuple)
