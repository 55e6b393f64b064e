"""What a network mode is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from sandbox_lite.jail.egress.rules import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way for a sandbox to reach the network, or not."""

    name: str
    summary: str
    """What it lets through, in one line for people."""
    shares_host: bool = False
    """Whether the jail stays in the host's network namespace."""
    check: Callable[[], object] = lambda: None
    """Raises HostError where this host cannot do it; asked before anything is started."""
    files: Callable[[], Mapping[str, bytes]] = dict
    """Files below the root that the mode needs, such as `etc/resolv.conf`."""
    rules: Callable[[], tuple[Rule, ...]] | None = None
    """What its proxy lets through beside what the caller names; None: there is no proxy."""
    carrying: Callable[[int, int], AbstractContextManager[str]] | None = None
    """Carries raw packets while it is open, of the jail that is given by a process above it and one
    in it; gives the name of what does so. None: nothing does."""
