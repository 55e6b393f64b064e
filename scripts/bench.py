"""Measures what the README claims: start to first output, limits, round trip, program, close.

    scripts/bench [--rootfs minimal] [--runs 40] [--json] [--many [--alive 200]]

Ratios are to a plain bwrap with the same namespaces, overlay, /proc and /dev, in the same run and
taken in turn with it: the milliseconds of a machine drift, the ratios hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import many
from reference import Reference, words

from sandbox_lite import Limits, Sandbox, SandboxLiteError
from sandbox_lite.jail import limits
from sandbox_lite.jail.limits import delegation
from sandbox_lite.jail.native.nest import Plan
from sandbox_lite.jail.nest import Bird, Nest
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.jail.rootfs.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BARS_MS = {"start to first output": 100.0, "round trip of a builtin": 5.0}


def timed(action: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def plain(tree: Path) -> None:
    """Start bash once in a plain bwrap on the same tree."""
    with tempfile.TemporaryDirectory() as name:
        argv = [*words(tree, Path(name)), "--", "/bin/bash", "-c", "echo hi"]
        subprocess.run(argv, check=True, capture_output=True)


def reference(tree: Path) -> None:
    """Start the reference and have its first output."""
    with contextlib.closing(Reference(tree)) as one:
        assert one.run("echo hi") == b"hi\n"


class Times:
    """The milliseconds of every run of every measure."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def note(self, name: str, action: Callable[[], object]) -> None:
        """Do it and note how long it took."""
        self.of.setdefault(name, []).append(timed(action))


def bare_group() -> Path | None:
    """Return a group of version 2 without controllers that can be written, if there is one.

    Where version 1 has the controllers, what version 2 costs can be had so: the same directory and
    the same write of a pid, with nothing to count behind them.
    """
    for mount in delegation.mounts():
        given = mount.point / "cgroup.controllers"
        if mount.version == 2 and "memory" not in given.read_text().split():
            path = mount.point / "sandbox-lite-bench"
            with contextlib.suppress(OSError):
                path.mkdir()
                path.rmdir()
                return path
    return None


def group_round(path: Path, nest: Nest, times: Times) -> None:
    """Make a group and remove it; put a child into it, in the way that this host allows."""

    def make_and_remove() -> None:
        path.mkdir()
        path.rmdir()

    times.note("cgroup v2, bare: make, remove", make_and_remove)
    path.mkdir()
    try:
        group = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            times.note("cgroup v2, bare: born there", lambda: _born(nest, group))
            times.note("the same program, without a group", lambda: _born(nest, None))
        finally:
            os.close(group)
    finally:
        path.rmdir()


def _born(nest: Nest, group: int | None) -> None:
    child = nest.bear(Plan(words=("/bin/true",), mounts=(), fds={}, group=group))
    assert isinstance(child, Bird), "the group can be written"
    child.ends(10)
    child.close()


def one_round(rootfs: str, tree: Path, nest: Nest, times: Times) -> None:
    """Measure everything once, or a few times where it is quick."""
    times.note("plain bwrap, echo", lambda: plain(tree))
    times.note("the reference of 40 lines, and its end", lambda: reference(tree))
    unbounded = Sandbox(rootfs, limits=Limits.none())
    times.note("the same without limits", lambda: (unbounded.open(), unbounded.run("echo hi")))
    unbounded.close()
    group = bare_group()
    if group is not None:
        group_round(group, nest, times)
    sandbox = Sandbox(rootfs)
    times.note("start to first output", lambda: (sandbox.open(), sandbox.run("echo hi")))
    with sandbox_closed(sandbox, times):
        for _ in range(5):
            times.note("round trip of a builtin", lambda: sandbox.run(":"))
            times.note("external command", lambda: sandbox.run("/bin/true"))
            times.note("program beside the shell", lambda: sandbox.exec(["true"]))
        times.note("command of 100 KB", lambda: sandbox.run("x='" + "x" * 100_000 + "'"))
        sandbox.run("unset x")
        times.note("after exit, with state", lambda: (sandbox.run("exit 1"), sandbox.run(":")))
        times.note("file of 4 KB, written", lambda: sandbox.files.write("/tmp/f", b"x" * 4096))
        times.note("file of 4 KB, read", lambda: sandbox.files.read("/tmp/f"))


@contextlib.contextmanager
def sandbox_closed(sandbox: Sandbox, times: Times) -> Iterator[None]:
    """Close it at the end, and note how long that took."""
    try:
        yield
    finally:
        times.note("close", sandbox.close)


def measure(rootfs: str, runs: int) -> dict[str, list[float]]:
    """Return the milliseconds of every run of every measure."""
    tree = Store().resolve(rootfs).lowers[-1]
    outer = [str(find_bwrap()), "--unshare-user", "--die-with-parent", "--dev-bind", "/", "/"]
    times = Times()
    with contextlib.closing(Nest([*outer, "--cap-add", "ALL"])) as nest:
        for _ in range(2):
            one_round(rootfs, tree, nest, Times())  # warms the caches
        for _ in range(runs):
            one_round(rootfs, tree, nest, times)
    return times.of


def percentile(values: list[float], part: float) -> float:
    """Return the value below which `part` of all lie."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def main() -> int:
    """Print the table; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="Measure sandboxes on this machine.")
    parser.add_argument("--rootfs", default="minimal")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--many", action="store_true", help="rates, a large host, many at once")
    parser.add_argument("--alive", type=int, default=200, help="how many at once")
    arguments = parser.parse_args()
    try:
        if arguments.many:
            return many.show(arguments.rootfs, arguments.alive, as_json=arguments.json)
        times = measure(arguments.rootfs, arguments.runs)
    except SandboxLiteError as error:
        print(f"scripts/bench: error: {error}", file=sys.stderr)
        return error.exit_code
    base = statistics.median(times["plain bwrap, echo"])
    rows = {
        name: {
            "p50_ms": round(statistics.median(values), 3),
            "p99_ms": round(percentile(values, 0.99), 3),
            "ratio_to_plain_bwrap": round(statistics.median(values) / base, 3),
            "bar_ms": BARS_MS.get(name),
        }
        for name, values in times.items()
    }
    overhead = (rows["start to first output"]["p50_ms"] or 0.0) - (
        rows["the same without limits"]["p50_ms"] or 0.0
    )
    if arguments.json:
        print(json.dumps(rows | {"limits_overhead_ms": round(overhead, 3)}, indent=2))
    else:
        print(f"{'':40}{'p50 ms':>10}{'p99 ms':>10}{'x plain bwrap':>15}{'bar ms':>9}")
        for name, row in rows.items():
            bar = "" if row["bar_ms"] is None else f"{row['bar_ms']:.0f}"
            print(
                f"{name:40}{row['p50_ms']:10.2f}{row['p99_ms']:10.2f}"
                f"{row['ratio_to_plain_bwrap']:15.2f}{bar:>9}"
            )
        backend, probe = limits.choose()
        print(f"limits ({backend.name}: {probe.detail}) add {overhead:.2f} ms to a start")
    missed = [name for name, bar in BARS_MS.items() if (rows[name]["p50_ms"] or 0) > bar]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
