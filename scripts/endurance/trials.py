"""What is done to sandboxes: one function and one line in the table each."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from endurance.loops import cancelled_on_a_loop
from sandbox_lite import Limits, Outcome, Pool, Sandbox, SandboxLiteError, SandboxSpec
from sandbox_lite.errors import SandboxClosedError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from endurance.doomed import Killer

_FORK_SECONDS = 60.0


@dataclass(slots=True)
class Count:
    """How much was done."""

    cycles: int = 0
    commands: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, cycles: int = 0, commands: int = 0) -> None:
        """Count so many sandboxes that were closed, and commands that ended."""
        with self._lock:
            self.cycles += cycles
            self.commands += commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What every one of them is given."""

    rootfs: str
    dice: random.Random
    count: Count
    killer: Killer

    def opened(self, **options: Any) -> contextlib.AbstractContextManager[Sandbox]:
        """Yield an open sandbox, and count it."""
        return _counted(self, Sandbox(self.rootfs, **options))

    def answers(self, sandbox: Sandbox, times: int = 1) -> None:
        """Run commands whose output is known."""
        for _ in range(times):
            number = self.dice.randrange(1_000_000)
            kind = self.dice.choice(
                ("echo {}", "printf '%d\\n' {}", "x={}; echo $x", "expr 0 + {}")
            )
            said = sandbox.run(kind.format(number)).stdout
            assert said == f"{number}\n", f"{kind} printed {said!r}"
        self.count.add(commands=times)


@contextlib.contextmanager
def _counted(trial: Trial, sandbox: Sandbox) -> Any:
    with sandbox:
        yield sandbox
    trial.count.add(cycles=1)


def used(trial: Trial) -> None:
    """Open, use, close."""
    with trial.opened() as sandbox:
        trial.answers(sandbox, trial.dice.randrange(1, 24))
        data = trial.dice.randbytes(trial.dice.randrange(50_000))
        sandbox.files.write("/root/data", data)
        assert sandbox.files.read("/root/data") == data
        assert sandbox.exec(["cat"], input=data).stdout_bytes == data
        trial.count.add(commands=1)


def timed_out(trial: Trial) -> None:
    """Let commands and programs run out of time."""
    with trial.opened() as sandbox:
        command = trial.dice.choice(
            ("sleep 60", "tail -f /dev/null", "while :; do :; done", "sleep 60 | cat")
        )
        seconds = trial.dice.uniform(0.01, 0.1)
        for result in (
            sandbox.run(command, timeout=seconds),
            sandbox.exec(["sleep", "60"], timeout=seconds),
        ):
            assert result.outcome is Outcome.TIMED_OUT, result
        trial.answers(sandbox, 3)
        trial.count.add(commands=2)


def shell_killed(trial: Trial) -> None:
    """End the shell in many ways, with jobs behind it."""
    with trial.opened() as sandbox:
        sandbox.run("sleep 1000 & sleep 1000 | cat &")
        sandbox.run(trial.dice.choice(("kill -9 $$", "exit 3", "exec false", "kill -9 -1")))
        trial.answers(sandbox, 3)
        trial.count.add(commands=2)


def first_killed(trial: Trial) -> None:
    """Kill process 1 from outside, at rest or in the middle of a command."""
    with trial.opened() as sandbox:
        timer = threading.Timer(trial.dice.uniform(0, 0.05), os.kill, (sandbox.pid, signal.SIGKILL))
        timer.start()
        with contextlib.suppress(SandboxLiteError):
            sandbox.run("sleep 10")
            raise AssertionError("a command outlived the sandbox")
        timer.join()


def anyone_killed(trial: Trial) -> None:
    """Kill any process inside from outside."""
    with trial.opened() as sandbox:
        sandbox.run("for i in 1 2 3; do sleep 1000 & done")
        inside = psutil.Process(sandbox.pid).children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            trial.dice.choice(inside).kill()
        with contextlib.suppress(SandboxLiteError):
            sandbox.run("true")
        trial.count.add(commands=2)


def cancelled(trial: Trial) -> None:
    """Cancel by a descriptor."""
    with trial.opened() as sandbox:
        ours, theirs = os.pipe()
        timer = threading.Timer(trial.dice.uniform(0, 0.05), os.close, (theirs,))
        timer.start()
        try:
            if trial.dice.random() < 0.5:
                sandbox.run("sleep 60", cancel_fd=ours)
            else:
                sandbox.exec(["sleep", "60"], cancel_fd=ours)
            raise AssertionError("a command was not cancelled")
        except CancelledError:
            pass
        finally:
            timer.join()
            os.close(ours)
        trial.answers(sandbox, 3)
        trial.count.add(commands=1)


def on_a_loop(trial: Trial) -> None:
    """Cancel tasks of asyncio, in starts and in commands."""
    closed, ended = cancelled_on_a_loop(trial.rootfs, trial.dice)
    trial.count.add(cycles=closed, commands=ended)


def program_forked(trial: Trial) -> None:
    """Fork this program: the child may not use our sandbox, and has one of its own."""
    with trial.opened() as sandbox:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _in_the_child(trial, sandbox)
            finally:
                os._exit(code)
        pidfd = os.pidfd_open(child)
        try:
            trial.answers(sandbox, 5)
            deadline = time.monotonic() + _FORK_SECONDS
            while not os.waitpid(child, os.WNOHANG)[0]:
                if time.monotonic() > deadline:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    os.waitpid(child, 0)
                    raise AssertionError("a forked child hung")
                time.sleep(0.005)
        finally:
            os.close(pidfd)
        trial.answers(sandbox)


def _in_the_child(trial: Trial, parents: Sandbox) -> int:
    with contextlib.suppress(SandboxClosedError):
        parents.run("true")
        return 2
    parents.close()
    with Sandbox(trial.rootfs) as own:
        return 0 if own.run("echo child").stdout == "child\n" else 3


def owner_killed(trial: Trial) -> None:
    """Have a program killed that owns sandboxes."""
    trial.killer.kill_one(trial.dice.randrange(1 << 30), trial.dice.uniform(0.05, 1.0))


def pooled(trial: Trial) -> None:
    """Take from a pool that may not be full yet."""
    with Pool(SandboxSpec(rootfs=trial.rootfs), size=2) as pool:
        for _ in range(3):
            with pool.take() as sandbox:
                trial.answers(sandbox, 2)
            trial.count.add(cycles=1)


def much_printed(trial: Trial) -> None:
    """Print more than is kept."""
    with trial.opened() as sandbox:
        result = sandbox.run(f"head -c {trial.dice.randrange(1, 20) * 10**6} /dev/zero")
        assert result.exit_code == 0, result
        trial.answers(sandbox, 2)
        trial.count.add(commands=1)


def bounded(trial: Trial) -> None:
    """Run into limits."""
    limits = Limits(pids=32, disk_bytes=4 << 20, memory_bytes=256 << 20)
    with trial.opened(limits=limits) as sandbox:
        with contextlib.suppress(SandboxLiteError):
            sandbox.run("for i in {1..60}; do sleep 5 & done", timeout=2)
            sandbox.run("head -c 10000000 /dev/zero >/root/f; rm -f /root/f", timeout=2)
        trial.count.add(commands=2)


def closed_in_use(trial: Trial) -> None:
    """Close it while another thread waits for a command."""
    sandbox = Sandbox(trial.rootfs).open()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            sandbox.run("sleep 60")
        except SandboxLiteError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(trial.dice.uniform(0, 0.02))
    sandbox.close()
    thread.join(_FORK_SECONDS)
    assert not thread.is_alive(), "a command outlived its sandbox"
    assert errors, "a command ended well in a closed sandbox"
    trial.count.add(cycles=1, commands=1)


def branched(trial: Trial) -> None:
    """Fork a sandbox, go back, and fork a fork."""
    with trial.opened() as sandbox, contextlib.ExitStack() as stack:
        sandbox.run("echo one >/root/f; x=1")
        taken = stack.enter_context(sandbox.snapshot())
        sandbox.run("echo two >/root/f; x=2")
        forks = sandbox.fork(trial.dice.randrange(1, 4))
        try:
            sandbox.rollback(taken)
            assert sandbox.run("cat /root/f; echo $x").stdout == "one\n1\n"
            for fork in forks:
                assert fork.run("cat /root/f; echo $x").stdout == "two\n2\n"
        finally:
            for fork in forks:
                fork.close()
        trial.count.add(cycles=len(forks), commands=3 + len(forks))


TRIALS: dict[Callable[[Trial], None], int] = {
    used: 100,
    timed_out: 4,
    shell_killed: 8,
    first_killed: 8,
    anyone_killed: 6,
    cancelled: 8,
    on_a_loop: 3,
    program_forked: 2,
    owner_killed: 1,
    pooled: 4,
    much_printed: 4,
    bounded: 2,
    closed_in_use: 6,
    branched: 6,
}
"""Each with how often it comes, in proportion to the others."""
