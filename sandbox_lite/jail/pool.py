"""Warm sandboxes: opened before anybody asks for them, and each handed out once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from sandbox_lite.errors import SandboxClosedError, SandboxLiteError, SpecError
from sandbox_lite.jail import pressure
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.spec import SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.jail.rootfs.store import Store

_LATE_SECONDS = 0.005
"""After somebody took one: whoever did wants the processor for what comes next."""
_PATIENCE_SECONDS = 1.0
"""Before the next try, where memory is short or a start has failed."""
_NICE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shelf:
    """What waits of one request; a request holds dicts, which no dict takes as its key."""

    spec: SandboxSpec
    waiting: deque[Sandbox] = field(default_factory=deque)


class Pool:
    """Keeps sandboxes open for those who will want one; use it with `with`.

    None is ever used twice: what a sandbox was used for is gone with it.
    """

    def __init__(
        self, spec: str | SandboxSpec = "standard", *, size: int = 4, store: Store | None = None
    ) -> None:
        """Ask for a pool; it fills with the `with` block.

        Args:
            spec: What is kept warm from the start: the name of a rootfs, or a whole request.
            size: How many of it, and of every other request that is taken, are kept.
            store: Where to look for the rootfs, if not in the user's own store.

        Raises:
            SpecError: The request makes no sense.
        """
        if size < 1:
            raise SpecError("a pool keeps at least one sandbox", hint="size=1 or more")
        self.spec = SandboxSpec(rootfs=spec) if isinstance(spec, str) else spec
        self.size = size
        self._store = store
        self._changed = threading.Condition()
        self._shelves = [_Shelf(spec=self.spec)]
        self._owner = os.getpid()
        self._thread: threading.Thread | None = None
        self._taken = False
        self._closed = False

    def __enter__(self) -> Self:
        """Begin to fill it."""
        if self._thread is not None:
            raise SpecError("the pool is open already")
        self._thread = threading.Thread(
            target=self._refill, name="sandbox-lite pool", daemon=True
        )  # fmt: skip
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def ready(self, spec: SandboxSpec | None = None) -> int:
        """Return how many sandboxes of that request, by default the pool's own, are waiting."""
        with self._changed:
            return len(self._shelf(spec or self.spec).waiting)

    def await_ready(self, count: int | None = None, *, timeout: float = 60.0) -> bool:
        """Wait until so many of the pool's own request are waiting, by default all of them.

        Returns:
            Whether it came to that within `timeout` seconds.
        """
        wanted = self.size if count is None else count
        with self._changed:
            return self._changed.wait_for(lambda: len(self._shelves[0].waiting) >= wanted, timeout)

    @contextlib.contextmanager
    def take(self, spec: SandboxSpec | None = None) -> Iterator[Sandbox]:
        """Yield an open sandbox that nobody has used, and close it with the block.

        Where none is waiting it is opened now. Its wall time begins here.

        Args:
            spec: What is wanted, by default what the pool was made for; kept warm from now on.

        Raises:
            SandboxClosedError: The pool is closed, or another process's.
            HostError: See `Sandbox.open`, as for the next two.
            RootfsError: See there.
            LaunchError: See there.
        """
        wanted = spec or self.spec
        sandbox = self._waiting(wanted)
        if sandbox is None:
            sandbox = Sandbox(wanted, store=self._store).open()
        try:
            yield sandbox
        finally:
            sandbox.close()

    def _waiting(self, spec: SandboxSpec) -> Sandbox | None:
        while True:
            # in a forked child the lock may be held for ever
            self._check_open()
            with self._changed:
                self._check_open()
                waiting = self._shelf(spec).waiting
                sandbox = waiting.popleft() if waiting else None
                self._taken = True
                self._changed.notify_all()
            if sandbox is None or sandbox.begin():
                return sandbox
            # somebody killed it while it waited
            sandbox.close()

    def _check_open(self) -> None:
        if self._thread is None or self._closed or self._owner != os.getpid():
            raise SandboxClosedError(
                "the pool is not open in this process", hint="use it in a with block"
            )

    def close(self) -> None:
        """Close what is waiting; what was taken is closed by whoever took it."""
        if self._owner != os.getpid():
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for shelf in self._shelves:
            while shelf.waiting:
                shelf.waiting.popleft().close()

    def _shelf(self, spec: SandboxSpec) -> _Shelf:
        for shelf in self._shelves:
            if shelf.spec == spec:
                return shelf
        self._shelves.append(_Shelf(spec=spec))
        return self._shelves[-1]

    def _lacking(self) -> _Shelf | None:
        lacking = (one for one in self._shelves if len(one.waiting) < self.size)
        return min(lacking, key=lambda one: len(one.waiting), default=None)

    def _refill(self) -> None:
        # this thread's alone; what it starts has the priority of the nest
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._lacking() is not None)
                # late and gently: as long as others are being taken
                while self._taken and not self._closed:
                    self._taken = False
                    self._changed.wait(_LATE_SECONDS)
                if self._closed:
                    return
                shelf = self._lacking()
            if shelf is not None and not self._add(shelf):
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, _PATIENCE_SECONDS)

    def _add(self, shelf: _Shelf) -> bool:
        if pressure.is_high():
            self._give_one_up()
            return False
        sandbox = Sandbox(shelf.spec, store=self._store)
        try:
            sandbox.open()
            # the first command takes twice as long: it touches everything for the first time
            sandbox.run(":")
        except SandboxLiteError:
            sandbox.close()
            # whoever takes one opens it himself then, and is told
            return False
        with self._changed:
            if not self._closed:
                shelf.waiting.append(sandbox)
                self._changed.notify_all()
                return True
        sandbox.close()
        return True

    def _give_one_up(self) -> None:
        """Close one that waits: what others do with the memory is worth more."""
        with self._changed:
            waiting = max((one.waiting for one in self._shelves), key=len)
            sandbox = waiting.pop() if waiting else None
            self._changed.notify_all()
        if sandbox is not None:
            sandbox.close()
