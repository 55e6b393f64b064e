"""What was found on a machine."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sandbox_lite.spec import LimitState

Verdict = Literal["ok", "failed", "lacking"]
"""`lacking`: sandboxes do without, or one more is to be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str
    hint: str = ""
    """The narrow remedy, or what would be firmer, in one line."""
    layer: str = ""
    """Which layer of the host blocks, as in the table of `jail/host/blocked.py`."""
    paste: str = ""
    """The remedy as commands for a shell, where it can be said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What a program in a sandbox is held by, as the kernel says in its /proc/self/status."""

    user: str
    filters: tuple[str, ...]
    """System call filters that were loaded for it."""
    filters_in_force: int
    """How many the kernel counts, without those that were on us already."""
    capabilities: tuple[str, ...]
    """Effective, over its own user namespace."""
    bounding: tuple[str, ...]
    """The most that it could ever have there."""
    no_new_privileges: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network mode."""

    mode: str
    ok: bool
    detail: str
    """What it lets through, or why it cannot be had."""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weaker:
    """A weaker rung that this host offers; nobody is put on it who does not name it."""

    lacks: str
    option: str
    """For the command line."""
    argument: str
    """For Python."""
    detail: str
    """What is weaker then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was found."""

    checks: tuple[Check, ...]
    architecture: str = field(default_factory=platform.machine)
    upper: str | None = None
    """Where a sandbox's writes go by default: `tmpfs` or `directory`; with `copy`, weaker."""
    backend: str | None = None
    """Who holds the limits: `cgroup2`, `cgroup1` or `sampling`."""
    limits: tuple[LimitState, ...] = ()
    """How each default would be held, and cpus if it were named."""
    inside: tuple[Inside, ...] = ()
    network: tuple[Network, ...] = ()
    weaker: tuple[Weaker, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: all works as it is by default; 1: not all, and a weaker sandbox starts; 125: none."""
        if all(check.verdict != "failed" for check in self.checks):
            return 0
        return 1 if self.inside else 125
