"""The process that grades: it imports the libraries once, and forks for each answer.

It speaks JSON lines on what were its standard input and output. It has one thread, so that forking
is safe, and no owner but whoever holds the other end: when that is gone, it ends, also in the
middle of an answer. The child that looks at an answer has bounds of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from sandbox_lite.bench import graders
from sandbox_lite.bench.answer import ARTEFACT_BYTES
from sandbox_lite.bench.graders.grader import Grader, Question
from sandbox_lite.bench.libraries import INSTALL
from sandbox_lite.errors import HostError, SandboxLiteError, TaskError

_PR_SET_PDEATHSIG = 1
_MAX_REPLY = 1 << 20
_NO_MEMORY = 77
Reply = dict[str, Any]


def main() -> None:
    """Answer orders until nobody sends any."""
    orders = os.fdopen(os.dup(0), "rb", 0)
    replies = os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # libraries print
        os.dup2(nothing, descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm: set[str] = set()
    while line := orders.readline():
        reply = _answer(json.loads(line), orders, warm)
        if reply is None:
            return
        try:
            replies.write(json.dumps(reply).encode() + b"\n")
        except BrokenPipeError:
            return


def _answer(order: dict[str, Any], orders: BinaryIO, warm: set[str]) -> Reply | None:
    try:
        sys.path[:] = order["path"]
        grader = graders.find(order["grader"])
        if grader.name not in warm:
            _import(grader)
            if grader.warm_up is not None and grader.score is not None:
                grader.score(grader.warm_up)
            warm.add(grader.name)
    except SandboxLiteError as error:
        return _error(error)
    if order.get("question") is None:
        return {"kind": "ready"}
    question = Question(**order["question"])
    if order["control"]:
        answer, file = grader.control(question), grader.control_file
        question = dataclasses.replace(question, answer=answer, file=file)
    elif order["file"] is not None:
        try:
            question = dataclasses.replace(question, file=_content(Path(order["file"])))
        except SandboxLiteError as error:
            return _error(error)
    return _bounded(grader, question, order["timeout"], order["memory_bytes"], orders)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(ARTEFACT_BYTES)
    except OSError as error:
        raise TaskError(
            f"the stored file {path} cannot be read: {error.strerror}",
            hint="it belongs to the results, beside the trajectories",
        ) from error


def _import(grader: Grader) -> None:
    for name in grader.libraries:
        try:
            importlib.import_module(name)
        except ImportError as error:
            top = name.partition(".")[0]
            raise HostError(
                f"the grader {grader.name} needs {top}, which cannot be imported: {error}",
                hint=grader.install or INSTALL,
            ) from error


def _error(error: SandboxLiteError) -> Reply:
    name = type(error).__name__
    return {"kind": "error", "class": name, "message": error.message, "hint": error.hint}


def _bounded(
    grader: Grader, question: Question, timeout: float, memory_bytes: int, orders: BinaryIO
) -> Reply | None:
    """Grade in a child; None where nobody wants to know any more."""
    gc.freeze()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(grader, question, timeout, memory_bytes, writing)
    os.close(writing)
    found, late, gone = bytearray(), False, False
    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    poll.register(orders.fileno(), 0)  # POLLHUP alone
    try:
        while len(found) <= _MAX_REPLY:
            left = deadline - time.monotonic()
            events = poll.poll(max(0, left) * 1000)
            if not events:
                late = True
                break
            ready = {descriptor for descriptor, _ in events}
            if orders.fileno() in ready:
                gone = True
                break
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                break
            found += chunk
    finally:
        os.close(reading)
        status = _end(child)
    if gone:
        return None
    if late:
        return {"kind": "late"}
    code = os.waitstatus_to_exitcode(status)
    try:
        reply: Reply = json.loads(found)
    except ValueError:
        kind = "memory" if code in (_NO_MEMORY, -signal.SIGSEGV, -signal.SIGABRT) else "died"
        kind = "late" if code == -signal.SIGXCPU else kind
        return {"kind": kind, "message": f"its process ended with {code}"}
    return reply


def _end(child: int) -> int:
    """Kill the child and what it may have started; its id is no other's until it is reaped."""
    os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # killed before it had a group of its own
        os.killpg(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _work(
    grader: Grader, question: Question, timeout: float, memory_bytes: int, writing: int
) -> NoReturn:
    """The child's part: what it may use is bounded before it looks at the answer."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(1, 2)  # nowhere; a file that may not grow is an error to whoever writes
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        room = pages * resource.getpagesize() + memory_bytes
        seconds = int(timeout) + 1
        _lower(resource.RLIMIT_AS, room)
        _lower(resource.RLIMIT_CPU, seconds)
        _lower(resource.RLIMIT_FSIZE, 0)
        _lower(resource.RLIMIT_CORE, 0)
        reply = _graded(grader, question)
        data = json.dumps(reply).encode()
        while data:
            data = data[os.write(writing, data) :]
        code = 0
    except MemoryError:
        code = _NO_MEMORY
    finally:
        os._exit(code)


def _lower(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _graded(grader: Grader, question: Question) -> Reply:
    assert grader.score is not None
    try:
        verdict = grader.score(question)
    except SandboxLiteError as error:
        return _error(error)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # told to whoever asked
        return {"kind": "failed", "message": f"{type(error).__name__}: {error}"[:1000]}
    return {
        "kind": "verdict",
        "value": float(verdict.value),
        "text": verdict.text,
        "details": dict(verdict.details),
    }


if __name__ == "__main__":
    main()
