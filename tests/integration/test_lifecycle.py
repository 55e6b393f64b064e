"""Who owns a sandbox, and what is left when its owner goes, in whichever way."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Limits, Mount, Sandbox
from sandbox_lite.errors import HostError, LaunchError, RootfsError, SandboxClosedError, SpecError
from sandbox_lite.jail import janitor, layers, nests, places
from sandbox_lite.spec import SandboxSpec
from tests.faces import made

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faces import FaceName


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


WORKER = """
import sys, time
from sandbox_lite import Sandbox
from sandbox_lite.spec import SandboxSpec
spec = SandboxSpec(rootfs="minimal", upper=sys.argv[2])
boxes = [Sandbox(spec).open() for _ in range(int(sys.argv[1]))]
for box in boxes:
    box.run("(while :; do :; done) & setsid -f sleep 1000; head -c 1M /dev/zero >/tmp/x").check()
print("working", flush=True)
boxes[0].run("sleep 1000", timeout=1000)
"""


@pytest.mark.timeout(90)
@pytest.mark.slow
@pytest.mark.parametrize("upper", ["tmpfs", "directory"])
def test_sigkill_of_our_process_leaves_nothing_within_a_second(home: Path, upper: str) -> None:
    before = mounts()
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, "20", upper], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    with worker, worker.stdout:
        assert worker.stdout.readline() == "working\n"
        processes = descendants(worker.pid)
        assert len(processes) > 20 * 4
        directories = list(places.run_dir().glob(f"{worker.pid}-*"))
        assert len(directories) == (20 if upper == "directory" else 0)
        worker.kill()
        worker.wait()
        # the janitor ends as well, a moment after its last directory
        assert wait_until(lambda: not alive(processes), 1.0), alive(processes)
        assert wait_until(lambda: not any(path.exists() for path in directories), 1.0)
    assert mounts() == before


def test_close_leaves_no_process_directory_or_descriptor(home: Path, face: FaceName) -> None:
    def cycle(upper: str) -> None:
        with made(face, SandboxSpec(rootfs="minimal", upper=upper)) as sandbox:  # type: ignore[arg-type]
            sandbox.run("sleep 1000 & setsid -f sleep 1000").check()
            sandbox.exec(["true"])
            seen.extend(descendants(os.getpid()))

    seen: list[psutil.Process] = []
    cycle("directory")
    nests.SHARED.close()
    gc.collect()
    fds = psutil.Process().num_fds()
    for upper in ("tmpfs", "directory", "tmpfs"):
        cycle(upper)
    assert any(process.name() == "sandbox-nest" for process in alive(seen))
    nests.SHARED.close()
    left = [process for process in alive(seen) if "janitor" not in " ".join(process.cmdline())]
    assert not left
    assert psutil.Process().num_fds() == fds
    assert not list(places.run_dir().glob(f"{os.getpid()}-*"))


def test_sandbox_started_in_a_short_lived_thread_lives_on(home: Path, face: FaceName) -> None:
    boxes: list[Sandbox] = []
    thread = threading.Thread(target=lambda: boxes.append(made(face, "minimal").open()))
    thread.start()
    thread.join()
    try:
        assert boxes[0].run("echo alive").stdout == "alive\n"
        assert boxes[0].exec(["echo", "too"]).stdout == "too\n"
    finally:
        boxes[0].close()


def test_many_threads_with_a_sandbox_each(home: Path, face: FaceName) -> None:
    def work(number: int) -> str:
        with made(face, "minimal") as sandbox:
            sandbox.run(f"x={number}").check()
            return sandbox.run("echo $x").stdout

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(16))) == [f"{n}\n" for n in range(16)]


def _use_in_worker(number: int) -> str:
    with Sandbox("minimal") as sandbox:
        return sandbox.run(f"echo {number}").stdout


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_sandboxes_in_multiprocessing_workers(home: Path, method: str) -> None:
    with Sandbox("minimal") as ours:
        ours.run("x=1").check()
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map(_use_in_worker, range(4)) == [f"{n}\n" for n in range(4)]
        assert ours.run("echo $x").stdout == "1\n"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_cannot_use_but_neither_ends_the_parents_sandbox(home: Path) -> None:
    with Sandbox("minimal") as ours:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ours.run("echo x")
            except SandboxClosedError:
                ours.close()
                with Sandbox("minimal") as own:
                    code = 0 if own.run("echo x").ok else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert ours.run("echo still mine").stdout == "still mine\n"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_that_lives_on_does_not_keep_the_parents_directories(home: Path) -> None:
    script = WORKER.replace(
        "print(", "import os\nif os.fork() == 0: time.sleep(1000)\nprint(os.getpid(), "
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script, "1", "directory"], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    with worker, worker.stdout:
        assert "working" in worker.stdout.readline()
        directories = list(places.run_dir().glob(f"{worker.pid}-*"))
        children = [p for p in descendants(worker.pid) if p.name().startswith("python")]
        assert directories
        worker.kill()
        worker.wait()
        try:
            assert wait_until(lambda: not any(path.exists() for path in directories), 5)
        finally:
            for child in alive(children):
                child.kill()


def test_next_start_sweeps_what_a_killed_program_and_janitor_left(home: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = places.run_dir() / f"{dead.pid}-abc"
    (left / "work" / "work").mkdir(parents=True)
    owner = {"boot_id": "another boot", "pid": os.getpid(), "start_time": 1, "pid_namespace": 1}
    (left / "owner.json").write_text(json.dumps(owner))
    (left / "work" / "work").chmod(0)
    torn = places.run_dir() / f"{dead.pid}-torn"
    torn.mkdir()
    with Sandbox(SandboxSpec(rootfs="minimal", upper="directory")) as ours:
        assert layers.sweep() == 2
        assert not left.exists()
        assert not torn.exists()
        assert ours.run("echo not swept").ok


def test_sigkill_of_process_1_is_an_error_not_a_result(home: Path, face: FaceName) -> None:
    with made(face, "minimal") as sandbox:
        pid = sandbox.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(pid), 5)
        with pytest.raises(SandboxClosedError):
            sandbox.run("echo x")
        with pytest.raises(SandboxClosedError):
            sandbox.exec(["true"])


def test_sigkill_of_process_1_while_a_command_runs(home: Path, face: FaceName) -> None:
    with made(face, "minimal") as sandbox:
        pid = sandbox.pid
        timer = threading.Timer(0.3, lambda: os.kill(pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(SandboxClosedError):
            sandbox.run("sleep 100", timeout=15)
        timer.join()


@pytest.mark.timeout(30)
def test_ctrl_c_ends_the_command_and_keeps_the_sandbox(home: Path, face: FaceName) -> None:
    with made(face, "minimal") as sandbox:
        main = threading.main_thread().ident
        assert main is not None
        actions: tuple[Callable[[], object], ...] = (
            lambda: sandbox.run("sleep 100"),
            lambda: sandbox.exec(["sleep", "100"]),
        )
        for action in actions:
            timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                action()
            timer.join()
            assert sandbox.run("grep -l '^sleep$' /proc/[0-9]*/comm").exit_code != 0
            assert sandbox.run("echo works").stdout == "works\n"


def test_failed_start_leaves_nothing(home: Path, face: FaceName, tmp_path: Path) -> None:
    gc.collect()
    with pytest.raises(RootfsError) as missing:
        made(face, "nosuch").open()
    assert "rootfs build" in (missing.value.hint or "")
    with made(face, SandboxSpec(rootfs="minimal", upper="directory")):
        pass  # what the next starts share is there
    fds = psutil.Process().num_fds()
    broken = tmp_path / "broken"
    (broken / "tree").mkdir(parents=True)
    for _ in range(3):
        spec = SandboxSpec(rootfs="minimal", workdir="/proc/nothing/here", upper="directory")
        with pytest.raises(LaunchError):
            made(face, spec).open()
    assert psutil.Process().num_fds() == fds
    assert not list(places.run_dir().glob(f"{os.getpid()}-*"))


@pytest.mark.parametrize(
    "bad", [{"network": "nosuch"}, {"workdir": "relative"}, {"env": {"A=": ""}}]
)
def test_request_that_makes_no_sense_creates_nothing(
    home: Path, face: FaceName, bad: dict[str, object]
) -> None:
    with pytest.raises(SpecError):
        made(face, "minimal", **bad)


def test_state_directory_that_cannot_be_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox_lite.jail.rootfs.store import Store

    store = Store(home / "data" / "rootfs")
    file = tmp_path / "file"
    file.write_text("a file where a folder belongs")
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(file))
    with pytest.raises(HostError) as caught:
        Sandbox("minimal", store=store).open()
    assert "SANDBOX_LITE_HOME" in (caught.value.hint or "")


def test_limits_and_close_twice(home: Path, face: FaceName) -> None:
    sandbox = made(face, "minimal", limits=Limits.of(timeout=0.3))
    with sandbox:
        assert sandbox.run("sleep 100").outcome == "timed_out"
    sandbox.close()
    with pytest.raises(SpecError):
        made(face, "minimal").run("echo x")


def test_janitor_that_was_only_slow_destroys_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_PATIENCE", struct.pack("ll", 1, 0))
    one = janitor.Janitor()
    watched = tmp_path / "watched"
    watched.mkdir()
    one.watch(watched)
    slow = psutil.Process(one.pid)
    slow.suspend()
    with Path("/proc/self/ns/net").open() as namespace, contextlib.suppress(HostError):
        for made in one.sockets(namespace.fileno(), "connect 1"):
            made.close()
    assert one.pid != slow.pid
    assert wait_until(lambda: not alive([slow]), 5)
    assert watched.exists()
    # the other one has taken over
    assert one._running is not None
    pid = one.pid
    one._running.close()
    assert wait_until(lambda: not watched.exists(), 10)
    os.waitpid(pid, 0)


def test_cache_that_was_cleaned_while_a_program_runs(home: Path) -> None:
    def hosts() -> str:
        with Sandbox("minimal") as sandbox:
            return sandbox.run("cat /etc/hosts").check().stdout

    before = hosts()
    shutil.rmtree(home / "cache" / "layers")
    assert hosts() == before
    assert "127.0.1.1" in before


def test_directory_of_the_callers_is_let_go_with_its_sandbox(home: Path, tmp_path: Path) -> None:
    def holding() -> list[int]:
        own = psutil.Process().children(recursive=True)
        return [one.pid for one in own if any(str(tmp_path) in word for word in one.cmdline())]

    spec = SandboxSpec(rootfs="minimal", mounts=(Mount(source=tmp_path, target="/data"),))
    (tmp_path / "file").write_text("here")
    with Sandbox(spec) as sandbox:
        assert sandbox.run("cat /data/file").stdout == "here"
        assert holding()
    assert not holding()
