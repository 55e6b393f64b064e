"""A directory tree on disk as a whole: its digest, its size, its removal.

All of it works as an ordinary user on trees that hold what Debian packages and models leave
behind: directories without write permission, set-user-ID files, names that are no UTF-8.
"""

# bytes paths and descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH101, PTH108, PTH115, PTH118

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK = 1 << 20
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
