"""Where episodes have their sandboxes from: opened now, waiting already, or forks of one.

Each is handed out once and gone after use: none is ever wiped and used again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from sandbox_lite.agent.episode import make_directories
from sandbox_lite.agent.work import finish
from sandbox_lite.errors import SandboxClosedError, SpecError
from sandbox_lite.jail.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox_lite.jail.pool import Pool
    from sandbox_lite.jail.rootfs.store import Store
    from sandbox_lite.jail.snapshots import Snapshot
    from sandbox_lite.spec import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the sandbox of an episode begins as."""

    spec: SandboxSpec
    directories: tuple[str, ...]
    """Made before the first step; commands start in the first of them."""
    files: Mapping[str, str]
    """Text by absolute path."""
    key: str
    """The same for episodes that begin alike, as those of one group do."""

    def prepare(self, sandbox: Sandbox) -> None:
        """Write the files and make the directories.

        Raises:
            SandboxLiteError: The sandbox failed.
        """
        for path, text in self.files.items():
            sandbox.files.write(path, text)
        finish(make_directories(sandbox, self.directories))


class Source(Protocol):
    """Hands out sandboxes; any number of threads may ask at once."""

    def take(self, start: Start) -> contextlib.AbstractContextManager[Sandbox]:
        """Yield an open, prepared sandbox that nobody has used, and close it with the block.

        Raises:
            SandboxLiteError: See `Sandbox.open`.
        """


class Cold:
    """Opens each when it is asked for."""

    def __init__(self, store: Store | None = None) -> None:
        """Take the store that holds the rootfs, the user's own where None."""
        self._store = store

    @contextlib.contextmanager
    def take(self, start: Start) -> Iterator[Sandbox]:
        """See `Source.take`."""
        with Sandbox(start.spec, store=self._store) as sandbox:
            start.prepare(sandbox)
            yield sandbox


class Warm:
    """Takes those that wait in a pool, which stays its owner's: open it first, close it last."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @contextlib.contextmanager
    def take(self, start: Start) -> Iterator[Sandbox]:
        """See `Source.take`."""
        with self._pool.take(start.spec) as sandbox:
            start.prepare(sandbox)
            yield sandbox


@dataclass(slots=True)
class _Group:
    """One prepared sandbox, frozen when it is first asked for."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    snapshot: Snapshot | None = None
    users: int = 0
    """Who has it in hand just now."""


class Forks:
    """Prepares one sandbox for all episodes that begin alike, and hands out forks of it.

    Worth it where the documents are many: each fork has them below its own layer, unread. Use it
    with `with`, or close it in the end.
    """

    def __init__(self, groups: int = 8, *, store: Store | None = None) -> None:
        """Keep so many prepared beginnings, those used last: as many as a batch has prompts.

        Raises:
            SpecError: Not even one.
        """
        if groups < 1:
            raise SpecError("forks need at least one group", hint="groups=1 or more")
        self._most = groups
        self._store = store
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, str], _Group] = OrderedDict()
        self._closed = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of every prepared beginning; forks that are open stay their owners'."""
        with self._lock:
            self._closed = True
            while self._groups:
                self._drop(self._groups.popitem()[1])

    @contextlib.contextmanager
    def take(self, start: Start) -> Iterator[Sandbox]:
        """See `Source.take`."""
        with self._held(start) as group:
            with group.lock:
                if group.snapshot is None:
                    group.snapshot = self._prepared(start)
            sandbox = Sandbox(start.spec, snapshot=group.snapshot, store=self._store).open()
        with sandbox:
            yield sandbox

    def _prepared(self, start: Start) -> Snapshot:
        # the snapshot is bounded by the prepared sandbox's own limits, as every fork is
        spec = dataclasses.replace(start.spec, publish=())
        with Sandbox(spec, store=self._store) as sandbox:
            start.prepare(sandbox)
            return sandbox.snapshot()

    @contextlib.contextmanager
    def _held(self, start: Start) -> Iterator[_Group]:
        key = (start.key, repr(start.spec))
        with self._lock:
            if self._closed:
                raise SandboxClosedError("the forks are closed", hint="use them in a with block")
            group = self._groups.setdefault(key, _Group())
            self._groups.move_to_end(key)
            group.users += 1
        try:
            yield group
        finally:
            with self._lock:
                group.users -= 1
                if self._closed:
                    self._drop(group)
                self._make_room()

    def _make_room(self) -> None:
        for key, group in list(self._groups.items()):
            if len(self._groups) <= self._most:
                return
            if not group.users:
                del self._groups[key]
                self._drop(group)

    def _drop(self, group: _Group) -> None:
        if not group.users and group.snapshot is not None:
            group.snapshot.close()
