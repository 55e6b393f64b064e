"""How a coroutine waits for steps, and for what can only be done in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import select
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.jail.steps import Steps, Wait

_T = TypeVar("_T")


async def follow(steps: Steps[_T]) -> _T:
    """Do all the steps while the loop goes on.

    A cancellation is raised in the work, which ends what it has begun; that is waited for, and a
    second one does not cut it short.
    """
    error: BaseException | None = None
    interrupted = False
    waits = Waits.held()
    try:
        while True:
            try:
                wait = next(steps) if error is None else steps.throw(error)
            except StopIteration as ended:
                result: _T = ended.value
                return result
            error = None
            try:
                await waits.elapse(wait)
            except BaseException as caught:  # noqa: BLE001  # the work decides what becomes of it
                # what is being ended already is, within a second or so
                error, interrupted = None if interrupted else caught, True
    finally:
        waits.release()


class Waits:
    """What the calls on one loop wait for: one descriptor and one timer of the loop's for all.

    The loop's own `add_reader` and `call_later` take longer than bash does for a builtin.
    """

    __slots__ = ("_at", "_deadlines", "_epoll", "_loop", "_ready", "_timer", "_users")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._epoll = select.epoll()
        self._ready: dict[int, asyncio.Future[None]] = {}
        """Who waits for which descriptor."""
        self._deadlines: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf
        """When the timer rings: never after the first deadline, and often before it."""
        loop.add_reader(self._epoll.fileno(), self._turn)

    @classmethod
    def held(cls) -> Waits:
        """Return those of the running loop, until they are released as often as they were held."""
        loop = asyncio.get_running_loop()
        found = _waits.get(loop)
        if found is None:
            for closed in [one for one in _waits if one.is_closed()]:
                # somebody's sandbox was never closed
                _waits.pop(closed)._epoll.close()
            found = _waits[loop] = cls(loop)
        found._users += 1
        return found

    def release(self) -> None:
        """Let go; the last one takes all back from the loop."""
        self._users -= 1
        if self._users or self._loop.is_closed():
            return
        del _waits[self._loop]
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._timer is not None:
            self._timer.cancel()

    async def elapse(self, wait: Wait) -> None:
        """Wait as it says."""
        if wait.source is None:
            await asyncio.sleep(wait.seconds or 0.0)
            return
        ready = self._loop.create_future()
        descriptor = wait.source.fileno()
        # Once: it tells nothing more until the next wait, and need not be taken back. The kernel
        # forgets it when it is closed.
        events = select.EPOLLIN | select.EPOLLONESHOT
        try:
            self._epoll.register(descriptor, events)
        except FileExistsError:
            self._epoll.modify(descriptor, events)
        self._ready[descriptor] = ready
        if wait.seconds is not None:
            self._deadlines[ready] = at = self._loop.time() + wait.seconds
            if at < self._at:
                self._ring(at)
        try:
            await ready
        finally:
            self._deadlines.pop(ready, None)
            if self._ready.get(descriptor) is ready:
                del self._ready[descriptor]
                with contextlib.suppress(OSError):
                    self._epoll.unregister(descriptor)

    def _turn(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            ready = self._ready.pop(descriptor, None)
            if ready is not None and not ready.done():
                ready.set_result(None)

    def _ring(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._rung)

    def _rung(self) -> None:
        self._timer, self._at = None, math.inf
        now = self._loop.time()
        for ready, at in self._deadlines.items():
            if at <= now and not ready.done():
                ready.set_result(None)
        left = min((at for at in self._deadlines.values() if at > now), default=None)
        if left is not None:
            self._ring(left)


_waits: dict[asyncio.AbstractEventLoop, Waits] = {}
# a forked child has none of its parent's loops
os.register_at_fork(after_in_child=_waits.clear)


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
