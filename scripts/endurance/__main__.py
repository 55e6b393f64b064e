"""Uses and abuses sandboxes, and looks whether anything is left of it.

Opens, uses and closes them with kills, time-outs, forks and cancellations in between, and SIGKILL
of programs that own some. Afterwards descriptors, threads, processes, mounts, control groups,
directories and memory of this program must be what they were. Exit code 1 where something is left,
or a sandbox did not do what it should.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from endurance.doomed import Killer
from endurance.leftovers import adopt_orphans, held, left
from endurance.trials import TRIALS, Count, Trial
from sandbox_lite.jail.nests import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

_MOST_FAILURES = 20
_STEADY_SECONDS = 1.0


class Soak:
    """One run."""

    def __init__(self, asked: argparse.Namespace) -> None:
        """Prepare it."""
        self.asked = asked
        self.count = Count()
        self.done: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.failures: list[str] = []
        self.killer = Killer(asked.rootfs)
        self.deadline = time.monotonic() + asked.seconds
        self._lock = threading.Lock()

    def finished(self) -> bool:
        """Return whether it is enough, or must be."""
        asked, count = self.asked, self.count
        return (
            (count.cycles >= asked.cycles and count.commands >= asked.commands)
            or time.monotonic() > self.deadline
            or len(self.failures) >= _MOST_FAILURES
        )

    def warm(self, number: int) -> None:
        """Do each once: what is made at the first use, and kept, is nothing that is left over."""
        dice = random.Random(f"{self.asked.seed} warm {number}")
        for trial in TRIALS:
            self.attempt(dice, trial)

    def work(self, number: int) -> None:
        """Do one after the other until it is enough."""
        dice = random.Random(f"{self.asked.seed} {number}")
        while not self.finished():
            (trial,) = dice.choices(list(TRIALS), weights=list(TRIALS.values()))
            self.attempt(dice, trial)

    def attempt(self, dice: random.Random, trial: Callable[[Trial], None]) -> None:
        """Do one, and note what went wrong."""
        given = Trial(rootfs=self.asked.rootfs, dice=dice, count=self.count, killer=self.killer)
        problem = ""
        began = time.monotonic()
        try:
            trial(given)
        except Exception:  # noqa: BLE001  # whatever it is, it is told and counted
            problem = f"{trial.__name__}: {traceback.format_exc()}"
        with self._lock:
            self.done[trial.__name__] += 1
            self.seconds[trial.__name__] += time.monotonic() - began
            if problem:
                self.failures.append(problem)
                print(f"\nFAILED {problem}", flush=True)

    def follow(self, futures: list[Future[None]]) -> None:
        """Show how far it is until all have ended."""
        shown = 0.0
        every = 1.0 if sys.stdout.isatty() else 30.0
        while not all(one.done() for one in futures):
            time.sleep(0.2)
            if time.monotonic() - shown > every:
                shown = time.monotonic()
                end = "\r" if sys.stdout.isatty() else "\n"
                print(self.progress(), end=end, flush=True)
        for one in futures:
            one.result()
        print(self.progress())

    def progress(self) -> str:
        """Return how far it is."""
        return (
            f"{self.count.cycles} of {self.asked.cycles} sandboxes, {self.count.commands} of "
            f"{self.asked.commands} commands, {len(self.failures)} failures"
        )


def soak(asked: argparse.Namespace, temporary: Path) -> int:
    """Do all of it; return the exit code."""
    run = Soak(asked)
    began = time.monotonic()
    with ThreadPoolExecutor(asked.parallel) as pool:
        print(f"seed {asked.seed}; warming up", flush=True)
        run.follow([pool.submit(run.warm, number) for number in range(asked.parallel)])
        time.sleep(_STEADY_SECONDS)
        # some of them wait for the next sandbox, how many is chance
        SHARED.close()
        before = held(temporary)
        run.count = Count()
        run.deadline = time.monotonic() + asked.seconds
        try:
            run.follow([pool.submit(run.work, number) for number in range(asked.parallel)])
        except KeyboardInterrupt:
            run.deadline = 0.0
            print("\ninterrupted: ending what is open")
            pool.shutdown()
        SHARED.close()
        found = left(before, temporary)
        after = held(temporary)
    found += run.killer.end()
    for name, times in run.done.most_common():
        print(f"{times:8} {name}, {run.seconds[name] / times * 1000:.0f} ms each")
    print(
        f"{time.monotonic() - began:.0f} s; {sum(after.descriptors.values())} descriptors, "
        f"{sum(after.processes.values())} processes, {sum(after.mounts.values())} mounts, "
        f"{len(after.groups)} groups, {len(after.directories)} directories; memory "
        f"{before.memory_mb:.1f} MB before, {after.memory_mb:.1f} MB after"
    )
    print(*(f"LEFT {line}" for line in found), sep="\n", end="\n" if found else "")
    print("nothing left" if not found else f"{len(found)} kinds of things left")
    return 1 if found or run.failures else 0


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--rootfs", default="minimal")
    parser.add_argument("--cycles", type=int, default=20_000, help="sandboxes opened and closed")
    parser.add_argument("--commands", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, default=60, help="at most so long")
    parser.add_argument("--seconds", type=float, help="the same")
    parser.add_argument("--parallel", type=int, default=4, help="threads")
    parser.add_argument("--seed", type=int, default=0, help="another makes other choices")
    asked = parser.parse_args()
    asked.seconds = asked.minutes * 60 if asked.seconds is None else asked.seconds
    return asked


def main() -> int:
    """Run it with descriptors and a directory for temporary files of its own."""
    # says where all threads are, should it ever hang
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    asked = arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    temporary = Path(tempfile.mkdtemp(prefix="sandbox-lite-soak-"))
    tempfile.tempdir = str(temporary)
    adopt_orphans()
    try:
        return soak(asked, temporary)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)


if __name__ == "__main__":
    sys.exit(main())
