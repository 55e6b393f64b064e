"""Peers that are Python packages: each in a program of its own, in the interpreter that has them.

Their dependencies exclude ours, and what they import is none of our process's business.
"""

from __future__ import annotations

import base64
import contextlib
import subprocess
import tempfile
from typing import TYPE_CHECKING

from benchmark.peers.peer import Missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.peers.peer import Start

_SERVE = """
import base64, os, sys
answers = os.fdopen(os.dup(1), "w", 1)
os.dup2(2, 1)
IMAGE = sys.argv[1]
{program}
boxes = []
print("ready", file=answers)
for line in sys.stdin:
    order, _, rest = line.strip().partition(" ")
    answer = ""
    if order == "start":
        boxes.append(start())
    elif order == "run":
        answer = run(boxes[int(rest.split()[0])], base64.b64decode(rest.split()[1]).decode())
    elif order == "close":
        close(boxes[int(rest)])
        boxes[int(rest)] = None
    print(base64.b64encode(answer.encode()).decode(), file=answers)
"""


class PackageBox:
    """One sandbox of a package."""

    def __init__(self, server: _Server) -> None:
        """Start it."""
        self._server = server
        self._number = server.started
        server.started += 1
        server.ask("start")

    def run(self, command: str) -> str:
        """Return what a command prints."""
        words = base64.b64encode(command.encode()).decode()
        return base64.b64decode(self._server.ask(f"run {self._number} {words}")).decode()

    def close(self) -> None:
        """End it."""
        self._server.ask(f"close {self._number}")


class _Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.started = 0

    def ask(self, order: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Missing("it ended")
        return line.strip()


@contextlib.contextmanager
def served(python: str, program: str, image: str = "") -> Iterator[Start]:
    """Yield what starts sandboxes of a package.

    Args:
        python: The interpreter that has it.
        program: Defines `start()`, `run(box, command)` and `close(box)`; may use IMAGE.
        image: An image that the package may take.

    Raises:
        Missing: It cannot be imported, or no sandbox started.
    """
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            [python, "-c", _SERVE.replace("{program}", program), image],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as process:  # fmt: skip
            server = _Server(process)
            try:
                server.answer()
                yield lambda: PackageBox(server)
            except Missing as missing:
                errors.seek(0)
                lines = errors.read().strip().splitlines()
                raise Missing(lines[-1] if lines else "it ended") from missing
