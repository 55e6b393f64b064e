"""Work that goes on in threads while a trainer, which does one thing after another, is busy.

A trainer announces everything of a batch and then asks for it, one after the other. Only so many
results wait unasked for at once: each is an open sandbox with its memory and descriptors.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class Announced:
    """Work that somebody will ask for, perhaps done by then."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.future: Future[None] | None = None
        """None until a thread has it."""
        self.taken = False


class Ahead:
    """Does announced work in the order in which it was announced, not too far ahead.

    Args:
        workers: Threads.
        most: Results that wait unasked for, at most.
    """

    def __init__(self, workers: int, most: int) -> None:
        # threads that stay: a jail dies with the thread that started it
        self._threads = ThreadPoolExecutor(workers, "sandbox-lite rollouts")
        self._most = most
        self._lock = threading.Lock()
        self._announced: deque[Announced] = deque()
        self._untaken = 0

    def announce(self, work: Callable[[], None]) -> Announced:
        """Return at once; the work is done when there is room."""
        one = Announced(work)
        with self._lock:
            self._announced.append(one)
            self._fill()
        return one

    def take(self, one: Announced) -> None:
        """Return when the work is done, which is here and now if nobody has begun it.

        Raises:
            Exception: What the work raised.
        """
        with self._lock:
            begun = self._forget(one)
            self._fill()
        # what waits in the queue may wait behind whoever asks for it here
        if begun is None or begun.cancel():
            one.work()
        else:
            begun.result()

    def drop(self, one: Announced) -> Future[None] | None:
        """Forget work; return what has been begun of it, None where nothing has."""
        with self._lock:
            begun = self._forget(one)
            self._fill()
        return begun

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Do something at once, whoever asks for it later."""
        return self._threads.submit(work)

    def close(self) -> None:
        """Wait for what was begun, and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _forget(self, one: Announced) -> Future[None] | None:
        if one.taken:
            raise ValueError("asked for twice")
        one.taken = True
        if one.future is None:
            self._announced.remove(one)
        else:
            self._untaken -= 1
        return one.future

    def _fill(self) -> None:
        while self._announced and self._untaken < self._most:
            one = self._announced.popleft()
            self._untaken += 1
            one.future = self._threads.submit(one.work)
