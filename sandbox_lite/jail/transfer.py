"""Copying a whole tree between the host and a sandbox, from one open directory to another.

Either side may be changed by a model while we copy, or may hold what it planted before. So every
name is one component below an open directory and is never followed where it is a link; what was
looked at is what is used. Only the kinds that are safe on a host are made: directories, regular
files without set-user-ID, links.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from sandbox_lite.errors import FileAccessError
from sandbox_lite.jail.access import DIRECTORY, FILE, fault, faults, kind_of, opened
from sandbox_lite.jail.openat2 import BENEATH, NO_SYMLINKS, kernel_file_system, openat2

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 200
_BLOCK = 1 << 30
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_UNNAMEABLE = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Something that was not copied."""

    path: str
    """Relative to what was copied."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What an upload or download did."""

    files: int
    """Regular files copied."""
    bytes: int
    """Their length."""
    skipped: tuple[Skipped, ...] = ()


def stays_inside(text: bytes, depth: int) -> bool:
    """Return whether a link leads nowhere outside the tree that is copied.

    `..` may only stand in front: behind a name, which may be another link, it would lead up from
    wherever that one ends. If every link of a tree keeps this rule, no chain of them leaves it.

    Args:
        text: What the link holds.
        depth: How many directories of the tree the link lies in.
    """
    parts = [part for part in text.split(b"/") if part not in (b"", b".")]
    up = 0
    while up < len(parts) and parts[up] == b"..":
        up += 1
    return not text.startswith(b"/") and up <= depth and b".." not in parts[up:]


def copy_data(source: int, target: int) -> int:
    """Copy a regular file's content and its holes; return its length in bytes.

    Raises:
        OSError: Reading or writing failed.
    """
    size = os.fstat(source).st_size
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole up to the end
                raise
            break
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(target, source, start, min(end - start, _BLOCK))
            if sent == 0:  # it was cut short meanwhile
                size = start
                break
            start += sent
        at = max(end, at + 1)
    os.ftruncate(target, size)
    return size


class Copier:
    """One copy of a tree.

    Args:
        into_host: Take the host's part: no link may leave the tree, the umask applies and the
            owner may always read, write and remove. Otherwise links and permissions are kept.
    """

    def __init__(self, *, into_host: bool) -> None:
        self._into_host = into_host
        self._verb = "download" if into_host else "upload"
        self._files = 0
        self._bytes = 0
        self._skipped: list[Skipped] = []
        self._links: dict[tuple[int, int], bytes] = {}
        self._top = -1

    def report(self) -> TransferReport:
        """Return what was done so far."""
        return TransferReport(files=self._files, bytes=self._bytes, skipped=tuple(self._skipped))

    def tree(self, source: int, target: int) -> None:
        """Copy what is in one open directory into another.

        Raises:
            FileAccessError: Something could not be read or written.
        """
        self._top = target
        self._directory(source, target, ())

    def file(self, source: int, target: int, name: bytes) -> None:
        """Copy one open file into an open directory under a name.

        Raises:
            FileAccessError: It could not be read or written.
        """
        self._top = target
        self._file(source, target, (name,), os.fsdecode(name))

    def _skip(self, path: str, reason: str) -> None:
        self._skipped.append(Skipped(path=path, reason=reason))

    def _directory(self, source: int, target: int, above: tuple[bytes, ...]) -> None:
        with faults(self._verb, _text(above) or "."):
            names = sorted(os.fsencode(name) for name in os.listdir(source))
        for name in names:
            path = _text((*above, name))
            try:
                self._entry(source, target, (*above, name), path)
            except OSError as error:
                if error.errno in _CHANGED:
                    self._skip(path, "it changed meanwhile")
                elif self._into_host:
                    # what a model left unreadable must not cost the rest of its work
                    self._skip(path, os.strerror(error.errno or errno.EIO))
                else:
                    raise fault(error, self._verb, path) from error
            except FileAccessError as error:
                if error.errno not in _UNNAMEABLE or error.path != path:
                    raise
                self._skip(path, "the other side cannot hold this name")

    def _entry(self, source: int, target: int, parts: tuple[bytes, ...], path: str) -> None:
        name = parts[-1]
        mode = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            if len(parts) > _DEEPEST:
                self._skip(path, f"it lies more than {_DEEPEST} directories deep")
                return
            with opened(source, name, DIRECTORY) as below:
                kernels = kernel_file_system(below)
                if kernels is None:
                    self._below(below, target, parts, path)
                else:
                    self._skip(path, f"it is the kernel's ({kernels})")
        elif stat.S_ISLNK(mode):
            self._link(source, target, parts, path)
        elif stat.S_ISREG(mode):
            with opened(source, name, FILE) as file:
                self._file(file, target, parts, path)
        else:
            self._skip(path, f"it is a {kind_of(mode)}")

    def _below(self, source: int, target: int, parts: tuple[bytes, ...], path: str) -> None:
        mode = stat.S_IMODE(os.fstat(source).st_mode) & 0o777
        with faults("write", path):
            below = self._make_directory(target, parts[-1], mode | stat.S_IRWXU)
        try:
            self._directory(source, below, parts)
            if not self._into_host:
                os.fchmod(below, mode)
        finally:
            os.close(below)

    def _make_directory(self, target: int, name: bytes, mode: int) -> int:
        try:
            os.mkdir(name, mode, dir_fd=target)
        except FileExistsError:
            found = os.stat(name, dir_fd=target, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(found):
                # a link planted by an earlier download must not take this one elsewhere
                os.unlink(name, dir_fd=target)
                os.mkdir(name, mode, dir_fd=target)
        return os.open(name, DIRECTORY, dir_fd=target)

    def _link(self, source: int, target: int, parts: tuple[bytes, ...], path: str) -> None:
        text = os.readlink(parts[-1], dir_fd=source)
        if self._into_host and not stays_inside(text, len(parts) - 1):
            self._skip(path, f"it is a link out of the tree, to {os.fsdecode(text)!r}")
            return
        with faults("write", path):
            if self._make_room(target, parts[-1], path):
                os.symlink(text, parts[-1], dir_fd=target)

    def _make_room(self, target: int, name: bytes, path: str) -> bool:
        try:
            os.unlink(name, dir_fd=target)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            self._skip(path, "a directory stands in its place")
            return False
        return True

    def _file(self, source: int, target: int, parts: tuple[bytes, ...], path: str) -> None:
        status, name = os.fstat(source), parts[-1]
        if not stat.S_ISREG(status.st_mode):
            self._skip(path, f"it is a {kind_of(status.st_mode)}")
            return
        with faults("write", path):
            if not self._make_room(target, name, path):
                return
            if status.st_nlink > 1 and self._hard_link(status, target, name):
                self._files += 1
                return
            length = self._write(source, target, name, status)
        self._files += 1
        self._bytes += length
        if status.st_nlink > 1:
            self._links[status.st_dev, status.st_ino] = b"/".join(parts)

    def _write(self, source: int, target: int, name: bytes, status: os.stat_result) -> int:
        mode = stat.S_IMODE(status.st_mode) & 0o777
        if self._into_host:
            mode |= stat.S_IRUSR | stat.S_IWUSR
        descriptor = os.open(name, _NEW, mode, dir_fd=target)
        try:
            length = copy_data(source, descriptor)
            if not self._into_host:
                os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
        except BaseException:
            os.unlink(name, dir_fd=target)  # half a file would look like a whole one
            raise
        finally:
            os.close(descriptor)
        return length

    def _hard_link(self, status: os.stat_result, target: int, name: bytes) -> bool:
        """Give a file that was copied already one more name; return whether it was and could be.

        Otherwise a file with a thousand names would fill the other side a thousand times.
        """
        first = self._links.get((status.st_dev, status.st_ino))
        if first is None:
            return False
        try:
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            pinned = openat2(self._top, first, flags, resolve=BENEATH | NO_SYMLINKS)
            try:
                os.link(f"/proc/self/fd/{pinned}", name, dst_dir_fd=target, follow_symlinks=True)
            finally:
                os.close(pinned)
        except OSError:
            return False  # no hard links there, or too many: a copy does as well
        return True


def _text(parts: tuple[bytes, ...]) -> str:
    return os.fsdecode(b"/".join(parts))
