"""No network: a namespace of its own, in which loopback is up."""

from __future__ import annotations

from sandbox_lite.jail.network.mode import Mode

MODE = Mode(name="none", summary="no network; servers and clients inside meet on loopback")
