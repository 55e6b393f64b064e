"""No control group: RLIMIT_NPROC where the kernel looks at it, and samples of the processes."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError
from sandbox_lite.jail.limits.backend import Ask, Counters, Probe, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.spec import LimitName


_NICE = 10
_RESERVED_PIDS = 300
"""Numbers that the kernel gives away once only: pid.c."""
_NAMESPACED = (6, 14)
"""The release from which on each pid namespace has a kernel.pid_max of its own."""
_SECONDS = 30.0

_BOUND_NUMBERS = """
import ctypes, os, sys
first, bound = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(f"/proc/{first}/ns/pid", os.O_RDONLY)
if libc.setns(fd, 0x20000000) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
child = os.fork()
if child == 0:
    try:
        with open("/proc/sys/kernel/pid_max", "w") as file:
            file.write(bound)
        os._exit(0)
    finally:
        os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""The sysctl is that of the namespace of whoever asks, and only a child can be in another."""


def _kernel_counts() -> bool:
    # RLIMIT_NPROC is not looked at for the host's root, whichever user namespace it is in
    return os.getuid() != 0


def _numbers_are_bounded() -> bool:
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return match is not None and (int(match[1]), int(match[2])) >= _NAMESPACED


def _held() -> frozenset[LimitName]:
    return frozenset({"pids"} if _kernel_counts() or _numbers_are_bounded() else ())


def _host_kills() -> int:
    with contextlib.suppress(OSError):
        match = re.search(rb"^oom_kill (\d+)$", Path("/proc/vmstat").read_bytes(), re.MULTILINE)
        return int(match[1]) if match is not None else 0
    return 0


def _bound_numbers(first: int, pids: int) -> None:
    """Let a pid namespace have no more numbers than so many and, at first, those reserved."""
    words = [sys.executable, "-I", "-S", "-c", _BOUND_NUMBERS, str(first)]
    done = subprocess.run(
        [*words, str(_RESERVED_PIDS + pids)],
        capture_output=True, text=True, check=False, timeout=_SECONDS, env={},
    )  # fmt: skip
    if done.returncode != 0:
        raise HostError(
            f"the processes of a sandbox cannot be bounded here: {done.stderr.strip()[-200:]}",
            hint="run as an ordinary user, or where a control group can be made",
        )


class SampledBox:
    """Nothing of its own: the watchdog looks at the processes themselves."""

    def __init__(self, ask: Ask) -> None:
        self._pids = ask.pids
        self.holds: frozenset[LimitName] = _held()

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
        namespace. Of the host's root it counts none, but numbers run out for everybody.
        """
        # Whoever watches must come to its turn among fifty that compute without end. Inherited,
        # and nobody inside can lower it again.
        os.setpriority(os.PRIO_PROCESS, first, max(_NICE, os.getpriority(os.PRIO_PROCESS, first)))
        if self._pids is None:
            return
        if not _kernel_counts():
            if _numbers_are_bounded():
                _bound_numbers(first, self._pids)
        else:
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
        return Probe(usable=True, detail=detail, holds=_held())

    @contextlib.contextmanager
    def box(self, ask: Ask) -> Iterator[SampledBox]:
        """Make nothing."""
        yield SampledBox(ask)


SAMPLING = _Sampling()
