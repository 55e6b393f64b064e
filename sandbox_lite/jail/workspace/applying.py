"""Making changes in a directory of the user's, and telling what became of each."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.errors import FileAccessError
from sandbox_lite.jail.access import FILE, kind_of
from sandbox_lite.jail.changes import same_bytes
from sandbox_lite.jail.transfer import Skipped, stays_inside
from sandbox_lite.jail.workspace import writing
from sandbox_lite.jail.workspace.origin import State, of_git

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.workspace.changeset import ChangeSet

_IN_THE_WAY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
_HEAD, _BESIDE_HEAD = b"head", (b"objects", b"refs", b"commondir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A change that was not made, for the user changed the same path meanwhile."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyReport:
    """What became of changes that were to be made in the user's directory."""

    applied: tuple[str, ...]
    """Paths that are now what the sandbox made of them."""
    already: tuple[str, ...] = ()
    """Those that were so before."""
    conflicts: tuple[Conflict, ...] = ()
    """Those that somebody else changed since the sandbox was given the directory. Nothing was
    written there."""
    skipped: tuple[Skipped, ...] = ()
    """Those that are not made, whoever asks, or could not be."""

    @property
    def complete(self) -> bool:
        """Whether all that was chosen is now as the sandbox made it."""
        return not self.conflicts and not self.skipped


class Application:
    """One pass over changes that were chosen."""

    def __init__(self, whole: ChangeSet, top: int, *, outward_links: bool, overwrite: bool) -> None:
        self._set = whole
        self._top = top
        self._outward_links = outward_links
        self._overwrite = overwrite
        self._applied: list[str] = []
        self._already: list[str] = []
        self._conflicts: list[Conflict] = []
        self._skipped: list[Skipped] = []
        self._closed: list[Change] = []
        """Directories that take their mode when all is in them."""
        self._links: dict[str, bytes] = {}
        self._repositories: dict[bytes, bool] = {}

    def all(self, changes: Sequence[Change]) -> ApplyReport:
        """Make them; see `ChangeSet.apply`."""
        gone = [one for one in changes if one.kind == "deleted"]
        # what is in a directory goes before it, and comes after it
        for one in (*reversed(gone), *(one for one in changes if one.kind != "deleted")):
            refusal = self._refusal(one)
            if refusal is not None:
                if refusal:
                    self._skipped.append(Skipped(path=one.path, reason=refusal))
                continue
            self._one(one)
        for one in reversed(self._closed):
            path = os.fsencode(one.path)
            with writing.opened_above(self._top, path) as (parent, name):
                writing.set_mode(parent, name, one.mode, None)
                self._set.applied(path, writing.state_at(parent, name))
        return ApplyReport(
            applied=tuple(sorted(self._applied)), already=tuple(sorted(self._already)),
            conflicts=tuple(sorted(self._conflicts, key=lambda one: one.path)),
            skipped=tuple(sorted(self._skipped, key=lambda one: one.path)),
        )  # fmt: skip

    def _refusal(self, change: Change) -> str | None:
        """Return why a change is never made; nothing to say where one above says it."""
        path = os.fsencode(change.path)
        if not self._set.git and of_git(path):
            above, _, _ = path.rpartition(b"/")
            return "" if of_git(above) else "it is git's own, which may run programs"
        if not self._set.git and self._makes_repository(path, change):
            return "git would take its directory for a repository, whose settings may run programs"
        if change.problem or change.kind == "deleted":
            return change.problem or None
        if change.type not in ("file", "directory", "link"):
            return f"it is a {change.type}"
        if change.type == "link" and not self._outward_links:
            try:
                text = self._link(change)
            except OSError as error:
                return os.strerror(error.errno or errno.EIO)
            if not stays_inside(text, change.path.count("/")):
                return f"it is a link out of the directory, to {os.fsdecode(text)!r}"
        return None

    def _makes_repository(self, path: bytes, change: Change) -> bool:
        """Return whether it is part of what git takes for a repository without a `.git` above it.

        That is any directory with a `HEAD` and either `objects` and `refs` or a `commondir`
        (git-config(1), safe.bareRepository); whoever goes there and asks git runs what its
        `config` says. So none gets a `HEAD`, one that has it gets nothing of the others, and in one
        that is a repository nothing is changed.
        """
        above, _, name = path.rpartition(b"/")
        # a file system that knows no case shows it to git under any
        name = name.lower()
        if name == _HEAD and change.kind != "deleted" and change.type != "directory":
            return True
        if name in _BESIDE_HEAD and self._is_there(above, b"HEAD"):
            return True
        parts = path.split(b"/")
        return any(self._is_repository(b"/".join(parts[:n])) for n in range(len(parts)))

    def _is_repository(self, directory: bytes) -> bool:
        known = self._repositories.get(directory)
        if known is None:
            known = self._is_there(directory, b"HEAD") and (
                self._is_there(directory, b"commondir")
                or (self._is_there(directory, b"objects") and self._is_there(directory, b"refs"))
            )
            self._repositories[directory] = known
        return known

    def _is_there(self, directory: bytes, name: bytes) -> bool:
        """Return whether the user's own directory has it."""
        path = directory + b"/" + name if directory else name
        try:
            with writing.opened_above(self._top, path) as (parent, last):
                return writing.state_at(parent, last) is not None
        except OSError:
            return False

    def _link(self, change: Change) -> bytes:
        """Return what a link holds, read once: who runs inside may put another in its place after
        it was looked at."""
        if change.path not in self._links:
            self._links[change.path] = self._set.link(change)
        return self._links[change.path]

    def _one(self, change: Change) -> None:
        path = os.fsencode(change.path)
        try:
            with writing.opened_above(self._top, path) as (parent, name):
                self._in(parent, name, path, change)
        except writing.MeanwhileError:
            directory = change.old_type == "directory"
            self._conflict(change, "it is not empty" if directory else "changed meanwhile")
        except OSError as error:
            number = error.errno or errno.EIO
            if number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE):
                raise FileAccessError(
                    f"cannot write {change.path!r}: {os.strerror(number)}",
                    errno=number, path=change.path,
                    hint="what was applied before stays; apply again when there is room",
                ) from error  # fmt: skip
            if number not in _IN_THE_WAY:
                self._skipped.append(Skipped(path=change.path, reason=os.strerror(number)))
            elif change.kind == "deleted":
                self._already.append(change.path)
            else:
                self._conflict(change, "the directory above it is not there")

    def _in(self, parent: int, name: bytes, path: bytes, change: Change) -> None:
        now = writing.state_at(parent, name)
        untouched = self._set.untouched(path, parent, now)
        mine = untouched or self._overwrite
        if change.kind == "deleted":
            if now is None:
                self._already.append(change.path)
            elif not mine:
                self._conflict(change, self._meanwhile(now, path))
            else:
                writing.remove(parent, name, now)
                self._done(change, path, None)
            return
        if not untouched:
            if now is not None and self._is_so(parent, name, now, change):
                self._already.append(change.path)
                return
            if not mine:
                self._conflict(change, self._meanwhile(now, path))
                return
        self._write(parent, name, now, change)
        self._done(change, path, writing.state_at(parent, name))

    def _write(self, parent: int, name: bytes, now: State | None, change: Change) -> None:
        if change.type == "directory":
            writing.put_directory(parent, name, change.mode | stat.S_IRWXU, now)
            if change.mode & stat.S_IRWXU != stat.S_IRWXU:
                self._closed.append(change)
        elif change.aspects == ("mode",):
            writing.set_mode(parent, name, change.mode, now)
        elif change.type == "link":
            writing.put_link(parent, name, self._link(change), now)
        else:
            with self._set.content(change) as content:
                writing.put_file(parent, name, content, change.mode, now)

    def _is_so(self, parent: int, name: bytes, now: State, change: Change) -> bool:
        """Return whether it is already what the sandbox made of it."""
        if kind_of(now.mode) != change.type:
            return False
        if change.type == "directory":
            # one that both made, each with a mode of its own, is no matter to quarrel about
            return True
        if change.type == "link":
            return os.readlink(name, dir_fd=parent) == self._link(change)
        if stat.S_IMODE(now.mode) & 0o777 != change.mode & 0o777:
            return False
        if now.size_bytes != change.size_bytes:
            return False
        there = os.open(name, FILE, dir_fd=parent)
        try:
            with self._set.content(change) as content:
                return same_bytes(there, content)
        finally:
            os.close(there)

    def _conflict(self, change: Change, reason: str) -> None:
        self._conflicts.append(Conflict(path=change.path, reason=reason))

    def _done(self, change: Change, path: bytes, state: State | None) -> None:
        self._applied.append(change.path)
        self._set.applied(path, state)

    def _meanwhile(self, now: State | None, path: bytes) -> str:
        if now is None:
            return "removed meanwhile"
        was = self._set.was_there(path)
        return "changed meanwhile" if was else "made meanwhile"
