"""A second program that keeps sandboxes open: one alone may not open so many files.

    python -m benchmark.beside ROOTFS COUNT

Says "open" when they are, asks each once when it is told to, and prints the milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from sandbox_lite import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def asked(boxes: Sequence[Sandbox]) -> list[float]:
    """Return how many milliseconds each takes to answer."""
    found = []
    for box in boxes:
        began = time.perf_counter()
        box.run(":").check()
        found.append((time.perf_counter() - began) * 1000)
    return found


class Beside:
    """The program's other end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Take it as it has just been started."""
        self._process = process

    def tell(self, word: str) -> str:
        """Tell it something, where that is not nothing, and return the line that it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if word:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline().strip()
        if not line:
            raise AssertionError("the program with further sandboxes ended")
        return line


@contextlib.contextmanager
def keeping(rootfs: str, count: int) -> Iterator[Beside | None]:
    """Yield a program that keeps so many sandboxes open until the end of the block."""
    if count < 1:
        yield None
        return
    argv = [sys.executable, "-m", "benchmark.beside", rootfs, str(count)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        beside = Beside(process)
        beside.tell("")
        yield beside


def main() -> None:
    """Keep them until nobody is there any more."""
    rootfs, count = sys.argv[1], int(sys.argv[2])
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(Sandbox(rootfs)) for _ in range(count)]
        print("open", flush=True)
        for _ in sys.stdin:
            print(json.dumps(asked(boxes)), flush=True)


if __name__ == "__main__":
    main()
