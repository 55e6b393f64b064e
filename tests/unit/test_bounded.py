"""Graders in bounded processes: who is to blame, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite.bench.bounded import BoundedGraders
from sandbox_lite.bench.graders.grader import Question
from sandbox_lite.errors import HostError, SandboxClosedError, SpecError, TaskError
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)  # libraries are imported, on a machine that is busy

CODE = """
import os, pathlib, time
from sandbox_lite.bench.graders.grader import Grader, Verdict

def score(question):
    answer = question.answer
    if answer == "sleep":
        time.sleep(60)
    if answer == "spin":
        while True: pass
    if answer == "swallow":
        while True:
            try:
                while True: pass
            except BaseException: pass
    if answer == "memory":
        bytearray(2 << 30)
    if answer == "recurse":
        def deep(): return deep() + 1
        deep()
    if answer == "raise":
        raise ValueError("no")
    if answer == "exit":
        os._exit(3)
    if answer == "print":
        print("{}"); os.write(1, b"{}"); os.write(2, b"x")
    if answer == "write":
        pathlib.Path(question.extra["path"]).write_text("x" * 10)
    if answer == "large":
        return Verdict(value=1.0, text="x" * 300_000)
    if answer == "child" and os.fork() == 0:
        time.sleep(60)
    return Verdict(value=float(answer != "wrong"), text=str(os.getpid()))

GOOD = Grader(name="good", score=score)
BROKEN = Grader(name="broken", score=score, control=lambda question: question.answer)
LACKING = Grader(
    name="lacking", score=score, libraries=("no_such_library",), install="pip install x"
)
NOT_ONE = 5
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(CODE)
    return str(path)


@pytest.fixture
def graders() -> Iterator[Callable[..., BoundedGraders]]:
    opened: list[BoundedGraders] = []

    def make(**settings: float) -> BoundedGraders:
        made = BoundedGraders(**({"timeout": 10.0} | settings))  # type: ignore[arg-type]
        opened.append(made)
        return made

    before = children()
    yield make
    for one in opened:
        one.close()
    assert children() == before


def children() -> set[int]:
    found = psutil.Process().children(recursive=True)
    return {one.pid for one in found if "sandbox_lite.bench.worker" in " ".join(cmdline(one))}


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(answer: str, **extra: object) -> Question:
    return Question(answer=answer, truth="right", extra=extra)


def test_each_answer_has_a_process_of_its_own(
    graders: Callable[..., BoundedGraders], plugin: str
) -> None:
    one = graders()
    pids = {one.score(f"{plugin}:GOOD", ask("right")).text for _ in range(3)}
    assert len(pids) == 3
    assert len(children()) == 1
    assert one.score(f"{plugin}:GOOD", ask("wrong")).value == 0.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("sleep", "the grader ran out of time on this answer"),
        ("spin", "the grader ran out of time on this answer"),
        ("swallow", "the grader ran out of time on this answer"),
        ("memory", "the grader ran out of memory on this answer"),
        ("recurse", "the grader failed: RecursionError"),
        ("raise", "the grader failed: ValueError: no on this answer"),
        ("exit", "the grader failed: its process ended with 3 on this answer"),
    ],
)
def test_an_answer_that_breaks_a_grader_is_wrong(
    graders: Callable[..., BoundedGraders], plugin: str, answer: str, reason: str
) -> None:
    one = graders(timeout=1.0, memory_bytes=256 * MIB)
    found = one.score(f"{plugin}:GOOD", ask(answer))
    assert found.value == 0.0
    assert found.text.startswith(reason)
    assert one.score(f"{plugin}:GOOD", ask("right")).value == 1.0


@pytest.mark.parametrize("answer", ["sleep", "memory", "raise", "exit"])
def test_a_grader_that_fails_on_its_own_answer_gives_no_score(
    graders: Callable[..., BoundedGraders], plugin: str, answer: str
) -> None:
    one = graders(timeout=1.0, memory_bytes=256 * MIB)
    with pytest.raises(TaskError, match="also on an answer of its own"):
        one.score(f"{plugin}:BROKEN", ask(answer))


def test_what_a_grader_prints_is_no_reply(
    graders: Callable[..., BoundedGraders], plugin: str
) -> None:
    one = graders()
    assert one.score(f"{plugin}:GOOD", ask("print")).value == 1.0
    assert len(one.score(f"{plugin}:GOOD", ask("large")).text) == 300_000


def test_what_a_grader_starts_ends_with_it(
    graders: Callable[..., BoundedGraders], plugin: str
) -> None:
    one = graders(timeout=1.0)
    # the child holds the pipe, so that only the time ends it
    assert one.score(f"{plugin}:GOOD", ask("child")).text.startswith("the grader ran out of time")
    assert len(children()) == 1


def test_a_grader_writes_no_file(
    graders: Callable[..., BoundedGraders], plugin: str, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    found = graders().score(f"{plugin}:GOOD", ask("write", path=str(target)))
    assert found.value == 0.0
    assert not target.exists() or target.read_bytes() == b""


def test_a_library_that_lacks_is_said_with_its_remedy(
    graders: Callable[..., BoundedGraders], plugin: str
) -> None:
    one = graders()
    for call in (
        lambda: one.check(f"{plugin}:LACKING"),
        lambda: one.score(f"{plugin}:LACKING", ask("right")),
    ):
        with pytest.raises(HostError, match="lacking needs no_such_library") as raised:
            call()
        assert raised.value.hint == "pip install x"
    one.check("choice")
    with pytest.raises(SpecError, match="no grader 'nope'"):
        one.check("nope")
    with pytest.raises(SpecError, match="is no Grader but of type int"):
        one.check(f"{plugin}:NOT_ONE")
    with pytest.raises(TaskError, match="cannot be imported"):
        one.check("no.such.module:X")


def test_many_threads_ask_at_once(graders: Callable[..., BoundedGraders], plugin: str) -> None:
    one = graders(processes=2)
    with ThreadPoolExecutor(8) as threads:
        answers = ["right", "wrong"] * 20
        found = list(threads.map(lambda a: one.score(f"{plugin}:GOOD", ask(a)).value, answers))
    assert found == [1.0, 0.0] * 20
    assert len(children()) == 2


def test_a_worker_that_was_killed_is_replaced(
    graders: Callable[..., BoundedGraders], plugin: str
) -> None:
    one = graders()
    one.score(f"{plugin}:GOOD", ask("right"))
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TaskError, match="ended with -9"):
        one.score(f"{plugin}:GOOD", ask("right"))
    assert one.score(f"{plugin}:GOOD", ask("right")).value == 1.0


def test_closing_ends_who_waits(graders: Callable[..., BoundedGraders], plugin: str) -> None:
    one = graders(timeout=30.0)
    one.score(f"{plugin}:GOOD", ask("right"))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            one.score(f"{plugin}:GOOD", ask("sleep"))
        except SandboxClosedError as error:
            raised.append(error)

    (pid,) = children()
    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: bool(psutil.Process(pid).children()))
    one.close()
    thread.join(10)
    assert len(raised) == 1
    with pytest.raises(SandboxClosedError):
        one.score(f"{plugin}:GOOD", ask("right"))


def test_nothing_outlives_a_program_that_was_killed(plugin: str) -> None:
    code = (
        "import sys\n"
        "from sandbox_lite.bench.bounded import BoundedGraders\n"
        "from sandbox_lite.bench.graders.grader import Question\n"
        "print('up', flush=True)\n"
        "question = Question(answer='sleep', truth='')\n"
        f"BoundedGraders(timeout=60).score({plugin + ':GOOD'!r}, question)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"up\n"
    family: list[psutil.Process] = []

    def grading() -> bool:
        family[:] = psutil.Process(program.pid).children(recursive=True)
        return len(family) == 2

    wait_for(grading)
    program.kill()
    program.wait()
    program.stdout.close()
    wait_for(lambda: not any(one.is_running() and one.status() != "zombie" for one in family))


def test_settings_must_make_sense() -> None:
    for settings in ({"processes": 0}, {"timeout": 0}, {"memory_bytes": 0}):
        with pytest.raises(SpecError):
            BoundedGraders(**settings)


def test_a_worker_imports_what_the_program_does(
    graders: Callable[..., BoundedGraders], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thirdparty.py").write_text(CODE)
    one = graders()
    one.check("choice")
    monkeypatch.syspath_prepend(tmp_path)
    assert one.score("thirdparty:GOOD", ask("right")).value == 1.0
