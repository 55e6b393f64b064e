"""Byte-exact access to a sandbox's files beneath a descriptor of its root.

Every path is resolved by the kernel as inside the sandbox (openat2 with RESOLVE_IN_ROOT): absolute
links and `..` stop at the sandbox's root. Nothing else would do: opening `/proc/PID/root/x` by its
name follows an absolute link of the model's into the host.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from sandbox_lite.errors import FileAccessError
from sandbox_lite.jail.access import (
    DIRECTORY,
    fault,
    faults,
    kind_of,
    permitted_if_ours,
    refuse_kernels,
)
from sandbox_lite.jail.openat2 import IN_ROOT, NO_MAGICLINKS, openat2
from sandbox_lite.jail.removal import remove_beneath
from sandbox_lite.jail.transfer import Copier, TransferReport

if TYPE_CHECKING:
    from collections.abc import Iterator

# descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH101, PTH118

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PINNED = os.O_PATH | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Kind = Literal["file", "directory", "link", "fifo", "socket", "device"]


def _open(root: int, path: bytes, flags: int) -> int:
    return openat2(root, path, flags, resolve=IN_ROOT | NO_MAGICLINKS, mode=0o644)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One entry of a directory inside."""

    name: str
    """Bytes that are no UTF-8 are surrogate escapes, as everywhere in Python."""
    kind: Kind
    size_bytes: int
    mode: int
    """Permission bits."""
    target: str | None = None
    """What a link holds."""


class Files:
    """The files of one sandbox. Any number of threads may use it at once.

    Paths are those inside; relative ones start at `workdir`.

    Args:
        root: Descriptor of the sandbox's root directory; it stays the caller's.
        workdir: Absolute path inside.
    """

    def __init__(self, root: int, *, workdir: str = "/") -> None:
        self._root = root
        self._workdir = workdir
        self.writes = 0
        """How often something was written or removed, or may have been."""

    def read(self, path: str | os.PathLike[str], *, max_bytes: int | None = None) -> bytes:
        """Return the content of a regular file.

        Args:
            path: Links are followed, inside the sandbox.
            max_bytes: Refuse a longer file (errno EFBIG) instead of reading it.

        Raises:
            FileAccessError: There is none, it is no regular file, or it is too long.
        """
        shown, raw = self._paths(path)
        with self._opened(raw, _READ, "read", shown) as descriptor:
            self._require_file(descriptor, "read", shown)
            refuse_kernels(descriptor, "read", shown)
            with faults("read", shown), os.fdopen(descriptor, "rb", 0, closefd=False) as file:
                if max_bytes is None:
                    return file.readall()
                found = bytearray()
                while len(found) <= max_bytes:
                    chunk = file.read(min(1 << 20, max_bytes + 1 - len(found)))
                    if not chunk:
                        return bytes(found)
                    found += chunk
        raise FileAccessError(
            f"cannot read {shown!r}: it is longer than {max_bytes} bytes",
            errno=errno.EFBIG,
            path=shown,
        )

    def write(
        self, path: str | os.PathLike[str], data: bytes | str, *, mode: int | None = None
    ) -> None:
        """Write a regular file in place, making it and the directories above where they lack.

        Args:
            path: Links are followed, inside the sandbox.
            data: Text is written as UTF-8.
            mode: Permission bits; by default 0644 for a new file, unchanged for another.

        Raises:
            FileAccessError: It is no regular file, or cannot be written.
        """
        shown, raw = self._paths(path)
        content = data.encode(errors="surrogateescape") if isinstance(data, str) else data
        with ExitStack() as stack:
            stack.enter_context(self._writing())
            try:
                descriptor = stack.enter_context(self._opened(raw, _WRITE, "write", shown))
            except FileAccessError as error:
                if error.errno != errno.ENOENT:
                    raise
                self._make_parents(raw, shown)
                descriptor = stack.enter_context(
                    self._opened(raw, _WRITE | os.O_CREAT, "write", shown)
                )
                # the umask of the host's program has no meaning inside
                mode = 0o644 if mode is None else mode
            self._require_file(descriptor, "write", shown)
            refuse_kernels(descriptor, "write", shown)
            with faults("write", shown):
                os.ftruncate(descriptor, 0)
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
                if mode is not None:
                    os.fchmod(descriptor, mode)

    def list(self, path: str | os.PathLike[str] = ".") -> tuple[FileEntry, ...]:
        """Return the entries of a directory, by name.

        Raises:
            FileAccessError: There is none, or it is no directory.
        """
        shown, raw = self._paths(path)
        entries = []
        with self._opened(raw, _LISTED, "list", shown) as descriptor, faults("list", shown):
            refuse_kernels(descriptor, "list", shown)
            with os.scandir(descriptor) as found:
                for item in found:
                    try:
                        status = item.stat(follow_symlinks=False)
                        link = stat.S_ISLNK(status.st_mode)
                        target = os.readlink(item.name, dir_fd=descriptor) if link else None
                    except FileNotFoundError:
                        continue
                    entries.append(
                        FileEntry(
                            name=item.name,
                            kind=cast("Kind", kind_of(status.st_mode)),
                            size_bytes=status.st_size,
                            mode=stat.S_IMODE(status.st_mode),
                            target=target,
                        )
                    )
        return tuple(sorted(entries, key=lambda entry: entry.name))

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """Return whether something is there; a link counts if it leads to something inside.

        Raises:
            FileAccessError: It cannot be told.
        """
        shown, raw = self._paths(path)
        try:
            with self._opened(raw, _PINNED, "look at", shown):
                return True
        except FileAccessError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise

    def remove(self, path: str | os.PathLike[str], *, recursive: bool = False) -> None:
        """Remove a file, a link itself, an empty directory, or with `recursive` any directory.

        Raises:
            FileAccessError: There is none, or it cannot be removed.
        """
        shown, raw = self._paths(path)
        above, _, name = raw.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise FileAccessError(f"cannot remove {shown!r}", errno=errno.EINVAL, path=shown)
        flags = _PINNED | os.O_DIRECTORY
        with self._writing(), self._opened(above or b"/", flags, "remove", shown) as parent:
            refuse_kernels(parent, "remove", shown)
            with faults("remove", shown), permitted_if_ours(parent):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    os.unlink(name, dir_fd=parent)
                elif recursive:
                    remove_beneath(parent, name)
                else:
                    os.rmdir(name, dir_fd=parent)

    def upload(
        self, source: str | os.PathLike[str], target: str | os.PathLike[str]
    ) -> TransferReport:
        """Copy a file, or what is in a directory, of the host into the sandbox.

        Links are copied as links. Permissions stay but for set-user-ID, set-group-ID and sticky.
        What is there already stays unless it has the same name.

        Args:
            source: On the host.
            target: Inside: the file's new path, or the directory for its content.

        Returns:
            What was copied, and the FIFOs, devices and sockets that were not.

        Raises:
            FileAccessError: Something could not be read or written.
        """
        shown, raw = self._paths(target)
        source = Path(source)
        copier = Copier(into_host=False)
        with ExitStack() as stack:
            stack.enter_context(self._writing())
            with faults("upload", str(source)):
                outside = os.open(source, _READ)
                stack.callback(os.close, outside)
                directory = stat.S_ISDIR(os.fstat(outside).st_mode)
            if directory:
                self._make_parents(raw + b"/.", shown)
                inside = stack.enter_context(self._opened(raw, _LISTED, "write", shown))
                refuse_kernels(inside, "write", shown)
                copier.tree(outside, inside)
            else:
                self._require_file(outside, "upload", str(source))
                self._make_parents(raw, shown)
                above, _, name = raw.rpartition(b"/")
                if name in (b"", b".", b".."):
                    raise FileAccessError(
                        f"cannot write {shown!r}: it names a directory",
                        errno=errno.EISDIR,
                        path=shown,
                    )
                inside = stack.enter_context(self._opened(above or b"/", _LISTED, "write", shown))
                refuse_kernels(inside, "write", shown)
                copier.file(outside, inside, name)
        return copier.report()

    def download(
        self, path: str | os.PathLike[str], directory: str | os.PathLike[str]
    ) -> TransferReport:
        """Copy a file, or what is in a directory, of the sandbox into a directory of the host.

        Nothing is written outside that directory, whatever the sandbox holds or does meanwhile.

        Args:
            path: Inside.
            directory: On the host; made where it lacks.

        Returns:
            What was copied, and what was not: links that leave the tree, FIFOs, devices, sockets.

        Raises:
            FileAccessError: Something could not be read or written.
        """
        shown, raw = self._paths(path)
        copier = Copier(into_host=True)
        with self._opened(raw, _READ, "download", shown) as inside:
            refuse_kernels(inside, "download", shown)
            with faults("write", str(directory)):
                Path(directory).mkdir(parents=True, exist_ok=True)
                # the directory itself may be the user's link, what is below may not
                outside = os.open(directory, DIRECTORY & ~os.O_NOFOLLOW)
            try:
                if stat.S_ISDIR(os.fstat(inside).st_mode):
                    copier.tree(inside, outside)
                else:
                    self._require_file(inside, "download", shown)
                    copier.file(inside, outside, raw.rpartition(b"/")[2])
            finally:
                os.close(outside)
        return copier.report()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.writes += 1
        try:
            yield
        finally:
            # once more: who looked in the middle of it must see a difference afterwards
            self.writes += 1

    def _paths(self, path: str | os.PathLike[str]) -> tuple[str, bytes]:
        """Return the absolute path inside, for people and for the kernel."""
        given = os.fspath(path)
        if not given or "\0" in given:
            # the kernel would take the part before a NUL for the whole
            raise FileAccessError(f"not a path: {given!r}", errno=errno.EINVAL, path=given)
        shown = os.path.join(self._workdir, given)
        return shown, os.fsencode(shown)

    @contextmanager
    def _opened(self, path: bytes, flags: int, doing: str, shown: str) -> Iterator[int]:
        with ExitStack() as stack:
            try:
                try:
                    descriptor = _open(self._root, path, flags)
                except PermissionError:
                    self._permit(path, stack)
                    descriptor = _open(self._root, path, flags)
            except OSError as error:
                raise fault(error, doing, shown) from error
            stack.callback(os.close, descriptor)
            yield descriptor

    def _permit(self, path: bytes, stack: ExitStack) -> None:
        """Give us what uid 0 inside has anyway, on every directory of a path, until `stack` ends.

        Raises:
            OSError: One of them belongs to another user, or is not there.
        """
        parts = [part for part in path.split(b"/") if part]
        for count in range(1, len(parts) + 1):
            try:
                pinned = _open(self._root, b"/".join(parts[:count]), _PINNED)
            except FileNotFoundError:
                return  # the open to come says so, or makes it
            stack.callback(os.close, pinned)
            stack.enter_context(permitted_if_ours(pinned))

    def _make_parents(self, path: bytes, shown: str) -> None:
        parts = [part for part in path.split(b"/") if part][:-1]
        with ExitStack() as stack, faults("write", shown):
            above = self._root
            for count in range(1, len(parts) + 1):
                so_far = b"/".join(parts[:count])
                above = self._make_directory(above, parts[count - 1], so_far)
                stack.callback(os.close, above)
                stack.enter_context(permitted_if_ours(above))

    def _make_directory(self, above: int, name: bytes, so_far: bytes) -> int:
        flags = _PINNED | os.O_DIRECTORY
        with suppress(FileNotFoundError):
            return _open(self._root, so_far, flags)
        try:
            os.mkdir(name, 0o755, dir_fd=above)
        except FileExistsError:
            # another thread made it, or it is a link to nowhere: then this raises
            return _open(self._root, so_far, flags)
        made = _open(self._root, so_far, flags)
        # the umask of the host's program has no meaning inside
        os.chmod(f"/proc/self/fd/{made}", 0o755)
        return made

    def _require_file(self, descriptor: int, doing: str, shown: str) -> None:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise FileAccessError(
            f"cannot {doing} {shown!r}: it is a {kind_of(mode)}, not a regular file",
            errno=number,
            path=shown,
        )
