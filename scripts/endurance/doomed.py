"""Programs that own sandboxes and are killed with SIGKILL at a random moment.

    python -m endurance.doomed kill ROOTFS     kills one for each line `SEED SECONDS`, and says done
    python -m endurance.doomed own ROOTFS SEED is one: it opens sandboxes and uses them, for ever

The killer adopts what its victims leave behind, so that it can tell at the end whether all of it
has gone.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil

from endurance.leftovers import adopt_orphans
from sandbox_lite import Sandbox, SandboxLiteError

_THREADS = 2
_PATIENCE_SECONDS = 20.0


class Killer:
    """Has programs killed."""

    def __init__(self, rootfs: str) -> None:
        """Start it."""
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "endurance.doomed", "kill", rootfs],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def kill_one(self, seed: int, seconds: float) -> None:
        """Start a program that owns sandboxes, and kill it after so many seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(f"{seed} {seconds}\n")
            self._process.stdin.flush()
            if self._process.stdout.readline() != "done\n":
                raise RuntimeError("the killer ended")

    def end(self) -> list[str]:
        """Return what the killed programs left."""
        said, _ = self._process.communicate(timeout=_PATIENCE_SECONDS * 2)
        return said.splitlines()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _kill(rootfs: str) -> None:
    adopt_orphans()
    for line in sys.stdin:
        seed, seconds = line.split()
        argv = [sys.executable, "-m", "endurance.doomed", "own", rootfs, seed]
        # a session of its own: whatever else dies with it must not be us
        pid = os.posix_spawn(sys.executable, argv, os.environ, setsid=True)
        time.sleep(float(seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        _reap()
        print("done", flush=True)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        _reap()
        children = psutil.Process().children(recursive=True)
        if not children or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            print(f"processes of killed programs: {child.name()} {' '.join(child.cmdline())[:60]}")


def _own(rootfs: str, seed: int) -> None:
    def use(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        while True:
            with contextlib.suppress(SandboxLiteError), Sandbox(rootfs) as sandbox:
                for _ in range(dice.randrange(4)):
                    sandbox.run("sleep 1000 & head -c 100000 /dev/zero >/root/f")

    for number in range(_THREADS):
        threading.Thread(target=use, args=(number,)).start()


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        _kill(sys.argv[2])
    else:
        _own(sys.argv[2], int(sys.argv[3]))
