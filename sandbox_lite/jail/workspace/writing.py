"""Putting one entry into a directory of the user's: whole or not at all, and never over what he
changed meanwhile.

Every directory is opened beneath the top one without following a link. A file's content is first
written to one that has no name, so that a killed program leaves no half of it.
"""

from __future__ import annotations

# All is done on descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH101
import contextlib
import ctypes
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING

from sandbox_lite.jail.openat2 import BENEATH, NO_SYMLINKS, openat2
from sandbox_lite.jail.transfer import copy_data
from sandbox_lite.jail.workspace.origin import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOREPLACE, _EXCHANGE = 1, 2
_PERMISSIONS = 0o777
"""What is never handed on: set-user-ID, set-group-ID and sticky."""
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EISDIR, errno.EPERM)

_libc = ctypes.CDLL(None, use_errno=True)


class MeanwhileError(Exception):
    """What is there is not what was to be replaced; it was left as it is."""


def _renameat2(directory: int, old: bytes, new: bytes, flags: int) -> None:
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(directory, old, directory, new, flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def state_at(parent: int, name: bytes) -> State | None:
    """Return what is there now; None where nothing is."""
    try:
        return State.of(os.stat(name, dir_fd=parent, follow_symlinks=False))
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def opened_above(top: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield a descriptor of the directory that holds a path, and the last name.

    Raises:
        OSError: There is none, or a link is on the way.
    """
    above, _, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    parent = openat2(top, above or b".", _DIRECTORY, resolve=BENEATH | NO_SYMLINKS)
    try:
        yield parent, name
    finally:
        os.close(parent)


def put_file(parent: int, name: bytes, content: int, mode: int, old: State | None) -> None:
    """Put a regular file in the place of what was there.

    Args:
        parent: The open directory.
        name: Of the file.
        content: Descriptor of a file with what shall be in it.
        mode: Permission bits.
        old: What is to be replaced; None is nothing.

    Raises:
        MeanwhileError: Something else is there.
        OSError: It cannot be written.
    """
    beside = _beside()
    named = False
    try:
        made = os.open(b".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=parent)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        made = os.open(beside, _NEW, 0o600, dir_fd=parent)
        named = True
    try:
        os.lseek(content, 0, os.SEEK_SET)
        copy_data(content, made)
        os.fchmod(made, mode & _PERMISSIONS)
        if not named:
            os.link(f"/proc/self/fd/{made}", beside, dst_dir_fd=parent, follow_symlinks=True)
    except BaseException:
        _unlink(parent, beside)
        raise
    finally:
        os.close(made)
    _into_place(parent, beside, name, old)


def put_link(parent: int, name: bytes, text: bytes, old: State | None) -> None:
    """Put a symbolic link in the place of what was there; see `put_file`."""
    beside = _beside()
    os.symlink(text, beside, dir_fd=parent)
    _into_place(parent, beside, name, old)


def put_directory(parent: int, name: bytes, mode: int, old: State | None) -> None:
    """Make a directory in the place of what was there, or give the one that is there its mode."""
    if old is not None and not stat.S_ISDIR(old.mode):
        remove(parent, name, old)
        old = None
    if old is None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError as error:
            raise MeanwhileError from error
    set_mode(parent, name, mode, None)


def set_mode(parent: int, name: bytes, mode: int, old: State | None) -> None:
    """Give a file or directory its permission bits.

    Args:
        parent: The open directory.
        name: Of the entry.
        mode: Permission bits; set-user-ID and the like stay as they are.
        old: What must be there; None is anything but a link.

    Raises:
        MeanwhileError: Something else is there.
        OSError: It cannot be done.
    """
    pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        status = os.fstat(pinned)
        if stat.S_ISLNK(status.st_mode) or (old is not None and State.of(status) != old):
            raise MeanwhileError
        kept = stat.S_IMODE(status.st_mode) & ~_PERMISSIONS
        # an O_PATH descriptor knows no fchmod, but its name in /proc is the very inode
        os.chmod(f"/proc/self/fd/{pinned}", mode & _PERMISSIONS | kept)
    finally:
        os.close(pinned)


def remove(parent: int, name: bytes, old: State) -> None:
    """Remove a file, a link, or a directory that is empty.

    Raises:
        MeanwhileError: Something else is there, or something is in the directory.
        OSError: It cannot be removed.
    """
    if stat.S_ISDIR(old.mode):
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise MeanwhileError from error
            raise
        return
    beside = _beside()
    try:
        # out of the way first: what is looked at then is what is removed
        _renameat2(parent, name, beside, _NOREPLACE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if state_at(parent, name) != old:
            raise MeanwhileError from error
        os.unlink(name, dir_fd=parent)
        return
    if not _is(parent, beside, old):
        with contextlib.suppress(FileExistsError):
            _renameat2(parent, beside, name, _NOREPLACE)
        raise MeanwhileError
    os.unlink(beside, dir_fd=parent)


def _into_place(parent: int, beside: bytes, name: bytes, old: State | None) -> None:
    """Give what was made beside it the name of what it replaces, in one step."""

    def exchange() -> None:
        _renameat2(parent, beside, name, _EXCHANGE)

    ours = True
    try:
        if old is not None and stat.S_ISDIR(old.mode):
            remove(parent, name, old)
            old = None
        if old is None:
            _first(lambda: _renameat2(parent, beside, name, _NOREPLACE), parent, beside, name, None)
        elif _first(exchange, parent, beside, name, old):
            # what has that name now is the user's
            ours = False
            if not _is(parent, beside, old):
                exchange()
                ours = True
                raise MeanwhileError
            _unlink(parent, beside)
    finally:
        if ours:
            _unlink(parent, beside)


def _first(
    rename: Callable[[], None], parent: int, beside: bytes, name: bytes, old: State | None
) -> bool:
    """Rename in the kernel's own guarded way; False where there is none and it was done without."""
    try:
        rename()
    except (FileExistsError, FileNotFoundError) as error:
        raise MeanwhileError from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if state_at(parent, name) != old:
            raise MeanwhileError from error
        os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        return False
    return True


def _is(parent: int, name: bytes, old: State) -> bool:
    found = state_at(parent, name)
    # to be renamed renews the ctime
    return found is not None and found[:-1] == old[:-1]


def _beside() -> bytes:
    return b".sandbox-lite-" + secrets.token_hex(8).encode()


def _unlink(parent: int, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
