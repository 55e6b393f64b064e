"""Each bound holds, the verdict says which it was, and the shell goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits, Mount, Sandbox, SandboxSpec
from sandbox_lite.errors import HostError, SandboxClosedError
from sandbox_lite.jail.limits import watchdog
from sandbox_lite.jail.limits.processes import Processes, has_autogroups
from sandbox_lite.jail.limits.turns import LONGEST_SECONDS, MOST, Turn
from sandbox_lite.spec import MIB, Outcome
from tests.limits.conftest import SLACK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.spec import CommandResult, UpperKind

SMALL = Limits.of(memory="256MiB", pids=64, disk="64MiB", timeout=30)

PAGES = "import itertools; x = [bytearray(b'x' * 4096) for _ in range(2 << 18)]"
MEMFD = """
import os
fd = os.memfd_create("hidden")
for _ in range(2048):
    os.write(fd, b"x" * (1 << 20))
"""
SHARED = """
import mmap
area = mmap.mmap(-1, 1 << 30)
for _ in range(1024):
    area.write(b"x" * (1 << 20))
"""
CHILDREN = """
import os, time
for _ in range(16):
    if os.fork() == 0:
        x = bytearray(b"x" * (64 << 20))
        time.sleep(20)
        os._exit(0)
time.sleep(20)
"""
FORKS = """
import os, time
for _ in range(200):
    if os.fork() == 0:
        time.sleep(50)
        os._exit(0)
"""
COUNTED = """
import os, time
number = 0
try:
    while number < 900:
        if os.fork() == 0:
            time.sleep(50)
            os._exit(0)
        number += 1
except OSError:
    pass
print(number)
"""
INODES = """
import itertools
for number in itertools.count():
    open(f"/tmp/many/{number}", "w").close()
"""


@pytest.fixture
def sb(rung: str, rootfs: str) -> Iterator[Sandbox]:
    with Sandbox(rootfs, limits=SMALL) as opened:
        assert opened.enforcement.backend == rung
        opened.run("cd /tmp && kept=variable").check()
        yield opened


def python(code: str) -> str:
    return f"python3 -c '{code}'" if "'" not in code else f'python3 -c "{code}"'


def timed(sandbox: Sandbox, command: str, seconds: float = 8.0) -> CommandResult:
    """Run a command that must come to an end by itself, in good time."""
    started = time.monotonic()
    result = sandbox.run(command)
    assert time.monotonic() - started < seconds + 4 * SLACK_SECONDS
    return result


def assert_well(sandbox: Sandbox) -> None:
    """A builtin and a program answer within a second, with all that the shell knew."""
    started = time.monotonic()
    assert sandbox.run("echo $kept $PWD").stdout == "variable /tmp\n"
    assert sandbox.run("/bin/true").ok
    assert time.monotonic() - started < 1 + SLACK_SECONDS


@pytest.mark.timeout(120)
@pytest.mark.parametrize("hog", [PAGES, MEMFD, SHARED], ids=["pages", "memfd", "shared"])
def test_memory(sb: Sandbox, hog: str) -> None:
    result = timed(sb, python(hog))
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert (result.exit_code, result.limits_hit) == (137, ("memory",))
    assert not result.restarted
    assert (result.usage.peak_memory_bytes or 0) > 200 * MIB
    assert_well(sb)


@pytest.mark.timeout(120)
def test_memory_of_many_together(sb: Sandbox) -> None:
    result = sb.run(python(CHILDREN), timeout=6 + 4 * SLACK_SECONDS)
    assert "memory" in result.limits_hit
    assert sb.run("echo $kept $PWD").stdout == "variable /tmp\n"


def test_program_that_only_looks_killed(sb: Sandbox) -> None:
    result = sb.run("sh -c 'kill -9 $$'")
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 137)
    assert result.limits_hit == ()


@pytest.mark.timeout(120)
def test_a_command_that_ends_well_has_exited_whatever_it_met(sb: Sandbox) -> None:
    result = timed(sb, python(PAGES) + " || true")
    assert result.outcome is Outcome.EXITED
    assert (result.ok, result.limits_hit) == (True, ("memory",))


@pytest.mark.timeout(120)
def test_repeats_are_counted(sb: Sandbox) -> None:
    assert timed(sb, python(MEMFD)).repeats == 0
    assert timed(sb, python(MEMFD)).repeats == 1
    assert sb.run("true").repeats == 0
    assert timed(sb, python(MEMFD)).repeats == 0


@pytest.mark.timeout(240)
def test_shell_that_is_the_hog_itself(sb: Sandbox) -> None:
    # bash copies what it has each time: on an emulated host that takes longer than other hogs do
    grow = "hog=$(head -c 1M /dev/zero | tr '\\0' x); while true; do hog+=$hog$hog; done"
    started = time.monotonic()
    result = sb.run(grow, timeout=20 + 20 * SLACK_SECONDS)
    assert time.monotonic() - started < 20 + 24 * SLACK_SECONDS
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert result.restarted
    assert sb.run("echo $kept $PWD").stdout == "variable /tmp\n"


@pytest.mark.timeout(120)
def test_disk_is_not_memory(rung: str, rootfs: str) -> None:
    limits = Limits.of(memory="96MiB", disk="300MiB", timeout=30)
    with Sandbox(rootfs, limits=limits) as sandbox:
        sandbox.run("head -c 250M /dev/zero >/tmp/large && cat /tmp/large >/dev/null").check()
        result = sandbox.run(python(PAGES))
        assert result.outcome is Outcome.OUT_OF_MEMORY
        assert sandbox.run("wc -c </tmp/large").stdout == f"{250 * MIB}\n"


@pytest.mark.timeout(120)
def test_fork_bomb(sb: Sandbox) -> None:
    started = time.monotonic()
    first = sb.run("bomb() { bomb | bomb & }; bomb")
    assert time.monotonic() - started < 2 + SLACK_SECONDS
    results = [first]
    deadline = time.monotonic() + 10
    while not any(result.leftovers_killed for result in results) and time.monotonic() < deadline:
        results.append(sb.run("echo ok"))
        assert results[-1].stdout == "ok\n"
    assert any("pids" in result.limits_hit for result in results)
    assert_well(sb)
    assert int(sb.run("set -- /proc/[0-9]*; echo $#").stdout) <= 3


@pytest.mark.timeout(120)
def test_too_many_processes(sb: Sandbox, rung: str) -> None:
    if rung == "sampling" and os.getuid() == 0:
        return  # the kernel lets it have 300 more, and we look only now and then
    result = timed(sb, python(FORKS))
    assert result.outcome is Outcome.PIDS_LIMIT
    assert "pids" in result.limits_hit
    assert_well(sb)


@pytest.mark.timeout(120)
def test_whole_sessions_give_way_to_the_host(sb: Sandbox, rung: str) -> None:
    own = Path("/proc/self/autogroup")
    if rung != "sampling" or not own.exists():
        return  # a control group has a weight of its own
    before = own.read_text()

    sb.run("setsid sh -c 'echo $$ >/tmp/leader; exec sleep 1000' &")
    look = "cat /proc/self/autogroup /proc/$(cat /tmp/leader)/autogroup; sleep 0.05"
    # the kernel grants the programs of all users together ten such changes in a second
    deadline = time.monotonic() + 60
    found = ""
    while found.count(" nice 10\n") < 2 and time.monotonic() < deadline:
        found = sb.run(look).stdout
    assert found.count(" nice 10\n") == 2, found
    assert own.read_text() == before

    # programs are in the session of process 1, which stays as it is when no program is there
    assert sb._meter is not None
    beside = sb._meter.turn(beside=True)
    while beside.needed() and time.monotonic() < deadline:
        sb.exec(["sleep", "0.1"])
    sb.run("true")
    assert not beside.needed()


@pytest.mark.timeout(120)
def test_a_command_that_waits_for_its_turn_learns_of_the_end(
    rung: str, rootfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rung != "sampling" or not has_autogroups():
        return  # a control group has a weight of its own
    monkeypatch.setattr(Processes, "soften", lambda *_: False)
    turns = watchdog.shared().turns
    with contextlib.ExitStack() as stack:
        for number in range(MOST):
            other = stack.enter_context(Turn(turns, number, lambda: True))
            assert turns.enter(other)
        sandbox = stack.enter_context(Sandbox(rootfs))
        threads = stack.enter_context(ThreadPoolExecutor(1))
        waiting = threads.submit(sandbox.run, "true")
        deadline = time.monotonic() + LONGEST_SECONDS / 2
        while not turns._waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        sandbox.close()
        with pytest.raises(SandboxClosedError):
            waiting.result(LONGEST_SECONDS / 2)


@pytest.mark.timeout(120)
def test_commands_of_many_sandboxes_all_have_their_turn(rung: str, rootfs: str) -> None:
    turns = watchdog.shared().turns
    most, names = [0], range(MOST + 3)

    def run(number: int) -> str:
        with Sandbox(rootfs) as sandbox:
            assert sandbox.enforcement.backend == rung
            ready.wait(60)
            said = sandbox.run(f"sleep 0.2; echo {number}").stdout
            most[0] = max(most[0], len(turns._under_way))
            return said + sandbox.exec(["echo", str(number)]).stdout

    ready = threading.Barrier(len(names))
    with ThreadPoolExecutor(len(names)) as threads:
        assert list(threads.map(run, names)) == [f"{n}\n{n}\n" for n in names]
    assert most[0] <= MOST
    assert not turns._under_way
    assert not turns._waiting


def test_who_was_stopped_stays_so_when_others_are_ended(sb: Sandbox) -> None:
    sb.run("sleep 1000 & stopped=$!; kill -STOP $stopped; sleep 1000 & going=$!")
    assert sb.run("bomb() { bomb | bomb & }; bomb; sleep 1").limits_hit == ("pids",)
    after = sb.run("for pid in $stopped $going; do sed 's/.*) //; s/ .*//' /proc/$pid/stat; done")
    assert after.stdout.split() == ["T", "S"]


def test_shell_that_dies_among_too_many_processes(sb: Sandbox) -> None:
    sb.run("kept=1; cd /tmp")
    # they come back faster than they are found, and take the place of the shell
    fill = "again() { while :; do sleep 0.01 & done; }; for _ in 1 2 3 4; do again & done"
    sb.run(f"({fill}) 2>/dev/null; kill -9 $$")
    after = sb.run("echo $kept $PWD; /bin/echo ok")
    assert after.stdout.split() == ["1", "/tmp", "ok"]


def test_what_was_there_before_a_fork_bomb_outlives_it(sb: Sandbox) -> None:
    sb.run("sleep 500 & server=$!").check()
    sb.run("true").check()
    deadline = time.monotonic() + 10
    result = sb.run("bomb() { bomb | bomb & }; bomb")
    while not result.leftovers_killed and time.monotonic() < deadline:
        result = sb.run("true")
    assert result.leftovers_killed
    assert sb.run("kill -0 $server && echo alive").stdout == "alive\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("place", "limit"), [("/large", "disk"), ("/tmp/large", "disk"), ("/dev/shm/large", "shm")]
)
def test_disk(sb: Sandbox, place: str, limit: str) -> None:
    result = timed(sb, f"dd if=/dev/zero of={place} bs=1M")
    assert result.outcome is Outcome.DISK_FULL
    assert result.limits_hit == (limit,)
    assert (result.usage.disk_bytes or 0) >= 63 * MIB
    again = timed(sb, f"dd if=/dev/zero of={place} bs=1M seek=63 count=2")
    assert (again.exit_code, again.limits_hit) == (1, (limit,)), "it is still full"
    assert sb.run(f"rm {place}").ok
    assert_well(sb)


@pytest.mark.timeout(120)
def test_number_of_files(sb: Sandbox) -> None:
    sb.run("mkdir /tmp/many").check()
    result = timed(sb, python(INODES), 10)
    assert result.outcome is Outcome.DISK_FULL
    assert "No space left" in result.stderr
    assert sb.run("rm -rf /tmp/many", timeout=30).ok
    assert_well(sb)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("upper", ["directory", "copy"])
def test_directory_is_measured_and_stopped(rung: str, rootfs: str, upper: UpperKind) -> None:
    # a copy of `minimal` is larger than the disk: only what is written counts
    spec = SandboxSpec(rootfs=rootfs, upper=upper, limits=SMALL)
    with Sandbox(spec) as sandbox:
        assert sandbox.stats().disk_bytes < MIB
        assert sandbox.enforcement.limit("disk").by == "sampling"
        sandbox.run("cd /tmp && kept=variable && mkdir -p a/b && chmod 000 a").check()
        result = timed(sandbox, "dd if=/dev/zero of=/tmp/a/b/large bs=64k count=40000")
        assert result.outcome is Outcome.DISK_FULL
        assert result.limits_hit == ("disk",)
        assert sandbox.run("stat -c %a a").stdout == "0\n"
        assert sandbox.run("rm -r a").ok
        assert sandbox.run("head -c 1M /dev/zero >b && wc -c <b").stdout == f"{MIB}\n"
        assert_well(sandbox)


@pytest.mark.timeout(120)
def test_memory_beside_a_directory(rung: str, rootfs: str) -> None:
    limits = Limits.of(memory="96MiB", pids=64, disk="300MiB", timeout=30)
    with Sandbox(SandboxSpec(rootfs=rootfs, upper="directory", limits=limits)) as sandbox:
        sandbox.run("head -c 250M /dev/zero >/tmp/large").check()
        assert timed(sandbox, python(MEMFD)).outcome is Outcome.OUT_OF_MEMORY
        assert sandbox.run("echo on").ok


@pytest.mark.timeout(120)
def test_directory_that_is_over_its_bound_can_be_cleared(rung: str, rootfs: str) -> None:
    spec = SandboxSpec(rootfs=rootfs, upper="directory", limits=SMALL)
    with Sandbox(spec) as sandbox:
        sandbox.run("cd /tmp; mkdir many; echo x >/dev/shm/x").check()
        # a walk over so many is followed by a rest of many times its length
        result = sandbox.run(f"touch many/{{1..6000}}; sleep {2 + 2 * SLACK_SECONDS}; false")
        assert "disk" in result.limits_hit, "so many files take inodes of the host"
        assert timed(sandbox, "dd if=/dev/zero of=large bs=1M count=1000").exit_code != 0
        assert sandbox.run("sleep 0.5; rm -r many large").ok
        assert sandbox.run("sleep 0.5; echo on").stdout == "on\n"


@pytest.mark.timeout(120)
def test_files_of_a_tmpfs_that_was_asked_for_are_not_memory(rung: str, rootfs: str) -> None:
    mounts = [Mount(target="/scratch", mode="tmpfs", size_bytes=200 * MIB)]
    limits = Limits.of(memory="96MiB", disk="64MiB", timeout=30)
    with Sandbox(rootfs, mounts=mounts, limits=limits) as sandbox:
        sandbox.run("head -c 180M /dev/zero >/scratch/large && sleep 0.3 && true").check()
        alive = "python3 -c 'x = b\"x\" * (60 << 20); import time; time.sleep(0.5)'"
        assert sandbox.run(alive).ok


LEADERLESS = """
import ctypes, threading, time
def work():
    {work}
    time.sleep(100)
for _ in range({threads}):
    threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({exit_call}, 0)
"""
EXIT_CALL = 60 if os.uname().machine == "x86_64" else 93
"""exit(2) of one thread alone."""


@pytest.mark.timeout(120)
def test_memory_of_a_process_whose_first_thread_has_ended(sb: Sandbox) -> None:
    """The kernel shows such a process as a zombie without any memory."""
    grow = "x = [bytearray(b'x' * 4096) for _ in range(2 << 18)]"
    code = LEADERLESS.format(work=grow, threads=1, exit_call=EXIT_CALL)
    sb.files.write("/tmp/hog.py", code)
    assert timed(sb, "python3 hog.py", 15).outcome is Outcome.OUT_OF_MEMORY
    assert_well(sb)


@pytest.mark.timeout(120)
def test_threads_that_are_left_behind_give_way(sb: Sandbox, rung: str) -> None:
    code = LEADERLESS.format(work="pass", threads=80, exit_call=EXIT_CALL)
    sb.files.write("/tmp/threads.py", code)
    sb.run("python3 threads.py >/dev/null 2>&1 & sleep 1", timeout=10)
    deadline = time.monotonic() + 10
    result = sb.run("true")
    while not result.leftovers_killed and time.monotonic() < deadline:
        result = sb.run("/bin/true")
    if rung != "sampling" or os.getuid() != 0:
        assert_well(sb)


@pytest.mark.timeout(60)
def test_program_at_the_lowest_priority(rung: str, rootfs: str) -> None:
    code = (
        "from sandbox_lite import Sandbox\n"
        f"with Sandbox({rootfs!r}) as box: print(box.run('echo on').stdout, end='')"
    )
    words = ["nice", "-n", "19", "prlimit", "--nproc=900:900", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout == "on\n"


@pytest.mark.timeout(120)
def test_endless_output_and_endless_sleep(sb: Sandbox) -> None:
    for command in ("yes", "sleep 1000", "python3 -c 'while True: pass'"):
        started = time.monotonic()
        result = sb.run(command, timeout=1)
        assert time.monotonic() - started < 1 + 0.5 + SLACK_SECONDS
        assert result.outcome is Outcome.TIMED_OUT
        assert "timeout" in result.limits_hit
        assert_well(sb)


LOOPS = "for n in 1 2 3 4; do (while true; do :; done) & done; wait"


@pytest.mark.timeout(120)
def test_processors(rung: str, rootfs: str) -> None:
    limits = Limits.of(cpus=0.5, timeout=30)
    if rung == "sampling":
        with pytest.raises(HostError, match="cpus cannot be held") as refused:
            Sandbox(rootfs, limits=limits).open()
        assert "allow_weaker" in (refused.value.hint or "")
        with Sandbox(rootfs, limits=limits, allow_weaker=["cpus"]) as sandbox:
            assert sandbox.enforcement.limit("cpus").by == "none"
        return
    with Sandbox(rootfs, limits=limits) as sandbox:
        assert sandbox.enforcement.limit("cpus").by == "kernel"
        started = time.monotonic()
        result = sandbox.run(LOOPS, timeout=2)
        seconds = time.monotonic() - started
        assert result.outcome is Outcome.TIMED_OUT
        assert 0.2 * seconds < (result.usage.cpu_seconds or 0) < 0.5 * seconds + 0.3
        assert sandbox.run("echo ok").stdout == "ok\n"


@pytest.mark.timeout(60)
def test_processes_are_held_by_the_kernel(rung: str, rootfs: str) -> None:
    with Sandbox(rootfs, limits=Limits.of(pids=64, timeout=30)) as sandbox:
        assert sandbox.enforcement.limit("pids").by == "kernel"
        # of root without a group it does so by the numbers it gives away, 300 of them but once
        result = sandbox.run(f"python3 -c '{COUNTED}'")
        assert "pids" in result.limits_hit
        assert int(result.stdout or 0) <= 364


@pytest.mark.timeout(60)
def test_wall_time(rung: str, rootfs: str) -> None:
    with Sandbox(rootfs, limits=Limits.of(wall=1.5, timeout=30)) as sandbox:
        assert sandbox.run("echo early").ok
        started = time.monotonic()
        result = sandbox.run("sleep 100")
        assert time.monotonic() - started < 1.5 + SLACK_SECONDS
        assert (result.outcome, result.limits_hit) == (Outcome.TIMED_OUT, ("wall",))
        with pytest.raises(SandboxClosedError, match="wall time"):
            sandbox.run("true")
        with pytest.raises(SandboxClosedError, match="wall time"):
            sandbox.exec(["true"])


@pytest.mark.timeout(60)
def test_wall_time_ends_an_idle_sandbox_and_programs(rung: str, rootfs: str) -> None:
    with Sandbox(rootfs, limits=Limits.of(wall=1, timeout=30)) as sandbox:
        result = sandbox.exec(["sleep", "100"])
        assert (result.outcome, result.limits_hit) == (Outcome.TIMED_OUT, ("wall",))


@pytest.mark.timeout(120)
def test_commands_that_share_a_counter_are_marked(sb: Sandbox) -> None:
    results: list[CommandResult] = []
    beside = threading.Thread(
        target=lambda: results.append(sb.exec(["sh", "-c", "read x; exit 3"], input=_Held.fd()))
    )
    beside.start()
    sb.run("until [ $(set -- /proc/[0-9]*; echo $#) -ge 4 ]; do :; done", timeout=10)
    hog = timed(sb, python(MEMFD))
    _Held.release()
    beside.join(10)
    assert hog.shared
    assert hog.outcome is Outcome.OUT_OF_MEMORY
    assert results[0].shared
    assert "memory" in results[0].limits_hit
    assert not sb.run("true").shared


class _Held:
    """A pipe whose reader waits until it is released."""

    _ends: tuple[int, int]

    @classmethod
    def fd(cls) -> int:
        cls._ends = os.pipe()
        return cls._ends[0]

    @classmethod
    def release(cls) -> None:
        os.close(cls._ends[1])


@pytest.mark.timeout(120)
def test_exec_has_the_same_verdicts(sb: Sandbox, rung: str) -> None:
    result = sb.exec(["python3", "-c", MEMFD])
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert result.exit_code == 137
    if rung != "sampling" or os.getuid() != 0:
        assert sb.exec(["python3", "-c", FORKS]).outcome is Outcome.PIDS_LIMIT
    assert_well(sb)


def test_no_bounds_at_all(rung: str, rootfs: str) -> None:
    with Sandbox(rootfs, limits=Limits.none()) as sandbox:
        assert {state.by for state in sandbox.enforcement.limits} <= {"none", "sampling"}
        assert sandbox.run("echo ok").stdout == "ok\n"
        assert all(
            state.by == "none" for state in sandbox.enforcement.limits if state.name != "output"
        )
