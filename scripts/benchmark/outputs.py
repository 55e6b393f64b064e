"""Commands that print much, and what that does to the memory of this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmark import names
from sandbox_lite import Sandbox

if TYPE_CHECKING:
    from benchmark.bench import Bench

_NAMES = {100: names.OUTPUT_100_MB, 1000: names.OUTPUT_1_GB}


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def outputs(bench: Bench) -> None:
    """Run commands that print much."""
    for megabytes in bench.amounts.outputs_mb:
        for _ in range(bench.amounts.outputs):
            with Sandbox(bench.rootfs) as sandbox:
                _print(bench, sandbox, megabytes)


def _print(bench: Bench, sandbox: Sandbox, megabytes: int) -> None:
    process = psutil.Process()
    command = f"head -c {megabytes * 10**6} /dev/zero"
    # what is loaded and kept once is no growth
    sandbox.run("head -c 10000000 /dev/zero")
    # proc(5): from here on the peak is counted anew
    Path("/proc/self/clear_refs").write_text("5")
    before = process.memory_info().rss
    bench.notes.time(_NAMES[megabytes], lambda: sandbox.run(command))
    if megabytes == max(_NAMES):
        grown, left = _peak_bytes() - before, process.memory_info().rss - before
        bench.notes.add(names.OUTPUT_MEMORY, grown / 1e6, "MB")
        bench.notes.add(names.OUTPUT_LEFT, left / 1e6, "MB")
