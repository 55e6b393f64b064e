"""What a child has from its parent: a helper that was started earlier may no longer be one like us.

A program that has since given up root, say, must not have sandboxes that are still root.
"""

from __future__ import annotations

import os
import re
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

_LIMITS = sorted(
    {value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
)  # fmt: skip
_SPACES = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "user", "uts")
_PLACES = tuple(f"/proc/thread-self/{name}" for name in (*(f"ns/{s}" for s in _SPACES), "root"))


def inheritance() -> Hashable:
    """Return what a child of ours would have from us and could be told by."""
    return (
        os.getresuid(), os.getresgid(), tuple(os.getgroups()), _places(),
        frozenset(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0),
        tuple(resource.getrlimit(kind) for kind in _LIMITS), _rights(),
    )  # fmt: skip


_RIGHTS = re.compile(rb"^(?:Cap...|NoNewPrivs|Seccomp\w*):.*$", re.MULTILINE)


def _rights() -> Hashable:
    """Return capabilities, no_new_privs, filters, and our control groups."""
    try:
        with open("/proc/thread-self/status", "rb") as status:  # noqa: PTH123  # pathlib is slow
            rights = tuple(_RIGHTS.findall(status.read()))
        with open("/proc/self/cgroup", "rb") as groups:  # noqa: PTH123  # the same
            return (rights, groups.read())
    except OSError:
        return object()


def _places() -> Hashable:
    """Return what tells our namespaces and root directory from others."""
    try:
        return tuple(os.stat(path).st_ino for path in _PLACES)  # noqa: PTH116  # pathlib is slow
    except OSError:
        # a security module may forbid even that; what nobody can tell is never the same
        return object()
