"""What a control group of version 2 costs, where the host has version 1 as well.

A group without controllers takes the same directory and the same birth, with nothing to count.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sandbox_lite.jail.limits import delegation
from sandbox_lite.jail.native.nest import Plan
from sandbox_lite.jail.nest import Bird, Nest
from sandbox_lite.jail.programs import find_bwrap

if TYPE_CHECKING:
    from pathlib import Path

    from benchmark.bench import Bench


def _bare_group() -> Path | None:
    """Return a group of version 2 without controllers that can be written, if there is one."""
    for mount in delegation.mounts():
        given = mount.point / "cgroup.controllers"
        if mount.version == 2 and "memory" not in given.read_text().split():
            path = mount.point / f"sandbox-lite-bench-{os.getpid()}"
            with contextlib.suppress(OSError):
                path.mkdir()
                path.rmdir()
                return path
    return None


def groups(bench: Bench) -> None:
    """Make a group and remove it; bear a program into one, and into none."""
    path = _bare_group()
    if path is None:
        bench.notes.skip("births in a bare group of version 2", "none that can be written")
        return

    def make_and_remove() -> None:
        path.mkdir()
        path.rmdir()

    notes = bench.notes
    notes.time("cgroup v2, bare: make, remove", make_and_remove)
    outer = [str(find_bwrap()), "--unshare-user", "--die-with-parent", "--dev-bind", "/", "/"]
    path.mkdir()
    try:
        group = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.closing(Nest([*outer, "--cap-add", "ALL"])) as nest:
                _born(nest, None)
                notes.time("cgroup v2, bare: born there", lambda: _born(nest, group))
                notes.time("the same program, without a group", lambda: _born(nest, None))
        finally:
            os.close(group)
    finally:
        path.rmdir()


def _born(nest: Nest, group: int | None) -> None:
    child = nest.bear(Plan(words=("/bin/true",), mounts=(), fds={}, group=group))
    assert isinstance(child, Bird), "the group can be written"
    child.ends(10)
    child.close()
