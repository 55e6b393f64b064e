"""The installed program, as its users start it: a process of its own in an empty directory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROGRAM = Path(sys.executable).with_name("sandbox-lite")
_SECONDS = 18.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the program ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    def one_error(self) -> tuple[str, str]:
        """Return message and hint, and check that nothing else was printed on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 2, self.err
        assert lines[0].startswith("sandbox-lite: error: "), self.err
        assert lines[1].startswith("hint: "), self.err
        return lines[0], lines[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The program with a state directory and a working directory."""

    home: Path
    directory: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Return a small environment: nothing of the developer's own settings or keys."""
        kept = {
            k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "COVERAGE_PROCESS_START")
        }
        own = {"HOME": str(self.directory), "SANDBOX_LITE_HOME": str(self.home), "TERM": "xterm"}
        return {**kept, **own, **self.variables, **more}

    def start(
        self,
        *words: str | Path,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        **variables: str,
    ) -> subprocess.Popen[bytes]:
        """Start the program in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [PROGRAM, *map(str, words)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.directory,
            env=self.environment(variables),
            process_group=0,
        )

    def run(self, *words: str | Path, given: bytes | None = None, **variables: str) -> Ended:
        """Run the program to its end."""
        stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
        return ended(self.start(*words, stdin=stdin, **variables), given)


def ended(
    process: subprocess.Popen[bytes], given: bytes | None = None, *, seconds: float = _SECONDS
) -> Ended:
    """Wait for the end of the program."""
    with process:
        try:
            out, err = process.communicate(given, timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Ended(code=process.returncode, out=out, err=err.decode())


def interrupted(
    process: subprocess.Popen[bytes],
    number: signal.Signals = signal.SIGINT,
    *,
    seconds: float = _SECONDS,
) -> Ended:
    """Send a signal as a terminal does, to the whole group; nothing may be left afterwards."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    result = ended(process, seconds=seconds)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, alive
    return result


def until(true: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Wait for something, and not for ever."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def first_processes(program: int) -> list[int]:
    """Return the pids of the processes that are number 1 of a sandbox."""
    found = []
    for child in psutil.Process(program).children(recursive=True):
        status = Path(f"/proc/{child.pid}/status").read_text()
        numbers = re.findall(r"^NSpid:(.*)", status, re.MULTILINE)[0].split()
        if len(numbers) > 1 and numbers[-1] == "1":
            found.append(child.pid)
    return found
