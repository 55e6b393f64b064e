"""A snapshot as one file, `tar.zst`, to be opened later or elsewhere over the same rootfs.

```
snapshot.json   format, rootfs with digest, directory, user and environment, states of shells
layer           the top directory of what lies over the rootfs, as one layer
layer/...       everything below, parents first; whiteouts as devices 0:0, attributes as in pax,
                files of holes as in GNU's sparse format 1.0
```

What the sandbox was allowed is no part of it: limits, network and mounts are asked for anew.
"""

from __future__ import annotations

# All is done on descriptors, of which pathlib knows nothing:
import base64
import contextlib
import errno
import json
import os
import secrets
import stat
import tarfile
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from typing import IO, TYPE_CHECKING, Any

from sandbox_lite.errors import HostError, RootfsError
from sandbox_lite.jail import trees
from sandbox_lite.jail.layers import frozen, opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.jail.layers import Layer
    from sandbox_lite.jail.rootfs.info import Progress

FORMAT = 1
_DESCRIPTION, _LAYER = "snapshot.json", "layer"
_DESCRIPTION_BYTES = 256 << 20
_CHUNK = 1 << 20
_XATTR = "SCHILY.xattr."
_MOST_SPARSE_BYTES = 1 << 33
"""Of data: where the header has no room for the size, tarfile takes the whole file's for it."""
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DAMAGED = "it is damaged, or was not made by `Snapshot.export`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a snapshot was beside its files."""

    rootfs: str
    """Name and digest."""
    name: str
    """Of the rootfs."""
    whole: bool
    """Its layer is a copy of the rootfs as well."""
    workdir: str
    user: str
    env: Mapping[str, str]
    shells: Mapping[str, bytes]

    def to_json(self) -> bytes:
        """Return what `snapshot.json` holds."""
        shells = {name: base64.b64encode(one).decode("ascii") for name, one in self.shells.items()}
        data = {
            "format": FORMAT, "rootfs": self.rootfs, "name": self.name, "whole": self.whole,
            "workdir": self.workdir, "user": self.user, "env": dict(self.env), "shells": shells,
        }  # fmt: skip
        return json.dumps(data, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Description:
        """Return what `to_json` wrote.

        Raises:
            RootfsError: The text is torn, or of another format version.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data["format"] != FORMAT:
                raise RootfsError(
                    f"a snapshot of format {data['format']!r}, where this program knows {FORMAT}",
                    hint="open it with the version of sandbox-lite that made it",
                )
            shells = {name: base64.b64decode(one) for name, one in data["shells"].items()}
            return cls(
                rootfs=_string(data["rootfs"]), name=_string(data["name"]),
                whole=data["whole"] is True, workdir=_string(data["workdir"]),
                user=_string(data["user"]), shells=shells,
                env={name: _string(value) for name, value in data["env"].items()},
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f"the snapshot's {_DESCRIPTION} is none: {error}"
            raise RootfsError(problem, hint=_DAMAGED) from error


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no string")
    return value


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"cannot {doing}: {error.strerror or error}") from error


def export(
    description: Description,
    layers: Sequence[Layer],
    target: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Write a snapshot to a file; one that exists is replaced at the very end.

    Args:
        description: What it is beside its files.
        layers: Its files, the lowest layer first.
        target: The file.
        progress: Told the bytes of files done so far.

    Raises:
        HostError: The file cannot be written.
    """
    import zstandard

    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with _explained(f"write a snapshot to {target}"):
        try:
            with (
                _one_layer(layers) as top,
                part.open("xb") as file,
                zstandard.ZstdCompressor(level=1, threads=-1, write_checksum=True).stream_writer(
                    file, closefd=False
                ) as stream,
                tarfile.open(
                    mode="w|", fileobj=stream, format=tarfile.PAX_FORMAT, bufsize=_CHUNK
                ) as tar,
            ):
                text = description.to_json()
                member = tarfile.TarInfo(_DESCRIPTION)
                member.size = len(text)
                tar.addfile(member, BytesIO(text))
                _Writer(tar, top, progress).write()
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _one_layer(layers: Sequence[Layer]) -> Iterator[int | None]:
    """Yield the top of all layers as one; None where there is none."""
    tops = [layer.top for layer in layers]
    if len(tops) < 2:
        with opened(*tops) as fds:
            yield fds[0] if fds else None
        return

    def fill(target: int) -> None:
        with opened(*tops) as fds:
            trees.merge(fds, target, whole=False, links=len(fds))

    layer = frozen(fill, whole=False)
    try:
        with opened(layer.top) as (top,):
            yield top
    finally:
        layer.let_go()


class _Writer:
    """Writes a layer as members of an archive."""

    def __init__(self, tar: tarfile.TarFile, top: int | None, progress: Progress | None) -> None:
        self._tar = tar
        self._top = top
        self._progress = progress
        self._done = 0
        self._linked: dict[tuple[int, int], str] = {}

    def write(self) -> None:
        if self._top is None:
            return
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            with trees.pinned_beneath(self._top, path) as pinned:
                status = os.fstat(pinned)
            flags = _FLAGS | os.O_DIRECTORY
            with (
                trees.usable(self._top, path, flags, status.st_mode) as directory,
                os.scandir(directory) as found,
            ):
                self._add(directory, path, status)
                for entry in sorted(found, key=lambda one: one.name):
                    name = os.fsencode(entry.name)
                    below = path + b"/" + name if path else name
                    one = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(one.st_mode):
                        waiting.append(below)
                    elif stat.S_ISREG(one.st_mode):
                        with trees.usable(directory, name, _FLAGS, one.st_mode) as fd:
                            self._add(fd, below, one)
                    elif not stat.S_ISSOCK(one.st_mode):
                        # a socket's server is gone, wherever this is opened
                        link = os.readlink(name, dir_fd=directory) if entry.is_symlink() else b""
                        self._add(None, below, one, link)

    def _add(self, fd: int | None, path: bytes, status: os.stat_result, link: bytes = b"") -> None:
        member = tarfile.TarInfo(f"{_LAYER}/{os.fsdecode(path)}" if path else _LAYER)
        member.mode = stat.S_IMODE(status.st_mode)
        seconds, rest = divmod(status.st_mtime_ns, 10**9)
        headers = {"mtime": f"{seconds}.{rest:09d}"}
        if stat.S_ISDIR(status.st_mode):
            member.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(status.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(link)
        elif stat.S_ISFIFO(status.st_mode):
            member.type = tarfile.FIFOTYPE
        elif trees.is_whiteout(status):
            member.type = tarfile.CHRTYPE
        elif stat.S_ISREG(status.st_mode):
            known = self._linked.setdefault((status.st_dev, status.st_ino), member.name)
            if status.st_nlink > 1 and known != member.name:
                member.type, member.linkname = tarfile.LNKTYPE, known
            else:
                member.size = status.st_size
        if fd is not None and member.type != tarfile.LNKTYPE:
            for name in os.listxattr(fd):
                value = os.getxattr(fd, name).decode("utf-8", "surrogateescape")
                headers[_XATTR + name] = value
        sparse = None
        if member.type == tarfile.REGTYPE and fd is not None:
            sparse = _sparse(fd, status)
        if sparse is not None:
            headers |= {
                "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                "GNU.sparse.name": member.name, "GNU.sparse.realsize": str(status.st_size),
            }  # fmt: skip
            member.size = sparse.size
        member.pax_headers = headers
        if member.type == tarfile.REGTYPE and fd is not None:
            if sparse is not None:
                self._tar.addfile(member, sparse)
            else:
                with os.fdopen(os.dup(fd), "rb") as file:
                    self._tar.addfile(member, file)
        else:
            self._tar.addfile(member)
        # the archive object remembers every member: of no use here, and tens of megabytes
        self._tar.members.clear()  # type: ignore[attr-defined]
        self._done += member.size
        if self._progress is not None:
            self._progress("export", self._done, None, "bytes")


class _Sparse:
    """What an archive has of a file of holes: a map of its data, and the data."""

    def __init__(self, fd: int, segments: Sequence[tuple[int, int]]) -> None:
        numbers = (len(segments), *chain.from_iterable(segments))
        text = "".join(f"{number}\n" for number in numbers).encode()
        self._fd = fd
        self._map = text + bytes(-len(text) % tarfile.BLOCKSIZE)
        self._segments = segments
        self.size = len(self._map) + sum(length for _, length in segments)
        self._pieces = self._all()
        self._rest = b""

    def _all(self) -> Iterator[bytes]:
        yield self._map
        for start, length in self._segments:
            at, end = start, start + length
            while at < end and (piece := os.pread(self._fd, min(_CHUNK, end - at), at)):
                at += len(piece)
                yield piece

    def read(self, size: int = 0, /) -> bytes:
        """Return so many bytes, fewer only at the end."""
        data = self._rest
        while len(data) < size and (piece := next(self._pieces, b"")):
            data += piece
        data, self._rest = data[:size], data[size:]
        return data


def _sparse(fd: int, status: os.stat_result) -> _Sparse | None:
    """Return what stands for a file of holes, which can be larger than any disk; else None."""
    if status.st_blocks * 512 >= status.st_size:
        return None
    segments, at = [], 0
    while at < status.st_size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            return None
        at = os.lseek(fd, start, os.SEEK_HOLE)
        segments.append((start, at - start))
    os.lseek(fd, 0, os.SEEK_SET)
    found = _Sparse(fd, segments)
    return found if found.size < min(status.st_size, _MOST_SPARSE_BYTES) else None


def load(source: Path) -> tuple[Description, tuple[Layer, ...]]:
    """Return the snapshot in a file, whose layers are the caller's to let go of.

    Raises:
        RootfsError: It is damaged, or no snapshot.
        HostError: It cannot be read, or there is no room for it.
    """
    with _reading(source) as tar:
        return _loaded(tar)


def describe(source: Path) -> Description:
    """Return what the snapshot in a file is beside its files.

    Raises:
        RootfsError: It is damaged, or no snapshot.
        HostError: It cannot be read.
    """
    with _reading(source) as tar:
        return _head(tar, iter(tar))


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[tarfile.TarFile]:
    import zstandard

    with _explained(f"open the snapshot {source}"), source.open("rb") as file:
        try:
            with (
                zstandard.ZstdDecompressor().stream_reader(file) as stream,
                tarfile.open(mode="r|", fileobj=stream, bufsize=_CHUNK) as tar,
            ):
                yield tar
        except (zstandard.ZstdError, tarfile.TarError, EOFError) as error:
            raise RootfsError(f"{source} is no snapshot: {error}", hint=_DAMAGED) from error


def _head(tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo]) -> Description:
    head = next(members, None)
    if head is None or head.name != _DESCRIPTION or head.size > _DESCRIPTION_BYTES:
        raise RootfsError(f"the snapshot does not begin with {_DESCRIPTION}", hint=_DAMAGED)
    content = tar.extractfile(head)
    return Description.from_json(b"" if content is None else content.read())


def _loaded(tar: tarfile.TarFile) -> tuple[Description, tuple[Layer, ...]]:
    members = iter(tar)
    description = _head(tar, members)
    first = next(members, None)
    if first is None:
        return description, ()
    reader = _Reader(tar, chain((first,), members))
    return description, (frozen(reader.fill, whole=description.whole),)


@dataclass(slots=True)
class _Reader:
    """Makes a layer of members, trusting none.

    The directory of each must be one that an earlier member made, so no path passes through a link;
    a hard link must name a file that an earlier member made.
    """

    tar: tarfile.TarFile
    members: Iterator[tarfile.TarInfo]
    directories: dict[bytes, tarfile.TarInfo] = field(default_factory=dict)
    files: set[bytes] = field(default_factory=set)

    def fill(self, top: int) -> None:
        for member in self.members:
            self._add(top, member)
            self.tar.members.clear()  # type: ignore[attr-defined]
        for path, member in reversed(self.directories.items()):
            fd = trees.open_beneath(top, path)
            try:
                _stamp(fd, member)
            finally:
                os.close(fd)

    def _add(self, top: int, member: tarfile.TarInfo) -> None:
        path = self._relative(member)
        if path in self.directories or path in self.files:
            raise _hostile(member, "comes twice")
        parent, _, name = path.rpartition(b"/")
        if path and parent not in self.directories:
            raise _hostile(member, "lies in no directory of it")
        if not path:
            if not member.isdir():
                raise _hostile(member, "is no directory")
            self.directories[path] = member
            return
        fd = trees.open_beneath(top, parent)
        try:
            self._make(top, fd, name, path, member)
        finally:
            os.close(fd)

    def _make(
        self, top: int, parent: int, name: bytes, path: bytes, member: tarfile.TarInfo
    ) -> None:
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=parent)
            self.directories[path] = member
            return
        if member.issym():
            os.symlink(os.fsencode(member.linkname), name, dir_fd=parent)
            return
        if member.islnk():
            linked = self._relative(member, member.linkname)
            if linked not in self.files:
                raise _hostile(member, "is a hard link to no file of it")
            trees.link_beneath(top, linked, parent, name)
        elif member.isfifo():
            os.mkfifo(name, stat.S_IMODE(member.mode), dir_fd=parent)
            return
        elif member.ischr() and not member.devmajor and not member.devminor:
            os.mknod(name, stat.S_IFCHR, device=0, dir_fd=parent)
            return
        elif member.isreg():
            content = self.tar.extractfile(member)
            assert content is not None, "a regular member has content"
            self._write(parent, name, content, member)
        else:
            raise _hostile(member, "is a device or of an unknown kind")
        self.files.add(path)

    def _write(self, parent: int, name: bytes, content: IO[bytes], member: tarfile.TarInfo) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb", 0) as file:
            if member.sparse is None:
                while chunk := content.read(_CHUNK):
                    file.write(chunk)
            else:
                self._write_sparse(file.fileno(), content, member)
            _stamp(file.fileno(), member)

    def _write_sparse(self, fd: int, content: IO[bytes], member: tarfile.TarInfo) -> None:
        os.ftruncate(fd, member.size)
        # a buffer around it asks the stream whether it can seek, which that does not know
        raw: IO[bytes] = content.raw  # type: ignore[attr-defined]
        segments: Sequence[tuple[int, int]] = member.sparse  # type: ignore[assignment]
        last = 0
        for start, length in segments:
            end = start + length
            if not last <= start <= end <= member.size:
                raise _hostile(member, "has a map of no such file")
            raw.seek(start)
            at = start
            while at < end and (chunk := raw.read(min(_CHUNK, end - at))):
                at += os.pwrite(fd, chunk, at)
            last = end

    def _relative(self, member: tarfile.TarInfo, name: str | None = None) -> bytes:
        first, _, rest = (member.name if name is None else name).partition("/")
        parts = rest.split("/") if rest else []
        if first != _LAYER or any(part in ("", ".", "..") for part in parts) or "\0" in rest:
            raise _hostile(member, "leaves the layer")
        return os.fsencode(rest)


def _stamp(fd: int, member: tarfile.TarInfo) -> None:
    for name, value in member.pax_headers.items():
        # others take privileges, or give some
        if name.startswith(_XATTR + "user."):
            with contextlib.suppress(OSError):
                os.setxattr(fd, name.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
    os.fchmod(fd, stat.S_IMODE(member.mode))
    nanoseconds = int(member.mtime * 10**9)
    os.utime(fd, ns=(nanoseconds, nanoseconds))


def _hostile(member: tarfile.TarInfo, why: str) -> RootfsError:
    return RootfsError(f"the snapshot's member {member.name!r} {why}", hint=_DAMAGED)
