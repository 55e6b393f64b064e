"""Replays recorded runs in many sandboxes at once, with a model that takes its recorded time.

Says what is our own overhead of a step, what share of the time the environment takes, and what
memory and disk a sandbox takes, beside the figures that the paper has published.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from pathlib import Path

from benchmark.samples import Host

from efficiency_analysis import recorded, replays
from efficiency_analysis.report import lines, report, size_bytes
from sandbox_lite import SandboxLiteError
from sandbox_lite.jail import host, limits, programs
from sandbox_lite.jail.rootfs.store import Store


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/efficiency", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="DIR", help="NAME.json, NAME.jsonl, NAME_input")
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="these runs")
    parser.add_argument("--rootfs", default="paper", help="that of the recorded runs (paper)")
    parser.add_argument("--network", default="none", metavar="MODE")
    parser.add_argument("--allow-private", default="", metavar="HOST,HOST")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="replays at once (64)")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X",
        help="the model is so many times faster than it was; shares of time are as if it were not",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="of each replay; the rest of it is left out"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 where the bar is missed")
    parser.add_argument("--out", type=Path, default=Path("efficiency-output"), metavar="DIR")
    return parser.parse_args()


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def main() -> int:
    """Measure, print, write."""
    given = arguments()
    # many at once take many descriptors
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asked = replays.Asked(
        rootfs=given.rootfs, network=given.network, allow_private=_words(given.allow_private),
        count=given.count, speed=given.speed, seconds=given.seconds,
    )  # fmt: skip
    try:
        runs = recorded.load(given.runs, _words(given.only))
        with Store().lease(asked.rootfs) as leased:
            rootfs_bytes = sum(size_bytes(tree) for tree in leased.lowers)
            measured = asyncio.run(replays.measure(runs, asked))
    except SandboxLiteError as error:
        print(f"scripts/efficiency: error: {error}", file=sys.stderr)
        return error.exit_code
    backend, probe = limits.choose()
    machine = Host.current(
        rootfs=asked.rootfs, limits=f"{backend.name}: {probe.detail}",
        upper=host.upper_kind(programs.find_bwrap()),
    )  # fmt: skip
    found = report(measured, asked, machine, rootfs_bytes)
    print(*lines(found), sep="\n")
    given.out.mkdir(parents=True, exist_ok=True)
    stem = given.out / f"efficiency-{machine.user}"
    paths = [stem.with_suffix(f".{ending}") for ending in ("json", "png", "svg")]
    paths[0].write_text(json.dumps(found.to_json(), indent=1) + "\n")
    try:
        from efficiency_analysis.plot import draw

        draw(found, paths[1:])
    except ImportError:
        print("no picture: matplotlib is not installed (scripts/venv dev)")
        del paths[1:]
    print("written:", *paths)
    return 1 if given.strict and not found.met else 0


if __name__ == "__main__":
    sys.exit(main())
