"""How much a sandbox has written: of a tmpfs the kernel knows, a directory is walked."""

from __future__ import annotations

# All is done on descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH101
import contextlib
import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.spec import MIB, inodes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.spec import LimitName

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_USABLE = stat.S_IRUSR | stat.S_IXUSR
_DEEPEST = 200
"""Levels that are walked; whoever nests deeper hides what it writes."""
_STEP_BYTES = 8 * MIB
"""Of less free space on the host's disk, from which on a walk is due at once."""
ENDLESS_BYTES = 1 << 62
"""What a tree is taken for that cannot be measured: fail closed."""
_INODE_SECONDS = 3.0
_REST = 10
"""A walk may take the tenth part of the time between two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """One look."""

    used_bytes: int
    tmpfs_bytes: int
    """Of these, what is memory to the kernel."""
    full: frozenset[LimitName]
    """Those that take no more bytes, or no more files."""


class TmpfsDisk:
    """The private tmpfs of a sandbox, which the kernel bounds."""

    def __init__(self, fds: Mapping[LimitName, int], mounts: Sequence[int] = ()) -> None:
        """Look through descriptors of their roots, which stay their owner's.

        Args:
            fds: The disk and /dev/shm.
            mounts: Further tmpfs that were asked for, which have bounds of their own.
        """
        self._fds = fds
        self._mounts = mounts

    def look(self) -> DiskUse:
        """Return what is in use, and which of them are full."""
        used = 0
        full: set[LimitName] = set()
        for name, fd in self._fds.items():
            with contextlib.suppress(OSError):
                found = os.fstatvfs(fd)
                used += (found.f_blocks - found.f_bfree) * found.f_frsize
                # where there is no bound both counts are 0
                bytes_gone = found.f_blocks and found.f_bfree == 0
                files_gone = found.f_files and found.f_ffree == 0
                if bytes_gone or files_gone:
                    full.add(name)
        for fd in self._mounts:
            with contextlib.suppress(OSError):
                found = os.fstatvfs(fd)
                used += (found.f_blocks - found.f_bfree) * found.f_frsize
        return DiskUse(used_bytes=used, tmpfs_bytes=used, full=frozenset(full))


class DirectoryDisk:
    """An upper layer on a disk of the host, measured by walking it."""

    def __init__(
        self,
        path: Path,
        limit_bytes: int | None,
        shm: TmpfsDisk,
        given: Measure | None = None,
        *,
        measuring: Callable[[Path], Measure] | None = None,
    ) -> None:
        """Look at a directory.

        Args:
            path: The directory.
            limit_bytes: What may be in it.
            shm: What else is the sandbox's.
            given: What it held before the sandbox wrote anything.
            measuring: Walks it; by default `measure`, which sees what this process may.
        """
        self._measuring = measuring or measure
        self._path = path
        self._given = given or Measure()
        self._limit = limit_bytes
        self._shm = shm
        self._used = 0
        self._files = 0
        self._free = 0
        self._due = 0.0

    def look(self) -> DiskUse:
        """Return what was in use at the last walk; walk anew when it may have changed much."""
        shm = self._shm.look()
        if self._limit is not None:
            now = time.monotonic()
            free = _free_bytes(self._path)
            # others write to that disk too: less free space is a reason to look, never a verdict
            room = max(self._limit - self._used, _STEP_BYTES)
            if now >= self._due or self._free - free > room:
                self.walk()
                self._free = free
                self._due = now + max(0.2, _REST * (time.monotonic() - now))
        over = self.over
        disk: frozenset[LimitName] = frozenset({"disk"} if over else ())
        return DiskUse(
            used_bytes=self._used + shm.used_bytes,
            tmpfs_bytes=shm.used_bytes,
            full=shm.full | disk,
        )

    @property
    def over(self) -> bool:
        """Whether the last walk found more than the bound."""
        if self._limit is None:
            return False
        return self._used > self._limit or self._files > inodes_of(self._limit)

    @property
    def stored(self) -> tuple[int, int]:
        """Bytes and files that the last walk found."""
        return self._used, self._files

    def walk(self) -> None:
        """Measure it now."""
        # what cannot be looked at, for want of descriptors, is as it was
        with contextlib.suppress(OSError):
            found = self._measuring(self._path)
            self._used = max(0, found.used_bytes - self._given.used_bytes)
            self._files = max(0, found.files - self._given.files)


def _free_bytes(path: Path) -> int:
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


@dataclass(slots=True)
class Measure:
    """What a tree takes."""

    used_bytes: int = 0
    """On its disk, each file once."""
    files: int = 0
    """An empty one takes no bytes, and yet an inode of the host."""


def measure(path: Path) -> Measure:
    """Measure a tree, following no link.

    A tree nested deeper than anybody needs counts as endless: fail closed.

    Raises:
        OSError: It could not be looked at, for want of descriptors say.
    """
    found = Measure()
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return found
    try:
        _measure(top, set(), 0, found)
    finally:
        os.close(top)
    return found


def _measure(directory: int, seen: set[int], depth: int, found: Measure) -> None:
    if depth > _DEEPEST:
        found.used_bytes = ENDLESS_BYTES
        return
    for name in os.listdir(directory):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
            found.files += 1
            found.used_bytes += status.st_blocks * 512
            if stat.S_ISDIR(status.st_mode):
                with _opened(directory, name) as below:
                    _measure(below, seen, depth + 1, found)
        except OSError as error:
            # gone again, or changed under us, is seen by the next walk
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise


@contextlib.contextmanager
def _opened(parent: int, name: str) -> Iterator[int]:
    """Yield a directory that can be read and searched, whatever its mode.

    Mode 000 hides its content from us, not from root inside; it has its mode back afterwards.
    """
    pinned = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(pinned).st_mode)
        hidden = mode & _USABLE != _USABLE
        # chmod has no way to refuse links before Linux 6.6; this name is the very directory
        place = f"/proc/self/fd/{pinned}"
        if hidden:
            os.chmod(place, mode | _USABLE)
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            if hidden:
                os.chmod(place, mode)
    finally:
        os.close(pinned)
