"""Nothing inside runs while `still` holds, and all goes on afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from sandbox_lite import AsyncSandbox, Limits
from sandbox_lite.bench import rollout
from sandbox_lite.bench.task import Answer, NoAnswer
from sandbox_lite.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from sandbox_lite.jail.sandbox import Sandbox

COUNTING = "i=0; while :; do i=$((i+1)); echo $i >/tmp/new; mv /tmp/new /tmp/count; done"


def wait_for_another(sandbox: Sandbox, before: bytes) -> None:
    end = time.monotonic() + 15
    while sandbox.files.read("/tmp/count") == before:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_nothing_changes_while_it_holds(sandbox: Sandbox) -> None:
    sandbox.run(f"echo 0 > /tmp/count; nohup setsid sh -c '{COUNTING}' >/dev/null 2>&1 &")
    wait_for_another(sandbox, b"0\n")
    with sandbox.still():
        first = sandbox.files.read("/tmp/count")
        for _ in range(50):
            time.sleep(0.002)
            assert sandbox.files.read("/tmp/count") == first
    wait_for_another(sandbox, first)
    assert sandbox.run("echo on").stdout == "on\n"


def test_the_same_for_asyncio(home: Path) -> None:
    async def run() -> None:
        async with AsyncSandbox("minimal", limits=Limits.of(timeout=15)) as sandbox:
            await sandbox.run(f"echo 0 > /tmp/count; sh -c '{COUNTING}' >/dev/null 2>&1 &")
            async with sandbox.still():
                first = await sandbox.files.read("/tmp/count")
                await asyncio.sleep(0.1)
                assert await sandbox.files.read("/tmp/count") == first
            assert (await sandbox.run("echo on")).stdout == "on\n"

    asyncio.run(run())


def test_whoever_cannot_be_stopped_has_no_answer(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the model's doing: as a fault of ours it would be a way out of a wrong answer."""

    @contextlib.contextmanager
    def endless(_: object) -> Iterator[None]:
        raise HostError("the processes of the sandbox could not all be stopped")
        yield

    async def run() -> Answer | NoAnswer:
        async with AsyncSandbox("minimal") as sandbox:
            await sandbox.run("echo 1 > answer.txt")
            monkeypatch.setattr("sandbox_lite.jail.sandbox.paused", endless)
            return (await rollout.sealed(sandbox, "/testbed/answer.txt")).answer

    found = asyncio.run(run())
    assert isinstance(found, NoAnswer)
    assert found.reason == "unstoppable"
