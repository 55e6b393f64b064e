"""Measures sandboxes on this machine, and says which bars are met.

Prints a table, and writes it as JSON and as a picture (PNG, SVG). Ratios are to a plain bwrap with
the same namespaces, overlay, /proc and /dev, in the same run and taken in turn with it: the
milliseconds of a machine drift, the ratios hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import (
    bars,
    crowds,
    episodes,
    forks,
    hosts,
    outputs,
    peering,
    rounds,
    table,
    training,
)
from benchmark.bench import QUICK, Amounts, Bench
from benchmark.samples import Host, Notes, Report
from sandbox_lite import SandboxLiteError
from sandbox_lite.jail import host, limits, programs
from sandbox_lite.jail.rootfs.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ONCE: tuple[Callable[[Bench], None], ...] = (
    outputs.outputs,
    hosts.hosts,
    forks.forks,
    crowds.rates,
    crowds.loop,
    crowds.alive,
    episodes.episodes,
    peering.memory,
    training.training,
)
_WARMING = 3
_QUICK_SLACK = 3.0


def measure(
    rootfs: str, amounts: Amounts, peer_python: str, trainer: str, only: str = ""
) -> Report:
    """Return everything that can be measured here, or what has a name with `only` in it."""
    turns = [one for one in rounds.ROUND if only in one.__name__]
    afterwards = [one for one in ONCE if only in one.__name__]
    if not turns:
        amounts = dataclasses.replace(amounts, rounds=1)
    with Store().lease(rootfs) as leased:
        bench = Bench(
            rootfs=rootfs, tree=leased.lowers[-1], amounts=amounts, notes=Notes(), trainer=trainer
        )
        with bench.stack:
            peering.invite(bench, peer_python)
            warming = dataclasses.replace(bench, notes=Notes(), warming=True)
            for number in range(_WARMING + amounts.rounds):
                _progress(f"round {number + 1} of {_WARMING + amounts.rounds}")
                for one in turns:
                    one(warming if number < _WARMING else bench)
            for once in afterwards:
                _progress(once.__name__)
                once(bench)
        _progress("")
    backend, probe = limits.choose()
    return bench.notes.report(
        Host.current(
            rootfs=rootfs, limits=f"{backend.name}: {probe.detail}",
            upper=host.upper_kind(programs.find_bwrap()),
        )
    )  # fmt: skip


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def draw(reports: Sequence[Report], stem: Path) -> None:
    """Draw them; without matplotlib say so."""
    try:
        from benchmark.plot import draw as into
    except ImportError:
        print("no picture: matplotlib is not installed (scripts/venv dev)")
        return
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    into(reports, paths)
    print("drawn:", *paths)


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rootfs", default="minimal")
    parser.add_argument("--rounds", type=int, help="how often all is measured in turn (60)")
    parser.add_argument("--alive", type=int, help="how many sandboxes at once (1000)")
    parser.add_argument(
        "--quick", action="store_true",
        help="less than a minute, without other sandboxes; exit 1 beyond three times a bar",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit 1 where a bar is missed")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PYTHON",
        help="an interpreter that has llm-in-sandbox, swe-rex, kern-sandbox",
    )  # fmt: skip
    parser.add_argument(
        "--trainer-python", default="", metavar="PYTHON",
        help="an interpreter that has the extra trl: trains for two minutes, here and in the stub",
    )  # fmt: skip
    parser.add_argument(
        "--peer-seconds", type=float, metavar="SECONDS",
        help="of each other sandbox's turns, all together (30; 0: none)",
    )  # fmt: skip
    parser.add_argument(
        "--only", default="", metavar="WORD",
        help="one of: " + ", ".join(one.__name__ for one in (*rounds.ROUND, *ONCE)),
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("bench-output"), metavar="DIR")
    parser.add_argument(
        "--merge", nargs="+", type=Path, metavar="JSON",
        help="measure nothing: show these results side by side, and draw them in one picture",
    )  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    asked = arguments()
    if asked.merge:
        try:
            reports = [Report.read(path) for path in asked.merge]
        except (OSError, ValueError) as error:
            print(f"scripts/bench: error: {error}", file=sys.stderr)
            return 2
        asked.out.mkdir(parents=True, exist_ok=True)
        print(*table.beside(reports), sep="\n")
        draw(reports, asked.out / "bench-merged")
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    # many at once take many descriptors
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    amounts = QUICK if asked.quick else Amounts()
    given = {name: getattr(asked, name) for name in ("rounds", "alive", "peer_seconds")}
    amounts = dataclasses.replace(
        amounts, **{name: value for name, value in given.items() if value is not None}
    )
    try:
        report = measure(asked.rootfs, amounts, asked.peer_python, asked.trainer_python, asked.only)
    except SandboxLiteError as error:
        print(f"scripts/bench: error: {error}", file=sys.stderr)
        return error.exit_code
    print(*table.lines(report), "", *table.verdicts(report), sep="\n")
    stem = asked.out / f"bench-{report.host.user}"
    path = stem.with_name(f"{stem.name}.json")
    report.write(path)
    print(f"\nwritten: {path}")
    if not asked.only:
        draw([report], stem)
    if not asked.quick:
        return 1 if asked.strict and not all(one.met() for one in bars.judge(report)) else 0
    times = bars.slower(report)
    beyond = [one for one in bars.judge(report) if not one.near(_QUICK_SLACK, times)]
    if beyond:
        print(
            f"{len(beyond)} beyond {_QUICK_SLACK:g} times the bar, on a machine that is"
            f" {times:.1f} times slower than that of the bars:",
            *(one.row.name for one in beyond),
        )
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
