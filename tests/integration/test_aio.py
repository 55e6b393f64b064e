"""The sandbox for asyncio: the same results, one loop for many, and cancelled calls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits, Outcome, Pool
from sandbox_lite.errors import FileAccessError, SandboxClosedError, SpecError
from sandbox_lite.jail.aio import AsyncSandbox
from sandbox_lite.jail.async_files import LONG_BYTES, AsyncFiles
from sandbox_lite.jail.async_shell import AsyncInteraction, AsyncShell
from sandbox_lite.jail.files import Files
from sandbox_lite.jail.interaction import Interaction
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.jail.shell import Shell

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


OTHERWISE = {
    "__enter__": "a coroutine is entered by `async with`: __aenter__",
    "__exit__": "the same: __aexit__",
    "run_steps": "the machine that both faces drive",
    "quiet": "the sandbox's own, for its snapshots",
    "pid": "the sandbox's own, for its snapshots",
    "exec_steps": "the same",
    "expect_steps": "the same",
    "finish_steps": "the same",
    "result_steps": "the same",
    "end_steps": "the same",
    "connect": "a kept sandbox is another process's, and its client waits in a thread",
    "attach": "a person's own terminal, for the command line alone",
    "end": "of a shell: the sandbox's `end_shell`",
    "close": "the same",
}
"""Names of the one face that the other lacks, each with its reason."""


@pytest.mark.parametrize(
    ("sync", "twin", "lacking"),
    [
        (
            Sandbox,
            AsyncSandbox,
            {"__enter__", "__exit__", "run_steps", "exec_steps", "connect"},
        ),
        (Files, AsyncFiles, set()),
        (Shell, AsyncShell, {"run_steps", "end", "close", "quiet", "pid"}),
        (
            Interaction,
            AsyncInteraction,
            {"expect_steps", "finish_steps", "result_steps", "end_steps", "attach"},
        ),
    ],
)
def test_both_faces_have_the_same_names_and_parameters(
    sync: type, twin: type, lacking: set[str]
) -> None:
    ours, theirs = _public(sync), _public(twin)
    assert lacking <= OTHERWISE.keys()
    assert ours.keys() - theirs.keys() == lacking
    # what the others keep as plain attributes is no member of the class
    attributes = {"spec", "name"}
    assert theirs.keys() - ours.keys() <= {"__aenter__", "__aexit__", "around", *attributes}
    for name in ours.keys() & theirs.keys():
        kinds = type(ours[name]), type(theirs[name])
        assert kinds[0] is kinds[1], name
        if not isinstance(ours[name], property):
            assert _parameters(ours[name]) == _parameters(theirs[name]), name
    if sync is Sandbox:
        assert _parameters(sync) == _parameters(twin)
    # what waits is a coroutine, or a block
    waiting = {name for name, one in theirs.items() if inspect.iscoroutinefunction(one)}
    assert waiting >= {"run", "read", "expect", "finish"} & theirs.keys()


def _public(kind: type) -> dict[str, object]:
    """Return what users call, by its name."""
    blocks = ("__enter__", "__exit__", "__aenter__", "__aexit__")
    return {
        name: one
        for name, one in vars(kind).items()
        if (not name.startswith("_") or name in blocks)
        and (callable(one) or isinstance(one, (property, staticmethod, classmethod)))
    }


def _parameters(function: object) -> list[tuple[str, object, object]]:
    assert callable(function)
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in found]


def test_opening_many_takes_few_threads_and_none_of_the_loops_own() -> None:
    async def run() -> None:
        before = threading.active_count()
        sandboxes = [AsyncSandbox("minimal") for _ in range(30)]
        opening = asyncio.gather(*(one.open() for one in sandboxes))
        most = 0
        while not opening.done():
            most = max(most, threading.active_count())
            await asyncio.sleep(0.005)
        await opening
        assert most - before <= 2 * (len(os.sched_getaffinity(0)) + 1) + 2
        await asyncio.gather(*(one.close() for one in sandboxes))

    asyncio.run(run())


def test_closing_that_is_cancelled_is_done_all_the_same() -> None:
    async def run() -> None:
        sandbox = await AsyncSandbox("minimal").open()
        pid = sandbox.pid
        closing = asyncio.ensure_future(sandbox.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110

    asyncio.run(run())


def test_long_files_let_the_loop_go_on() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        data = os.urandom(3 * LONG_BYTES)
        await sandbox.files.write("long", data)
        assert await sandbox.files.read("long") == data
        assert await sandbox.files.read("long", max_bytes=len(data)) == data
        with pytest.raises(FileAccessError) as caught:
            await sandbox.files.read("long", max_bytes=10)
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(FileAccessError) as caught:
            await sandbox.files.read("long", max_bytes=len(data) - 1)
        assert caught.value.errno == errno.EFBIG

    on(work)


def test_a_sandbox_of_a_pool_has_this_face_too() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        assert (await sandbox.run("echo $0; exit 3")).exit_code == 3
        assert (await sandbox.files.read("/etc/hostname")) is not None
        assert sandbox.enforcement.rootfs

    with Pool("minimal", size=1) as pool, pool.take() as taken:
        asyncio.run(work(AsyncSandbox.around(taken)))
        assert taken.run("echo still open").ok


def test_cancelling_an_interaction_keeps_the_shell() -> None:
    async def work(sandbox: AsyncSandbox) -> None:
        async def talk() -> None:
            async with sandbox.interact("cat") as cat:
                cat.sendline("here")
                await cat.expect("here")
                talking.set()
                await cat.expect("never", timeout=60)

        talking = asyncio.Event()
        task = asyncio.ensure_future(talk())
        await asyncio.wait_for(talking.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await sandbox.run("pgrep cat; echo on")).stdout == "on\n"

    on(work)
