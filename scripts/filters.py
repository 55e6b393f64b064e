"""What the system call filters cost: `find` over a rootfs, and a build, with and without them.

    scripts/filters.py [--rootfs standard] [--pairs 30] [--json]

Each pair runs both in turn, in a plain bwrap with a sandbox's namespaces; the median of the ratios
of all pairs stands with an interval that holds it in 95 of 100 cases, from resampling.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from sandbox_lite.jail import bwrap, seccomp
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.jail.rootfs.store import Store

if TYPE_CHECKING:
    from pathlib import Path

BAR = 1.05
WORK = {
    "find / -xdev": "find / -xdev >/dev/null",
    "a build": (
        "cd /tmp && for i in 1 2 3 4; do printf '#include <stdio.h>\\n#include <stdlib.h>\\n"
        'int f%d(void) { puts("x"); return 0; }\\n\' $i >f$i.c; gcc -O1 -c f$i.c; done'
        " && ar rc f.a f?.o"
    ),
}
_RESAMPLES = 2000


def run(tree: Path, line: str, *, filtered: bool) -> float:
    """Return the seconds that a line of shell takes in a jail."""
    fds = [seccomp.pipe_of(name) for name in ("deny", "fakeroot")] if filtered else []
    try:
        argv = [
            str(find_bwrap()), *bwrap.namespaces(network_host=False),
            *bwrap.identity(hostname="bench"), "--ro-bind", str(tree), "/", "--tmpfs", "/tmp",
            *bwrap.devices(shm_bytes=1 << 20), *bwrap.filters(fds),
            "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--", "/bin/sh", "-c", line,
        ]  # fmt: skip
        began = time.perf_counter()
        subprocess.run(argv, check=True, pass_fds=fds, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began
    finally:
        for fd in fds:
            os.close(fd)


def interval(ratios: list[float]) -> tuple[float, float]:
    """Return between which values the median lies, in 95 of 100 cases."""
    draw = random.Random(1)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES)
    )
    return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)]


def main() -> int:
    """Print the ratios; exit 1 where the upper end is above the bar."""
    parser = argparse.ArgumentParser(description="Measure what the filters cost.")
    parser.add_argument("--rootfs", default="standard")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    tree = Store().resolve(arguments.rootfs).lowers[-1]
    rows = {}
    for name, line in WORK.items():
        for filtered in (True, False):
            run(tree, line, filtered=filtered)  # warms the caches
        ratios = []
        for pair in range(arguments.pairs):
            # who comes first changes, as the machine drifts
            order = (True, False) if pair % 2 else (False, True)
            seconds = {filtered: run(tree, line, filtered=filtered) for filtered in order}
            ratios.append(seconds[True] / seconds[False])
        low, high = interval(ratios)
        rows[name] = {
            "ratio": round(statistics.median(ratios), 4), "low": round(low, 4),
            "high": round(high, 4), "bar": BAR,
        }  # fmt: skip
    if arguments.json:
        print(json.dumps(rows))
    else:
        for name, row in rows.items():
            print(
                f"{name:16} with filters takes {row['ratio']:.3f} times as long "
                f"({row['low']:.3f} to {row['high']:.3f}; bar {BAR})"
            )
    return 1 if any(row["high"] > BAR for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
