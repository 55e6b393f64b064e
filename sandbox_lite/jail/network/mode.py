"""What a network mode is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way for a sandbox to reach the network, or not."""

    name: str
    summary: str
    """What it lets through, in one line for people."""
    shares_host: bool
    """Whether the jail stays in the host's network namespace."""
    files: Callable[[], Mapping[str, bytes]]
    """Files below the root that the mode needs, such as `etc/resolv.conf`."""
