"""What a hostile or unlucky command, caller or host can do to a sandbox: an error, never a hang."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Sandbox, SandboxSpec
from sandbox_lite.errors import HostError, LaunchError, SandboxLiteError, SpecError
from sandbox_lite.jail import layers, places
from sandbox_lite.spec import MIB, Outcome
from tests.faces import made

if TYPE_CHECKING:
    from tests.faces import FaceName

FLOOD = "(yes {line} >/run/sandbox-lite/shell-main-1/{fifo} 2>/dev/null) & true"


@pytest.fixture
def sb(either: Sandbox) -> Sandbox:
    return either


def test_long_outputs_never_fill_the_control_directory(sandbox: Sandbox) -> None:
    long = "head -c 70000000 /dev/zero | tr '\\0' a"
    for _ in range(8):
        sandbox.run(long).check()
    last = sandbox.run(long)
    # the newest is whole, to its cap; the oldest gave way, for commands need the place
    assert sandbox.run(f"wc -c <{last.full_output}").stdout == f"{64 * MIB}\n"
    text = f": {'x' * 30 * MIB}\necho here"
    assert sandbox.run(text).stdout == "here\n"
    assert sandbox.exec(["cat"], input=b"there").stdout == "there"


@pytest.mark.parametrize(
    ("fifo", "line"), [("status", "$'\\1'1 1"), ("status", "x"), ("state", "y"), ("state", "'#'")]
)
def test_flood_of_our_own_fifos_neither_hangs_nor_lies(sb: Sandbox, fifo: str, line: str) -> None:
    sb.run(FLOOD.format(fifo=fifo, line=line)).check()
    started = time.monotonic()
    result = sb.run("sleep 0.1; echo hi", timeout=5)
    assert (result.stdout, result.exit_code) == ("hi\n", 0)
    assert time.monotonic() - started < 3


def test_forged_reports_are_no_exception_of_pythons(sb: Sandbox) -> None:
    many = "printf '9%.0s' {1..5000}"
    sb.run(f"printf '\\1%s 0 /\\2\\n' $({many}) >/run/sandbox-lite/shell-main-1/status").check()
    forged = "mark=$(grep -o '#[0-9a-f]* %s' /run/sandbox-lite/shell-main-1/rc)"
    sb.run(
        f"{forged}; printf '%s%s\\n' \"${{mark%\\%s}}\" $({many}) "
        ">/run/sandbox-lite/shell-main-1/state"
    )
    assert sb.run("echo on").stdout == "on\n"


@pytest.mark.parametrize(("command", "code"), [("echo hi; exit 3", 3), ("kill -9 $$", 137)])
def test_shell_that_ends_under_an_interactive_program(sb: Sandbox, command: str, code: int) -> None:
    with sb.interact(command) as program:
        assert program.finish(timeout=10).exit_code == code
    assert sb.run("echo back").stdout == "back\n"


@pytest.mark.parametrize("timeout", [float("inf"), 1e9])
def test_time_out_longer_than_poll_can_count(sb: Sandbox, timeout: float) -> None:
    assert sb.run("echo a", timeout=timeout).stdout == "a\n"
    assert sb.exec(["echo", "b"], timeout=timeout).stdout == "b\n"


def test_half_a_surrogate_pair_is_refused(sb: Sandbox) -> None:
    with pytest.raises(SpecError, match="surrogate"):
        sb.run("echo \ud83d")
    with pytest.raises(SpecError, match="surrogate"):
        sb.exec(["echo", "\ud83d"])
    assert sb.run("echo on").stdout == "on\n"


# over asyncio a callback cannot wait for a call, and whoever awaits one takes his turn
def test_callback_that_comes_back_to_its_own_shell_is_told(sandbox: Sandbox) -> None:
    def again(stream: str, data: bytes) -> None:
        sandbox.run("echo nested")

    with pytest.raises(SpecError, match="busy"):
        sandbox.run("echo outer; sleep 10", on_output=again)
    assert sandbox.run("echo on").stdout == "on\n"


def test_exec_where_the_working_directory_is_gone(sb: Sandbox) -> None:
    sb.run("cd /; rmdir /testbed").check()
    assert sb.exec(["pwd"]).exit_code == 126
    result = sb.exec(["pwd"], cwd="/tmp")
    assert (result.stdout, result.stderr) == ("/tmp\n", "")


@pytest.mark.parametrize(
    ("name", "value"), [("UID", "77"), ("SHELLOPTS", "x"), ("LC_ALL", "xx_YY.UTF-8")]
)
def test_variables_of_bash_pass_through_exec_in_silence(sb: Sandbox, name: str, value: str) -> None:
    result = sb.exec(["env"], env={name: value})
    assert f"{name}={value}" in result.stdout.splitlines()
    assert result.stderr == ""


SIGNALS = """
import signal, sys
from sandbox_lite import Sandbox
numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT}
if sys.argv[1] == "ignored":
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
else:
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
with Sandbox("minimal") as sandbox:
    codes = [sandbox.run("sleep 9", timeout=0.3).exit_code]
    codes.append(sandbox.exec(["sleep", "9"], timeout=0.3).exit_code)
    masks = sandbox.exec(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]).stdout.split()
print(codes, masks[1::2])
"""


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_signals_that_the_host_program_ignores_or_blocks_work_inside(home: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS, how], capture_output=True, text=True, timeout=15, check=True
    )
    assert done.stdout == f"[130, 143] ['{'0' * 16}', '{'0' * 16}']\n"


def test_too_few_descriptors_are_one_clear_line(home: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Sandbox("minimal") as sandbox:
        # with it the files of its control group stay open
        sandbox.run(":").check()
        used = psutil.Process().num_fds()
        try:
            # the limit counts numbers, and the lowest free one is always taken
            highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            holes = []
            while True:
                try:
                    holes.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            for attempt in (
                lambda: sandbox.run("echo hi"),
                lambda: sandbox.exec(["true"]),
                lambda: sandbox.shell("other"),
            ):
                with pytest.raises(HostError) as caught:
                    attempt()
                assert "ulimit -n" in str(caught.value)
            with pytest.raises(SandboxLiteError, match="Too many open files"):
                Sandbox("minimal").open()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in holes:
                os.close(fd)
        assert sandbox.run("echo on").stdout == "on\n"
        assert psutil.Process().num_fds() == used


def _interrupted(work: object, seconds: float) -> None:
    assert callable(work)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        work()
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Ctrl-C between an open() and its `with` leaves that file object to Python's collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_of_exec_leaves_no_program(sb: Sandbox) -> None:
    for step in range(40):
        _interrupted(lambda: sb.exec(["sleep", "77"]), 0.0002 + step * 0.0001)
    assert sb.exec(["true"]).exit_code == 0
    first = psutil.Process(sb.pid)
    deadline = time.monotonic() + 5
    while len(first.children()) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(first.children()) == 1, [child.cmdline() for child in first.children()]
    gc.collect()  # here, where it may complain


# Ctrl-C between an open() and its `with` leaves that file object to Python's collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_of_a_start_leaves_nothing(home: Path, face: FaceName) -> None:
    name = f"ctrl-c-{os.getpid()}"
    for step in range(30):
        sandbox = made(face, SandboxSpec(rootfs="minimal", hostname=name))
        _interrupted(sandbox.open, 0.001 + step * 0.001)
        sandbox.close()
    assert _gone(name, 5), _named(name)
    gc.collect()  # here, where it may complain


def _named(hostname: str) -> set[int]:
    """Pids of the bwraps of such sandboxes, of whichever parent: an orphan is nobody's child."""
    found = set()
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if process.info["name"] == "bwrap" and hostname in words and alive:
            found.add(process.pid)
    return found


def _gone(hostname: str, seconds: float) -> bool:
    """Whether there are none within so many seconds, and none appears for a while after.

    A child that was forked by a program just killed has yet to become a bwrap.
    """
    deadline = time.monotonic() + seconds
    since = time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < 0.2:
        if _named(hostname):
            since = time.monotonic()
        time.sleep(0.01)
    return time.monotonic() - since >= 0.2


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_sigkill_at_any_moment_of_a_start_leaves_nothing(home: Path) -> None:
    name = f"sigkill-{os.getpid()}"
    script = (
        "from sandbox_lite import Sandbox, SandboxSpec\n"
        f"spec = SandboxSpec(rootfs='minimal', hostname='{name}')\n"
        "with Sandbox(spec) as one:\n"
        "    print('started', flush=True)\n"
        "    while True:\n"
        "        Sandbox(spec).open().close()\n"
    )
    for step in range(25):
        worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        with worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"started\n"
            time.sleep(step * 0.0011)  # not to wait for something: to be anywhere in a start
            worker.kill()
        # one that was killed in its start waits for the janitor, which may only be starting too
        assert _gone(name, 5), (step, _named(name))


def test_close_while_other_threads_work(home: Path, face: FaceName) -> None:
    for _ in range(5):
        sandbox = made(face, "minimal").open()
        ends: list[str] = []

        def work(call: object, sandbox: Sandbox = sandbox, ends: list[str] = ends) -> None:
            try:
                while True:
                    sandbox.run("sleep 0.01") if call == "run" else sandbox.exec(["true"])
            except BaseException as error:  # noqa: BLE001  # the kind of it is the point
                ends.append(type(error).__name__)

        threads = [threading.Thread(target=work, args=(kind,)) for kind in ("run", "exec") * 3]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        sandbox.close()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        assert set(ends) == {"SandboxClosedError"}, ends


def test_sweep_passes_what_it_may_not_remove(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.HOME_VARIABLE, str(tmp_path))
    blocked = places.run_dir() / "999999999-blocked"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file, where a directory belongs")
    (places.run_dir() / "999999999-orphan").mkdir()
    layers.sweep()
    assert not (places.run_dir() / "999999999-orphan").exists()
    monkeypatch.setattr(places, "run_dir", lambda: blocked)
    layers.sweep()


def test_outcome_of_a_time_out_is_kept_beside_floods(sb: Sandbox) -> None:
    result = sb.run("yes >/dev/tty", timeout=0.5)
    assert result.outcome is Outcome.TIMED_OUT
    assert sb.run("echo on").stdout == "on\n"


def test_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # the way an unknown uid in a container has it
    monkeypatch.delenv(places.HOME_VARIABLE, raising=False)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(HostError, match="nowhere to keep"):
        places.data_dir()
    monkeypatch.setenv(places.HOME_VARIABLE, "/somewhere")
    assert places.data_dir() == Path("/somewhere/data")


def test_proc_tells_nothing_of_the_whole_host(sb: Sandbox) -> None:
    for name in ("keys", "interrupts", "timer_list", "kpageflags", "vmallocinfo", "slabinfo"):
        assert sb.run(f"head -c 1 /proc/{name}").exit_code != 0, name
    # of what only root may read nothing is left, whoever runs us; kmsg asks for a capability
    left = sb.run("find /proc -maxdepth 1 -type f -perm 0400").stdout.split()
    assert [path for path in left if sb.run(f"head -c 1 {path}").exit_code == 0] == []
    assert sb.run("ls /proc/acpi").stdout == ""
    assert sb.run("touch /proc/fs/ext4/*/options").exit_code != 0


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_no_more_processes_is_an_error_and_no_end_of_the_sandbox(sb: Sandbox) -> None:
    sb.run("cd /tmp; echo kept >file; kept=variable").check()
    running: list[int] = []
    program = "echo $$ >/tmp/pid; exec sleep 50"
    beside = threading.Thread(
        target=lambda: running.append(sb.exec(["sh", "-c", program], timeout=40).exit_code)
    )
    beside.start()
    sb.run("until [ -s /tmp/pid ]; do sleep 0.01; done").check()
    soft, hard = resource.prlimit(sb.pid, resource.RLIMIT_NPROC)
    resource.prlimit(sb.pid, resource.RLIMIT_NPROC, (1, hard))
    if os.getuid() == 0:
        # the kernel counts no processes of root
        assert sb.exec(["true"]).exit_code == 0
    else:
        with pytest.raises(LaunchError, match="could not start"):
            sb.exec(["true"])
    resource.prlimit(sb.pid, resource.RLIMIT_NPROC, (soft, hard))
    # process 1 takes requests again when a child of before has ended
    sb.run("kill $(</tmp/pid)").check()
    assert sb.exec(["cat", "/tmp/file"]).stdout == "kept\n"
    assert sb.run("echo $kept $PWD").stdout == "variable /tmp\n"
    beside.join(10)
    assert not beside.is_alive()
    assert running == [143]
    assert sb.exec(["sh", "-c", "exit 7"]).exit_code == 7
