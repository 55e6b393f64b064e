"""What a rung of the ladder is: who holds the limits of one sandbox, and what it can tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager, ExitStack

    from sandbox_lite.spec import LimitName


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one sandbox asks of a rung; None is no bound."""

    memory_bytes: int | None
    """With what its private tmpfs may hold: to the kernel that is memory as well."""
    pids: int | None
    cpus: float | None
    several_ids: bool = False
    """Whether its processes may be of different ids: what counts one id's then holds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What only grows; the difference of two is what happened in between."""

    out_of_memory: int = 0
    """Processes killed at the limit of memory."""
    pids_refused: int = 0
    disk_filled: int = 0
    shm_filled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at a sandbox; None where this rung does not tell."""

    memory_bytes: int | None = None
    """Without what the kernel can drop, and without what lies on the sandbox's disk."""


class Box(Protocol):
    """One sandbox's place on a rung."""

    @property
    def holds(self) -> frozenset[LimitName]:
        """Limits that the kernel holds here."""

    @property
    def counts_alone(self) -> bool:
        """Whether nothing outside of the sandbox moves its counters."""

    @property
    def counts_pids(self) -> bool:
        """Whether `pids` tells."""

    @property
    def by_niceness(self) -> bool:
        """Whether nothing but nice values has it give way to the host's own programs."""

    @property
    def group(self) -> int | None:
        """Descriptor of the one directory in which its bwrap can be born, if there is one."""

    def adopt(self, pid: int) -> None:
        """Put a process where it may start children in `group`.

        Raises:
            HostError: The kernel refuses.
        """

    def open_tasks(self, stack: ExitStack) -> tuple[int, ...]:
        """Return descriptors of files by which a process of one thread enters by itself."""

    def enter(self, pid: int) -> None:
        """Take in the process that becomes the sandbox, before it runs anything."""

    def protect(self, first: int) -> None:
        """Bound process 1, before it starts anything for others."""

    def counters(self) -> Counters:
        """Return what has happened so far."""

    def near(self, memory_bytes: int) -> bool:
        """Return whether memory may have reached so much: a cheap look before `read`."""

    def pids(self) -> int | None:
        """Return how many processes and threads there are."""

    def read(self, tmpfs_bytes: int) -> Reading:
        """Look; `tmpfs_bytes` is what the sandbox's tmpfs hold."""

    def read_cpu(self) -> float | None:
        """Return the cpu seconds spent so far, or None."""

    def open_peak(self) -> int | None:
        """Return a descriptor whose file gives the peak of memory from now on, or None.

        The kernel counts the pages of files and of the disk with it. The caller closes it.
        """


NICE = 10
"""Of what is in a sandbox, where no control group has a weight of its own: about a tenth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether a rung can be stood on here, and if not, why and what would help."""

    usable: bool
    detail: str
    hint: str = ""
    holds: frozenset[LimitName] = field(default_factory=frozenset)
    by_id: frozenset[LimitName] = field(default_factory=frozenset)
    """Of these, what is held by counting the processes of one id."""

    def holds_for(self, ask: Ask) -> frozenset[LimitName]:
        """Return what a sandbox that asks so would have held."""
        return self.holds - self.by_id if ask.several_ids else self.holds


class Backend(Protocol):
    """One rung."""

    @property
    def name(self) -> str:
        """Its name, as `require` takes it."""

    def probe(self) -> Probe:
        """Look whether it can be used; what it finds is remembered."""

    def box(self, ask: Ask) -> AbstractContextManager[Box]:
        """Make a sandbox's place, which goes with the block.

        Raises:
            HostError: It could not be made.
        """
