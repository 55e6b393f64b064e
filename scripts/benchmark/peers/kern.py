"""kern: `kern box`, `kern exec`, `kern stop` (the package kern-sandbox brings the program)."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.peers.peer import Missing, Peer, said

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.peers.peer import Place, Start


class KernBox:
    """One box, kept by a `sleep`."""

    def __init__(self, program: str, tree: Path) -> None:
        """Start it."""
        self._program = program
        self._name = f"sandbox-lite-bench-{secrets.token_hex(4)}"
        said([program, "box", self._name, "-d", "--rootfs", str(tree), "--", "sleep", "600"])

    def run(self, command: str) -> str:
        """Return what a command prints."""
        return said([self._program, "exec", self._name, "--", "bash", "-c", command])

    def close(self) -> None:
        """Stop it, and forget what it was."""
        said([self._program, "stop", self._name])


@contextlib.contextmanager
def _ready(place: Place) -> Iterator[Start]:
    beside = Path(place.python).with_name("kern")
    program = str(beside) if beside.exists() else shutil.which("kern")
    if program is None:
        raise Missing("not installed")
    yield lambda: KernBox(program, place.tree)


KERN = Peer(name="kern", isolates=True, ready=_ready)
