"""Training in sandboxes beside training in a stub: `rl demo`, by an interpreter that has TRL."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmark import names
from sandbox_lite import Sandbox

if TYPE_CHECKING:
    from benchmark.bench import Bench

_ROOT = Path(__file__).resolve().parents[2]
_STEPS, _MULTI_STEPS = 16, 8
_BEFORE = ("cd /testbed", "export PYTHONHASHSEED=1; RANDOM=1")
_COMMAND = "cp /etc/hostname answer.txt"
"""As the policy's own: one small file copied."""


def training(bench: Bench) -> None:
    """Train a few steps in sandboxes and in the stub, with one message and with several."""
    if not bench.trainer:
        bench.notes.skip("training", "no --trainer-python with the extra trl is named")
        return
    kinds = (
        (names.TRAINING, names.TRAINING_STUB, _STEPS, ()),
        (names.MULTI_TURN, names.MULTI_TURN_STUB, _MULTI_STEPS, ("--multi-turn",)),
    )
    for real_name, stub_name, steps, options in kinds:
        stub_rate, stub_seconds = _trained(bench, steps, "--stub", *options)
        rate, seconds = _trained(bench, steps, *options)
        bench.notes.add(stub_name, stub_rate, "/s")
        bench.notes.add(real_name, rate, "/s")
        if not options:
            # what both spend, on the policy and on grades, is no sandbox's
            bench.notes.add(names.TRAINING_CPU, (seconds - stub_seconds) * 1000)
            bench.notes.add(names.TRAINING_CPU_LEAST, _least(bench) * 1000)


def _trained(bench: Bench, steps: int, *options: str) -> tuple[float, float]:
    """Return rollouts in a second, and this host's processor seconds for one."""
    with tempfile.TemporaryDirectory(prefix="sandbox-lite-bench-") as name:
        out = Path(name) / "out"
        argv = [
            bench.trainer, "-m", "sandbox_lite", "rl", "demo", "--rootfs", bench.rootfs,
            "--out", str(out), "--steps", str(steps), "--seed", "0", "--evaluate", "0", *options,
        ]  # fmt: skip
        before = _processor_seconds()
        subprocess.run(
            argv, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(_ROOT)}
        )
        spent = _processor_seconds() - before
        found = json.loads((out / "summary.json").read_text())
    return found["rollouts"] / found["seconds"], spent / found["rollouts"]


def _least(bench: Bench) -> float:
    """Return the processor seconds of a sandbox that does what one of the rollouts asks of it."""
    threads = 2 * len(os.sched_getaffinity(0))
    count = 256
    numbers = iter(range(count))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if next(numbers, None) is None:
                    return
            with Sandbox(bench.rootfs) as sandbox:
                for command in (*_BEFORE, _COMMAND):
                    sandbox.run(command).check()

    before = _processor_seconds()
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()
    return (_processor_seconds() - before) / count


def _processor_seconds() -> float:
    """Return those of the whole host: much of a start is done by the kernel's own threads."""
    found = psutil.cpu_times()
    return float(sum(found) - found.idle - found.iowait - found.guest - found.guest_nice)
