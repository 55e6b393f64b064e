"""A rootfs as one file, `tar.zst`, with its sha256 beside it: how a prebuilt one is shipped.

```
rootfs.json    what the store knows of it, its digest included
tree           the root directory
tree/...       everything below, parents first, in the order of the names' bytes
```

The same tree always gives the same bytes. Modification times are kept: Python compares those of
its sources with the ones in its byte code.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import tarfile
from contextlib import contextmanager
from io import BytesIO
from typing import IO, TYPE_CHECKING

from sandbox_lite.errors import RootfsError
from sandbox_lite.jail.rootfs.store import RootfsInfo, check_name, explained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.jail.rootfs.store import Progress, Stage, Store

_CHUNK = 1 << 20
_DESCRIPTION = "rootfs.json"
_TREE = "tree"
_DESCRIPTION_BYTES = 16 << 20
_DAMAGED = "the archive is damaged or was not made by `rootfs export`; fetch it again"


class _HashingWriter:
    """Passes on what it is given and keeps the sha256 of it."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._target.write(data)


class _CountingReader:
    """Passes on what is read and tells how far it is."""

    def __init__(self, source: IO[bytes], total: int, progress: Progress | None) -> None:
        self._source = source
        self._done = 0
        self._total = total
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._done += len(data)
        if self._progress is not None:
            self._progress("import", self._done, self._total, "bytes")
        return data


def checksum_file(archive: Path) -> Path:
    """Return where the sha256 of an archive is kept, in the form that `sha256sum -c` reads."""
    return archive.with_name(archive.name + ".sha256")


def export_archive(
    store: Store,
    name: str,
    target: Path,
    *,
    level: int = 3,
    progress: Progress | None = None,
) -> str:
    """Write a rootfs to `target` and its checksum beside it; return the sha256 of the archive.

    Args:
        store: Where the rootfs is.
        name: Its name.
        target: The file to make; one that exists is replaced at the very end.
        level: Of zstd, 1 (fast) to 19 (small).
        progress: Told the bytes of the tree done so far.

    Raises:
        RootfsError: There is no such rootfs, or the file cannot be written.
    """
    import zstandard

    with (
        store.lease(name) as rootfs,
        explained(f"export rootfs {name!r} to {target}"),
        _replacing(target) as file,
    ):
        sink = _HashingWriter(file)
        # with one worker or more zstd's output does not depend on how many there are
        compressor = zstandard.ZstdCompressor(
            level=level, threads=max(1, os.cpu_count() or 1), write_checksum=True
        )
        with (
            compressor.stream_writer(sink, closefd=False) as stream,  # type: ignore[arg-type]
            tarfile.open(
                mode="w|",
                fileobj=stream,
                format=tarfile.GNU_FORMAT,
                bufsize=_CHUNK,
                encoding="utf-8",
            ) as tar,
        ):
            _write_members(tar, store.info(name), rootfs.lowers[0], progress)
    sha256 = sink.hash.hexdigest()
    with explained(f"write the checksum of {target}"):
        checksum_file(target).write_text(f"{sha256}  {target.name}\n", encoding="utf-8")
    return sha256


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `target` once the block ends without an error."""
    if target.is_dir():
        raise IsADirectoryError(21, os.strerror(21), str(target))
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        checksum_file(target).unlink(missing_ok=True)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _write_members(
    tar: tarfile.TarFile, info: RootfsInfo, tree: Path, progress: Progress | None
) -> None:
    tar.copybufsize = _CHUNK  # type: ignore[attr-defined]
    description = info.to_json().encode()
    member = tarfile.TarInfo(_DESCRIPTION)
    member.size = len(description)
    member.mode = 0o644
    tar.addfile(member, BytesIO(description))
    paths = [tree, *_below(tree)]
    total = sum(path.lstat().st_size for path in paths)
    done = 0
    for path in paths:
        member = tar.gettarinfo(path, arcname=_member_name(tree, path))
        if not (
            member.isreg() or member.isdir() or member.issym() or member.islnk() or member.isfifo()
        ):
            raise RootfsError(f"{path} is no file, directory, link or FIFO: it cannot be archived")
        # everything belongs to uid 0 inside, whoever the builder was
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = int(member.mtime)
        if member.isreg():
            with path.open("rb") as file:
                tar.addfile(member, file)
        else:
            tar.addfile(member)
        # the archive object remembers every member: of no use here, and tens of megabytes
        tar.members.clear()  # type: ignore[attr-defined]
        done += path.lstat().st_size
        if progress is not None:
            progress("export", done, total, "bytes")


def _member_name(tree: Path, path: Path) -> str:
    return f"{_TREE}/{path.relative_to(tree)}" if path != tree else _TREE


def _below(directory: Path) -> Iterator[Path]:
    with os.scandir(directory) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        path = directory / entry.name
        yield path
        if entry.is_dir(follow_symlinks=False):
            yield from _below(path)


def import_archive(
    store: Store,
    source: Path,
    *,
    name: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> RootfsInfo:
    """Check an archive and put its rootfs into the store; return what the store knows of it.

    Nothing is in force before the archive's sha256 and the digest of the unpacked tree are right.

    Args:
        store: Where it goes.
        source: The archive.
        name: Its name in the store; by default the one it was exported under.
        sha256: Of the archive; by default the one in the file beside it.
        progress: Told the bytes of the archive read so far.

    Raises:
        RootfsError: A checksum or digest is wrong, a member is hostile, or the disk refuses.
        SpecError: It is no name.
    """
    with explained(f"import {source}"), source.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RootfsError(f"{source} is not a file", hint="name the .tar.zst file itself")
        _check(file, source, sha256 or _sha256_beside(source))
        with _reading(file, source, progress) as members:
            info = _read_description(members)
            wanted = name or info.name
            check_name(wanted)
            with store.stage(wanted) as stage:
                _Unpacker(stage).unpack(members)
                return stage.commit(
                    recipe=info.recipe,
                    suite=info.suite,
                    env=info.env,
                    packages=info.packages,
                    releases=info.releases,
                    created=info.created,
                    expected_digest=info.digest,
                    progress=progress,
                )


def _sha256_beside(source: Path) -> str:
    try:
        text = checksum_file(source).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise RootfsError(
            f"there is nothing to check {source} against",
            hint=f"give its sha256, or put it into {checksum_file(source).name} beside it",
        ) from None
    return text.split(maxsplit=1)[0] if text.strip() else ""


def _check(file: IO[bytes], source: Path, expected: str) -> None:
    if re.fullmatch(r"[0-9a-fA-F]{64}", expected) is None:
        raise RootfsError(
            f"not a sha256: {expected[:80]!r}", hint="it has 64 hexadecimal digits (sha256sum)"
        )
    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != expected.lower():
        raise RootfsError(
            f"{source} has sha256 {found}, not {expected.lower()}",
            hint="the archive is damaged or was altered; fetch it again",
        )
    file.seek(0)


Members = tuple[tarfile.TarFile, "Iterator[tarfile.TarInfo]"]


@contextmanager
def _reading(file: IO[bytes], source: Path, progress: Progress | None) -> Iterator[Members]:
    import zstandard

    counted = _CountingReader(file, os.fstat(file.fileno()).st_size, progress)
    try:
        with (
            zstandard.ZstdDecompressor().stream_reader(counted) as stream,  # type: ignore[arg-type]
            tarfile.open(mode="r|", fileobj=stream, bufsize=_CHUNK, encoding="utf-8") as tar,
        ):
            yield tar, iter(tar)
    except (zstandard.ZstdError, tarfile.TarError, EOFError) as error:
        raise RootfsError(f"{source} is no rootfs archive: {error}", hint=_DAMAGED) from error


def _read_description(members: Members) -> RootfsInfo:
    tar, iterator = members
    first = next(iterator, None)
    if first is None or first.name != _DESCRIPTION or not first.isreg():
        raise RootfsError(f"the archive does not begin with {_DESCRIPTION}", hint=_DAMAGED)
    if first.size > _DESCRIPTION_BYTES:
        raise RootfsError(f"the archive's {_DESCRIPTION} is too long", hint=_DAMAGED)
    content = tar.extractfile(first)
    assert content is not None, "a regular member has content"
    return RootfsInfo.from_json(content.read())


class _Unpacker:
    """Writes members into a stage, trusting none.

    A member's directory must be one that an earlier member made, so no path ever passes through a
    link; a hard link must name a file that an earlier member made. Symbolic links may point
    anywhere: only the jail follows them, and its root is the tree.
    """

    def __init__(self, stage: Stage) -> None:
        self._root = stage.tree
        self._directories: dict[str, tarfile.TarInfo] = {}
        self._files: set[str] = set()

    def unpack(self, members: Members) -> None:
        """Write all members, then the directories' permissions and times.

        Raises:
            RootfsError: A member is hostile or of a kind that no rootfs holds.
            OSError: The disk refuses.
        """
        tar, iterator = members
        for member in iterator:
            self._add(tar, member)
            tar.members.clear()  # type: ignore[attr-defined]
        if "" not in self._directories:
            raise RootfsError("the archive holds no tree", hint=_DAMAGED)
        for path, member in reversed(self._directories.items()):
            target = self._root / path
            target.chmod(stat.S_IMODE(member.mode) | stat.S_IRWXU)
            os.utime(target, (member.mtime, member.mtime))

    def _add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._relative(member.name)
        target = self._root / path
        if path in self._directories or path in self._files:
            raise self._hostile(member, "comes twice")
        if path and path.rpartition("/")[0] not in self._directories:
            raise self._hostile(member, "lies in no directory of the archive")
        if member.isdir():
            if path:
                target.mkdir(mode=0o700)
            self._directories[path] = member
            return
        self._files.add(path)
        if member.islnk():
            linked = self._relative(member.linkname)
            if linked not in self._files or not stat.S_ISREG((self._root / linked).lstat().st_mode):
                raise self._hostile(member, "is a hard link to no file of the archive")
            target.hardlink_to(self._root / linked)
            return
        self._make(tar, member, target)
        os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
        if member.issym():
            target.symlink_to(member.linkname)
        elif member.isfifo():
            os.mkfifo(target)
            target.chmod(stat.S_IMODE(member.mode))
        elif member.isreg():
            content = tar.extractfile(member)
            assert content is not None, "a regular member has content"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
                while chunk := content.read(_CHUNK):
                    file.write(chunk)
                os.fchmod(file.fileno(), stat.S_IMODE(member.mode) | stat.S_IRUSR)
        else:
            raise self._hostile(member, "is a device or of an unknown kind")

    def _relative(self, name: str) -> str:
        first, _, rest = name.partition("/")
        parts = rest.split("/") if rest else []
        if first != _TREE or any(part in ("", ".", "..") for part in parts):
            raise RootfsError(f"the archive's member {name!r} leaves the tree", hint=_DAMAGED)
        return rest

    def _hostile(self, member: tarfile.TarInfo, why: str) -> RootfsError:
        return RootfsError(f"the archive's member {member.name!r} {why}", hint=_DAMAGED)
