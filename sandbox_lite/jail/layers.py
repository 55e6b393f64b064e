"""The upper layer of a sandbox's overlay: where it is, how large it may grow, who removes it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sandbox_lite.errors import HostError
from sandbox_lite.jail import bwrap, foreign, janitor, places
from sandbox_lite.jail.bwrap import UPPER
from sandbox_lite.jail.limits.disk import Measure, measure
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.owner import Owner
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.spec import ArgvPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_OWNER = "owner.json"
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
    base = places.run_dir()
    pid = os.getpid()
    path = base / f"{os.getpid()}-{secrets.token_hex(6)}"
    try:
        _make(path, several_ids=several_ids)
        yield Upper(part=ArgvPart(own=("--bind", str(path), UPPER)), path=path / "upper")
    finally:
        # a forked child may drop its copy of this generator, which runs this block there too
        if pid == os.getpid():
            foreign.remove_upper(path)
            janitor.SHARED.forget(path)


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
            for lower in lowers():
                _copy(lower, made.path, {})
            given = measure(made.path)
        except OSError as error:
            raise HostError(
                f"cannot copy the rootfs for the sandbox: {error.strerror} ({error.filename})",
                hint=f"set {places.HOME_VARIABLE} to a directory of yours with enough space",
            ) from error
        yield Upper(part=made.part, path=made.path, root=bwrap.COPY, given=given)


def _copy(source: Path, target: Path, linked: dict[tuple[int, int], Path]) -> None:
    """Copy what a directory holds over another, as an overlay would show it, following no link."""
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            if place.is_symlink() or not place.is_dir():
                place.unlink(missing_ok=True)
                place.mkdir()
            _copy(Path(entry.path), place, linked)
        else:
            # one that is there may be a link, and never is to be written through
            place.unlink(missing_ok=True)
            status = entry.stat(follow_symlinks=False)
            known = linked.setdefault((status.st_dev, status.st_ino), place)
            if known is not place:
                os.link(known, place, follow_symlinks=False)
                continue
            if stat.S_ISFIFO(status.st_mode):
                os.mkfifo(place)
            else:
                shutil.copyfile(entry.path, place, follow_symlinks=False)
        # the directory's at the end: its own mode may forbid to write to it
        shutil.copystat(entry.path, place, follow_symlinks=False)


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
