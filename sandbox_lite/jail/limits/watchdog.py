"""One thread that looks at all sandboxes of this program, as often as each of them needs it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError
from sandbox_lite.jail.limits.meter import CALM_SECONDS
from sandbox_lite.jail.limits.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.jail.limits.meter import Meter

_AGAIN_SECONDS = 0.025
"""Until the kernel is asked again for what it grants one of all users in a tenth of a second."""


class Watchdog:
    """Started with the first sandbox; waits while there is none, or none does anything."""

    def __init__(self) -> None:
        self._due: dict[Meter, float] = {}
        self._rough: set[Meter] = set()
        self._soften_at = 0.0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.turns = Turns()

    @contextlib.contextmanager
    def watching(self, meter: Meter) -> Iterator[None]:
        """Look at a sandbox until the end of the block."""
        owner = os.getpid()
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(
                    target=self._serve, name="sandbox-lite watchdog", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:
                    raise HostError(
                        "no thread can be started that looks after the sandbox's limits",
                        hint="end processes, or raise their limit: ulimit -u",
                    ) from error
                self._thread = thread
            self._due[meter] = 0.0
            self._changed.notify()
        try:
            yield
        finally:
            # in a forked child there is no such thread, and perhaps a lock that nobody lets go
            if owner == os.getpid():
                with self._changed:
                    self._due.pop(meter, None)
                    self._rough.discard(meter)
                meter.close()
                self.turns.gives_way(meter)

    def wake(self, meter: Meter) -> None:
        """Look at a sandbox now: a command has come."""
        with self._changed:
            if meter in self._due:
                self._due[meter] = 0.0
                self._changed.notify()

    def soften(self, meter: Meter) -> None:
        """Have a sandbox's sessions give way as soon as the kernel grants it."""
        with self._changed:
            if meter in self._due:
                self._rough.add(meter)
                if len(self._rough) == 1:
                    self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                due = [meter for meter, when in self._due.items() if when <= now]
                soften = bool(self._rough) and self._soften_at <= now
                if not due and not soften:
                    first = min(self._due.values(), default=float("inf"))
                    if self._rough:
                        first = min(first, self._soften_at)
                    wait = None if first == float("inf") else first - now
                    self._changed.wait(wait)
                    continue
                # a command that comes while we look has its say after it
                for meter in due:
                    self._due[meter] = float("inf")
            for meter in due:
                try:
                    pause = meter.sample()
                except Exception:  # noqa: BLE001  # whatever it is, the others must be looked at
                    # no descriptor or memory left for a look, or a sandbox that ends meanwhile
                    pause = CALM_SECONDS
                if pause is not None:
                    self._plan(meter, time.monotonic() + pause)
                if meter.expired:
                    self.turns.gives_way(meter)
                if meter.rough:
                    self.soften(meter)
            if soften:
                # whatever one of them is in the middle of, the limits of all must be looked at
                with contextlib.suppress(Exception):
                    self._soften()

    def _soften(self) -> None:
        """Have as many sessions give way as the kernel grants now, beginning where it storms."""
        while True:
            with self._changed:
                meter = max(self._rough, key=_urgency, default=None)
            if meter is None:
                return
            done = meter.soften()
            if done is None:
                with self._changed:
                    self._rough.discard(meter)
                self.turns.gives_way(meter)
            elif not done:
                self._soften_at = time.monotonic() + _AGAIN_SECONDS
                return

    def _plan(self, meter: Meter, when: float) -> None:
        with self._changed:
            if meter in self._due:
                self._due[meter] = min(self._due[meter], when)


def _urgency(meter: Meter) -> int:
    return meter.urgency


_current = Watchdog()


def _renew() -> None:
    # no thread of the parent's is here, and a lock may be held for ever
    global _current
    _current = Watchdog()


os.register_at_fork(after_in_child=_renew)


def shared() -> Watchdog:
    """Return the watchdog of this process."""
    return _current
