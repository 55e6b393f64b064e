"""Many sandboxes at once: how many a second, how much memory each, how many commands a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil

from benchmark import beside, names
from benchmark.floors import used_reference
from sandbox_lite import AsyncSandbox, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmark.bench import Bench

_SLICES = 2
_ASYNC = 64
_SETTLING_SECONDS = 1.0


def rate(once: Callable[[], object], parallel: int, seconds: float) -> float:
    """Return how often `once` is done in a second by so many threads."""
    done = 0
    lock = threading.Lock()
    began = time.monotonic()

    def work() -> None:
        nonlocal done
        while time.monotonic() < began + seconds:
            once()
            with lock:
                done += 1

    with ThreadPoolExecutor(parallel) as pool:
        for future in [pool.submit(work) for _ in range(parallel)]:
            future.result()
    return done / (time.monotonic() - began)


def rates(bench: Bench) -> None:
    """Create, use and close as many as can be, ours and the reference in turn."""
    seconds = bench.amounts.rate_seconds / _SLICES

    def ours() -> None:
        with Sandbox(bench.rootfs) as sandbox:
            sandbox.run("echo hi")

    best: dict[str, list[float]] = {names.BEST_RATE: [], names.REFERENCE_BEST_RATE: []}
    for wanted in bench.amounts.parallel:
        parallel = bench.room(wanted)
        for name, top, once in (
            (names.RATE, names.BEST_RATE, ours),
            (names.REFERENCE_RATE, names.REFERENCE_BEST_RATE, lambda: used_reference(bench.tree)),
        ):
            found = [rate(once, parallel, seconds) for _ in range(_SLICES)]
            for one in found:
                bench.notes.add(name.format(parallel), one, "/s")
            best[top].append(sum(found) / len(found))
    for top, means in best.items():
        bench.notes.add(top, max(means), "/s")


def available_bytes() -> int:
    """Return the memory of the host that may be had, once what has just ended is gone."""
    time.sleep(_SETTLING_SECONDS)
    return psutil.virtual_memory().available


def note_memory(bench: Bench, name: str, megabytes: float) -> None:
    """Note what one takes, unless the rest of the host took and gave back more meanwhile."""
    if megabytes > 0:
        bench.notes.add(name, megabytes, "MB")
    else:
        bench.notes.skip(name, "lost in what else this host does")


def alive(bench: Bench) -> None:
    """Keep many open; note what each takes, and how quick each answers."""
    here = min(bench.amounts.alive, bench.most())
    count = bench.room(bench.amounts.alive, programs=2)
    with Sandbox(bench.rootfs):
        pass  # what all share is loaded
    before = available_bytes()
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(Sandbox(bench.rootfs)) for _ in range(here)]
        others = stack.enter_context(beside.keeping(bench.rootfs, count - here))
        during = available_bytes()
        trips = beside.asked(boxes)
        if others is not None:
            trips += json.loads(others.tell("ask"))
        for one in trips:
            bench.notes.add(names.ALIVE_TRIP, one)
    # from both sides: what else the host does drifts
    each = ((before + available_bytes()) / 2 - during) / count / 1e6
    note_memory(bench, names.IDLE_MEMORY, each)


def loop(bench: Bench) -> None:
    """Run builtins in many sandboxes of one asyncio loop."""
    for _ in range(_SLICES):
        seconds = bench.amounts.rate_seconds / _SLICES
        value = asyncio.run(_commands_a_second(bench.rootfs, bench.room(_ASYNC), seconds))
        bench.notes.add(names.ASYNC_RATE, value, "/s")


async def _commands_a_second(rootfs: str, count: int, seconds: float) -> float:
    async with contextlib.AsyncExitStack() as stack:
        boxes = [await stack.enter_async_context(AsyncSandbox(rootfs)) for _ in range(count)]
        began = time.monotonic()

        async def work(box: AsyncSandbox) -> int:
            done = 0
            while time.monotonic() < began + seconds:
                await box.run(":")
                done += 1
            return done

        counts = await asyncio.gather(*(work(box) for box in boxes))
        return sum(counts) / (time.monotonic() - began)
