"""The upper layer of a sandbox's overlay: where it is, how large it may grow, who removes it."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sandbox_lite.errors import HostError
from sandbox_lite.jail import bwrap, foreign, janitor, places
from sandbox_lite.jail.bwrap import UPPER
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.owner import Owner
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.spec import ArgvPart

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def tmpfs_upper(size_bytes: int | None) -> ArgvPart:
    """Return the part for an upper layer in a tmpfs that only this sandbox's mounts hold.

    bwrap's own temporary overlay has no size: one `dd` could fill half of the host's memory.
    """
    return ArgvPart(
        outer=(
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
        yield Upper(part=ArgvPart(outer=("--bind", str(path), UPPER)), path=path / "upper")
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


def upper(
    kind: Literal["tmpfs", "directory"], size_bytes: int | None, *, several_ids: bool = False
) -> contextlib.AbstractContextManager[Upper]:
    """Return the context manager of an upper layer of that kind."""
    if kind == "tmpfs":
        return contextlib.nullcontext(Upper(part=tmpfs_upper(size_bytes)))
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
