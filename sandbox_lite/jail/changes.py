"""What overlay layers change of those below them: pure reading, and no link is followed.

Of overlayfs this knows whiteouts (a character device 0:0) and opaque directories, in the xattrs of
an unprivileged mount. Such a mount makes no redirects and copies no file up by halves.
"""

from __future__ import annotations

# All is done on descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH208
import errno
import os
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from sandbox_lite.jail.access import FILE, kind_of, opened, permitted_if_ours
from sandbox_lite.jail.openat2 import BENEATH, NO_SYMLINKS, openat2
from sandbox_lite.jail.trees import OPAQUE, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ChangeKind = Literal["added", "changed", "deleted"]
FileType = Literal["file", "directory", "link", "fifo", "socket", "device"]
Aspect = Literal["type", "content", "mode", "owner"]

_PINNED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1 << 18
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
_NO_XATTR = (errno.ENODATA, errno.EOPNOTSUPP, *_GONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path that is not what it was."""

    path: str
    """Relative, without a leading slash; bytes that are no UTF-8 are surrogate escapes."""
    kind: ChangeKind
    type: FileType
    """What it is now; of what was deleted, what it was."""
    old_type: FileType | None = None
    """What it was; None where it was not."""
    aspects: tuple[Aspect, ...] = ()
    """What differs of what was changed; `content` is also what a link holds."""
    size_bytes: int = 0
    """Of a file or a link, now."""
    old_size_bytes: int = 0
    mode: int = 0
    """Permission bits now."""
    old_mode: int = 0
    problem: str = ""
    """Why it could not be looked at, or what is in it; then nothing is known of what is below."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """An entry of a merged view: the layers that give it, the topmost first, and its status."""

    layers: tuple[int, ...]
    status: os.stat_result


@dataclass(frozen=True, slots=True)
class _Below:
    """A directory that is still to be walked."""

    path: bytes
    new: tuple[int, ...]
    old: tuple[int, ...]
    change: Change | None = None
    """Of the directory itself."""


def changes(uppers: Sequence[int], lowers: Sequence[int]) -> Iterator[Change]:
    """Compare the merged view of all layers with the one of the lower ones alone.

    A file that was copied up and is the same yet is no change, and neither are times, extended
    attributes and the number of names that a file has. The top directory itself is not compared.

    Args:
        uppers: Descriptors of the layers' top directories, the bottom one first; they stay open
            and the caller's. A directory of the caller's that he may not read is given that
            permission while it is looked at.
        lowers: Likewise those below; nothing of them is touched.

    Yields:
        Changes by path, a directory before what is in it; of a directory that was added or deleted
        everything in it.

    Raises:
        OSError: There are no descriptors left, or the disk is broken.
        HostError: The kernel has no openat2.
    """
    return _Comparison((*lowers, *uppers), tuple(range(len(lowers))), len(lowers)).walk()


def compare(old: Sequence[int], new: Sequence[int], base: Sequence[int]) -> Iterator[Change]:
    """Compare two stacks of layers over the same ones; see `changes`.

    Args:
        old: Descriptors of the top directories of the one, the bottom one first.
        new: Those of the other.
        base: Those below both.
    """
    layers = (*base, *old, *new)
    return _Comparison(layers, tuple(range(len(base) + len(old))), len(base), len(old)).walk()


class _Comparison:
    def __init__(
        self, layers: Sequence[int], old: Sequence[int], first_upper: int, replaced: int = 0
    ) -> None:
        """Name each layer by its place among all.

        Args:
            layers: All, the bottom one first.
            old: Those of the view that is compared with, in the same order.
            first_upper: The first that is no lower one.
            replaced: How many from there on the new view lacks.
        """
        self._roots = layers
        self._first_upper = first_upper
        everything = reversed(range(len(layers)))
        gone = range(first_upper, first_upper + replaced)
        self._new = tuple(n for n in everything if n not in gone)
        self._old = tuple(reversed(old))

    def walk(self) -> Iterator[Change]:
        # not by recursion: a model may nest directories as deep as a path is long
        pending = [iter(self._directory(_Below(b"", self._new, self._old)))]
        while pending:
            found = next(pending[-1], None)
            if found is None:
                pending.pop()
            elif isinstance(found, Change):
                yield found
            else:
                try:
                    inside = self._directory(found)
                except OSError as error:
                    if error.errno not in _UNREADABLE:
                        raise
                    yield _unread(found, error)
                else:
                    if found.change is not None:
                        yield found.change
                    pending.append(iter(inside))

    def _directory(self, one: _Below) -> list[Change | _Below]:
        """Return what differs in one directory, with the directories in it that may differ."""
        found: list[Change | _Below] = []
        with ExitStack() as stack:
            fds: dict[int, int] = {}
            names: set[bytes] = set()
            for layer in dict.fromkeys((*one.new, *one.old)):
                try:
                    fds[layer] = stack.enter_context(self._opened(layer, one.path))
                except OSError as error:
                    if error.errno in _GONE:
                        continue
                    raise
                # a layer of both views that lies below the others changes nothing by itself
                if (layer in one.new) != (layer in one.old):
                    names.update(map(os.fsencode, os.listdir(fds[layer])))
            for name in sorted(names):
                path = one.path + b"/" + name if one.path else name
                new = self._look(fds, one.new, name)
                old = self._look(fds, one.old, name)
                change = self._compare(fds, name, path, new, old)
                inside = _Below(path, _directories(new), _directories(old), change)
                if inside.new != inside.old:
                    found.append(inside)
                elif change is not None:
                    found.append(change)
        return found

    @contextmanager
    def _opened(self, layer: int, path: bytes) -> Iterator[int]:
        root, name = self._roots[layer], path or b"."
        with ExitStack() as stack:
            try:
                descriptor = _listed(root, name)
            except PermissionError:
                if layer < self._first_upper:
                    raise
                parts = path.split(b"/")
                for count in range(1, len(parts) + 1):
                    pinned = openat2(
                        root, b"/".join(parts[:count]), _PINNED, resolve=BENEATH | NO_SYMLINKS
                    )
                    stack.callback(os.close, pinned)
                    stack.enter_context(permitted_if_ours(pinned))
                descriptor = _listed(root, name)
            stack.callback(os.close, descriptor)
            yield descriptor

    def _look(self, fds: dict[int, int], layers: Sequence[int], name: bytes) -> _Seen | None:
        """Return what a merged directory shows under a name."""
        giving: list[int] = []
        top: os.stat_result | None = None
        for layer in layers:
            if layer not in fds:
                continue
            try:
                status = os.stat(name, dir_fd=fds[layer], follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                giving.append(layer)
                top = top or status
                if layer == layers[-1] or not self._opaque(fds[layer], name, layer):
                    continue
            elif top is None and not is_whiteout(status):
                return _Seen((layer,), status)
            # below a whiteout, another kind of file or an opaque directory nothing shows
            break
        return None if top is None else _Seen(tuple(giving), top)

    def _opaque(self, parent: int, name: bytes, layer: int) -> bool:
        try:
            pinned = os.open(name, _PINNED, dir_fd=parent)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        place = f"/proc/self/fd/{pinned}"
        try:
            try:
                return os.getxattr(place, OPAQUE) == b"y"
            except PermissionError:
                if layer < self._first_upper:
                    return False
                with permitted_if_ours(pinned):
                    return os.getxattr(place, OPAQUE) == b"y"
        except OSError as error:
            if error.errno in _NO_XATTR or isinstance(error, PermissionError):
                return False
            raise
        finally:
            os.close(pinned)

    def _compare(
        self, fds: dict[int, int], name: bytes, path: bytes, new: _Seen | None, old: _Seen | None
    ) -> Change | None:
        if new is None and old is None:
            return None
        if new is None or old is None:
            return _change(path, new, old)
        # what shows from the same layer is the same
        if new.layers[0] == old.layers[0]:
            return None
        aspects: list[Aspect] = []
        problem = ""
        if kind_of(new.status.st_mode) != kind_of(old.status.st_mode):
            aspects.append("type")
        else:
            try:
                if not self._same_content(fds, name, new, old):
                    aspects.append("content")
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, *_GONE):
                    raise
                # what cannot be compared is not said to be the same
                aspects.append("content")
                problem = os.strerror(error.errno)
            # a link's mode means nothing
            link = stat.S_ISLNK(new.status.st_mode)
            if not link and stat.S_IMODE(new.status.st_mode) != stat.S_IMODE(old.status.st_mode):
                aspects.append("mode")
        if _owner(new.status) != _owner(old.status):
            aspects.append("owner")
        return _change(path, new, old, tuple(aspects), problem) if aspects else None

    def _same_content(self, fds: dict[int, int], name: bytes, new: _Seen, old: _Seen) -> bool:
        mode = new.status.st_mode
        upper, lower = fds[new.layers[0]], fds[old.layers[0]]
        if stat.S_ISLNK(mode):
            return os.readlink(name, dir_fd=upper) == os.readlink(name, dir_fd=lower)
        if not stat.S_ISREG(mode):
            return stat.S_ISDIR(mode) or new.status.st_rdev == old.status.st_rdev
        if new.status.st_size != old.status.st_size:
            return False
        # equal times prove nothing: `touch -r` and every unpacker set them
        # of a lower one nothing is touched
        ours = old.layers[0] >= self._first_upper
        other = opened(lower, name, FILE) if ours else _opened_lower(lower, name)
        with opened(upper, name, FILE) as left, other as right:
            return same_bytes(left, right)


def _listed(root: int, path: bytes) -> int:
    descriptor = -1
    resolve = BENEATH | NO_SYMLINKS
    # the kernel grants O_NOATIME to a directory's owner alone
    with suppress(PermissionError):
        descriptor = openat2(root, path, _LISTED | os.O_NOATIME, resolve=resolve)
    if descriptor < 0:
        descriptor = openat2(root, path, _LISTED, resolve=resolve)
    try:
        # one that may be listed and not searched shows names and nothing else
        os.stat(b".", dir_fd=descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _opened_lower(parent: int, name: bytes) -> Iterator[int]:
    descriptor = open_untouched(parent, name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_untouched(parent: int, name: bytes, flags: int = FILE) -> int:
    """Return a descriptor of an entry of an open directory; reading it leaves no time behind.

    Raises:
        OSError: It cannot be opened, or is a link.
    """
    # the kernel grants O_NOATIME to a file's owner alone
    with suppress(PermissionError):
        return os.open(name, flags | os.O_NOATIME, dir_fd=parent)
    return os.open(name, flags, dir_fd=parent)


def same_bytes(one: int, other: int) -> bool:
    """Return whether two open files hold the same."""
    at = 0
    while True:
        left, right = os.pread(one, _CHUNK, at), os.pread(other, _CHUNK, at)
        # one of them may be growing: a short read is compared as far as it goes
        length = min(len(left), len(right))
        if left[:length] != right[:length] or (not length and left != right):
            return False
        if not length:
            return True
        at += length
        if not any(left[-1:]):
            # a file of holes can be larger than any disk
            at = max(at, min(_next_data(one, at), _next_data(other, at)))


def _next_data(file: int, at: int) -> int:
    """Return where the first bytes from there on are that are no hole; the end where none are."""
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        return os.fstat(file).st_size if error.errno == errno.ENXIO else at


def _directories(seen: _Seen | None) -> tuple[int, ...]:
    return () if seen is None or not stat.S_ISDIR(seen.status.st_mode) else seen.layers


def _owner(status: os.stat_result) -> tuple[int, int]:
    return status.st_uid, status.st_gid


def _type(seen: _Seen) -> FileType:
    return cast("FileType", kind_of(seen.status.st_mode))


def _size(seen: _Seen | None) -> int:
    if seen is None:
        return 0
    mode = seen.status.st_mode
    return seen.status.st_size if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else 0


def _mode(seen: _Seen | None) -> int:
    return 0 if seen is None else stat.S_IMODE(seen.status.st_mode)


def _change(
    path: bytes,
    new: _Seen | None,
    old: _Seen | None,
    aspects: tuple[Aspect, ...] = (),
    problem: str = "",
) -> Change:
    shown = new or old
    assert shown is not None
    kind: ChangeKind = "deleted" if new is None else "added" if old is None else "changed"
    return Change(
        path=os.fsdecode(path), kind=kind, type=_type(shown),
        old_type=None if old is None else _type(old), aspects=aspects,
        size_bytes=_size(new), old_size_bytes=_size(old),
        mode=_mode(new), old_mode=_mode(old), problem=problem,
    )  # fmt: skip


def _unread(one: _Below, error: OSError) -> Change:
    problem = os.strerror(error.errno or errno.EIO)
    if one.change is not None:
        return replace(one.change, problem=problem)
    # the directory itself is as it was
    return Change(
        path=os.fsdecode(one.path), kind="changed", type="directory", old_type="directory",
        problem=problem,
    )  # fmt: skip
