"""Recipes: what a rootfs is made of, one TOML file each."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_lite.errors import RootfsError
from sandbox_lite.jail.rootfs.store import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYRING = Path(__file__).parent / "keyrings" / "debian-archive-keyring.pgp"
"""Public keys of the Debian archive; `keyrings/README.md` says where they are from."""

_HINT = "mend the file; the recipes that come with sandbox-lite show how it is written"


@dataclass(frozen=True, slots=True, kw_only=True)
class OlderSuite:
    """A second suite, pinned low: it gives only the packages named here and what they need."""

    suite: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a rootfs is made of, in the order of the making."""

    name: str
    suite: str
    """A code name, such as `trixie`: `stable` means another release one day."""
    description: str = ""
    components: tuple[str, ...] = ("main",)
    mirror: str | None = None
    security_mirror: str | None = None
    updates: bool = True
    """Include SUITE-updates where the mirror has it."""
    security: bool = True
    """Include SUITE-security where the mirror has it."""
    keyring: Path = KEYRING
    bootstrap: tuple[str, ...] = ()
    """Unpacked together with the essential set, apt and ca-certificates."""
    prepare: str = ""
    """Shell script inside the jail, without network, before the packages."""
    packages: tuple[str, ...] = ()
    """Installed by apt inside the jail, without recommended ones."""
    older: OlderSuite | None = None
    exclude: tuple[str, ...] = ()
    """Paths that dpkg never unpacks, now and later; shell patterns, as in `path-exclude`."""
    include: tuple[str, ...] = ()
    """Exceptions from `exclude`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Text files, by absolute path; written before the packages are installed."""
    configure: str = ""
    """Shell script inside the jail, without network, after the packages."""
    python: str = "python3"
    """The interpreter that `pip` means."""
    pip: tuple[str, ...] = ()
    finish: str = ""
    """Shell script inside the jail, without network, at the end."""
    remove: tuple[str, ...] = ()
    """Removed at the end; shell patterns beneath the root, a directory with all it holds."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Defaults of the environment in sandboxes."""
    digest: str = ""
    """`sha256:...` of the file."""


def directory() -> Path:
    """Return the directory of the recipes that came with this package."""
    package = Path(__file__).parents[2]
    installed = package / "_recipes"
    # the wheel carries them inside the package, a checkout beside it
    return installed if installed.is_dir() else package.parent / "rootfs"


def names() -> tuple[str, ...]:
    """Return the names of the recipes that came with this package."""
    return tuple(sorted(path.stem for path in directory().glob("*.toml")))


def load(name: str) -> Recipe:
    """Return a recipe by name, or from the file where `name` ends in `.toml`.

    Raises:
        RootfsError: There is none, or its text is wrong.
    """
    path = Path(name) if name.endswith(".toml") else directory() / f"{name}.toml"
    try:
        text = path.read_bytes()
    except OSError as error:
        known = ", ".join(names())
        raise RootfsError(
            f"no recipe {name!r}: {error.strerror}",
            hint=f"there are: {known}; or name a file that ends in .toml",
        ) from error
    try:
        data = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RootfsError(f"the recipe {path} is no TOML: {error}", hint=_HINT) from error
    return _recipe(data, path, "sha256:" + hashlib.sha256(text).hexdigest())


def _recipe(data: dict[str, Any], path: Path, digest: str) -> Recipe:
    if "older" in data:
        data["older"] = _checked(OlderSuite, data["older"], f"{path}, [older]")
    if "keyring" in data:
        data["keyring"] = path.parent / str(data["keyring"])
    recipe = _checked(Recipe, data, str(path))
    assert isinstance(recipe, Recipe)
    check_name(recipe.name)
    for target in recipe.files:
        if not target.startswith("/") or ".." in target.split("/"):
            raise RootfsError(
                f"the recipe {path} writes to {target!r}: not an absolute path",
                hint="name files as they are inside, such as /etc/pip.conf",
            )
    return Recipe(**{f.name: getattr(recipe, f.name) for f in fields(recipe)} | {"digest": digest})


def _checked(kind: type[Recipe | OlderSuite], data: object, where: str) -> Recipe | OlderSuite:
    if not isinstance(data, dict):
        raise RootfsError(f"the recipe {where} is no table", hint=_HINT)
    known = {f.name: f for f in fields(kind) if f.name != "digest"}
    if unknown := sorted(set(data) - set(known)):
        raise RootfsError(
            f"the recipe {where} has an unknown key {unknown[0]!r}",
            hint=f"known are: {', '.join(known)}",
        )
    required = {
        name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING
    }
    if missing := sorted(required - set(data)):
        raise RootfsError(f"the recipe {where} lacks {missing[0]!r}", hint=_HINT)
    return kind(**{name: _value(known[name].type, name, data[name], where) for name in data})


def _value(annotation: object, name: str, value: object, where: str) -> Any:
    words = str(annotation)
    if words.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif words.startswith("Mapping"):
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return dict(value)
    elif words.startswith("str"):
        if isinstance(value, str):
            return value
    elif words == "bool":
        if isinstance(value, bool):
            return value
    else:  # made by _recipe
        return value
    raise RootfsError(f"the recipe {where}: {name!r} must be {words}, not {value!r}", hint=_HINT)
