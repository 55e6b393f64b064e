"""Episodes on this machine, on the loop of the program."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING

import psutil

from sandbox_lite.agent.model import AsyncModel
from sandbox_lite.bench.trial import Trials
from sandbox_lite.jail import pressure
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandbox_lite.bench.engines.work import Work
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.trial import Done, Todo

PRESSURE_SECONDS = 0.5
"""Between looks whether memory is still short."""

_PER_CPU = 8
_SANDBOX_BYTES = 256 * MIB
_SANDBOX_DESCRIPTORS = 32
"""Of ours, for one sandbox with a proxy; what all share is left out."""


def default_concurrency() -> int:
    """Return how many episodes this machine can have at once: by cores, memory, descriptors."""
    cpus = len(os.sched_getaffinity(0))
    memory = int(psutil.virtual_memory().available // _SANDBOX_BYTES)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 10**6 if soft == resource.RLIM_INFINITY else soft // _SANDBOX_DESCRIPTORS
    return max(1, min(_PER_CPU * cpus, memory, files))


class Local:
    """See `Engine`."""

    def __init__(self, trials: Trials, concurrency: int) -> None:
        self._trials = trials
        self.concurrency = concurrency

    def has_room(self, running: int) -> bool:
        """Return whether another may begin; where memory is short, one alone still may."""
        if not running:
            return True
        return running < self.concurrency and not pressure.is_high()

    async def look(self) -> None:
        """Nothing can become of this machine that we would live to see."""

    async def episode(self, todo: Todo) -> Done:
        """Do an episode here."""
        return await self._trials.episode(todo)


@contextlib.asynccontextmanager
async def opened(
    work: Work, grading: Grading, address: str | None, note: Callable[[str], None]
) -> AsyncIterator[Local]:
    """Yield this machine; in the end its connections to the model are closed."""
    del address, note
    concurrency = work.pace.concurrency or default_concurrency()
    async with AsyncModel(work.model) as model:
        with Trials(model, work.computers, grading, work.pace, threads=concurrency) as trials:
            yield Local(trials, concurrency)
