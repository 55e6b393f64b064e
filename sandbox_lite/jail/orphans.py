"""Ends a bwrap that waits for ever: its parent was killed in the middle of a start.

bwrap's child waits on an eventfd until its parent has written the id maps, and asks to die with the
parent only after that. A parent that is killed in between leaves a child that nothing will wake,
for it holds both ends itself. Nothing but the standard library is needed here.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ = {"x86_64": "0", "aarch64": "63"}
"""The number of read(2)."""

_YOUNG_SECONDS = 2.0
"""A start takes milliseconds; on a busy machine somewhat longer."""


def _stat(pid: int) -> list[str]:
    """Return the fields of proc(5) from the third on; the second may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _is_young(pid: int) -> bool:
    started = int(_stat(pid)[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started < _YOUNG_SECONDS


def _is_bwrap(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "bwrap\n"


def _ours() -> Iterator[int]:
    """Yield the pids of this user's bwraps; processes come and go while we look."""
    for name in os.listdir("/proc"):  # noqa: PTH208  # names are all that is asked for
        with contextlib.suppress(OSError):
            path = Path("/proc", name)
            if name.isdigit() and path.stat().st_uid == os.getuid() and _is_bwrap(int(name)):
                yield int(name)


def _waits_for_ever(pid: int) -> bool:
    # while its parent lives it is only about to start
    if _is_bwrap(_parent(pid)):
        return False
    call, first, *_ = Path(f"/proc/{pid}/syscall").read_text().split()
    if call != _READ.get(platform.machine()):
        return False
    # the name of a magic link, which leads nowhere
    return os.readlink(f"/proc/{pid}/fd/{int(first, 16)}") == "anon_inode:[eventfd]"  # noqa: PTH115


def kill_orphans() -> int:
    """Kill this user's bwraps that no parent will wake; return how many there were."""
    killed = 0
    for pid in _ours():
        with contextlib.suppress(OSError, ValueError):
            pidfd = os.pidfd_open(pid)
            try:
                if _waits_for_ever(pid):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    killed += 1
            finally:
                os.close(pidfd)
    return killed


def siblings() -> bool:
    """Return whether a bwrap that was started just now has our own parent.

    Asked by the janitor of a dead program: whatever that program leaves has the janitor's new
    parent, be it the host's init or a nearer reaper.
    """
    for pid in _ours():
        with contextlib.suppress(OSError):
            if _parent(pid) == os.getppid() and _is_young(pid):
                return True
    return False
