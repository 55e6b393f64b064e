"""What ours is compared with in every round: bash, bwrap, and forty lines around it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import names
from benchmark.reference import Reference, words

if TYPE_CHECKING:
    from benchmark.bench import Bench

_ECHO = ("bash", "-c", "echo hi")


def bash(bench: Bench) -> None:
    """Start a bash of the host."""
    bench.notes.time(names.BASH, lambda: subprocess.run(_ECHO, check=True, capture_output=True))


def bwrap(bench: Bench) -> None:
    """Start a bash in a plain bwrap on the same tree."""

    def once() -> None:
        with tempfile.TemporaryDirectory() as name:
            argv = [*words(bench.tree, Path(name)), "--", *_ECHO]
            subprocess.run(argv, check=True, capture_output=True)

    bench.notes.time(names.BWRAP, once)


def used_reference(tree: Path) -> None:
    """Start the reference, use it once and end it."""
    with contextlib.closing(Reference(tree)) as one:
        assert one.run("echo hi") == b"hi\n"


def reference(bench: Bench) -> None:
    """Start the reference, use it and end it."""
    started: list[Reference] = []

    def start() -> None:
        started.append(Reference(bench.tree))
        assert started[0].run("echo hi") == b"hi\n"

    bench.notes.time(names.REFERENCE_COLD, start)
    for _ in range(5):
        bench.notes.time(names.REFERENCE_COMMAND, lambda: started[0].run(":"))
    bench.notes.time(names.REFERENCE_CLOSE, started[0].close)
