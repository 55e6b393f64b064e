"""No control group: RLIMIT_NPROC where the kernel looks at it, and samples of the processes."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING

from sandbox_lite.jail.limits.backend import Ask, Counters, Probe, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.spec import LimitName


_NICE = 10


def _kernel_counts() -> bool:
    # RLIMIT_NPROC is not looked at for the host's root, whichever user namespace it is in
    return os.getuid() != 0


class SampledBox:
    """Nothing of its own: the watchdog looks at the processes themselves."""

    def __init__(self, ask: Ask) -> None:
        self._pids = ask.pids
        self.holds: frozenset[LimitName] = frozenset({"pids"} if _kernel_counts() else ())

    group: int | None = None

    def spawning(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to enter."""
        return contextlib.nullcontext()

    def enter(self, pid: int) -> None:
        """Nothing to enter."""

    def protect(self, first: int) -> None:
        """Bound the processes of process 1's user namespace; inside nobody can raise it again.

        Before bwrap it would count all of the user's processes: the kernel counts by namespace.
        """
        # Whoever watches must come to its turn among fifty that compute without end. Inherited,
        # and nobody inside can lower it again.
        os.setpriority(os.PRIO_PROCESS, first, max(_NICE, os.getpriority(os.PRIO_PROCESS, first)))
        if self._pids is not None and _kernel_counts():
            _, hard = resource.prlimit(first, resource.RLIMIT_NPROC)
            bound = self._pids if hard == resource.RLIM_INFINITY else min(self._pids, hard)
            resource.prlimit(first, resource.RLIMIT_NPROC, (bound, bound))

    def counters(self) -> Counters:
        """Return nothing: such a limit leaves no count."""
        return Counters()

    def near(self, memory_bytes: int) -> bool:
        """Return True: only the processes tell."""
        return True

    def pids(self) -> int | None:
        """Return None: only the processes tell."""
        return None

    def read(self, disk_bytes: int) -> Reading:
        """Return nothing."""
        return Reading()

    def read_cpu(self) -> float | None:
        """Return None."""
        return None

    def open_peak(self) -> int | None:
        """Return None."""
        return None


class _Sampling:
    name = "sampling"

    def probe(self) -> Probe:
        """Say what the kernel still does: it can always be used."""
        if _kernel_counts():
            detail = "no control group: RLIMIT_NPROC, and samples of the processes"
            return Probe(usable=True, detail=detail, holds=frozenset({"pids"}))
        return Probe(usable=True, detail="no control group, as root: samples of the processes")

    @contextlib.contextmanager
    def box(self, ask: Ask) -> Iterator[SampledBox]:
        """Make nothing."""
        yield SampledBox(ask)


SAMPLING = _Sampling()
