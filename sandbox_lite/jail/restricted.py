"""Sandboxes that may do less: no file but a few can be written, or no program runs at all.

Both are the kernel's: mounts that are read-only, and a filter that process 1 loads into itself
before it serves anybody. Each is looked at when it is made, and a sandbox without it does not open.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import FileAccessError, LaunchError
from sandbox_lite.jail.native import nest as native_nest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Cover = Callable[[Sequence[tuple[str, str]]], Callable[[], int]]

    from sandbox_lite.jail.files import Files
    from sandbox_lite.jail.supervisor import Supervisor

NO_PROGRAMS = "no-programs"
"""The word that tells process 1 so; `ps` shows it."""

_KEPT_OPEN = ("proc", "devpts")
"""Kinds of file systems that take no file; of /proc what could be written is covered."""
_HINT = "run: sandbox-lite doctor; or ask for a sandbox without this restriction"


def hold_files(
    cover: Cover,
    files: Files,
    supervisor: Supervisor,
    writable: Sequence[str],
) -> None:
    """Make all that is mounted in a jail read-only, but for these files, which are made.

    Args:
        cover: Mounts inside, see `Nest.cover`.
        files: Those of the sandbox, in which nothing of others has run yet.
        supervisor: Of that sandbox.
        writable: Paths inside. Each becomes a mount of its own: it can be written, and neither
            removed nor replaced.

    Raises:
        LaunchError: Something can still be written.
        FileAccessError: A file cannot be made.
    """
    for path in writable:
        _make(files, path)
    _mounted(cover, native_nest.bound(writable))
    # the last mounted first: what is below a mount must still be found by its name
    _mounted(cover, native_nest.read_only(_writable(supervisor, writable)[::-1]))
    left = _writable(supervisor, writable)
    if left:
        raise LaunchError(f"{left[0]} in the sandbox can still be written", hint=_HINT)


def _make(files: Files, path: str) -> None:
    try:
        # what a snapshot has there stays as it is
        files.read(path, max_bytes=0, follow_links=False)
    except FileAccessError as error:
        if error.errno == errno.ENOENT:
            files.write(path, b"")
        elif error.errno != errno.EFBIG:
            raise


def _mounted(
    cover: Cover,
    mounts: Sequence[tuple[str, str]],
) -> None:
    problem = cover(mounts)()
    if problem:
        raise LaunchError(
            f"the sandbox's files cannot be made read-only: {os.strerror(problem)}", hint=_HINT
        )


def _writable(supervisor: Supervisor, but: Sequence[str]) -> list[str]:
    """Return where in a jail something is mounted that can be written."""
    found = []
    for line in Path(f"/proc/{supervisor.pid}/mountinfo").read_bytes().splitlines():
        head, _, tail = line.partition(b" - ")
        place, options = head.split()[4:6]
        # proc(5): a space and its like are written in octal
        path = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), place))
        kind = tail.split()[0].decode()
        if b"ro" not in options.split(b",") and kind not in _KEPT_OPEN and path not in but:
            found.append(path)
    return found


def check_no_programs(supervisor: Supervisor) -> None:
    """Ask process 1 for a program, which the kernel must refuse.

    Raises:
        LaunchError: It has not.
    """
    found = supervisor.refusal()
    if found != errno.EPERM:
        why = os.strerror(found) if found else "one was started"
        raise LaunchError(f"programs cannot be forbidden in the sandbox: {why}", hint=_HINT)
