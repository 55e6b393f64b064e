"""Many forks at once, of a sandbox that is itself a fork of a fork."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from benchmark import names
from sandbox_lite import Sandbox

if TYPE_CHECKING:
    from benchmark.bench import Bench

_FORKS = 64
_NAMES = {1: names.FORK_FIRST, 16: names.FORK_16, 64: names.FORK_64}


def forks(bench: Bench) -> None:
    """Fork on and on, each with a file of its own; at some depths fork many at once."""
    current = Sandbox(bench.rootfs).open()
    try:
        for depth in range(1, max(bench.amounts.depths) + 1):
            current.run(f"echo {depth} >/root/{depth}")
            if depth in bench.amounts.depths:
                _many_anew(bench)
                _many(bench, current, depth)
            (following,) = current.fork(1)
            current.close()
            current = following
    finally:
        current.close()


def _many_anew(bench: Bench) -> None:
    """Start as many, one after the other, and keep them: what forks are compared with."""
    with contextlib.ExitStack() as stack:
        for _ in range(bench.room(_FORKS)):
            one = stack.enter_context(contextlib.closing(Sandbox(bench.rootfs)))
            bench.notes.time(names.MANY_COLD, one.open)


def _many(bench: Bench, sandbox: Sandbox, depth: int) -> None:
    made: list[Sandbox] = []
    count = bench.room(_FORKS)
    try:
        bench.notes.time(_NAMES[depth], lambda: made.extend(sandbox.fork(count)), count)
        for one in made:
            assert one.run(f"cat /root/{depth}").stdout == f"{depth}\n"
    finally:
        for one in made:
            one.close()
