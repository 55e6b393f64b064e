"""Every public host on the ports of the web."""

from __future__ import annotations

from sandbox_lite.jail.egress.rules import Rule
from sandbox_lite.jail.network.mode import Mode

MODE = Mode(
    name="web",
    summary="every public host by HTTP and HTTPS; nothing of this host or its own network",
    rules=lambda: (Rule(host="*"),),
)
