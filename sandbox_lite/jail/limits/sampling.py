"""No control group: RLIMIT_NPROC where the kernel looks at it, and samples of the processes."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
from typing import TYPE_CHECKING

from sandbox_lite.jail import janitor
from sandbox_lite.jail.limits import kept_files
from sandbox_lite.jail.limits.backend import NICE, Ask, Counters, Probe, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.spec import LimitName


_VMSTAT = "/proc/vmstat"
_RESERVED_PIDS = 300
"""Numbers that the kernel gives away once only: pid.c."""
_NAMESPACED = (6, 14)
"""The release from which on each pid namespace has a kernel.pid_max of its own."""


def _kernel_counts() -> bool:
    # RLIMIT_NPROC is not looked at for the host's root, whichever user namespace it is in
    return os.getuid() != 0


def _numbers_are_bounded() -> bool:
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return match is not None and (int(match[1]), int(match[2])) >= _NAMESPACED


def _held(*, several_ids: bool = False) -> frozenset[LimitName]:
    # RLIMIT_NPROC counts each id apart
    counted = _kernel_counts() and not several_ids
    return frozenset({"pids"} if counted or _numbers_are_bounded() else ())


def _host_kills() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(kept_files.SHARED.read(_VMSTAT, 1 << 16).partition(b"\noom_kill ")[2].split()[0])
    return 0


class SampledBox:
    """Nothing of its own: the watchdog looks at the processes themselves."""

    def __init__(self, ask: Ask) -> None:
        self._pids = ask.pids
        self._several_ids = ask.several_ids
        self.holds: frozenset[LimitName] = _held(several_ids=ask.several_ids)

    counts_alone = False
    """The host's own end of memory is counted for all."""
    counts_pids = False
    by_niceness = True
    group: int | None = None

    def adopt(self, pid: int) -> None:
        """Nothing: there is no group."""

    def open_tasks(self, stack: contextlib.ExitStack) -> tuple[int, ...]:
        """Return none: there is no group."""
        return ()

    def enter(self, pid: int) -> None:
        """Nothing to enter."""

    def protect(self, first: int) -> None:
        """Bound the processes of process 1's namespaces; inside nobody can raise it again.

        Before bwrap RLIMIT_NPROC would count all of the user's processes: the kernel counts by user
        namespace. Of the host's root it counts none, and of several ids each apart, but numbers
        run out for everybody.
        """
        # Whoever watches must come to its turn among fifty that compute without end. Inherited,
        # and nobody inside can lower it again.
        os.setpriority(os.PRIO_PROCESS, first, max(NICE, os.getpriority(os.PRIO_PROCESS, first)))
        if self._pids is None:
            return
        if (self._several_ids or not _kernel_counts()) and _numbers_are_bounded():
            janitor.SHARED.bound_numbers(first, _RESERVED_PIDS + self._pids)
        if _kernel_counts():
            _, hard = resource.prlimit(first, resource.RLIMIT_NPROC)
            bound = self._pids if hard == resource.RLIM_INFINITY else min(self._pids, hard)
            resource.prlimit(first, resource.RLIMIT_NPROC, (bound, bound))

    def counters(self) -> Counters:
        """Return what the kernel killed on the whole host; other limits leave no count.

        Who takes memory faster than we look meets the host's own end of it.
        """
        return Counters(out_of_memory=_host_kills())

    def near(self, memory_bytes: int) -> bool:
        """Return True: only the processes tell."""
        return True

    def pids(self) -> int | None:
        """Return None: only the processes tell."""
        return None

    def read(self, tmpfs_bytes: int) -> Reading:
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
        elif _numbers_are_bounded():
            detail = "no control group, as root: kernel.pid_max, and samples of the processes"
        else:
            detail = "no control group, as root: samples of the processes"
        by_id = _held() - _held(several_ids=True)
        return Probe(usable=True, detail=detail, holds=_held(), by_id=by_id)

    @contextlib.contextmanager
    def box(self, ask: Ask) -> Iterator[SampledBox]:
        """Make nothing."""
        yield SampledBox(ask)


SAMPLING = _Sampling()
