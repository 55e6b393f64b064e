"""What is known of a root file system, in the store and in an archive."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sandbox_lite.errors import RootfsError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_lite.spec import Mount

FORMAT = 1
HOST = "host"
"""The name that stands for the host's own files."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Unit = Literal["bytes", "packages", "steps"]


class Progress(Protocol):
    """Told how far a long step is; the command line draws it."""

    def __call__(self, stage: str, done: int, total: int | None, unit: Unit, /) -> None:
        """Stage `stage` has done `done` of `total` (unknown: none)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rootfs:
    """What a sandbox is put on."""

    name: str
    digest: str
    """`sha256:...`; empty for the host's own, which nobody froze."""
    lowers: tuple[Path, ...]
    """Lower directories of the overlay, bottom first."""
    mounts: tuple[Mount, ...] = ()
    """On top of it, read-only."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Defaults of the environment inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootfsInfo:
    """What the store knows of one rootfs; `rootfs.json` holds it, and so does an archive."""

    name: str
    digest: str
    size_bytes: int
    """On disk."""
    created: str
    """ISO 8601, UTC."""
    format: int = FORMAT
    recipe: str = ""
    suite: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    """Name to version."""
    releases: Mapping[str, str] = field(default_factory=dict)
    """Suite to the date of its Release file."""
    path: Path = field(default_factory=Path)
    """Directory that holds `tree`; not stored."""

    @property
    def tree(self) -> Path:
        """The root directory itself."""
        return self.path / "tree"

    def to_json(self) -> str:
        """Return what `rootfs.json` holds."""
        data = {key: value for key, value in asdict(self).items() if key != "path"}
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, path: Path | None = None) -> RootfsInfo:
        """Return what `to_json` wrote; keys that a later version added are passed over.

        Raises:
            RootfsError: The text is torn, or of another format version.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            version = data["format"]
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(str(error)) from error
        if version != FORMAT:
            raise RootfsError(
                f"a rootfs of format {version!r}, where this program knows {FORMAT}",
                hint="build it again, or use the version of sandbox-lite that made it",
            )
        for f in fields(cls):
            if f.name in ("path", "format"):
                continue
            value, wanted = data.get(f.name, "" if f.type == "str" else {}), f.type
            if wanted == "Mapping[str, str]":
                good = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
            else:
                good = isinstance(value, int if wanted == "int" else str)
            if not good:
                raise _damaged(f"{f.name} is {str(value)[:40]!r}")
        known = {f.name for f in fields(cls)} - {"path"}
        return cls(**{k: v for k, v in data.items() if k in known}, path=path or Path())


def _damaged(why: str) -> RootfsError:
    return RootfsError(
        f"the description of a rootfs is damaged: {why}", hint="build or import it again"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """A digest recomputed."""

    name: str
    expected: str
    actual: str

    @property
    def ok(self) -> bool:
        """Whether nothing in the tree has changed since it was stored."""
        return self.expected == self.actual


def check_name(name: str) -> None:
    """Check that `name` may name a rootfs.

    Raises:
        SpecError: It may not.
    """
    if NAME.fullmatch(name) is None:
        raise SpecError(
            f"not a rootfs name: {name!r}",
            hint="use lower-case letters, digits, dots, dashes and underscores",
        )


def installed(tree: Path) -> dict[str, str]:
    """Return the version of every package that dpkg has installed in a tree."""
    found: dict[str, str] = {}
    try:
        status = (tree / "var/lib/dpkg/status").read_text(errors="replace")
    except FileNotFoundError:
        return found
    for paragraph in status.split("\n\n"):
        name = re.search(r"^Package: (\S+)$", paragraph, re.M)
        version = re.search(r"^Version: (\S+)$", paragraph, re.M)
        if name and version and "\nStatus: install ok installed" in paragraph:
            found[name[1]] = version[1]
    return found
