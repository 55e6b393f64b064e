"""What a directory of the user's was like when a sandbox was given it.

The walk is what `git status` does: a stat of each entry, no content. Later the same stat tells
whether somebody changed a file meanwhile, be it that he put back its time: ctime is the kernel's.
"""

from __future__ import annotations

# All is done on descriptors, of which pathlib knows nothing:
import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from sandbox_lite.errors import HostError
from sandbox_lite.jail.changes import open_untouched

if TYPE_CHECKING:
    from pathlib import Path

_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PACKED = struct.Struct("=IQQqq")
_GIT = b".git"


class State(NamedTuple):
    """What tells an entry from every other that had its path; of a directory the mode alone."""

    mode: int
    """With the bits of the type."""
    inode: int = 0
    size_bytes: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> State:
        """Return that of an entry."""
        if stat.S_ISDIR(status.st_mode):
            # its times and size tell of what is in it, which has states of its own
            return cls(status.st_mode)
        return cls(
            status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


def of_git(path: bytes) -> bool:
    """Return whether it is, or lies in, what git takes for a repository's own: configuration and
    hooks there are programs that run as the user."""
    # a file system that knows no case shows it to git under any
    return any(part.lower() == _GIT for part in path.split(b"/"))


class Origin:
    """The states of all entries of a directory, as they were at one time."""

    def __init__(self) -> None:
        self._states: dict[bytes, bytes] = {}
        self.git: dict[bytes, int] = {}
        """Each `.git` in it, with its mode: a directory, or the file that a worktree or submodule
        has."""

    @classmethod
    def look(cls, top: int, source: Path, *, git: bool) -> Origin:
        """Walk a directory; no time of anything in it changes.

        Args:
            top: Its descriptor.
            source: Its path, for errors.
            git: Also what is in a `.git`.

        Raises:
            HostError: It cannot be read.
        """
        found = cls()
        pending = [b""]
        try:
            while pending:
                found._directory(top, pending.pop(), pending, git=git)
        except OSError as error:
            raise HostError(
                f"cannot look at {source}: {error.strerror}",
                hint="name a directory that you may read",
            ) from error
        return found

    def _directory(self, top: int, path: bytes, pending: list[bytes], *, git: bool) -> None:
        try:
            directory = open_untouched(top, path or b".", _LISTED)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # gone this moment; or closed to us, and whatever is in it will be a conflict
            if not path:
                raise
            return
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    whole = path + b"/" + name if path else name
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except (FileNotFoundError, PermissionError):
                        continue
                    if name == _GIT and not stat.S_ISLNK(status.st_mode):
                        self.git[whole] = status.st_mode
                        if not git:
                            continue
                    self.note(whole, State.of(status))
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(whole)
        finally:
            os.close(directory)

    def get(self, path: bytes) -> State | None:
        """Return what was there; None where nothing was."""
        found = self._states.get(path)
        return None if found is None else State(*_PACKED.unpack(found))

    def note(self, path: bytes, state: State | None) -> None:
        """Take this for what was there."""
        # packed: a project may have a hundred thousand files
        if state is None:
            self._states.pop(path, None)
        else:
            self._states[path] = _PACKED.pack(*state)
