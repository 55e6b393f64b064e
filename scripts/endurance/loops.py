"""Sandboxes of one asyncio loop whose tasks are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from sandbox_lite import AsyncSandbox

if TYPE_CHECKING:
    import random

_BOXES = 4
_SECONDS = 60.0


def cancelled_on_a_loop(rootfs: str, dice: random.Random) -> tuple[int, int]:
    """Cancel starts, commands and programs; return how many sandboxes and commands that were."""
    return asyncio.run(asyncio.wait_for(_all(rootfs, dice), _SECONDS))


async def _all(rootfs: str, dice: random.Random) -> tuple[int, int]:
    found = await asyncio.gather(*(_one(rootfs, dice) for _ in range(_BOXES)))
    return len(found), sum(found)


async def _one(rootfs: str, dice: random.Random) -> int:
    sandbox = AsyncSandbox(rootfs)
    opening = asyncio.ensure_future(sandbox.open())
    if dice.random() < 0.25:
        await asyncio.sleep(dice.uniform(0, 0.03))
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        # it may have been open already
        await sandbox.close()
        return 0
    await opening
    try:
        for _ in range(3):
            shell = dice.random() < 0.5
            work = sandbox.run("sleep 60") if shell else sandbox.exec(["sleep", "60"])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(work, dice.uniform(0.001, 0.05))
                raise AssertionError("a command was not cancelled")
        said = (await sandbox.run("echo on")).stdout
        assert said == "on\n", f"after cancellations it printed {said!r}"
    finally:
        await sandbox.close()
    return 4
