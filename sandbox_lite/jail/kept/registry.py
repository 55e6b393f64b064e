"""Kept sandboxes by name: one directory each, which its user alone may enter."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import socket
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail import places
from sandbox_lite.jail.owner import Owner
from sandbox_lite.jail.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_RECORD, _SOCKET, _LOG = "kept.json", "socket", "log.jsonl"
_AGAIN = 3
_YOUNG_SECONDS = 60.0
"""So long a directory without a record is one that is just being made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a kept sandbox without asking it."""

    name: str
    owner: Owner
    """Its keeper."""
    host: str
    rootfs: str
    network: str
    created: float
    """Seconds since the epoch."""
    ends: float | None
    """The same, of the end of its time to live; None is never."""
    format: int = FORMAT

    @property
    def alive(self) -> bool:
        """Whether its keeper runs, on this host."""
        return self.host == socket.gethostname() and self.owner.alive()


def base() -> Path:
    """Return the directory of all of them."""
    return places.kept_dir()


def checked(name: str) -> str:
    """Return a name.

    Raises:
        SpecError: It is none.
    """
    if _NAME.fullmatch(name) is None:
        raise SpecError(
            f"not a name for a sandbox: {name!r}", hint="use letters, digits, dots, - and _"
        )
    return name


def log_path(name: str) -> Path:
    """Return where the log of a sandbox is."""
    return base() / name / _LOG


@contextlib.contextmanager
def directory(name: str) -> Iterator[int]:
    """Yield a descriptor of the directory of a kept sandbox.

    Raises:
        SpecError: There is none of that name.
        HostError: It is somebody else's.
    """
    path = base() / checked(name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise unknown(name) from None
    except PermissionError as error:
        raise HostError(
            f"the sandbox {name!r} is another user's", hint="each user has sandboxes of his own"
        ) from error
    try:
        found = os.fstat(fd)
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise HostError(
                f"the sandbox {name!r} is another user's", hint="each user has sandboxes of his own"
            )
        yield fd
    finally:
        os.close(fd)


def unknown(name: str) -> SpecError:
    """Return the error that says that there is no such sandbox."""
    names = ", ".join(record.name for record in records()) or "none"
    return SpecError(
        f"there is no kept sandbox {name!r}",
        hint=f"kept are: {names}; make one: sandbox-lite create --name {name}",
    )


def address(fd: int) -> str:
    """Return the path of the socket in an open directory: the kernel takes 107 bytes at most."""
    return f"/proc/self/fd/{fd}/{_SOCKET}"


def make(name: str) -> Path:
    """Make the directory of a new sandbox.

    Raises:
        SpecError: The name is taken.
        HostError: It cannot be made.
    """
    path = base() / checked(name)
    for _ in range(_AGAIN):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not _is_orphan(path):
                raise SpecError(
                    f"there is a kept sandbox {name!r} already",
                    hint=f"end it: sandbox-lite rm {name}; or take another name",
                ) from None
            remove_tree(path)
        except OSError as error:
            raise HostError(
                f"cannot keep a sandbox in {path}: {error.strerror}",
                hint=f"set {places.HOME_VARIABLE} to a directory of yours on a local disk",
            ) from error
        else:
            return path
    raise HostError(f"{path} comes back as often as it is removed", hint="take another name")


def write(record: Record) -> None:
    """Say who a kept sandbox is; before that it is one in the making."""
    path = base() / record.name
    stage = path / f".{_RECORD}"
    stage.write_text(json.dumps(dataclasses.asdict(record)))
    stage.rename(path / _RECORD)


def read(name: str) -> Record:
    """Return what is known of a kept sandbox.

    Raises:
        SpecError: There is none of that name.
    """
    try:
        data = json.loads((base() / checked(name) / _RECORD).read_text())
        owner = Owner.from_json(json.dumps(data["owner"]))
        return Record(**(data | {"owner": owner}))
    except (OSError, ValueError, TypeError, KeyError):
        raise unknown(name) from None


def records() -> list[Record]:
    """Return all that are known, by name."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(base().iterdir()):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                data = json.loads((path / _RECORD).read_text())
                owner = Owner.from_json(json.dumps(data["owner"]))
                found.append(Record(**(data | {"owner": owner})))
    return found


def end(name: str, *, seconds: float = 30.0) -> None:
    """End a kept sandbox and wait until it is gone.

    Raises:
        SpecError: There is none of that name.
        HostError: It is another user's, on another host, or does not end.
    """
    record = read(name)
    if record.host != socket.gethostname():
        raise HostError(f"the sandbox {name!r} is kept on {record.host}", hint="end it there")
    if record.owner.alive():
        pidfd = os.pidfd_open(record.owner.pid)
        try:
            # asked and answered before: it is that very process, and no later one
            if record.owner.alive():
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(seconds * 1000):
                raise HostError(
                    f"the keeper of {name!r} does not end", hint=f"kill -9 {record.owner.pid}"
                )
        except PermissionError as error:
            raise HostError(f"the sandbox {name!r} is another user's", hint="") from error
        finally:
            os.close(pidfd)
    with contextlib.suppress(OSError):
        remove_tree(base() / name)


def _is_orphan(path: Path) -> bool:
    try:
        record = read(path.name)
    except SpecError:
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime > _YOUNG_SECONDS
        return False
    # of another host, with which we share the directory, we know nothing
    return record.host == socket.gethostname() and not record.owner.alive()


def prune() -> list[str]:
    """Remove what dead keepers left; return the names."""
    removed = []
    with contextlib.suppress(OSError):
        for path in base().iterdir():
            if _NAME.fullmatch(path.name) and _is_orphan(path):
                with contextlib.suppress(OSError):
                    remove_tree(path)
                    removed.append(path.name)
    return removed
