"""Copies and merges layers as overlayfs lays them out, and tells whether one has changed.

A whiteout is a character device 0:0, a directory that hides the one below carries the attribute
`user.overlay.opaque` (Linux, Documentation/filesystems/overlayfs.rst). Nothing here follows a link.
Who calls sees to it that nobody writes meanwhile.
"""

from __future__ import annotations

# All is done on descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH101
import contextlib
import errno
import hashlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox_lite.jail.access import permitted_if_ours
from sandbox_lite.jail.openat2 import BENEATH, NO_SYMLINKS, openat2
from sandbox_lite.jail.removal import remove_beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OPAQUE = "user.overlay.opaque"
"""Of a directory, with the value `y`: nothing shows in it of the layers below."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PINNED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = BENEATH | NO_SYMLINKS
_LONGEST_PATH = 4000
_SMALL = 256 * 1024
_MOST_AT_ONCE = 1 << 30
_IMMUTABLE = {errno.EXDEV, errno.EMLINK, errno.EPERM}


def is_whiteout(status: os.stat_result) -> bool:
    """Return whether an entry of an upper layer stands for one that was removed."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def open_beneath(top: int, path: bytes, flags: int = _DIRECTORY) -> int:
    """Return a descriptor of what is at a relative path, through no link.

    Raises:
        OSError: There is none, or a link is in the way.
    """
    passed, above = -1, top
    try:
        # a model may nest directories deeper than the kernel takes a path at once
        while len(path) > _LONGEST_PATH:
            at = path.rfind(b"/", 0, _LONGEST_PATH)
            step = openat2(above, path[:at], _PINNED | os.O_DIRECTORY, resolve=_BENEATH)
            if passed >= 0:
                os.close(passed)
            passed = above = step
            path = path[at + 1 :]
        return openat2(above, path or b".", flags, resolve=_BENEATH)
    finally:
        if passed >= 0:
            os.close(passed)


def link_beneath(top: int, path: bytes, directory: int, name: bytes) -> None:
    """Give what is at a relative path one more name, in an open directory.

    Raises:
        OSError: It cannot be had.
    """
    above, _, last = path.rpartition(b"/")
    with _opened(top, above) as source:
        os.link(last, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)


def is_opaque(directory: int) -> bool:
    """Return whether an open directory of an upper layer hides the one below it."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


@contextlib.contextmanager
def usable(top: int, path: bytes, flags: int, mode: int) -> Iterator[int]:
    """Open one entry; what its owner may not look into gets the permission for that moment.

    Root inside a sandbox has it of a capability. Overlayfs keeps a mode of its own in memory, so
    nobody inside sees this.
    """
    needed = stat.S_IRUSR | (stat.S_IXUSR if stat.S_ISDIR(mode) else 0)
    try:
        if os.geteuid() != 0 and mode & needed != needed:
            raise PermissionError
        fd = open_beneath(top, path, flags)
    except PermissionError:
        fd = -1
    if fd >= 0:
        try:
            yield fd
        finally:
            os.close(fd)
        return
    with pinned_beneath(top, path) as pinned:
        yield from _lifted(pinned, flags, mode, needed)


@contextlib.contextmanager
def pinned_beneath(top: int, path: bytes) -> Iterator[int]:
    """Open one entry as a mere place, whatever the directories above it forbid their owner.

    Raises:
        OSError: There is none, a link is in the way, or a directory is another user's.
    """
    with contextlib.ExitStack() as stack:
        try:
            pinned = open_beneath(top, path, _PINNED)
        except PermissionError:
            for at in (n for n, byte in enumerate(path) if byte == ord("/")):
                above = open_beneath(top, path[:at], _PINNED)
                stack.callback(os.close, above)
                stack.enter_context(permitted_if_ours(above))
            pinned = open_beneath(top, path, _PINNED)
        stack.callback(os.close, pinned)
        yield pinned


def _lifted(pinned: int, flags: int, mode: int, needed: int) -> Iterator[int]:
    # chmod cannot refuse links before Linux 6.6; this name is the very entry that was looked at
    name = f"/proc/self/fd/{pinned}"
    try:
        os.chmod(name, stat.S_IMODE(mode) | needed)
        fd = os.open(name, flags & ~os.O_NOFOLLOW)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        os.chmod(name, stat.S_IMODE(mode))


@dataclass(slots=True)
class _Copy:
    """One copying of a tree into another, which may hold lower layers already."""

    source: int
    target: int
    whole: bool
    """Nothing is below the result: whiteouts have done their work, and vanish."""
    links: bool
    """What is copied never changes again, and is linked instead."""
    linked: dict[tuple[int, int], bytes] = field(default_factory=dict)
    directories: list[tuple[bytes, os.stat_result]] = field(default_factory=list)
    tell: Callable[[int], None] | None = None

    def run(self) -> None:
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            status = self._status(path)
            with (
                usable(self.source, path, _DIRECTORY, status.st_mode) as source,
                _opened(self.target, path) as target,
                os.scandir(source) as found,
            ):
                self._attributes(source, target)
                self.directories.append((path, status))
                for entry in found:
                    name = os.fsencode(entry.name)
                    below = path + b"/" + name if path else name
                    if self._entry(source, target, name, below, entry.stat(follow_symlinks=False)):
                        waiting.append(below)
        # at the end: a directory's own mode may forbid to write to it, and each entry moves its
        # times
        for path, status in reversed(self.directories):
            pinned = open_beneath(self.target, path, _PINNED)
            try:
                self._stamp(f"/proc/self/fd/{pinned}", status)
            finally:
                os.close(pinned)

    def _status(self, path: bytes) -> os.stat_result:
        with pinned_beneath(self.source, path) as pinned:
            return os.fstat(pinned)

    def _entry(
        self, source: int, target: int, name: bytes, path: bytes, status: os.stat_result
    ) -> bool:
        """Copy one entry; return whether it is a directory, whose own entries are to come."""
        mode = status.st_mode
        there = _there(target, name)
        if stat.S_ISDIR(mode):
            with usable(source, name, _DIRECTORY, mode) as fd:
                opaque = is_opaque(fd)
            if there is not None and (opaque or not stat.S_ISDIR(there.st_mode)):
                remove_beneath(target, name)
                # what it takes the place of hid what is below
                opaque, there = True, None
            if there is None:
                os.mkdir(name, 0o700, dir_fd=target)
                if opaque and not self.whole:
                    with _opened(target, name) as fd:
                        os.setxattr(fd, OPAQUE, b"y")
            return True
        if there is not None:
            remove_beneath(target, name)
        if is_whiteout(status):
            if not self.whole:
                os.mknod(name, mode, device=0, dir_fd=target)
        elif not self._link(source, target, name, path, status):
            self._make(source, target, name, status)
        return False

    def _link(
        self, source: int, target: int, name: bytes, path: bytes, status: os.stat_result
    ) -> bool:
        try:
            if self.links and stat.S_ISREG(status.st_mode):
                os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                return True
            if status.st_nlink > 1:
                known = self.linked.setdefault((status.st_dev, status.st_ino), path)
                if known is not path:
                    link_beneath(self.target, known, target, name)
                    return True
        except OSError as error:
            if error.errno not in _IMMUTABLE:
                raise
        return False

    def _make(self, source: int, target: int, name: bytes, status: os.stat_result) -> None:
        mode = status.st_mode
        if stat.S_ISREG(mode):
            with usable(source, name, _READ, mode) as read:
                write = os.open(name, _NEW, 0o600, dir_fd=target)
                try:
                    _content(read, write, status)
                    self._attributes(read, write)
                    self._stamp(write, status)
                finally:
                    os.close(write)
            if self.tell is not None:
                self.tell(status.st_size)
            return
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            if os.geteuid() == 0:
                os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
            return
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.mknod(name, mode, dir_fd=target)
            pinned = os.open(name, _PINNED, dir_fd=target)
            try:
                self._stamp(f"/proc/self/fd/{pinned}", status)
            finally:
                os.close(pinned)
        # of other devices there are none: nobody inside can make one

    def _stamp(self, place: int | str, status: os.stat_result) -> None:
        # in this order: chown takes set-user-ID away
        if os.geteuid() == 0:
            os.chown(place, status.st_uid, status.st_gid)
        os.chmod(place, stat.S_IMODE(status.st_mode))
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _attributes(self, source: int, target: int) -> None:
        for name in os.listxattr(source):
            # those of overlayfs mean nothing in a tree that is no layer
            if self.whole and name.startswith("user.overlay."):
                continue
            # a file system may lack them, as some kernels' tmpfs does
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))


def _there(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _opened(top: int, path: bytes) -> Iterator[int]:
    fd = open_beneath(top, path)
    try:
        yield fd
    finally:
        os.close(fd)


def _content(source: int, target: int, status: os.stat_result) -> None:
    size = status.st_size
    if size <= _SMALL and status.st_blocks * 512 >= size:
        data = os.read(source, size + 1)
        while data:
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
            data = os.read(source, _SMALL)
        return
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            # a file of holes can be larger than any disk
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(source, start, os.SEEK_HOLE)
        _range(source, target, start, at)


def _range(source: int, target: int, start: int, end: int) -> None:
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        count = min(_MOST_AT_ONCE, end - start)
        try:
            # shares the blocks where the file system can
            done = os.copy_file_range(source, target, count, start, start)
            os.lseek(target, start + done, os.SEEK_SET)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            done = os.sendfile(target, source, start, count)
        if done == 0:
            return
        start += done


def copy_layer(source: int, target: int, *, tell: Callable[[int], None] | None = None) -> None:
    """Copy a layer into an empty directory: whiteouts, attributes, hard links, times and all.

    Args:
        source: Descriptor of its top; nobody writes below it meanwhile.
        target: Descriptor of the directory.
        tell: Called with the size of each file that was copied.

    Raises:
        OSError: It cannot be read or written.
    """
    _Copy(source=source, target=target, whole=False, links=False, tell=tell).run()


def merge(
    layers: Sequence[int],
    target: int,
    *,
    whole: bool,
    links: int = 0,
    tell: Callable[[int], None] | None = None,
) -> None:
    """Copy layers over each other, so that the result shows what they show together.

    Args:
        layers: Descriptors of their tops, the lowest first.
        target: Descriptor of an empty directory.
        whole: Nothing will be below the result, which is a tree and no layer.
        links: Of the first so many the files never change again: they may share them.
        tell: Called with the size of each file that was copied.

    Raises:
        OSError: One cannot be read, or the target not be written.
    """
    for number, layer in enumerate(layers):
        _Copy(
            source=layer, target=target, whole=whole, links=number < links, tell=tell
        ).run()  # fmt: skip


def fingerprint(top: int) -> bytes | None:
    """Return what no change below a directory leaves the same; None where part cannot be seen.

    It is made of the name, number, mode, size and time of last change of every entry: an overwrite
    in place shows in that time alone.
    """
    digest = hashlib.blake2b(digest_size=16)
    waiting = [b""]
    try:
        while waiting:
            path = waiting.pop()
            with _opened(top, path) as fd, os.scandir(fd) as found:
                digest.update(b"%d/" % os.fstat(fd).st_ctime_ns)
                for entry in sorted(found, key=lambda one: one.name):
                    one = entry.stat(follow_symlinks=False)
                    name = os.fsencode(entry.name)
                    digest.update(
                        b"%s/%d %d %d %d" % (name, one.st_ino, one.st_mode, one.st_size,
                                             one.st_ctime_ns)
                    )  # fmt: skip
                    if stat.S_ISDIR(one.st_mode):
                        waiting.append(path + b"/" + name if path else name)
    except PermissionError:
        return None
    return digest.digest()
