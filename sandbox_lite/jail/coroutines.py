"""How a coroutine waits for steps, and for what can only be done in a thread."""

from __future__ import annotations

import asyncio
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.jail.steps import Source, Steps, Wait

_T = TypeVar("_T")


async def follow(steps: Steps[_T]) -> _T:
    """Do all the steps while the loop goes on.

    A cancellation is raised in the work, which ends what it has begun; that is waited for, and a
    second one does not cut it short.
    """
    error: BaseException | None = None
    interrupted = False
    waiting = _Waiting()
    try:
        while True:
            try:
                wait = next(steps) if error is None else steps.throw(error)
            except StopIteration as ended:
                result: _T = ended.value
                return result
            error = None
            try:
                await waiting.elapse(wait)
            except BaseException as caught:  # noqa: BLE001  # the work decides what becomes of it
                # what is being ended already is, within a second or so
                error, interrupted = None if interrupted else caught, True
    finally:
        waiting.close()


class _Waiting:
    """What one call waits for; a source stays with the loop from one wait to the next."""

    __slots__ = ("_descriptor", "_loop", "_ready", "_source")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._source: Source | None = None
        self._descriptor = -1
        self._ready: asyncio.Future[None] | None = None

    async def elapse(self, wait: Wait) -> None:
        if wait.source is None:
            self.close()
            await asyncio.sleep(wait.seconds or 0.0)
            return
        self._ready = ready = self._loop.create_future()
        # not by its number, which the next source may have when this one is closed
        if wait.source is not self._source:
            self.close()
            self._descriptor = wait.source.fileno()
            self._loop.add_reader(self._descriptor, self._settle)
            self._source = wait.source
        timer = None
        if wait.seconds is not None:
            timer = self._loop.call_later(wait.seconds, self._settle)
        try:
            await ready
        finally:
            if timer is not None:
                timer.cancel()

    def _settle(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def close(self) -> None:
        """Have the loop forget the source."""
        if self._source is not None:
            self._loop.remove_reader(self._descriptor)
            self._source = None


@functools.cache
def _threads(kind: str, pid: int) -> ThreadPoolExecutor:
    """Return the few threads of one kind; a forked child has none of its parent's."""
    del pid
    # as many as `process.admitted` lets start at a time: more would only wait there
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)) + 1, f"sandbox-lite {kind}")


async def in_thread(kind: str, work: Callable[[], _T], *, surely: bool = False) -> _T:
    """Do work in one of a few threads, and to its end once it has begun.

    A cancellation is raised when it has ended, so that what it made has an owner. Work that has
    not begun is left undone then, unless it must be done `surely`.
    """
    submitted = _threads(kind, os.getpid()).submit(work)
    doing = asyncio.wrap_future(submitted)
    cancelled: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait((doing,))
        except asyncio.CancelledError as error:
            cancelled = error
            if not surely:
                submitted.cancel()
    if cancelled is not None:
        if not doing.cancelled():
            doing.exception()  # has been looked at
        raise cancelled
    return doing.result()
