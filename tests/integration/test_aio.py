"""The sandbox for asyncio: the same results, one loop for many, and cancelled calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits, Outcome
from sandbox_lite.errors import SandboxClosedError, SpecError
from sandbox_lite.jail.aio import AsyncSandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from typing import Any

pytestmark = pytest.mark.usefixtures("home")


def on(work: Callable[[AsyncSandbox], Coroutine[Any, Any, None]]) -> None:
    """Run work on an open sandbox, in a loop of its own."""

    async def run() -> None:
        async with AsyncSandbox("minimal", limits=Limits.of(timeout=15)) as sandbox:
            await work(sandbox)

    asyncio.run(run())


def test_state_carries_over_and_results_are_the_same() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        await sandbox.run("cd /tmp; x=4; f() { echo f$1; }")
        result = await sandbox.run("echo $x; pwd; f 2; exit 3")
        assert (result.stdout, result.exit_code, result.cwd) == ("4\n/tmp\nf2\n", 3, "/tmp")
        assert (await sandbox.run("echo $x")).stdout == "4\n"
        program = await sandbox.exec(["cat"], input=b"\0\xff")
        assert program.stdout_bytes == b"\0\xff"
        late = await sandbox.run("sleep 100", timeout=0.2)
        assert late.outcome is Outcome.TIMED_OUT
        assert (await sandbox.run("echo on")).ok

    on(work)


def test_the_loop_goes_on_meanwhile() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        before = threading.active_count()
        results = await asyncio.gather(
            sandbox.run("sleep 0.3; echo a"),
            sandbox.run("sleep 0.1; echo b", shell="other"),
            *(sandbox.exec(["sleep", "0.3"]) for _ in range(5)),
        )
        assert [one.stdout for one in results[:2]] == ["a\n", "b\n"]
        assert ticks >= 10
        assert threading.active_count() <= before + 1, "no thread waits"
        ticking.cancel()

    on(work)


def test_commands_of_one_shell_take_turns() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        commands = [f"n=$((n+1)); echo {number} $n" for number in range(8)]
        results = await asyncio.gather(*(sandbox.run(command) for command in commands))
        assert [one.stdout for one in results] == [f"{n} {n + 1}\n" for n in range(8)]

    on(work)


@pytest.mark.parametrize("command", ["sleep 77", "trap '' INT TERM; while :; do :; done"])
def test_cancelling_ends_the_command_and_keeps_the_sandbox(command: str) -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        await sandbox.run("kept=1; cd /tmp")
        started = asyncio.Event()
        call = asyncio.ensure_future(
            sandbox.run(f"echo; {command}", on_output=lambda *_: started.set())
        )
        await asyncio.wait_for(started.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await sandbox.run("echo $kept; pwd; pgrep sleep")).stdout == "1\n/tmp\n"

    on(work)


def test_a_second_cancellation_does_not_cut_the_end_short() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        started = asyncio.Event()
        command = "trap '' INT TERM; echo; while :; do sleep 0.01; done"
        call = asyncio.ensure_future(sandbox.run(command, on_output=lambda *_: started.set()))
        await asyncio.wait_for(started.wait(), 10)
        for _ in range(5):
            call.cancel()
            await asyncio.sleep(0.02)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await sandbox.run("echo on")).stdout == "on\n"

    on(work)


def test_cancelling_ends_a_program() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        started = asyncio.Event()
        call = asyncio.ensure_future(
            sandbox.exec(["sh", "-c", "echo; exec sleep 77"], on_output=lambda *_: started.set())
        )
        await asyncio.wait_for(started.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await sandbox.run("pgrep sleep")).stdout == ""

    on(work)


def test_a_callback_that_raises_ends_the_command() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await sandbox.run("echo x; sleep 77", on_output=fail)
        assert (await sandbox.run("pgrep sleep; echo on")).stdout == "on\n"

    on(work)


def test_files(tmp_path: Path) -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        await sandbox.files.write("/testbed/a", b"\0\xff")
        assert await sandbox.files.read("/testbed/a") == b"\0\xff"
        assert [one.name for one in await sandbox.files.list("/testbed")] == ["a"]
        await sandbox.files.download("/testbed", tmp_path / "out")
        assert (tmp_path / "out" / "a").read_bytes() == b"\0\xff"
        await sandbox.files.remove("/testbed/a")
        assert not await sandbox.files.exists("/testbed/a")

    on(work)


def test_many_sandboxes_on_one_loop() -> None:
    async def episode(number: int) -> str:
        async with AsyncSandbox("minimal") as sandbox:
            await sandbox.run(f"n={number}")
            return (await sandbox.run("echo $n")).stdout

    async def run() -> list[str]:
        return await asyncio.gather(*(episode(number) for number in range(20)))

    assert asyncio.run(run()) == [f"{number}\n" for number in range(20)]


def test_errors_are_the_same() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        with pytest.raises(SpecError):
            await sandbox.run("echo \0")
        with pytest.raises(SpecError):
            await sandbox.exec("true")  # a string is no list of words
        os.kill(sandbox.pid, 9)
        for _ in range(3):
            with contextlib.suppress(SandboxClosedError):
                await sandbox.run("echo")
        with pytest.raises(SandboxClosedError):
            await sandbox.run("echo")

    on(work)


def test_cancelling_a_start_leaves_nothing() -> None:
    async def run() -> None:
        sandbox = AsyncSandbox("minimal")
        opening = asyncio.ensure_future(sandbox.open())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        with pytest.raises((SandboxClosedError, SpecError)):
            await sandbox.run("echo")

    began = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began < 20
