"""Measures many sandboxes at once, and what a start depends on.

    scripts/bench --many [--rootfs minimal] [--alive 200] [--json]

Rates are taken in turn with those of `reference.py`: a machine's milliseconds drift, ratios hold.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from reference import Reference

from sandbox_lite import Pool, Sandbox, SandboxSpec
from sandbox_lite.jail.rootfs.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

_PARALLEL = (1, 4, 16)
_SECONDS = 3.0
_STARTS = 25
_MOUNTS = 1000


def rate(once: Callable[[], object], parallel: int) -> float:
    """Return how often `once` is done in a second by so many threads."""
    deadline = time.monotonic() + _SECONDS
    done = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal done
        while time.monotonic() < deadline:
            once()
            with lock:
                done += 1

    began = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        for future in [pool.submit(work) for _ in range(parallel)]:
            future.result()
    return done / (time.monotonic() - began)


def median_start_ms(rootfs: str) -> float:
    """Return the milliseconds from nothing to the first output."""
    found = []
    for _ in range(_STARTS):
        began = time.perf_counter()
        with Sandbox(rootfs) as sandbox:
            sandbox.run("echo hi")
            found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found[3:])


def start_of_a_large_program_ms(rootfs: str) -> float:
    """Return the same of a program with 2 GB of memory in use and a hundred threads."""
    held = bytearray(2 << 30)
    held[:: os.sysconf("SC_PAGE_SIZE")] = b"\1" * len(held[:: os.sysconf("SC_PAGE_SIZE")])
    done = threading.Event()
    for _ in range(100):
        threading.Thread(target=done.wait, daemon=True).start()
    try:
        return median_start_ms(rootfs)
    finally:
        done.set()
        del held


def in_a_program_of_its_own(
    name: str, rootfs: str, *before: str
) -> float | None:  # fmt: skip
    """Return what a function of this module measures in a fresh program; None where it cannot."""
    code = f"import sys; from many import {name} as measure; print(measure(sys.argv[1]))"
    found = subprocess.run(
        [*before, sys.executable, "-c", code, rootfs],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return float(found.stdout) if found.returncode == 0 else None


def start_among_many_mounts_ms(rootfs: str) -> float | None:
    """Return the same where the host has a thousand mounts more; None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    with tempfile.TemporaryDirectory() as name:
        script = (
            f"i=0; while [ $i -lt {_MOUNTS} ]; do mkdir {name}/$i; mount -t tmpfs -o size=4k none "
            f'{name}/$i; i=$((i+1)); done; exec "$@"'
        )
        return in_a_program_of_its_own(
            "median_start_ms", rootfs, "unshare", "--mount", "sh", "-c", script, "sh"
        )


def alive(rootfs: str, count: int) -> dict[str, float]:
    """Return what so many idle sandboxes take each, and how quick they answer."""
    before = psutil.virtual_memory().available
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(Sandbox(rootfs)) for _ in range(count)]
        taken = before - psutil.virtual_memory().available
        times = []
        for box in boxes:
            began = time.perf_counter()
            assert box.run("echo hi").stdout == "hi\n"
            times.append((time.perf_counter() - began) * 1000)
    return {
        "sandboxes": float(count),
        "mib_each": taken / count / 2**20,
        "round_trip_p50_ms": statistics.median(times),
    }


def warm_ms(rootfs: str) -> list[float]:
    """Return the milliseconds to take one from a pool, with its first output."""
    found = []
    with Pool(SandboxSpec(rootfs=rootfs), size=4) as pool:
        for _ in range(_STARTS):
            pool.await_ready()
            began = time.perf_counter()
            with pool.take() as sandbox:
                sandbox.run("echo hi")
                found.append((time.perf_counter() - began) * 1000)
    return found


def measure(rootfs: str, count: int) -> dict[str, object]:
    """Return everything."""
    tree = Store().resolve(rootfs).lowers[-1]

    def ours() -> None:
        with Sandbox(rootfs) as sandbox:
            sandbox.run("echo hi")

    def reference() -> None:
        with contextlib.closing(Reference(tree)) as one:
            one.run("echo hi")

    ours()
    warm = warm_ms(rootfs)
    rates = {
        str(parallel): {"ours": rate(ours, parallel), "reference": rate(reference, parallel)}
        for parallel in _PARALLEL
    }
    return {
        "warm_p50_ms": statistics.median(warm),
        "warm_p99_ms": max(warm),
        "started_used_closed_per_second": rates,
        "start_ms": in_a_program_of_its_own("median_start_ms", rootfs),
        "start_of_2gb_100_threads_ms": in_a_program_of_its_own(
            "start_of_a_large_program_ms", rootfs
        ),
        "start_among_1000_mounts_ms": start_among_many_mounts_ms(rootfs),
        "idle": alive(rootfs, count),
    }


def show(rootfs: str, count: int, *, as_json: bool) -> int:
    """Print it."""
    # a sandbox takes 16 descriptors
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = measure(rootfs, count)
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        if isinstance(value, dict):
            for key, one in value.items():
                pairs = one.items() if isinstance(one, dict) else [("", one)]
                text = "  ".join(f"{word} {number:.2f}".strip() for word, number in pairs)
                print(f"{name + ' ' + key:45} {text}")
        else:
            print(f"{name:45} {'not measured here' if value is None else f'{value:.2f}'}")
    return 0
