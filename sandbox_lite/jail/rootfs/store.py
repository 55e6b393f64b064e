"""The store: root file systems by name, replaced whole or not at all, never while someone looks.

```
STORE/format                  version of this layout
STORE/.lock                   held while names change; never during long work
STORE/<name>                  link to the tree in force: replacing it is one rename(2)
STORE/.trees/<name>-<token>/  lock, rootfs.json, tree/
STORE/.stage-<name>-<token>/  the same while it is being made
```

Whoever makes a stage holds its `lock` exclusively, whoever uses a rootfs holds it shared. These are
flock(2) locks, which the kernel drops with the process however it ends, so a directory that nobody
names and nobody locks is rubbish and the next writer sweeps it. No path in it is absolute: a store
may be moved or copied as it is.
"""

from __future__ import annotations

import fcntl
import functools
import os
import secrets
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import RootfsError, SpecError
from sandbox_lite.jail import places
from sandbox_lite.jail.removal import remove_tree
from sandbox_lite.jail.rootfs.explain import explain, explained
from sandbox_lite.jail.rootfs.info import (
    FORMAT,
    HOST,
    NAME,
    Progress,
    Rootfs,
    RootfsInfo,
    Unit,
    VerifyResult,
    check_name,
)
from sandbox_lite.jail.rootfs.tree import normalize, summarize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "FORMAT",
    "HOST",
    "Progress",
    "Rootfs",
    "RootfsInfo",
    "Stage",
    "Store",
    "Unit",
    "VerifyResult",
    "check_name",
    "explain",
    "explained",
]

_TREES = ".trees"
_STAGE = ".stage-"
_LINK = ".link-"


@functools.lru_cache(maxsize=16)
def _read(text: bytes) -> RootfsInfo:
    # every start reads the same one, which names some hundred packages
    return RootfsInfo.from_json(text)


class Stage:
    """A rootfs in the making; `Store.stage` hands it out."""

    def __init__(self, store: Store, name: str, path: Path, lock: int) -> None:
        self.name = name
        self.path = path
        self.tree = path / "tree"
        """The empty directory to fill."""
        self._store = store
        self._lock = lock
        self._committed = False

    def commit(
        self,
        *,
        recipe: str = "",
        suite: str = "",
        env: Mapping[str, str] | None = None,
        packages: Mapping[str, str] | None = None,
        releases: Mapping[str, str] | None = None,
        created: str | None = None,
        expected_digest: str | None = None,
        progress: Progress | None = None,
    ) -> RootfsInfo:
        """Freeze the tree, compute its digest and put it in force under its name, all at once.

        A rootfs of that name is replaced; sandboxes that use the old one keep it until they end.

        Raises:
            RootfsError: The digest is not the expected one, or the disk refuses.
            SpecError: It was committed before.
        """
        if self._committed:
            raise SpecError(f"rootfs {self.name!r} was committed before")
        with explained(f"store rootfs {self.name!r}"):
            normalize(self.tree)

            def tell(done: int, total: int) -> None:
                if progress is not None:
                    progress("digest", done, total, "bytes")

            summary = summarize(self.tree, progress=tell)
            if expected_digest is not None and summary.digest != expected_digest:
                raise RootfsError(
                    f"rootfs {self.name!r} has digest {summary.digest}, not {expected_digest}",
                    hint="its archive is damaged or was altered; fetch it again",
                )
            info = RootfsInfo(
                name=self.name,
                digest=summary.digest,
                size_bytes=summary.disk_bytes,
                created=created or datetime.now(UTC).isoformat(timespec="seconds"),
                recipe=recipe,
                suite=suite,
                env=dict(env or {}),
                packages=dict(packages or {}),
                releases=dict(releases or {}),
            )
            (self.path / "rootfs.json").write_text(info.to_json(), encoding="utf-8")
            path = self._store._put_in_force(self.name, self.path)
            self._committed = True
            # from here on a rootfs like any other: sandboxes may use it while the block goes on
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        return RootfsInfo.from_json(info.to_json(), path=path)


class Store:
    """Root file systems by name, in one directory. Making one touches nothing.

    Args:
        path: The directory; the user's own by default.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or places.data_dir() / "rootfs").absolute()

    def list(self) -> tuple[RootfsInfo, ...]:
        """Return what is in the store, by name.

        Raises:
            RootfsError: The store, or one of its descriptions, cannot be read.
        """
        with explained(f"list the rootfs store {self.path}"):
            if not self.path.exists():
                return ()
            self._check_format()
            names = sorted(p.name for p in self.path.iterdir() if NAME.fullmatch(p.name))
            found = []
            for name in names:
                if (self.path / name).is_symlink():
                    try:
                        found.append(self._info(name))
                    except RootfsError:
                        if (self.path / name).is_symlink():  # else it was removed meanwhile
                            raise
            return tuple(found)

    def info(self, name: str) -> RootfsInfo:
        """Return what the store knows of one rootfs.

        Raises:
            RootfsError: There is none of that name, or it cannot be read.
            SpecError: It is no name.
        """
        check_name(name)
        with explained(f"read rootfs {name!r} in {self.path}"):
            if not (self.path / name).is_symlink():
                raise self._unknown(name)
            self._check_format()
            return self._info(name)

    def resolve(self, name: str) -> Rootfs:
        """Return the rootfs of that name, for a look; who goes on using it takes a `lease`.

        Raises:
            RootfsError: There is none of that name, or it cannot be read.
            SpecError: It is no name.
        """
        if name == HOST:
            from sandbox_lite.jail.rootfs import host

            return host.make()
        info = self.info(name)
        return Rootfs(name=name, digest=info.digest, lowers=(info.tree,), env=info.env)

    @contextmanager
    def lease(self, name: str) -> Iterator[Rootfs]:
        """Yield the rootfs of that name and keep its tree on disk until the block ends.

        Raises:
            RootfsError: There is none of that name, or it cannot be read.
            SpecError: It is no name.
        """
        if name == HOST:
            from sandbox_lite.jail.rootfs import host

            with host.lease() as rootfs:
                yield rootfs
            return
        check_name(name)
        while True:
            info = self.info(name)
            with explained(f"use rootfs {name!r}"):
                try:
                    lock = os.open(info.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    self._require_tree(info)
                    continue
            try:
                with explained(f"use rootfs {name!r}"):
                    # whoever holds it exclusively removes the tree: wait, then look again
                    fcntl.flock(lock, fcntl.LOCK_SH)
                    current = self._target(name) == info.path
                if current:
                    yield Rootfs(name=name, digest=info.digest, lowers=(info.tree,), env=info.env)
                    return
            finally:
                os.close(lock)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Yield an empty tree on the store's file system, in force once it is committed.

        Two at once for one name do not meet; the later commit stays. What is not committed is
        removed at the end of the block, or swept later where the process was killed.

        Raises:
            RootfsError: The store cannot be written.
            HostError: Its file system has no locks.
            SpecError: It is no name, or the reserved `host`.
        """
        check_name(name)
        if name == HOST:
            raise SpecError("`host` names the host's own files and cannot be built or imported")
        self.sweep()
        writing = f"write to the rootfs store {self.path}"
        path = self.path / f"{_STAGE}{name}-{secrets.token_hex(6)}"
        lock = -1
        try:
            with explained(writing), self._locked():
                path.mkdir()
                lock = _lock(path)
                (path / "tree").mkdir()
                (path / "tree").chmod(0o755)
            yield Stage(self, name, path, lock)
        finally:
            try:
                with explained(f"remove the unfinished {path}"):
                    self._discard(path)
            finally:
                if lock >= 0:
                    os.close(lock)
        self.sweep()

    def remove(self, name: str) -> None:
        """Remove one rootfs.

        Raises:
            RootfsError: There is none, a sandbox uses it, or the disk refuses.
            SpecError: It is no name.
        """
        check_name(name)
        with explained(f"remove rootfs {name!r}"):
            if not (self.path / name).is_symlink():
                raise self._unknown(name)
            with self._locked():
                path = self._target(name)
                try:
                    # the lock goes back at once: without its name the tree is rubbish to sweep
                    if path.exists():
                        os.close(_lock(path))
                except BlockingIOError:
                    raise RootfsError(
                        f"rootfs {name!r} is in use by a running sandbox",
                        hint="end that sandbox first",
                    ) from None
                (self.path / name).unlink()
            self.sweep()

    def verify(self, name: str, *, progress: Progress | None = None) -> VerifyResult:
        """Recompute the digest of one rootfs and compare it with the one stored.

        Raises:
            RootfsError: There is none, or it cannot be read.
            SpecError: It is no name.
        """
        expected = self.info(name).digest

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress("digest", done, total, "bytes")

        with self.lease(name) as rootfs, explained(f"verify rootfs {name!r}"):
            summary = summarize(rootfs.lowers[0], progress=tell)
        return VerifyResult(name=name, expected=expected, actual=summary.digest)

    def sweep(self) -> None:
        """Remove what killed builds and ended sandboxes left behind; cheap where there is nothing.

        Raises:
            RootfsError: The store cannot be written.
        """
        if not self.path.is_dir():
            return
        with explained(f"tidy the rootfs store {self.path}"):
            rubbish: list[tuple[Path, int]] = []
            try:
                with self._locked():
                    for path in self._unnamed():
                        with suppress(BlockingIOError):
                            rubbish.append((path, _lock(path)))
                for path, _ in rubbish:
                    self._discard(path)
            finally:
                for _, lock in rubbish:
                    os.close(lock)

    def _discard(self, path: Path) -> None:
        """Remove a stage or tree whose lock the caller holds; one that is gone is no error."""
        for name in ("rootfs.json", "tree"):
            remove_tree(path / name)
        # lock files come and go under the store's lock alone, or two sweepers would meet here
        with self._locked():
            remove_tree(path)

    def _unnamed(self) -> Iterator[Path]:
        for leftover in self.path.glob(f"{_LINK}*"):
            leftover.unlink()
        named = {self._target(p.name) for p in self.path.iterdir() if p.is_symlink()}
        yield from self.path.glob(f"{_STAGE}*")
        yield from (p for p in self.path.glob(f"{_TREES}/*") if p not in named)

    def _put_in_force(self, name: str, stage: Path) -> Path:
        with self._locked():
            instance = self.path / _TREES / stage.name.removeprefix(_STAGE)
            instance.parent.mkdir(exist_ok=True)
            stage.rename(instance)
            link = self.path / f"{_LINK}{secrets.token_hex(6)}"
            try:
                link.symlink_to(Path(_TREES) / instance.name)
                # rename(2) over a link is atomic, over a directory with files it is refused
                link.rename(self.path / name)
            except OSError:
                link.unlink(missing_ok=True)
                instance.rename(stage)
                raise
        return instance

    def _target(self, name: str) -> Path:
        try:
            return self.path / _TREES / (self.path / name).readlink().name
        except FileNotFoundError:
            raise self._unknown(name) from None

    def _info(self, name: str) -> RootfsInfo:
        again = f"run: sandbox-lite rootfs rm {name}, then build or import it again"
        path = self._target(name)
        try:
            text = (path / "rootfs.json").read_bytes()
        except FileNotFoundError:
            if self._target(name) != path:  # replaced and swept since the look at its link
                return self._info(name)
            raise RootfsError(
                f"rootfs {name!r} is incomplete: {path} lacks its description", hint=again
            ) from None
        try:
            # the name is the link's: a rootfs may be renamed by moving its link
            return replace(_read(text), name=name, path=path)
        except RootfsError as error:
            raise RootfsError(f"rootfs {name!r}: {error.message}", hint=again) from error

    def _require_tree(self, info: RootfsInfo) -> None:
        """Raise where a tree is still named but broken; a tree just replaced is no fault."""
        with self._locked():
            if self._target(info.name) == info.path:
                raise RootfsError(
                    f"rootfs {info.name!r} is incomplete: {info.path} lacks its lock",
                    hint=f"run: sandbox-lite rootfs rm {info.name}, then build it again",
                )

    def _unknown(self, name: str) -> RootfsError:
        hint = f"run: sandbox-lite rootfs build {name}"
        with suppress(OSError):
            known = sorted(p.name for p in self.path.iterdir() if p.is_symlink())
            if known:
                hint += f" (there are: {', '.join(known)}, {HOST})"
        return RootfsError(f"there is no rootfs {name!r}", hint=hint)

    def _check_format(self) -> None:
        try:
            text = (self.path / "format").read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return  # an empty directory of the user's; the first write makes it a store
        if text != str(FORMAT):
            raise RootfsError(
                f"the rootfs store {self.path} has format {text[:20]!r}, this program knows "
                f"{FORMAT}",
                hint=f"upgrade sandbox-lite, or set {places.HOME_VARIABLE} to another directory",
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.path.is_dir():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # trees hold set-user-ID programs that belong to the builder: no other user of the host
            # may reach them
            self.path.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._check_format()
            version = self.path / "format"
            if not version.exists():
                version.write_text(f"{FORMAT}\n", encoding="ascii")
            yield
        finally:
            os.close(lock)


def _lock(path: Path) -> int:
    """Return a descriptor that locks a stage or tree; BlockingIOError where somebody has it."""
    # read and write: NFS emulates flock with byte-range locks, which ask for it
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
