"""What we hold open of a jail that has just been made, before anything of others runs inside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError
from sandbox_lite.jail import bwrap, served_files
from sandbox_lite.jail.limits.disk import DirectoryDisk, TmpfsDisk, measure
from sandbox_lite.jail.openat2 import BENEATH, IN_ROOT, NO_SYMLINKS, kernel_file_system, openat2
from sandbox_lite.jail.workspace import live as workspaces

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sandbox_lite.jail.layers import Upper
    from sandbox_lite.jail.limits.disk import Measure
    from sandbox_lite.jail.served_files import ServedFiles
    from sandbox_lite.jail.supervisor import Supervisor
    from sandbox_lite.spec import LimitName, Mount, SandboxSpec

_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def proc(stack: contextlib.ExitStack, supervisor: Supervisor) -> int:
    """Return the jail's own /proc, whatever the layers have in its place.

    Raises:
        LaunchError: It has none there.
    """
    root = os.open(f"/proc/{supervisor.pid}/root", os.O_PATH | os.O_CLOEXEC)
    try:
        found = openat2(root, b"proc", _PLACE, resolve=BENEATH | NO_SYMLINKS)
    finally:
        os.close(root)
    stack.callback(os.close, found)
    if kernel_file_system(found) != "proc":
        raise LaunchError("the sandbox's /proc is none", hint="do not trust its rootfs")
    return found


def looks(stack: contextlib.ExitStack, proc: int, supervisor: Supervisor) -> ServedFiles | None:
    """Return who measures what belongs to other ids, where this process may not look at it."""
    if not served_files.needed():
        return None
    # beside the one for files, where a long copy would keep the limits waiting
    made = served_files.ServedFiles(proc, supervisor.pid)
    stack.callback(made.close)
    return made


def disk(
    stack: contextlib.ExitStack,
    supervisor: Supervisor,
    upper: Upper,
    spec: SandboxSpec,
    looks: ServedFiles | None,
) -> TmpfsDisk | DirectoryDisk:
    """Return what tells how much the sandbox has written."""
    roots: dict[LimitName, str] = {"disk": bwrap.UPPER, "shm": bwrap.SHM}
    if upper.path is not None:
        del roots["disk"]
    fds: dict[LimitName, int] = {}
    for name, root in roots.items():
        # the outer namespace's own view: what is mounted inside cannot be in its way
        fds[name] = os.open(f"/proc/{supervisor.holder}/root{root}", _PLACE)
        stack.callback(os.close, fds[name])
    tmpfs = TmpfsDisk(fds, _mounts(stack, supervisor, spec.mounts))
    if upper.path is None:
        return tmpfs
    measuring: Callable[[Path], Measure] = measure if looks is None else looks.measure
    if any(one.mode == "overlay" for one in spec.mounts):
        measuring = workspaces.measuring(measuring)
    return DirectoryDisk(
        upper.path, spec.limits.disk_bytes, tmpfs, upper.given, measuring=measuring
    )  # fmt: skip


def _mounts(
    stack: contextlib.ExitStack, supervisor: Supervisor, mounts: Sequence[Mount]
) -> tuple[int, ...]:
    """Open the further tmpfs that were asked for."""
    fds = []
    targets = [one.target for one in mounts if one.mode == "tmpfs"]
    if targets:
        root = os.open(f"/proc/{supervisor.pid}/root", os.O_PATH | os.O_CLOEXEC)
        stack.callback(os.close, root)
        for target in targets:
            fds.append(openat2(root, os.fsencode(target), _PLACE, resolve=IN_ROOT))
            stack.callback(os.close, fds[-1])
    return tuple(fds)
