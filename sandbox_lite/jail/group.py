"""Control groups of sandboxes as directories: made, swept, emptied and removed.

The name of each says whose it is, so that whoever comes next can tell an orphan. The janitor
removes those of a killed program: nothing but the standard library is needed here.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import time
from typing import TYPE_CHECKING

from sandbox_lite.jail.owner import Owner, boot_id

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "sandbox-lite"
_NAME = re.compile(rf"{PREFIX}-(\d+)-(\d+)-(\d+)-[0-9a-f]+")
_REMOVE_SECONDS = 10.0
_RETRY_SECONDS = 0.0005


def fresh_name(owner: Owner) -> str:
    """Return a name for a group of that process, told apart from every other.

    No boot id: no group outlives its boot.
    """
    return f"{PREFIX}-{owner.pid}-{owner.start_time}-{owner.pid_namespace}-{secrets.token_hex(6)}"


def is_orphan(name: str) -> bool:
    """Return whether a group of that name is ours, and the process that made it is gone."""
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    pid, start, namespace = (int(part) for part in match.groups())
    owner = Owner(boot_id=boot_id(), pid=pid, start_time=start, pid_namespace=namespace)
    return not owner.alive()


def sweep(base: Path) -> int:
    """Remove the groups below `base` whose makers are gone; return how many there were."""
    removed = 0
    with contextlib.suppress(OSError):
        for path in base.iterdir():
            if is_orphan(path.name) and remove(path):
                removed += 1
    return removed


def members(path: Path) -> list[int]:
    """Return the pids of the processes in a group."""
    with contextlib.suppress(OSError):
        return [int(line) for line in (path / "cgroup.procs").read_text().split()]
    return []


def kill(path: Path) -> None:
    """Kill every process of a group."""
    try:
        (path / "cgroup.kill").write_text("1")
    except OSError:
        # cgroup v1, or before Linux 5.14: one by one, and again for what was forked meanwhile
        for pid in members(path):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def remove(path: Path, *, seconds: float = _REMOVE_SECONDS) -> bool:
    """Kill what is left in a group and remove it with what stands below; whether it is gone."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            # busy: there are groups below, or the dead count until they have been waited for
            if time.monotonic() > deadline:
                return False
        else:
            return True
        with contextlib.suppress(OSError):
            for below in [entry for entry in path.iterdir() if entry.is_dir()]:
                remove(below, seconds=max(0.0, deadline - time.monotonic()))
        kill(path)
        time.sleep(_RETRY_SECONDS)
