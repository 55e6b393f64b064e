"""What a snapshot holds, and how one is made of what a sandbox has written."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sandbox_lite.errors import HostError, RootfsError, SpecError
from sandbox_lite.jail import changes, trees
from sandbox_lite.jail.layers import Layer, frozen, opened
from sandbox_lite.jail.limits.processes import FIRST
from sandbox_lite.jail.pause import paused
from sandbox_lite.jail.rootfs.explain import explained
from sandbox_lite.jail.rootfs.info import installed
from sandbox_lite.spec import SandboxSpec

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.limits.processes import Processes
    from sandbox_lite.jail.rootfs.info import Progress, Rootfs, RootfsInfo
    from sandbox_lite.jail.rootfs.store import Store

MOST_LAYERS = 64
"""Of one sandbox; then they become one.

The kernel's option string ends at 4095 bytes, and what is behind is lost without a word: the rootfs
first. A layer's name takes 25 of them.
"""


_PASSING = re.compile(
    rb"^declare -\S+ (?:_|RANDOM|SRANDOM|SECONDS|EPOCH[A-Z]+|LINENO|HISTCMD|BASH_[A-Z]+|BASHPID|"
    rb"BASHOPTS|PIPESTATUS|OLDPWD|FUNCNAME|PPID|GROUPS|DIRSTACK|COMP_WORDBREAKS)(?:=.*)?$",
    re.MULTILINE,
)


def _lasting(shells: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: _PASSING.sub(b"", state) for name, state in shells.items()}


def label(rootfs: Rootfs) -> str:
    """Return name and digest in one line."""
    return f"{rootfs.name} {rootfs.digest}".strip()


def check_files(spec: SandboxSpec) -> None:
    """Check that the files of such a sandbox are this user's to copy, and all in its upper layer.

    Raises:
        SpecError: They may belong to subordinate ids, or lie over a directory of the host.
    """
    if any(mount.mode == "overlay" for mount in spec.mounts):
        raise SpecError(
            "a sandbox with a workspace has no snapshots",
            hint="copy the directory in instead (--input), or keep its changes: sandbox-lite diff",
        )
    if spec.ids != "own":
        raise SpecError(
            "a sandbox with subordinate ids has no snapshots: its files are not its user's to copy",
            hint="use ids='own'",
        )


Frozen = tuple[tuple[Layer, ...], "Mapping[str, bytes]"]
"""Layers, the lowest first, and the states of shells."""


@dataclass(slots=True)
class _Held:
    """Whether the layers are still counted for it."""

    open: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """The files and shells of a sandbox as they were at one moment.

    Sandboxes are made of it by `Sandbox(snapshot)`, `fork` and `rollback`. It holds directories of
    the host until `close`, or the end of a `with` block, or of this process; a sandbox that was
    made of it keeps what it needs.
    """

    spec: SandboxSpec
    rootfs: str
    """Name and digest."""
    layers: tuple[Layer, ...]
    """What lies over the rootfs, the lowest first."""
    shells: Mapping[str, bytes]
    """Bash code that brings each shell's directory, variables, functions, aliases, options back."""
    _held: _Held = field(default_factory=_Held, repr=False)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of its layers; a second call does nothing."""
        with self._held.lock:
            was_open, self._held.open = self._held.open, False
        if was_open:
            for layer in self.layers:
                layer.let_go()

    @property
    def whole(self) -> bool:
        """It is a copy of the rootfs as well: the host had no overlay."""
        return any(layer.whole for layer in self.layers)

    def same_as(self, other: Snapshot) -> bool:
        """Return whether files and shells are the same in both.

        Files are where both share their layers, as one does that was taken while nothing changed.
        What changes in a shell by itself, such as RANDOM, is left out.
        """
        if self.rootfs != other.rootfs or len(self.layers) != len(other.layers):
            return False
        if any(one is not another for one, another in zip(self.layers, other.layers, strict=True)):
            return False
        return _lasting(self.shells) == _lasting(other.shells)

    def check(self, spec: SandboxSpec, rootfs: Rootfs | None = None) -> None:
        """Check that a sandbox may be made of it by this request.

        Args:
            spec: The request.
            rootfs: What the store has now, where that is known.

        Raises:
            SpecError: The request is for something else.
            RootfsError: The rootfs was replaced since.
        """
        check_files(spec)
        if spec.rootfs != self.spec.rootfs:
            raise SpecError(
                f"a snapshot over rootfs {self.spec.rootfs!r} is none of {spec.rootfs!r}",
                hint="take the rootfs of the snapshot",
            )
        if self.whole and spec.upper not in ("auto", "copy"):
            raise SpecError(
                f"a snapshot of a whole copy goes under no upper layer of kind {spec.upper!r}",
                hint="leave the kind to `auto`",
            )
        if rootfs is not None and label(rootfs) != self.rootfs:
            raise RootfsError(
                f"the snapshot lies over {self.rootfs}, and the store has {label(rootfs)} now",
                hint="import that rootfs again, or begin anew on this one",
            )

    def keep(self) -> tuple[Layer, ...]:
        """Count one user more of its layers, who lets go of each.

        Raises:
            SpecError: It is closed.
        """
        with self._held.lock:
            if not self._held.open:
                raise SpecError("the snapshot is closed", hint="close it after its last use")
            return tuple(layer.keep() for layer in self.layers)

    def export(self, target: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        """Write it to a file, which is replaced at the very end if it exists.

        Variables and functions of its shells go with it, and with them any secret that is in one.
        Limits, network and mounts do not: they are asked for anew.

        Args:
            target: The file; `tar.zst` is what it will be.
            progress: Told the bytes of files done so far.

        Raises:
            SpecError: It is closed.
            HostError: The file cannot be written.
        """
        from sandbox_lite.jail import snapshot_archive

        spec = self.spec
        description = snapshot_archive.Description(
            rootfs=self.rootfs, name=spec.rootfs, whole=self.whole, workdir=spec.workdir,
            user=spec.user, env=spec.env, shells=self.shells,
        )  # fmt: skip
        with self.kept():
            snapshot_archive.export(description, self.layers, Path(target), progress=progress)

    @classmethod
    def load(cls, source: str | os.PathLike[str], spec: SandboxSpec | None = None) -> Self:
        """Return the snapshot in a file, of which nothing is trusted on the host.

        Args:
            source: The file.
            spec: What is asked of its sandboxes. By default the defaults, with the rootfs,
                directory, user and environment that the snapshot's own had.

        Raises:
            RootfsError: The file is damaged, or no snapshot.
            HostError: It cannot be read, or there is no room for it.
            SpecError: The request is for another rootfs.
        """
        from sandbox_lite.jail import snapshot_archive

        found, layers = snapshot_archive.load(Path(source))
        try:
            asked = spec or SandboxSpec(
                rootfs=found.name, workdir=found.workdir, user=found.user, env=found.env
            )
            own = dataclasses.replace(asked, rootfs=found.name)
            snapshot = cls(spec=own, rootfs=found.rootfs, layers=layers, shells=found.shells)
            snapshot.check(asked)
        except BaseException as error:
            for layer in layers:
                layer.let_go()
            if isinstance(error, SpecError) and spec is None:
                raise RootfsError(
                    f"the snapshot {source} asks for what no sandbox can be: {error.message}",
                    hint="it is damaged, or was not made by `Snapshot.export`",
                ) from error
            raise
        return snapshot

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep its layers until the block ends, whoever closes it meanwhile.

        Raises:
            SpecError: It is closed.
        """
        layers = self.keep()
        try:
            yield
        finally:
            for layer in layers:
                layer.let_go()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """When a sandbox was frozen last: what must be the same for nothing to have changed."""

    begun: tuple[int, int]
    """Beginnings and ends of commands, and of writes from outside, by then."""
    alone: bool
    """No process but ours was there."""
    fingerprint: bytes | None
    """Of the upper layer; None where it could not be taken."""
    layers: tuple[Layer, ...]
    shells: Mapping[str, bytes]


class Freezer:
    """Freezes what one sandbox has written; use it with `with`."""

    def __init__(
        self,
        top: Path,
        base: tuple[Layer, ...],
        processes: Processes,
        *,
        whole: bool,
        shells: Mapping[str, bytes],
    ) -> None:
        """Freeze a layer.

        Args:
            top: The upper layer, by a path that leads there while the sandbox lives.
            base: The frozen layers below, counted for the sandbox already.
            processes: Who may write to it.
            whole: It is a copy of all below it.
            shells: The states that its shells began with.
        """
        self._top = top
        self._shells = shells
        self.base = base
        self._processes = processes
        self._whole = whole
        self._last: _Point | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of what was frozen last."""
        self._note(None)

    def _note(self, point: _Point | None) -> None:
        last, self._last = self._last, point
        if last is not None:
            for layer in last.layers:
                layer.let_go()

    def unchanged(self, begun: tuple[int, int], shells: Collection[int]) -> Frozen | None:
        """Return what was frozen last, each layer with one user more, where nothing ran since.

        Args:
            begun: Beginnings and ends of commands, and of writes from outside, so far.
            shells: Pids of our own shells, as the jail has them.
        """
        last = self._last
        if last is None:
            # what a start itself leaves in the upper layer, such as `workdir`, the next leaves too
            untouched = begun == (0, 0) and not self._whole and self._alone(shells)
            return (tuple(one.keep() for one in self.base), self._shells) if untouched else None
        if last.begun != begun or not last.alone or not self._alone(shells):
            return None
        return tuple(layer.keep() for layer in last.layers), last.shells

    def _alone(self, shells: Collection[int]) -> bool:
        return {FIRST, *shells}.issuperset(self._processes.pids())

    def freeze(
        self,
        begun: tuple[int, int],
        pids: Collection[int],
        shells: Mapping[str, bytes],
    ) -> Frozen:
        """Return what the sandbox shows now, each layer with one user more.

        Args:
            begun: See `unchanged`.
            pids: See there.
            shells: The states of its shells, which run nothing meanwhile.

        Raises:
            HostError: A layer cannot be made, or a process not be stopped.
        """
        layers: tuple[Layer, ...] = ()
        try:
            with opened(self._top) as (top,), paused(self._processes):
                alone = self._alone(pids)
                layers = self._layers(top, self._last)
                # behind the copying, which may have to lift a permission for a moment
                found = trees.fingerprint(top)
        except BaseException as error:
            for layer in layers:
                layer.let_go()
            if not isinstance(error, OSError):
                raise
            raise HostError(
                f"cannot look at the sandbox's files: {error.strerror} ({error.filename})"
            ) from error
        self._note(
            _Point(
                begun=begun, alone=alone, fingerprint=found, shells=shells,
                layers=tuple(layer.keep() for layer in layers),
            )
        )  # fmt: skip
        return layers, shells

    def _layers(self, top: int, last: _Point | None) -> tuple[Layer, ...]:
        known = None if last is None else last.fingerprint
        if last is not None and known is not None and known == trees.fingerprint(top):
            return tuple(layer.keep() for layer in last.layers)
        if self._whole or len(self.base) < MOST_LAYERS:
            made = frozen(lambda target: trees.copy_layer(top, target), whole=self._whole)
            return (made,) if self._whole else (*(one.keep() for one in self.base), made)

        def flat(target: int) -> None:
            with opened(*(layer.top for layer in self.base)) as fds:
                # what is frozen may be shared; of a live upper layer nothing ever
                trees.merge((*fds, top), target, whole=False, links=len(fds))

        return (frozen(flat, whole=False),)


def diff(old: Snapshot, new: Snapshot, lowers: Sequence[Path]) -> tuple[Change, ...]:
    """Return what a later snapshot shows otherwise than an earlier one.

    Args:
        old: The earlier one.
        new: The later one, of the same rootfs.
        lowers: What is below both, unless they are copies of it.

    Raises:
        SpecError: One of them is closed.
    """
    with old.kept(), new.kept():
        common = 0
        for one, other in zip(old.layers, new.layers, strict=False):
            if one is not other:
                break
            common += 1
        base = [] if old.whole or new.whole else [*lowers]
        with (
            opened(*base, *(one.top for one in old.layers[:common])) as below,
            opened(*(one.top for one in old.layers[common:])) as before,
            opened(*(one.top for one in new.layers[common:])) as after,
        ):
            return tuple(changes.compare(before, after, below))


def commit(
    snapshot: Snapshot, rootfs: Rootfs, store: Store, name: str, progress: Progress | None
) -> RootfsInfo:
    """Store what a snapshot shows as a rootfs.

    Raises:
        SpecError: It is no name, or the snapshot shows the host's own files.
        RootfsError: The store cannot be written.
    """
    if rootfs.mounts:
        raise SpecError(
            "what the host's own files are part of becomes no rootfs",
            hint="use a rootfs of the store: sandbox-lite rootfs build minimal",
        )
    info = store.info(snapshot.spec.rootfs)
    copied = 0

    def tell(size_bytes: int) -> None:
        nonlocal copied
        copied += size_bytes
        if progress is not None:
            progress("copy", copied, None, "bytes")

    with store.stage(name) as stage, explained(f"store rootfs {name!r}"):
        tops = [layer.top for layer in snapshot.layers]
        below = [] if snapshot.whole else [*rootfs.lowers]
        with opened(stage.tree, *below, *tops) as (target, *sources):
            trees.merge(sources, target, whole=True, tell=tell)
        return stage.commit(
            recipe=f"committed over {info.name}", suite=info.suite, env=info.env,
            packages=installed(stage.tree), releases=info.releases, progress=progress,
        )  # fmt: skip
