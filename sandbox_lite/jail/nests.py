"""Which nest a sandbox is born from: one for all that are put on the same, or one of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from typing import TYPE_CHECKING

from sandbox_lite.jail.inheritance import inheritance
from sandbox_lite.jail.nest import Nest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
    from pathlib import Path

_MOST_IDLE = 4


def states(paths: Iterable[Path | str]) -> Hashable:
    """Return what tells directories from others that had their paths before them."""
    found = (os.stat(path) for path in paths)  # noqa: PTH116  # some are strings
    return tuple((one.st_dev, one.st_ino) for one in found)


class Nests:
    """Those of this program, each for another place to put sandboxes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nests: dict[Hashable, Nest] = {}

    @contextlib.contextmanager
    def private(
        self, outer: Sequence[str], write_maps: Callable[[int], None] | None = None
    ) -> Iterator[Nest]:
        """Yield a nest of one sandbox alone, which goes with it.

        Args:
            outer: The words of its bwrap.
            write_maps: See `Nest`; its user namespace is then that sandbox's as well.

        Raises:
            LaunchError: It cannot be started; `stderr` is what bwrap said.
            HostError: By `write_maps`.
        """
        nest = Nest(outer, write_maps=write_maps)
        key, owner = object(), os.getpid()
        with self._lock:
            self._nests[key] = nest
            nest.users += 1
        try:
            yield nest
        finally:
            if owner == os.getpid():
                with self._lock:
                    self._nests.pop(key, None)
                nest.close()

    @contextlib.contextmanager
    def taken(self, outer: Sequence[str], state: Hashable) -> Iterator[Nest]:
        """Yield the nest that these words make, and keep it until the block ends.

        Args:
            outer: The words of its bwrap.
            state: What else it must not differ in: what the directories were that the words name.

        Raises:
            LaunchError: It cannot be started; `stderr` is what bwrap said.
        """
        nest = self._take((tuple(outer), state, inheritance()), outer)
        owner = os.getpid()
        try:
            yield nest
        finally:
            if owner == os.getpid():
                self._give_back(nest)

    def _take(self, key: Hashable, outer: Sequence[str]) -> Nest:
        with self._lock:
            nest = self._nests.pop(key, None)
            if nest is not None and not nest.alive:
                # with it whatever was born there has ended, and its users are about to learn it
                if not nest.users:
                    nest.close()
                nest = None
            if nest is None:
                nest = Nest(outer)
            nest.users += 1
            self._nests[key] = nest  # the last one used stands last
            return nest

    def _give_back(self, nest: Nest) -> None:
        with self._lock:
            nest.users -= 1
            known = nest in self._nests.values()
            idle = [key for key, one in self._nests.items() if not one.users]
            old = [self._nests.pop(key) for key in idle[: max(0, len(idle) - _MOST_IDLE)]]
        for one in old if known or nest.users else (*old, nest):
            one.close()

    def close(self) -> None:
        """End them all: the program ends."""
        with self._lock:
            nests, self._nests = list(self._nests.values()), {}
        for one in nests:
            one.close()

    def after_fork(self) -> None:
        """Forget the parent's in a forked child."""
        self._lock = threading.Lock()
        for one in self._nests.values():
            one.drop()
        self._nests = {}


SHARED = Nests()
"""Those of this program."""

os.register_at_fork(after_in_child=SHARED.after_fork)
atexit.register(SHARED.close)
