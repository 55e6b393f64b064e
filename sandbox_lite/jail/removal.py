"""Remove a directory with all below it, whatever its permissions and depth, following no link.

Overlay's own `work/work` has mode 000, a model may take any bit from its directories, and nest them
deeper than a path or our stack can be. Nothing but the standard library is needed here.
"""

from __future__ import annotations

# Everything here works on descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH101, PTH208
import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 64


def open_directory(parent: int, name: bytes | str, *, make_usable: bool = False) -> int:
    """Return a descriptor of the directory `name` of an open directory, following no link.

    Args:
        parent: Descriptor of the directory above.
        name: One path component.
        make_usable: Where permission lacks, give the owner u+rwx first.

    Raises:
        OSError: There is none, it is none, or it belongs to another user.
    """
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        if not make_usable or os.fstat(descriptor).st_mode & stat.S_IRWXU == stat.S_IRWXU:
            return descriptor
        os.close(descriptor)
    except PermissionError:
        if not make_usable:
            raise
    # chmod has no way to refuse links before Linux 6.6, but the /proc name of an O_PATH
    # descriptor is the very directory that was looked at
    pinned = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(pinned).st_mode)
        os.chmod(f"/proc/self/fd/{pinned}", mode | stat.S_IRWXU)
        return os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(pinned)


def remove_beneath(parent: int, name: bytes | str) -> None:
    """Remove one entry of an open directory and all beneath it, following no link.

    Directories that lack permissions (a model's `chmod 000`, overlayfs's own `work/work`) get
    them first. A name that is gone already is no error.

    Raises:
        OSError: Something could not be removed.
    """
    name = os.fsencode(name)
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        # Linux says EISDIR for a directory, POSIX allows EPERM; a read-only parent says EACCES
        if error.errno not in (errno.EISDIR, errno.EPERM, errno.EACCES):
            raise
        _remove_directory(parent, name, error)


def _remove_directory(parent: int, name: bytes, unlink_error: OSError) -> None:
    try:
        top = open_directory(parent, name, make_usable=True)
    except NotADirectoryError:
        raise unlink_error from None
    try:
        _empty(top, top, 0)
        # deep directories were moved up here, see _empty; each may have left more
        while os.listdir(top):
            _empty(top, top, 0)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(directory: int, top: int, depth: int) -> None:
    for name in os.listdir(directory):
        raw = os.fsencode(name)
        try:
            os.unlink(raw, dir_fd=directory)
            continue
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM, errno.EACCES):
                raise
            unlink_error = error
        try:
            child = open_directory(directory, raw, make_usable=True)
        except NotADirectoryError:
            raise unlink_error from None
        try:
            if depth >= _DEEPEST:
                # a path may be deeper than our stack and our descriptors: move it up, come back
                number = os.fstat(child).st_ino
                os.rename(raw, b".deep-%d" % number, src_dir_fd=directory, dst_dir_fd=top)
                continue
            _empty(child, top, depth + 1)
        finally:
            os.close(child)
        os.rmdir(raw, dir_fd=directory)


def remove_tree(path: Path) -> None:
    """Remove a directory or file and all beneath it, whatever its permissions, following no link.

    Raises:
        OSError: Something could not be removed, most often because it belongs to another user.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        remove_beneath(parent, path.name)
    finally:
        os.close(parent)
