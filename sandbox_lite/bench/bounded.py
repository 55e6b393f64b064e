"""Graders in processes with bounds of time and memory.

An answer is a model's text, and libraries that parse it can be made to run for hours or to fill the
memory. A bound that is met tells nothing yet of who is to blame: the same grader is then given an
answer that it must be able to grade. If it can, the answer is to blame and scores 0; if it cannot,
the grader or the machine is, and that is an error, never a score.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from sandbox_lite import errors
from sandbox_lite.bench.graders.grader import Verdict
from sandbox_lite.errors import SandboxClosedError, SandboxLiteError, SpecError, TaskError
from sandbox_lite.spec import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.bench.graders.grader import Question

_START_SECONDS = 120.0
"""For the imports of a grader, on a machine that is busy."""
_BLAMED = {"late": "the grader ran out of time", "memory": "the grader ran out of memory"}


class BoundedGraders(AbstractContextManager["BoundedGraders"]):
    """Processes that grade, started when they are needed. Any number of threads may ask at once.

    Args:
        processes: How many answers are graded at once.
        timeout: Seconds for one answer.
        memory_bytes: For one answer, beyond what the libraries take.
    """

    def __init__(
        self, *, processes: int = 1, timeout: float = 30.0, memory_bytes: int = GIB
    ) -> None:
        if processes < 1 or not timeout > 0 or memory_bytes < 1:
            raise SpecError("processes, timeout and memory_bytes of graders must be positive")
        self._timeout = timeout
        self._memory_bytes = memory_bytes
        self._places = threading.Semaphore(processes)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; whoever still waits for one gets an error."""
        with self._lock:
            self._closed = True
            workers, self._all, self._idle = self._all, set(), []
        for worker in workers:
            worker.kill()

    def check(self, grader: str) -> None:
        """Return when a grader's libraries are there.

        Raises:
            HostError: One lacks; the hint is the command that installs it.
            SpecError: There is no such grader.
        """
        self._ask({"grader": grader, "question": None}, _START_SECONDS)

    def score(
        self, grader: str, question: Question, *, file: Path | bytes | None = None
    ) -> Verdict:
        """Return what a grader finds.

        Args:
            grader: Its name.
            question: What it is to look at.
            file: The file that the question asks for, or where it is kept.

        Raises:
            HostError: One of its libraries lacks.
            TaskError: The file cannot be read; or the grader failed on an answer that it must be
                able to grade.
        """
        with _readable(file) as path:
            reply = self._graded(grader, question, path, control=False)
        if reply["kind"] == "verdict":
            return Verdict(value=reply["value"], text=reply["text"], details=reply["details"])
        control = self._graded(grader, question, None, control=True)
        why = _BLAMED.get(reply["kind"]) or f"the grader failed: {reply.get('message')}"
        if control["kind"] != "verdict":
            raise TaskError(
                f"{grader} cannot grade this row: {why}, also on an answer of its own",
                hint="grade it again when the machine is less busy, or with more time and memory",
            )
        return Verdict(value=0.0, text=f"{why} on this answer", details={"grader": reply["kind"]})

    def try_control(self, grader: str, question: Question) -> None:
        """Return when a grader can grade a row: it is given an answer that it must be able to.

        Raises:
            HostError: A library, or data of one, lacks.
            TaskError: The row or the grader is broken.
        """
        found = self._graded(grader, question, None, control=True)
        if found["kind"] != "verdict":
            why = _BLAMED.get(found["kind"]) or f"the grader failed: {found.get('message')}"
            raise TaskError(f"{grader} cannot grade this row: {why}")

    def _graded(
        self, grader: str, question: Question, file: str | None, *, control: bool
    ) -> dict[str, Any]:
        order = {
            "grader": grader,
            "question": dataclasses.asdict(question),
            "file": file,
            "control": control,
            "timeout": self._timeout,
            "memory_bytes": self._memory_bytes,
        }
        return self._ask(order, self._timeout + _START_SECONDS)

    def _ask(self, order: dict[str, Any], timeout: float) -> dict[str, Any]:
        with self._places:
            worker = self._take()
            try:
                reply = worker.ask(order | {"path": sys.path}, timeout)
            except BaseException:
                with self._lock:
                    self._all.discard(worker)
                worker.kill()
                raise
            with self._lock:
                if not self._closed:
                    self._idle.append(worker)
        if reply["kind"] == "error":
            kind: type[SandboxLiteError] = getattr(errors, reply["class"])
            raise kind(reply["message"], hint=reply["hint"])
        return reply

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise SandboxClosedError("the graders were closed")
            if self._idle:
                return self._idle.pop()
            worker = _Worker()
            self._all.add(worker)
            return worker


@contextmanager
def _readable(file: Path | bytes | None) -> Iterator[str | None]:
    """Yield a path at which another process of ours can read a file."""
    if not isinstance(file, bytes):
        yield None if file is None else str(file.absolute())
        return
    # in memory: whenever we end, it is gone
    descriptor = os.memfd_create("artefact", os.MFD_CLOEXEC)
    try:
        view = memoryview(file)
        while view:
            view = view[os.write(descriptor, view) :]
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


class _Worker:
    """One process; one order at a time."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        environment = {
            **os.environ,
            # the program's own modules and no others, wherever it stands
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # a thread pool does not survive a fork
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sandbox_lite.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C is the program's, who ends it
        )
        self._lock = threading.Lock()
        self._dead = False

    def ask(self, order: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        view = memoryview(json.dumps(order, default=str).encode() + b"\n")
        deadline = time.monotonic() + timeout
        found = bytearray()
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
            while not found.endswith(b"\n"):
                left = max(0.0, deadline - time.monotonic())
                if not select.select([self._process.stdout], [], [], left)[0]:
                    raise TaskError(
                        f"the grading process did not answer in {timeout:.0f} s",
                        hint="the machine is too busy; grade again later",
                    )
                chunk = self._process.stdout.read(1 << 16)
                if not chunk:
                    break
                found += chunk
        except (BrokenPipeError, ValueError, OSError) as error:
            raise self._gone() from error
        if not found.endswith(b"\n"):
            raise self._gone()
        reply: dict[str, Any] = json.loads(found)
        return reply

    def kill(self) -> None:
        with self._lock:
            if self._dead:
                return
            self._dead = True
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def _gone(self) -> SandboxLiteError:
        if self._dead:
            return SandboxClosedError("the graders were closed")
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return TaskError(
            f"the grading process ended with {code}: {last[0] if last else 'it said nothing'}",
            hint="grade again; if it ends again, the machine is short of memory",
        )
