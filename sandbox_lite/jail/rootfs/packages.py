"""Debian's package indexes: reading them fast, and which packages a first system needs."""

from __future__ import annotations

import functools
import gzip
import lzma
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.errors import RootfsError
from sandbox_lite.jail.rootfs.download import Wanted
from sandbox_lite.jail.rootfs.mirror import public

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from debian.debian_support import Version

_HINT = "its mirror signs what is broken: use another one"
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~%/-]*\.deb")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One paragraph of an index."""

    name: str
    version: str
    mirror: str
    filename: str
    sha256: str
    size_bytes: int
    depends: tuple[tuple[str, ...], ...]
    """Of each dependency, Pre-Depends first, the alternatives' names."""

    @property
    def wanted(self) -> Wanted:
        """The file to fetch."""
        return Wanted(
            url=f"{self.mirror}/{self.filename}", sha256=self.sha256, size_bytes=self.size_bytes
        )


def decompress(data: bytes, name: str) -> bytes:
    """Return the text of an index by the suffix of its name.

    Raises:
        RootfsError: It is damaged.
    """
    try:
        if name.endswith(".xz"):
            return lzma.decompress(data)
        return gzip.decompress(data) if name.endswith(".gz") else data
    except (lzma.LZMAError, OSError, EOFError, zlib.error) as error:
        raise RootfsError(f"the package index {name} is damaged: {error}", hint=_HINT) from error


class Index:
    """All packages of some suites, of each name the highest version.

    A suite has some 65,000 paragraphs and a first system needs a hundred of them, so they stay
    text until they are asked for.
    """

    def __init__(self) -> None:
        self._paragraphs: dict[str, list[tuple[str, str]]] = {}

    def add(self, mirror: str, text: bytes) -> None:
        """Add the text of one index, whose files lie below that mirror.

        Raises:
            RootfsError: It is no package index.
        """
        for paragraph in text.decode(errors="replace").strip().split("\n\n"):
            head, _, _ = paragraph.partition("\n")
            if not head:
                continue
            if not head.startswith("Package: "):
                raise RootfsError(
                    f"a package index of {public(mirror)} has a paragraph {head[:40]!r}",
                    hint=_HINT,
                )
            self._paragraphs.setdefault(head[9:].strip(), []).append((mirror, paragraph))

    def package(self, name: str) -> Package | None:
        """Return a package, or None where there is none of that name.

        Raises:
            RootfsError: Its paragraph is wrong.
        """
        found = [_package(mirror, text) for mirror, text in self._paragraphs.get(name, ())]
        return max(found, key=_version_key) if found else None

    def essential(self) -> list[str]:
        """Return the names of the packages that every system has."""
        mark = "\nEssential: yes"
        return [n for n, found in self._paragraphs.items() if any(mark in t for _, t in found)]

    @functools.cached_property
    def _providers(self) -> dict[str, list[str]]:
        providers: dict[str, list[str]] = {}
        for name, found in self._paragraphs.items():
            for _, text in found:
                if "\nProvides: " in text:
                    for given in _names(_field(text, "Provides")):
                        providers.setdefault(given[0], []).append(name)
        return {given: sorted(set(names)) for given, names in providers.items()}

    def closure(self, names: Iterable[str]) -> list[Package]:
        """Return the packages of those names and all they depend on, ordered by name.

        Of alternatives the first that exists is taken, then the first provider: within one
        suite that is what is meant, and dpkg complains where it is not.

        Raises:
            RootfsError: A package, or something it needs, does not exist.
        """
        chosen: dict[str, Package] = {}
        provided: set[str] = set()
        pending: list[tuple[tuple[str, ...], str]] = [((name,), "") for name in names]
        while pending:
            alternatives, needed_by = pending.pop(0)
            if any(name in chosen or name in provided for name in alternatives):
                continue
            package = self._first(alternatives)
            if package is None:
                why = f", which {needed_by} needs" if needed_by else ""
                raise RootfsError(
                    f"no package {' or '.join(alternatives)}{why}",
                    hint="the recipe names it wrongly, or its suite does not have it",
                )
            chosen[package.name] = package
            for _, text in self._paragraphs[package.name]:
                provided.update(names[0] for names in _names(_field(text, "Provides")))
            pending += [(names, package.name) for names in package.depends]
        return sorted(chosen.values(), key=lambda package: package.name)

    def _first(self, alternatives: Sequence[str]) -> Package | None:
        for name in alternatives:
            if (package := self.package(name)) is not None:
                return package
        for name in alternatives:
            for provider in self._providers.get(name, ()):
                return self.package(provider)
        return None


def _field(text: str, name: str) -> str:
    start = text.find(f"\n{name}: ")
    if start < 0:
        return ""
    start += len(name) + 3
    end = text.find("\n", start)
    return text[start:] if end < 0 else text[start:end]


def _names(field: str) -> list[tuple[str, ...]]:
    """Return the alternatives of each dependency, without versions and architectures."""
    groups = []
    for group in field.split(","):
        names = tuple(
            match[0] for one in group.split("|") if (match := _NAME.match(one.strip())) is not None
        )
        if names:
            groups.append(names)
    return groups


def _package(mirror: str, text: str) -> Package:
    name = text.partition("\n")[0][9:].strip()
    filename, sha256, size = (_field(text, key) for key in ("Filename", "SHA256", "Size"))
    # these become paths and addresses; ".." has no business in them, signed or not
    sound = (
        _NAME.fullmatch(name)
        and _POOL.fullmatch(filename)
        and ".." not in filename.split("/")
        and _SHA256.fullmatch(sha256)
        and size.isdecimal()
    )
    if not sound:
        raise RootfsError(
            f"the package index of {public(mirror)} describes {name!r} wrongly", hint=_HINT
        )
    return Package(
        name=name,
        version=_field(text, "Version"),
        mirror=mirror,
        filename=filename,
        sha256=sha256,
        size_bytes=int(size),
        depends=(*_names(_field(text, "Pre-Depends")), *_names(_field(text, "Depends"))),
    )


def _version_key(package: Package) -> Version:
    from debian.debian_support import Version

    return Version(package.version)
