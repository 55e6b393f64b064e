"""Changes that outlive their sandbox: a list, and the new content of each file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail.changes import Change, open_untouched
from sandbox_lite.jail.removal import remove_tree
from sandbox_lite.jail.transfer import copy_data
from sandbox_lite.jail.workspace import writing
from sandbox_lite.jail.workspace.changeset import ChangeSet
from sandbox_lite.jail.workspace.origin import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox_lite.jail.workspace.live import Workspace

FORMAT = 1
LIST = "changes.jsonl"
_CONTENT = "content"
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """One change, with what its path was when the sandbox was given the directory."""

    change: Change
    origin: State | None = None
    digest: str = ""
    """SHA-256 of what the file held then, where that could be read."""
    content: str = ""
    """Name of the file with what it holds now."""
    link: str = ""


def save(
    workspace: Workspace, directory: Path, *, without: Sequence[str] = ()
) -> SavedChanges | None:
    """Write the changes of a sandbox to a new directory; None where there are none.

    Args:
        workspace: Whose changes.
        directory: Made here.
        without: Directories inside that are left out unless the user's directory has them.

    Raises:
        SandboxClosedError: The sandbox is closed.
        HostError: The changes cannot be written there.
    """
    left_out = [
        path
        for path in (os.path.relpath(one, workspace.target) for one in without)
        if workspace.origin.get(os.fsencode(path)) is None
    ]
    found = [
        one
        for one in workspace.changes()
        if not any(f"{one.path}/".startswith(f"{path}/") for path in left_out)
    ]
    if not found:
        return None
    try:
        directory.mkdir(parents=True)
        content = directory / _CONTENT
        content.mkdir()
        kept = [_keep(workspace, one, content, n) for n, one in enumerate(found)]
        head = {
            "format": FORMAT, "source": str(workspace.source), "target": workspace.target,
            "git": workspace.git,
        }  # fmt: skip
        lines = [json.dumps(head), *(json.dumps(dataclasses.asdict(one)) for one in kept)]
        # last: a directory without it is one that was not finished
        (directory / LIST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        with contextlib.suppress(OSError):
            remove_tree(directory)
        raise HostError(
            f"cannot keep the changes in {directory}: {error.strerror}",
            hint="name a directory with space",
        ) from error
    return SavedChanges(directory)


def _keep(workspace: Workspace, change: Change, directory: Path, number: int) -> _Kept:
    path = os.fsencode(change.path)
    kept = _Kept(change=change, origin=workspace.origin.get(path))
    if kept.origin is not None and change.old_type == "file":
        # what was put back to what it was is no conflict, though its times are others
        with contextlib.suppress(OSError):
            kept = dataclasses.replace(kept, digest=_digest_of(workspace, path, kept.origin))
    if change.kind == "deleted" or change.problem:
        return kept
    try:
        if change.type == "link":
            return dataclasses.replace(kept, link=os.fsdecode(workspace.link(change)))
        if change.type == "file":
            with workspace.content(change) as source, (directory / str(number)).open("xb") as file:
                copy_data(source, file.fileno())
            return dataclasses.replace(kept, content=str(number))
    except PermissionError as error:
        # another id's inside: told with the change, and the others are kept
        problem = error.strerror or "Permission denied"
        return dataclasses.replace(kept, change=dataclasses.replace(change, problem=problem))
    return kept


def _digest_of(workspace: Workspace, path: bytes, origin: State) -> str:
    top = os.open(workspace.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with writing.opened_above(top, path) as (parent, name):
            if writing.state_at(parent, name) != origin:
                return ""
            return _digest(parent, name)
    finally:
        os.close(top)


def _digest(parent: int, name: bytes) -> str:
    descriptor = open_untouched(parent, name)
    try:
        found, at = hashlib.sha256(), 0
        while piece := os.pread(descriptor, _CHUNK, at):
            found.update(piece)
            at += len(piece)
        return found.hexdigest()
    finally:
        os.close(descriptor)


class SavedChanges(ChangeSet):
    """Changes that `save` wrote."""

    def __init__(self, directory: Path) -> None:
        """Read the list.

        Raises:
            SpecError: There is none.
            HostError: It cannot be read.
        """
        self.directory = directory
        path = directory / LIST
        try:
            head, *lines = path.read_text(encoding="utf-8").splitlines()
            data = json.loads(head)
            if data["format"] != FORMAT:
                raise HostError(
                    f"{path} is of another version", hint="use the program that wrote it"
                )
            self.source, self.target = Path(data["source"]), str(data["target"])
            self.git = bool(data["git"])
            self._kept = {kept.change.path: kept for kept in map(_read, lines)}
        except FileNotFoundError as error:
            raise SpecError(
                f"there are no changes in {directory}",
                hint="name the directory of a run with --workspace that changed something",
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(f"cannot read {path}: {error}", hint="was it written whole?") from error

    def changes(self) -> tuple[Change, ...]:
        """See `ChangeSet.changes`."""
        return tuple(kept.change for kept in self._kept.values())

    @contextmanager
    def content(self, change: Change) -> Iterator[int]:
        """See `ChangeSet.content`."""
        name = self._kept[change.path].content
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.directory / _CONTENT / (name or "lost"), flags)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def link(self, change: Change) -> bytes:
        """See `ChangeSet.link`."""
        return os.fsencode(self._kept[change.path].link)

    def discard(self) -> None:
        """Remove these changes from the disk.

        Raises:
            HostError: They cannot be removed.
        """
        try:
            remove_tree(self.directory)
        except OSError as error:
            raise HostError(
                f"cannot remove {self.directory}: {error.strerror}", hint="is it yours?"
            ) from error

    def was_there(self, path: bytes) -> bool:
        """See `ChangeSet.was_there`."""
        return self._kept[os.fsdecode(path)].origin is not None

    def untouched(self, path: bytes, parent: int, now: State | None) -> bool:
        """See `ChangeSet.untouched`."""
        kept = self._kept[os.fsdecode(path)]
        if now == kept.origin:
            return True
        old = kept.origin
        if now is None or old is None or not kept.digest:
            return False
        if (now.mode, now.size_bytes) != (old.mode, old.size_bytes):
            return False
        return _digest(parent, path.rpartition(b"/")[2]) == kept.digest

    def applied(self, path: bytes, state: State | None) -> None:
        """Nothing: what was made so is known by what it holds."""


def _read(line: str) -> _Kept:
    data: dict[str, Any] = json.loads(line)
    change = data["change"]
    origin = data["origin"]
    return _Kept(
        change=Change(**(change | {"aspects": tuple(change["aspects"])})),
        origin=None if origin is None else State(*origin),
        digest=data["digest"],
        content=data["content"],
        link=data["link"],
    )
