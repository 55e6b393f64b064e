"""What the bench must know of another sandbox."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Missing(Exception):
    """It is not here, or does not run here; the text says why in one line."""


class Box(Protocol):
    """One sandbox of a peer."""

    def run(self, command: str) -> str:
        """Return what a command prints."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a peer is given."""

    tree: Path
    """The root file system that our own sandboxes run on."""
    python: str
    """An interpreter that has the peers which are Python packages."""


class Start(Protocol):
    """Starts a sandbox."""

    def __call__(self) -> Box:
        """Return it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another sandbox."""

    name: str
    isolates: bool
    """Whether what runs in it is kept from the host's files."""
    ready: Callable[[Place], contextlib.AbstractContextManager[Start]]
    """Makes it ready; raises Missing where it is not here."""


def said(argv: Sequence[str], *, seconds: float = 60) -> str:
    """Return what a program prints.

    Raises:
        Missing: It is not there or fails.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=seconds,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Missing(lines[-1])
    return done.stdout
