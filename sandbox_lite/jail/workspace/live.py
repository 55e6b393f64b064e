"""The user's directory below an overlay of a sandbox that runs."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, SandboxClosedError, SandboxLiteError, SpecError
from sandbox_lite.jail import bwrap
from sandbox_lite.jail.access import FILE, permitted_if_ours
from sandbox_lite.jail.changes import changes, open_untouched
from sandbox_lite.jail.limits.disk import Measure
from sandbox_lite.jail.openat2 import BENEATH, IN_ROOT, NO_SYMLINKS, openat2
from sandbox_lite.jail.transfer import Skipped
from sandbox_lite.jail.trees import OPAQUE
from sandbox_lite.jail.workspace import writing
from sandbox_lite.jail.workspace.applying import ApplyReport, Conflict
from sandbox_lite.jail.workspace.changeset import ChangeSet
from sandbox_lite.jail.workspace.origin import Origin, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.spec import Mount, UpperKind

_TOP = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PINNED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Workspace(ChangeSet):
    """A directory of the host that a sandbox has as an overlay: what it changed there, and what
    becomes of that. Stop what runs inside first: what is being written is copied as it is.

    `patch` and `apply` are those of every change set.
    """

    def __init__(self, mount: Mount, hidden: Sequence[str]) -> None:
        """Look at the directory, before the sandbox is there.

        Args:
            mount: What is mounted where.
            hidden: Targets of other mounts, which may lie below it.

        Raises:
            HostError: No overlay can be put over it.
        """
        assert mount.source is not None
        self.source = mount.source.absolute()
        self.target = mount.target
        self.git = mount.git == "writable"
        self._hidden = [
            os.path.relpath(one, self.target)
            for one in hidden
            if one.startswith(f"{self.target.rstrip('/')}/")
        ]
        _refuse_mounts_below(self.source)
        self._stack = ExitStack()
        self._lower = -1
        self._lower = self._opened_source()
        self._stack.callback(os.close, self._lower)
        try:
            self.origin = Origin.look(self._lower, self.source, git=self.git)
        except BaseException:
            self._stack.close()
            raise
        self._upper = -1
        self._merged = -1

    @property
    def covers(self) -> Mapping[str, bool]:
        """What stays read-only inside: paths below, each with whether it is a directory."""
        if self.git:
            return {}
        return {os.fsdecode(path): stat.S_ISDIR(mode) for path, mode in self.origin.git.items()}

    def begin(self, holder: int, first: int, number: int) -> None:
        """Reach the layers, before anything of others runs inside.

        Args:
            holder: Host pid of who holds the outer mount namespace.
            first: Host pid of the sandbox's process 1.
            number: Of the mount.
        """
        self._upper = os.open(f"/proc/{holder}/root{bwrap.upper_of(number)}", _TOP)
        self._stack.callback(os.close, self._upper)
        root = os.open(f"/proc/{first}/root", os.O_PATH | os.O_CLOEXEC)
        try:
            self._merged = openat2(root, os.fsencode(self.target), _TOP, resolve=IN_ROOT)
        finally:
            os.close(root)
        self._stack.callback(os.close, self._merged)

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        self._upper = -1
        self._stack.close()

    def changes(self) -> tuple[Change, ...]:
        """Return what was changed, by path; see `sandbox_lite.jail.changes`.

        Raises:
            SandboxClosedError: The sandbox is closed.
            HostError: It cannot be read.
        """
        self._check_open()
        found = []
        try:
            for one in changes([self._upper], [self._lower]):
                # whose a file is cannot be handed on
                aspects = tuple(aspect for aspect in one.aspects if aspect != "owner")
                if one.kind == "changed" and not aspects and not one.problem:
                    continue
                if any(f"{one.path}/".startswith(f"{path}/") for path in self._hidden):
                    continue
                if one.kind == "deleted" and self.origin.get(os.fsencode(one.path)) is None:
                    # the user made it meanwhile where the sandbox took something away
                    continue
                found.append(dataclasses.replace(one, aspects=aspects))
        except OSError as error:
            raise HostError(
                f"cannot look at what changed in {self.source}: {error.strerror}", hint="try again"
            ) from error
        return tuple(found)

    @contextmanager
    def content(self, change: Change) -> Iterator[int]:
        """See `ChangeSet.content`."""
        self._check_open()
        with _opened(self._upper, os.fsencode(change.path), FILE) as descriptor:
            yield descriptor

    def link(self, change: Change) -> bytes:
        """See `ChangeSet.link`."""
        self._check_open()
        with _opened(self._upper, os.fsencode(change.path), _PINNED) as descriptor:
            return os.readlink(b"", dir_fd=descriptor)

    def discard(self, paths: Sequence[str] = ()) -> ApplyReport:
        """Give the sandbox back what the user's directory holds now, in the place of its changes.

        Args:
            paths: Those alone, and what is below them; none is all.

        Returns:
            Which paths were given back, and which could not be.

        Raises:
            SpecError: Nothing was changed at one of the paths.
            SandboxClosedError: The sandbox is closed.
        """
        chosen = self.chosen(paths)
        done, skipped, conflicts = [], [], []
        made = [one for one in chosen if one.kind == "added"]
        # what is in a directory goes before it, and comes after it
        for one in (*reversed(made), *(one for one in chosen if one.kind != "added")):
            path = os.fsencode(one.path)
            try:
                with writing.opened_above(self._merged, path) as (parent, name):
                    self._give_back(parent, name, path, one)
                done.append(one.path)
            except writing.MeanwhileError:
                conflicts.append(Conflict(path=one.path, reason="changed meanwhile"))
            except OSError as error:
                skipped.append(Skipped(path=one.path, reason=os.strerror(error.errno or 0)))
        return ApplyReport(
            applied=tuple(sorted(done)), skipped=tuple(skipped), conflicts=tuple(conflicts)
        )

    def _give_back(self, parent: int, name: bytes, path: bytes, change: Change) -> None:
        now = writing.state_at(parent, name)
        if change.kind == "added":
            if now is not None:
                writing.remove(parent, name, now)
            return
        with writing.opened_above(self._lower, path) as (above, _):
            old = writing.state_at(above, name)
            if old is None:
                raise writing.MeanwhileError
            if (change.kind == "changed" and change.aspects == ("mode",)) or stat.S_ISDIR(old.mode):
                if stat.S_ISDIR(old.mode):
                    writing.put_directory(parent, name, stat.S_IMODE(old.mode), now)
                else:
                    writing.set_mode(parent, name, stat.S_IMODE(old.mode), now)
            elif stat.S_ISLNK(old.mode):
                writing.put_link(parent, name, os.readlink(name, dir_fd=above), now)
            else:
                content = open_untouched(above, name)
                try:
                    writing.put_file(parent, name, content, stat.S_IMODE(old.mode), now)
                finally:
                    os.close(content)
        self.origin.note(path, old)

    def was_there(self, path: bytes) -> bool:
        """See `ChangeSet.was_there`."""
        return self.origin.get(path) is not None

    def untouched(self, path: bytes, parent: int, now: State | None) -> bool:
        """See `ChangeSet.untouched`."""
        del parent
        return self.origin.get(path) == now

    def applied(self, path: bytes, state: State | None) -> None:
        """See `ChangeSet.applied`."""
        if state is not None and stat.S_ISDIR(state.mode) and self.origin.get(path) is None:
            # To overlayfs it is a directory of the upper layer alone, in which it notes no
            # deletion, and by its mount options what is below may be merged in later.
            with suppress(OSError), _opened(self._upper, path, _TOP) as descriptor:
                os.setxattr(descriptor, OPAQUE, b"y")
        self.origin.note(path, state)

    def _check_open(self) -> None:
        if self._upper < 0:
            raise SandboxClosedError("the sandbox is closed, and its changes are gone")

    def _opened_source(self) -> int:
        top = super()._opened_source()
        if self._lower >= 0 and not os.path.sameopenfile(top, self._lower):
            os.close(top)
            raise HostError(
                f"{self.source} is another directory than the one that the sandbox was given",
                hint="put that one back",
            )
        return top


def looked_at(stack: ExitStack, mounts: Sequence[Mount], kind: UpperKind) -> dict[Mount, Workspace]:
    """Return the workspaces of these mounts, which go with the stack.

    Raises:
        HostError: Of one there can be no overlay.
    """
    found = {}
    for one in mounts:
        if one.mode != "overlay":
            continue
        if kind == "copy":
            raise HostError(
                f"this host has no overlay, with which alone {one.source} stays untouched",
                hint="copy the directory in instead (upload, --input); sandbox-lite doctor"
                " tells why there is none",
            )
        found[one] = Workspace(one, [other.target for other in mounts if other is not one])
        stack.callback(found[one].close)
    return found


def find(workspaces: Mapping[Mount, Workspace], target: str | None) -> Workspace:
    """Return the one that is mounted there; None is the only one.

    Raises:
        SpecError: There is none, or there are several.
    """
    there = [one for one in workspaces.values() if target in (None, one.target)]
    if len(there) == 1:
        return there[0]
    hint = f"there are: {', '.join(one.target for one in workspaces.values())}"
    if not workspaces:
        hint = 'ask for one: Mount(source, target, mode="overlay"), or --workspace DIR'
    raise SpecError(f"no one workspace is meant by {target!r}", hint=hint)


def _refuse_mounts_below(source: Path) -> None:
    """Refuse a directory below which something is mounted.

    To an unprivileged overlay the kernel refuses such a layer: what the mount hides would show.
    """
    above = os.path.realpath(source).rstrip("/") + "/"
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        at = re.sub(rb"\\([0-7]{3})", lambda match: bytes((int(match[1], 8),)), line.split()[4])
        if os.fsdecode(at).startswith(above):
            raise HostError(
                f"no overlay can be put over {source}: {os.fsdecode(at)} is mounted below it",
                hint="unmount that, or name a directory with no mount in it",
            )


@contextmanager
def _opened(root: int, path: bytes, flags: int) -> Iterator[int]:
    """Yield a descriptor beneath a layer of the sandbox's own, whatever permissions it lacks."""
    resolve = BENEATH | NO_SYMLINKS
    # O_PATH with O_NOFOLLOW opens a link itself, which NO_SYMLINKS allows for the last name
    with ExitStack() as stack:
        try:
            descriptor = openat2(root, path, flags, resolve=resolve)
        except PermissionError:
            parts = path.split(b"/")
            for count in range(1, len(parts) + 1):
                pinned = openat2(root, b"/".join(parts[:count]), _PINNED, resolve=resolve)
                stack.callback(os.close, pinned)
                stack.enter_context(permitted_if_ours(pinned))
            descriptor = openat2(root, path, flags, resolve=resolve)
        stack.callback(os.close, descriptor)
        yield descriptor


def measuring(measure: Callable[[Path], Measure]) -> Callable[[Path], Measure]:
    """Return what measures an upper layer in a directory with those of the overlays beside it."""

    def all_of(path: Path) -> Measure:
        own, further = measure(path), measure(path.parent / bwrap.UPPERS_OF_MOUNTS)
        return Measure(
            used_bytes=own.used_bytes + further.used_bytes, files=own.files + further.files
        )

    return all_of


def explain(stderr: str, mounts: Sequence[Mount]) -> SandboxLiteError | None:
    """Return what it means that bwrap could not put an overlay over one of these."""
    for one in mounts:
        if one.mode == "overlay" and re.search(
            rf"overlay mount on /newroot{re.escape(one.target)}\b", stderr
        ):
            return HostError(
                f"the kernel puts no overlay over {one.source}",
                hint="is it on a file system that can be no lower layer, or on several overlays"
                " itself? Copy the directory in instead (upload, --input)",
            )
    return None
