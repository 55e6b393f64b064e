"""The bound on memory where the kernel does not hold it alone: looks, and the end of the worst."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandbox_lite.jail.limits.processes import holds_memory, host_shared_bytes
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    from sandbox_lite.jail.limits.backend import Box
    from sandbox_lite.jail.limits.disk import DirectoryDisk, TmpfsDisk
    from sandbox_lite.jail.limits.processes import Processes

_SHARED_STEP_BYTES = 4 * MIB


class MemoryWatch:
    """Kills who holds most where all processes of a sandbox together hold too much."""

    def __init__(
        self,
        limit_bytes: int | None,
        box: Box,
        processes: Processes,
        disk: TmpfsDisk | DirectoryDisk,
    ) -> None:
        """Take the parts; None is no bound."""
        self._limit = limit_bytes
        self._box = box
        self._processes = processes
        self._disk = disk
        self._shared_bytes = 0
        self._memfd_bytes = 0
        self._dying: int | None = None
        self.kills = 0
        """How many were killed so far."""

    def look(self) -> tuple[int, bool]:
        """Look, and kill where that is due.

        Returns:
            The bytes that were found, 0 where nobody had to count them; and whether that is more
            than half the bound.
        """
        limit = self._limit
        if limit is None or not self._box.near(limit // 2):
            return 0, False
        if self._awaits_a_death():
            return 0, True
        sampled = "memory" not in self._box.holds
        memory = self._sampled() if sampled else self._counted()
        if memory > limit:
            held = self._processes.held()
            # Of a group the sum is the kernel's own; shared memory that no process holds any more
            # is in it, and no kill would give that back.
            beyond = held.total_bytes > (limit if sampled else limit // 2)
            if beyond and held.largest is not None:
                self._dying = self._processes.kill(held.largest)
                self.kills += self._dying is not None
        return memory, memory > limit // 2

    def _counted(self) -> int:
        return self._box.read(self._disk.look().tmpfs_bytes).memory_bytes or 0

    def _sampled(self) -> int:
        # descriptors take long to look through; a memfd grows with the host's shared memory
        shared = host_shared_bytes()
        grown = abs(shared - self._shared_bytes) > _SHARED_STEP_BYTES
        if grown:
            self._shared_bytes = shared
        rough, memfds = self._processes.rough_bytes(memfds=grown)
        if grown:
            self._memfd_bytes = memfds
        return rough + self._memfd_bytes

    def _awaits_a_death(self) -> bool:
        """Return whether who was killed last has yet to give its memory back.

        Nobody else has to die meanwhile, and nobody waits here: others are to be looked at.
        """
        if self._dying is None:
            return False
        if holds_memory(self._dying):
            return True
        self.close()
        return False

    def close(self) -> None:
        """Wait for nobody's end any more."""
        if self._dying is not None:
            os.close(self._dying)
            self._dying = None
