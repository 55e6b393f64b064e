"""The layers of a sandbox's overlay: where they are, how large one may grow, who removes them."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sandbox_lite.errors import HostError, RootfsError
from sandbox_lite.jail import bwrap, foreign, janitor, places, trees
from sandbox_lite.jail.bwrap import UPPER
from sandbox_lite.jail.limits.disk import Measure, measure
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.owner import Owner
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.spec import ArgvPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_OWNER = "owner.json"
_MOUNTED_ON = ("proc", "dev", "run")
_guarded: set[int] = set()


def guard() -> None:
    """Once in each process: sweep what killed programs left, and start the janitor for our end."""
    if os.getpid() in _guarded:
        return
    _guarded.add(os.getpid())
    sweep()
    kill_orphans()
    # a host that cannot start one more program will say so about the sandbox itself
    with contextlib.suppress(OSError):
        janitor.SHARED.start()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upper:
    """An upper layer."""

    part: ArgvPart
    path: Path | None = None
    """Where it is on the host; a tmpfs is nowhere."""
    root: tuple[str, ...] = ()
    """Words for the jail's root, where that is no overlay."""
    given: Measure = field(default_factory=Measure)
    """What is in it from the start, and is nothing that the sandbox wrote."""


def tmpfs_upper(size_bytes: int | None) -> ArgvPart:
    """Return the part for an upper layer in a tmpfs that only this sandbox's mounts hold.

    bwrap's own temporary overlay has no size: one `dd` could fill half of the host's memory.
    """
    return ArgvPart(
        own=(
            *bwrap.sized(size_bytes), "--perms", "0755", "--tmpfs", UPPER,
            "--dir", f"{UPPER}/upper", "--dir", f"{UPPER}/work",
        )
    )  # fmt: skip


@contextlib.contextmanager
def directory_upper(*, several_ids: bool = False) -> Iterator[Upper]:
    """Yield an upper layer in a directory, which goes with the sandbox.

    Args:
        several_ids: Whether files in it may come to belong to other ids than the caller's.

    Raises:
        HostError: The directory cannot be made.
    """
    pid = os.getpid()
    path = _fresh_path()
    try:
        _make(path, several_ids=several_ids)
        yield Upper(part=ArgvPart(own=("--bind", str(path), UPPER)), path=path / "upper")
    finally:
        # a forked child may drop its copy of this generator, which runs this block there too
        if pid == os.getpid():
            foreign.remove_upper(path)
            janitor.SHARED.forget(path)


def _fresh_path() -> Path:
    return places.run_dir() / f"{os.getpid()}-{secrets.token_hex(6)}"


def _make(path: Path, *, several_ids: bool) -> None:
    try:
        path.mkdir(parents=True, mode=0o700)
        # the owner first: a sweep at this moment must see who it is
        (path / _OWNER).write_text(Owner.current().to_json())
        janitor.SHARED.watch(path)
        if several_ids:
            foreign.mark(path, find_bwrap())
        (path / "upper").mkdir(mode=0o755)
        (path / "work").mkdir()
    except OSError as error:
        raise HostError(
            f"cannot make a directory for the sandbox's files: {path}: {error.strerror}",
            hint=f"set {places.HOME_VARIABLE} to a directory of yours, with space, on a local disk",
        ) from error


@contextlib.contextmanager
def copied_upper(
    lowers: Callable[[], Sequence[Path]], *, several_ids: bool = False
) -> Iterator[Upper]:
    """Yield a directory with a copy of all lower layers, for hosts that refuse an overlay.

    It takes the room of the whole rootfs, and a start takes the time of copying it. The jail's
    /proc/self/mountinfo shows where it is on the host.

    Raises:
        HostError: It cannot be made.
    """
    with directory_upper(several_ids=several_ids) as made:
        assert made.path is not None
        try:
            with opened(made.path, *lowers()) as (target, *sources):
                trees.merge(sources, target, whole=True)
            given = measure(made.path)
        except OSError as error:
            raise HostError(
                f"cannot copy the rootfs for the sandbox: {error.strerror} ({error.filename})",
                hint=f"set {places.HOME_VARIABLE} to a directory of yours with enough space",
            ) from error
        yield Upper(part=made.part, path=made.path, root=bwrap.COPY, given=given)


@contextlib.contextmanager
def opened(*paths: Path) -> Iterator[tuple[int, ...]]:
    """Yield descriptors of directories, closed with the block.

    Raises:
        OSError: One cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        fds = []
        for path in paths:
            fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        yield tuple(fds)


def check_places(stacked: Sequence[Path]) -> None:
    """Check that what bwrap mounts on in a root of these layers are directories.

    bwrap follows a link there, out of the root to be, and so would process 1, which is started by a
    name below /proc: a layer from elsewhere could put its own program in the place of ours, and
    have /proc where nobody covers it.

    Args:
        stacked: The layers, the lowest first.

    Raises:
        RootfsError: One is something else.
    """
    for name in _MOUNTED_ON:
        for layer in reversed(stacked):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(layer / name)
                # where it was deleted bwrap makes one
                if not stat.S_ISDIR(status.st_mode) and not trees.is_whiteout(status):
                    raise RootfsError(
                        f"/{name} of the rootfs or snapshot is no directory",
                        hint="do not trust it: no build, import or export makes it so",
                    )
                break


class Layer:
    """A layer that never changes again, in a directory that goes with its last user."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        """Own a directory with an `upper` in it, whose first user is the caller."""
        self.path = path
        self.whole = whole
        """It is a copy of all below it as well."""
        self._users = 1
        self._owner = os.getpid()
        self._lock = threading.Lock()

    @property
    def top(self) -> Path:
        """The layer itself."""
        return self.path / "upper"

    def keep(self) -> Layer:
        """Count one user more."""
        with self._lock:
            assert self._users, "it is gone"
            self._users += 1
        return self

    def let_go(self) -> None:
        """Count one user less, and remove it with the last."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        # a forked child has a copy of the count, and no part in the directory
        if last and self._owner == os.getpid():
            foreign.remove_upper(self.path)
            janitor.SHARED.forget(self.path)


def frozen(fill: Callable[[int], None], *, whole: bool) -> Layer:
    """Return a layer that `fill` has filled, given a descriptor of it.

    Raises:
        HostError: It cannot be made.
    """
    path = _fresh_path()
    try:
        _make(path, several_ids=False)
        with opened(path / "upper") as (top,):
            fill(top)
    except BaseException as error:
        foreign.remove_upper(path)
        janitor.SHARED.forget(path)
        if not isinstance(error, OSError):
            raise
        raise HostError(
            f"cannot keep the sandbox's files as a layer: {error.strerror} ({error.filename})",
            hint=f"set {places.HOME_VARIABLE} to a directory of yours with space, on a local disk"
            " (a container's own overlay takes no layers of deleted files)",
        ) from error
    return Layer(path, whole=whole)


def upper(
    kind: Literal["tmpfs", "directory", "copy"],
    size_bytes: int | None,
    lowers: Callable[[], Sequence[Path]],
    *,
    several_ids: bool = False,
) -> contextlib.AbstractContextManager[Upper]:
    """Return the context manager of an upper layer of that kind over these lower ones."""
    if kind == "tmpfs":
        return contextlib.nullcontext(Upper(part=tmpfs_upper(size_bytes)))
    if kind == "copy":
        return copied_upper(lowers, several_ids=several_ids)
    return directory_upper(several_ids=several_ids)


def sweep() -> int:
    """Remove directories whose owner is gone; return how many there were."""
    removed = 0
    # what cannot be swept (another user's, after a run with sudo) keeps nobody from starting
    with contextlib.suppress(OSError):
        for path in places.run_dir().iterdir():
            with contextlib.suppress(OSError):
                if _is_orphan(path):
                    foreign.remove_upper(path)
                    removed += 1
    return removed


def _is_orphan(path: Path) -> bool:
    try:
        return not Owner.from_json((path / _OWNER).read_text()).alive()
    except (FileNotFoundError, ValueError):
        # made this very moment, or torn by a crash in it: the pid in the name decides
        pid = path.name.partition("-")[0]
        return not (pid.isdigit() and os.path.exists(f"/proc/{pid}"))  # noqa: PTH110  # /proc
    except OSError:
        return False
