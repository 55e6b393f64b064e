"""Container engines with docker's command line."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from typing import TYPE_CHECKING

from benchmark.peers.peer import Missing, said

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmark.peers.peer import Place, Start

_MARK = b"end-of-output\n"


class Container:
    """One container: the first command goes to the bash of `run`, each further one to `exec`."""

    def __init__(
        self, program: str, image: str, options: Sequence[str], remove: Sequence[str]
    ) -> None:
        """Start it."""
        self._program = program
        self._remove = remove
        self._name = f"sandbox-lite-bench-{secrets.token_hex(4)}"
        argv = [
            program, "run", "-i", "--rm", "--network", "none", *options, "--name", self._name,
            image, "bash",
        ]  # fmt: skip
        self._run = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._fresh = True

    def run(self, command: str) -> str:
        """Return what a command prints."""
        if not self._fresh:
            return said([self._program, "exec", self._name, "bash", "-c", command])
        self._fresh = False
        assert self._run.stdin is not None
        assert self._run.stdout is not None
        self._run.stdin.write(f"{command}\necho end-of-output\n".encode())
        self._run.stdin.flush()
        return b"".join(iter(self._run.stdout.readline, _MARK)).decode()

    def close(self) -> None:
        """Remove it."""
        said([self._program, *self._remove, self._name])
        self._run.communicate()


@contextlib.contextmanager
def imported(program: str, tree: Path, *arguments: str) -> Iterator[str]:
    """Make an image of a root file system, and remove it at the end; yield its name.

    Raises:
        Missing: There is no engine that answers.
    """
    if shutil.which(program) is None:
        raise Missing("not installed")
    said([program, "info"])
    name = f"sandbox-lite-bench:{os.getpid()}"
    with subprocess.Popen(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(
            [program, *arguments, "import", "-", name],
            stdin=tar.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise Missing(f"no image can be made: {done.stderr.strip()}")
    try:
        yield name
    finally:
        said([program, "rmi", "-f", name])


@contextlib.contextmanager
def ready(
    program: str, place: Place, options: Sequence[str] = (), remove: Sequence[str] = ("rm", "-f")
) -> Iterator[Start]:
    """Yield what starts a container of this engine."""
    with imported(program, place.tree) as image:
        # what it says when it cannot is lost in a container that one writes to
        said([program, "run", "--rm", "--network", "none", *options, image, "true"])
        yield lambda: Container(program, image, options, remove)
