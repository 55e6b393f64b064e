"""What can be had in forty lines: the same bwrap and one persistent bash over pipes.

No terminal, no limits, no time-outs; what a command does to the shell ends it. Only for comparison.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.jail import bwrap
from sandbox_lite.jail.programs import find_bwrap

if TYPE_CHECKING:
    from collections.abc import Sequence


def words(tree: Path, upper: Path) -> list[str]:
    """Return a bwrap with the namespaces, overlay, /proc and /dev of a sandbox."""
    (upper / "u").mkdir()
    (upper / "w").mkdir()
    return [
        str(find_bwrap()), *bwrap.namespaces(network_host=False),
        *bwrap.identity(hostname="bench"), "--overlay-src", str(tree),
        "--overlay", str(upper / "u"), str(upper / "w"), "/", *bwrap.devices(shm_bytes=1 << 20),
    ]  # fmt: skip


class Reference:
    """One bash in one bwrap."""

    def __init__(self, tree: Path, argv: Sequence[str] = ("bash", "--norc")) -> None:
        """Start it."""
        self._upper = tempfile.TemporaryDirectory()
        command = [*words(tree, Path(self._upper.name)), "--", *argv]
        self._bash = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._in, self._out = self._bash.stdin, self._bash.stdout

    def run(self, command: str) -> bytes:
        """Run a command and return its output."""
        self._in.write(f"{command}\necho; echo end-of-output\n".encode())
        self._in.flush()
        lines = list(iter(self._out.readline, b"end-of-output\n"))
        return b"".join(lines)[:-1]

    def close(self) -> None:
        """End it."""
        self._in.close()
        self._out.close()
        self._bash.wait()
        self._upper.cleanup()
