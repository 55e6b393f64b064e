"""Starts from programs of another size, and on hosts with many mounts.

python -m benchmark.hosts ROOTFS small|large      prints the milliseconds of a start per line
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

from benchmark import names
from sandbox_lite import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.bench import Bench

_GIB = 1 << 30
_MOUNTS = 1000
_WARMING = 3
_READY = "ready"


def _mounting(folder: str) -> list[str]:
    """Return words that run the words after them with many mounts, in a namespace of their own."""
    script = (
        f"i=0; while [ $i -lt {_MOUNTS} ]; do mkdir {folder}/$i; mount -t tmpfs -o size=4k none "
        f'{folder}/$i || exit; i=$((i+1)); done; exec "$@"'
    )
    if os.geteuid() == 0:
        return ["unshare", "--mount", "sh", "-c", script, "sh"]
    # only root of a user namespace may mount; what runs then is the caller again
    back = ["unshare", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}", "--"]
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *back]


@contextlib.contextmanager
def _program(bench: Bench, size: str, *before: str) -> Iterator[subprocess.Popen[str] | None]:
    argv = [*before, sys.executable, "-m", "benchmark.hosts", bench.rootfs, size]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child:
            assert child.stdout is not None
            if child.stdout.readline().strip() == _READY:
                yield child
            else:
                errors.seek(0)
                lines = errors.read().strip().splitlines() or ["it ended"]
                bench.notes.skip(" ".join((*before[:1], size, "program")), lines[-1])
                yield None


def hosts(bench: Bench) -> None:
    """Have programs of each kind start sandboxes, in turn."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        programs = {
            names.SMALL_HOST: stack.enter_context(_program(bench, "small")),
            names.LARGE_HOST: stack.enter_context(_program(bench, "large")),
            names.MANY_MOUNTS: stack.enter_context(
                _program(bench, "small", *_mounting(folder))
            ),
        }  # fmt: skip
        for number in range(_WARMING + bench.amounts.large):
            # to and fro: what one leaves to the kernel to tidy up falls on each of the others
            for name, program in list(programs.items())[:: 1 if number % 2 else -1]:
                if program is not None:
                    assert program.stdin is not None
                    assert program.stdout is not None
                    program.stdin.write("once\n")
                    program.stdin.flush()
                    took = float(program.stdout.readline())
                    if number >= _WARMING:
                        bench.notes.add(name, took)


def _grow() -> tuple[bytearray, threading.Event]:
    """Take two gigabytes of memory and a hundred threads."""
    held = bytearray(2 * _GIB)
    page = os.sysconf("SC_PAGE_SIZE")
    held[::page] = b"\1" * len(held[::page])
    done = threading.Event()
    for _ in range(100):
        threading.Thread(target=done.wait, daemon=True).start()
    return held, done


def _main() -> None:
    rootfs, size = sys.argv[1:]
    grown = _grow() if size == "large" else None
    print(_READY, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        with Sandbox(rootfs) as sandbox:
            sandbox.run("echo hi")
            took = time.perf_counter() - began
        print(took * 1000, flush=True)
    if grown is not None:
        grown[1].set()


if __name__ == "__main__":
    _main()
