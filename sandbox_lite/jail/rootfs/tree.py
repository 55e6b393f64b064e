"""A directory tree on disk as a whole: its digest, its size, its removal.

All of it works as an ordinary user on trees that hold what Debian packages and models leave
behind: directories without write permission, set-user-ID files, names that are no UTF-8.
"""

# bytes paths and descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH101, PTH108, PTH115, PTH118, PTH208

from __future__ import annotations

import errno
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_DEEPEST = 64
_BATCH = 256
_DIGEST_VERSION = b"sandbox-lite tree 1\0"

_KINDS = {
    stat.S_IFREG: b"f",
    stat.S_IFDIR: b"d",
    stat.S_IFLNK: b"l",
    stat.S_IFIFO: b"p",
    stat.S_IFSOCK: b"s",
    stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b",
}


class _Entry(NamedTuple):
    path: bytes
    """Relative to the tree; empty for the tree itself."""
    status: os.stat_result


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSummary:
    """What a walk over a whole tree found."""

    digest: str
    """`sha256:` and 64 hexadecimal digits."""
    disk_bytes: int
    """What the disk holds, hard links once: what `du` says."""
    entries: int


def _walk(root: bytes) -> Iterator[_Entry]:
    pending = [b""]
    yield _Entry(b"", os.lstat(root))
    while pending:
        parent = pending.pop()
        with os.scandir(os.path.join(root, parent) if parent else root) as found:
            for item in found:
                path = os.path.join(parent, item.name)
                status = item.stat(follow_symlinks=False)
                yield _Entry(path, status)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(path)


def _content_digest(path: bytes) -> bytes:
    # O_NONBLOCK: if the file turned into a FIFO since the walk, opening must not wait for a writer
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = hashlib.sha256()
        while chunk := os.read(descriptor, _CHUNK):
            found.update(chunk)
        return found.digest()
    finally:
        os.close(descriptor)


def _line(root: bytes, entry: _Entry) -> bytes:
    """Return what the digest sees of one entry: no times, no owner, no inode numbers."""
    mode = entry.status.st_mode
    kind = _KINDS[stat.S_IFMT(mode)]
    content = b""
    if kind == b"f":
        try:
            content = b"%d %s" % (
                entry.status.st_size,
                _content_digest(os.path.join(root, entry.path)),
            )
        except PermissionError:
            content = b"unreadable"  # not what any commit stored, so it shows as a difference
    elif kind == b"l":
        content = os.readlink(os.path.join(root, entry.path))
    elif kind in b"cb":
        content = b"%d" % entry.status.st_rdev
    permissions = 0 if kind == b"l" else stat.S_IMODE(mode)
    return b"%s\0%s\0%o\0%d\0%s" % (entry.path, kind, permissions, len(content), content)


def summarize(root: Path, *, progress: Callable[[int, int], None] | None = None) -> TreeSummary:
    """Return digest and size of a tree.

    The digest covers every path, type, permission, link target and content, in the order of the
    paths' bytes; it knows nothing of times, owners, inode numbers or which names share an inode.

    Args:
        root: The directory.
        progress: Called with bytes read so far and bytes in all.

    Raises:
        OSError: The tree could not be read.
    """
    base = os.fsencode(root)
    entries = sorted(_walk(base), key=lambda entry: entry.path)
    blocks = {(e.status.st_dev, e.status.st_ino): e.status.st_blocks for e in entries}
    total = sum(e.status.st_size for e in entries if stat.S_ISREG(e.status.st_mode))
    batches = [entries[at : at + _BATCH] for at in range(0, len(entries), _BATCH)]
    found = hashlib.sha256(_DIGEST_VERSION)
    done = 0

    def lines(batch: list[_Entry]) -> list[bytes]:
        return [_line(base, entry) for entry in batch]

    # hashing gives up the interpreter lock, so threads share the cores; map() keeps the order
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1)) as pool:
        for batch, found_lines in zip(batches, pool.map(lines, batches), strict=True):
            for line in found_lines:
                found.update(line)
            done += sum(e.status.st_size for e in batch if stat.S_ISREG(e.status.st_mode))
            if progress is not None:
                progress(done, total)
    return TreeSummary(
        digest=f"sha256:{found.hexdigest()}",
        disk_bytes=sum(blocks.values()) * 512,
        entries=len(entries),
    )


def normalize(root: Path) -> None:
    """Bring a tree into the form that is stored: readable by its owner, without sockets.

    Packages take u+rwx from directories and u+r from files; without them an ordinary user could
    neither hash nor remove what belongs to him. A socket is a leftover that nobody listens on and
    that no archive can hold.

    Raises:
        OSError: A permission could not be changed.
    """
    base = os.fsencode(root)
    os.chmod(base, stat.S_IMODE(os.lstat(base).st_mode) | stat.S_IRWXU)
    pending = [base]
    while pending:
        with os.scandir(pending.pop()) as found:
            for item in found:
                mode = item.stat(follow_symlinks=False).st_mode
                wanted = mode
                if stat.S_ISDIR(mode):
                    wanted |= stat.S_IRWXU
                    pending.append(item.path)
                elif stat.S_ISREG(mode):
                    wanted |= stat.S_IRUSR
                elif stat.S_ISSOCK(mode):
                    os.unlink(item.path)
                    continue
                if wanted != mode:
                    os.chmod(item.path, stat.S_IMODE(wanted))


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
    except FileNotFoundError:
        return
    try:
        remove_beneath(parent, path.name)
    finally:
        os.close(parent)
