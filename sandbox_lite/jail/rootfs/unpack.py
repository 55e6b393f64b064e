"""Unpacking Debian packages into a tree, as an ordinary user and never outside of it."""

from __future__ import annotations

# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH118, PTH120, PTH211
# plain strings: a Path for each of 40,000 entries takes longer than the system calls
import os
import re
import shutil
import stat
import tarfile
from contextlib import suppress
from fnmatch import translate
from typing import TYPE_CHECKING

from sandbox_lite.errors import RootfsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LINKS_AT_MOST = 40


class PathFilter:
    """dpkg's `path-exclude` and `path-include`, for what is unpacked before there is a dpkg."""

    def __init__(self, exclude: Sequence[str], include: Sequence[str]) -> None:
        self._exclude = _pattern(exclude)
        self._include = _pattern(include)

    def excludes(self, name: str) -> bool:
        """Return whether an entry, named from the root without a leading slash, stays packed."""
        path = f"/{name}"
        return bool(self._exclude.match(path)) and not self._include.match(path)


def _pattern(patterns: Sequence[str]) -> re.Pattern[str]:
    # nothing matches the empty set
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")


def merge_usr(tree: Path, architecture: str) -> None:
    """Make `/bin`, `/sbin` and `/lib` links into `/usr`.

    Debian 12's packages still ship files below `/bin` and expect that somebody made the links;
    Debian 13's ship the links in base-files.
    """
    # x86-64's loader has its fixed place in /lib64; arm64's is in /lib
    loader = ("lib64",) if architecture == "amd64" else ()
    for name in ("bin", "sbin", "lib", *loader):
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (tree / name).is_symlink():
            (tree / name).symlink_to(f"usr/{name}")


def unpack(deb: Path, tree: Path, paths: PathFilter) -> None:
    """Unpack the files of one package into a tree.

    Every file belongs to whoever calls, directories stay writable for him, device nodes are
    left out, and set-user-ID bits too: on the host they would hand out his rights.

    Raises:
        RootfsError: It is no package, or an entry of it would leave the tree.
        OSError: The disk refuses.
    """
    from debian.arfile import ArError
    from debian.debfile import DebError, DebFile

    try:
        with DebFile(filename=str(deb)) as package, package.data.tgz() as archive:
            target = _Target(os.fspath(tree))
            for entry in archive:
                name = os.path.normpath(entry.name).lstrip("/")
                if name != "." and not paths.excludes(name):
                    target.add(archive, entry, name)
    except (DebError, ArError, tarfile.TarError, EOFError, ValueError, KeyError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the kernel's; arfile raises bare ones for a torn header
        raise _unsound(f"{deb.name} is no sound Debian package: {error}") from error


def write_file(tree: Path, path: str, text: str, *, mode: int = 0o644) -> None:
    """Write a text file of an absolute path inside, in place of what is there.

    Raises:
        RootfsError: A link on the way goes round in circles, or through a file.
        OSError: The disk refuses.
    """
    parent, _, last = os.path.normpath(path).lstrip("/").rpartition("/")
    target = os.path.join(_Target(os.fspath(tree)).directory(parent), last)
    with suppress(FileNotFoundError):
        os.unlink(target)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(target, flags, mode), "w", encoding="utf-8") as out:
        out.write(text)
        os.fchmod(out.fileno(), mode)


def _unsound(message: str) -> RootfsError:
    return RootfsError(message, hint="its mirror signs what is broken: use another one")


class _Target:
    """A tree that is being filled; `/`-rooted links in it mean its own root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._known: dict[str, str] = {"": root}

    def add(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, name: str) -> None:
        parent, _, last = name.rpartition("/")
        if last in ("", ".", ".."):
            raise _unsound(f"a package has an entry {entry.name!r}, which leaves the tree")
        path = os.path.join(self.directory(parent), last)
        if entry.isdir():
            self._add_directory(entry, path, name)
            return
        if entry.isdev():
            return
        if os.path.lexists(path):
            if os.path.isdir(path) and not os.path.islink(path):
                raise _unsound(f"a package has a file {name!r} where a directory is")
            os.unlink(path)
            self._known = {"": self.root}  # it may have been a link that others went through
        if entry.issym():
            os.symlink(entry.linkname, path)
        elif entry.islnk():
            source, _, link = os.path.normpath(entry.linkname).lstrip("/").rpartition("/")
            os.link(os.path.join(self.directory(source), link), path, follow_symlinks=False)
        elif entry.isfile():
            content = archive.extractfile(entry)
            assert content is not None, "a regular file has content"
            # O_EXCL: nothing that is there is written through
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(path, flags, 0o600), "wb") as out:
                shutil.copyfileobj(content, out, 1 << 18)
                os.fchmod(out.fileno(), entry.mode & 0o1777)
            os.utime(path, (entry.mtime, entry.mtime))

    def _add_directory(self, entry: tarfile.TarInfo, path: str, name: str) -> None:
        try:
            os.mkdir(path)
        except FileExistsError:
            # a directory of a package meets a link: keep the link (merged /usr)
            if os.path.islink(path):
                self.directory(name)
                return
            if not os.path.isdir(path):
                raise _unsound(f"a package has a directory {name!r} on a file") from None
        os.chmod(path, entry.mode & 0o1777 | stat.S_IRWXU)

    def directory(self, name: str) -> str:
        """Return the real place of a directory of the tree, made where it lacks.

        Raises:
            RootfsError: Its links go round in circles, or through a file.
        """
        if name in self._known:
            return self._known[name]
        place, pending, links = self.root, name.split("/")[::-1], 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                # the root's parent is the root itself, as for a process in the jail
                place = place if place == self.root else os.path.dirname(place)
                continue
            step = os.path.join(place, part)
            try:
                mode = os.lstat(step).st_mode
            except FileNotFoundError:
                os.mkdir(step, 0o755)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                if links > _LINKS_AT_MOST:
                    raise _unsound(f"a package has an entry below a circle of links: {name!r}")
                aim = os.readlink(step)
                place = self.root if aim.startswith("/") else place
                pending += aim.split("/")[::-1]
            elif stat.S_ISDIR(mode):
                place = step
            else:
                raise _unsound(f"a package has an entry {name!r} below a file")
        self._known[name] = place
        return place
