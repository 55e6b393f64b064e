"""Changes to a directory of the user's that can be looked at, and be applied to it or not."""

from __future__ import annotations

import abc
import os
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail.workspace.applying import Application, ApplyReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.workspace.origin import State

_TOP = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class ChangeSet(abc.ABC):
    """Changes to one directory of the user's."""

    source: Path
    """That directory."""
    target: str
    """Where the sandbox had it."""
    git: bool
    """Whether a repository's own files may be changed as well."""

    @abc.abstractmethod
    def changes(self) -> tuple[Change, ...]:
        """Return what was changed, by path.

        Raises:
            HostError: It cannot be read.
        """

    @abc.abstractmethod
    def content(self, change: Change) -> AbstractContextManager[int]:
        """Yield a descriptor of the file that was added or changed.

        Raises:
            OSError: It cannot be read.
        """

    @abc.abstractmethod
    def link(self, change: Change) -> bytes:
        """Return what the link holds that was added or changed."""

    @abc.abstractmethod
    def was_there(self, path: bytes) -> bool:
        """Return whether something was there when the sandbox was given the directory."""

    @abc.abstractmethod
    def untouched(self, path: bytes, parent: int, now: State | None) -> bool:
        """Return whether a path is what it was when the sandbox was given the directory."""

    @abc.abstractmethod
    def applied(self, path: bytes, state: State | None) -> None:
        """Note what a path is now, by our own doing."""

    def patch(self, paths: Sequence[str] = ()) -> Iterator[bytes]:
        """Yield the differences as git writes them, a file at a time; binary ones are named only.

        Args:
            paths: Those alone, and what is below them; none is all.

        Raises:
            SpecError: Nothing was changed at one of them.
            HostError: The directory is not there.
        """
        # difflib is slow to import, and most sandboxes need none of it
        from sandbox_lite.jail.workspace import patch as patches

        top = self._opened_source()
        try:
            for change in self.chosen(paths):
                yield patches.patch(change, self, top)
        finally:
            os.close(top)

    def chosen(self, paths: Sequence[str]) -> tuple[Change, ...]:
        """Return the changes at these paths and below, and of directories that they need above.

        Raises:
            SpecError: Nothing was changed at one of them.
        """
        everything = self.changes()
        if not paths:
            return everything
        wanted = [self._relative(path) for path in paths]
        taken: set[str] = set()
        for path, text in zip(wanted, paths, strict=True):
            below = {
                one.path
                for one in everything
                if path in ("", one.path) or one.path.startswith(f"{path}/")
            }
            if not below:
                raise SpecError(
                    f"nothing was changed at {text!r}", hint="sandbox-lite diff lists what was"
                )
            taken |= below
        above = {one.path: one for one in everything if one.type == "directory"}
        for path in tuple(taken):
            parts = path.split("/")
            for count in range(1, len(parts)):
                one = above.get("/".join(parts[:count]))
                if one is not None and (one.kind == "added" or "type" in one.aspects):
                    taken.add(one.path)
        return tuple(one for one in everything if one.path in taken)

    def apply(
        self, paths: Sequence[str] = (), *, outward_links: bool = False, overwrite: bool = False
    ) -> ApplyReport:
        """Make changes in the user's directory: each file whole or not at all.

        Nothing is written over, or removed, that somebody else changed since the sandbox was given
        the directory. Links are made and never followed; owners, times, set-user-ID, set-group-ID
        and sticky are not handed on. A second time it finds all as it should be.

        Args:
            paths: Those alone, and what is below them; none is all.
            outward_links: Also links that lead out of the directory, which a program of the user's
                may follow later on.
            overwrite: Take the sandbox's side of each conflict at these paths, which must be named.

        Returns:
            What was done and what was not.

        Raises:
            SpecError: Nothing was changed at one of the paths, or none is named to be overwritten.
            HostError: The directory is not there.
            FileAccessError: Its disk is full, or broken.
        """
        if overwrite and not paths:
            raise SpecError("nothing is named to be overwritten", hint="name the paths in conflict")
        chosen = self.chosen(paths)
        top = self._opened_source()
        try:
            return Application(self, top, outward_links=outward_links, overwrite=overwrite).all(
                chosen
            )
        finally:
            os.close(top)

    def _relative(self, path: str) -> str:
        """Return a path as changes have it; absolute ones of the host and of inside are taken."""
        text = os.path.normpath(path)
        for above in (str(self.source), os.path.normpath(self.target)):
            if text == above or text.startswith(f"{above}/"):
                text = os.path.relpath(text, above)
                break
        return "" if text == "." else text

    def _opened_source(self) -> int:
        try:
            return os.open(self.source, _TOP)
        except OSError as error:
            raise HostError(
                f"cannot open {self.source}: {error.strerror}",
                hint="put the directory back where it was",
            ) from error
