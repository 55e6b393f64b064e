"""Many episodes of the agent for asyncio: one loop, few threads, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from sandbox_lite import AsyncAgent, AsyncModel, AsyncSandbox, Limits, ModelSettings
from sandbox_lite.agent.loop import AgentLimits
from sandbox_lite.agent.tools import ToolContext
from sandbox_lite.agent.trajectory import StopReason, TrajectoryWriter, load
from sandbox_lite.jail import places
from tests.model_server import ModelServer, Scripted, says

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite.agent.trajectory import Step, Trajectory

pytestmark = pytest.mark.usefixtures("home")

AT_ONCE = 16


def conversation(request: dict[str, Any]) -> Scripted:
    """Return what comes next in a conversation, of which any number go on at once."""
    messages = request["messages"]
    number = int(messages[1]["content"].split("number ")[1].split(".")[0])
    said = sum(message["role"] == "assistant" for message in messages)
    if said == 0:
        return says("a", ("bash", {"command": f"n={number}; cd /tmp; echo begun"}))
    if said == 1:
        given = {"command": "create", "path": "/testbed/part", "file_text": "1"}
        return says("b", ("str_replace_editor", given))
    if said == 2:
        total = "echo $((n + $(cat /testbed/part))) >/testbed/output/answer.txt"
        return says("c", ("bash", {"command": total}))
    return says("d", ("submit", {}))


def ours() -> list[str]:
    """Return the names of this process's threads but for those of the scripted server."""
    names = (thread.name for thread in threading.enumerate())
    return sorted(name for name in names if "process_request_thread" not in name)


def left() -> tuple[int, set[int], list[Path]]:
    """Return what may be left: descriptors, processes, and directories of sandboxes."""
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    return psutil.Process().num_fds(), children, [*places.run_dir().glob(f"{os.getpid()}-*")]


async def episode(number: int, model: AsyncModel, record: Path) -> Trajectory:
    limits = Limits.of(timeout=30)
    async with AsyncSandbox("minimal", limits=limits) as sandbox:
        with TrajectoryWriter(record) as writer:
            agent = AsyncAgent(sandbox, model, limits=AgentLimits(steps=8), writer=writer)
            return await agent.run(f"This is number {number}.")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_hundred_episodes_on_one_loop(tmp_path: Path) -> None:
    most: list[str] = []

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, ours(), key=len)
            await asyncio.sleep(0.01)

    async def run(server: ModelServer, count: int) -> list[Trajectory]:
        gate = asyncio.Semaphore(AT_ONCE)
        settings = ModelSettings(model="many", base_url=server.base_url, api_key="k")
        async with AsyncModel(settings) as model:

            async def admitted(number: int) -> Trajectory:
                async with gate:
                    return await episode(number, model, tmp_path / f"{number}.jsonl")

            watching = asyncio.ensure_future(watch())
            try:
                return await asyncio.gather(*(admitted(number) for number in range(count)))
            finally:
                watching.cancel()

    with ModelServer(conversation) as server:
        asyncio.run(run(server, AT_ONCE))  # what they share is there
        before, threads = left(), len(ours())
        found = asyncio.run(run(server, 200))
        assert len(server.requests) == 4 * (200 + AT_ONCE)
        assert left() == before
    assert [one.answer for one in found] == [str(number + 1) for number in range(200)]
    assert {one.stop for one in found} == {StopReason.SUBMITTED}
    assert all(load(tmp_path / f"{n}.jsonl") == one for n, one in enumerate(found))
    # some to open and close, and one that asks the platform's name for the client
    assert len(most) <= threads + 2, most


def test_cancelled_episodes_end_their_commands_and_leave_nothing(tmp_path: Path) -> None:
    async def run(server: ModelServer) -> None:
        settings = ModelSettings(model="cancelled", base_url=server.base_url, api_key="k")
        async with AsyncModel(settings) as model:
            async with AsyncSandbox("minimal", limits=Limits.of(timeout=30)) as sandbox:
                await cancelled(sandbox, model)
                # its command is over, and the sandbox and the connections are of use still
                assert (await sandbox.run("pgrep sleep; echo on")).stdout == "on\n"
            before = left()
            tasks = [asyncio.ensure_future(opened(model)) for _ in range(8)]
            await asyncio.sleep(0.05)  # anywhere in a start
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(end) for end in ends} == {asyncio.CancelledError}
            assert left()[1:] == before[1:]

    async def cancelled(sandbox: AsyncSandbox, model: AsyncModel) -> None:
        started = asyncio.Event()
        context = ToolContext(on_output=lambda *_: started.set())
        with TrajectoryWriter(tmp_path / "record.jsonl") as writer:
            agent = AsyncAgent(sandbox, model, writer=writer, context=context)
            task = asyncio.ensure_future(agent.run("x"))
            await asyncio.wait_for(started.wait(), 15)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert agent.trajectory.stop is StopReason.INTERRUPTED
        assert load(tmp_path / "record.jsonl") == agent.trajectory

    async def opened(model: AsyncModel) -> None:
        async with AsyncSandbox("minimal") as sandbox:
            await AsyncAgent(sandbox, model).run("x")

    script = says("b", ("bash", {"command": "echo partial; sleep 100"}))
    with ModelServer(script) as server:
        asyncio.run(run(server))


def test_a_fault_of_one_episode_is_none_of_the_others() -> None:
    async def one(number: int, model: AsyncModel) -> Trajectory:
        async with AsyncSandbox("minimal") as sandbox:

            def kill(step: Step) -> None:
                if (number, step.index) == (2, 1):
                    os.kill(sandbox.pid, signal.SIGKILL)

            agent = AsyncAgent(sandbox, model, on_step=kill)
            return await agent.run(f"This is number {number}.")

    async def run(server: ModelServer) -> list[Trajectory]:
        settings = ModelSettings(model="faults", base_url=server.base_url, api_key="k")
        async with AsyncModel(settings) as model:
            return await asyncio.gather(*(one(number, model) for number in range(5)))

    with ModelServer(conversation) as server:
        found = asyncio.run(run(server))
    assert [one.stop for one in found].count(StopReason.SUBMITTED) == 4
    assert found[2].stop is StopReason.SANDBOX_ERROR
    assert found[2].error
