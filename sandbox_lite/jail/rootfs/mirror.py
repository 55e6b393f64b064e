"""Which Debian mirror to use, and what the host's own apt says about it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from sandbox_lite.errors import RootfsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.jail.rootfs.recipe import Recipe

MIRROR_VARIABLE = "SANDBOX_LITE_MIRROR"
SECURITY_VARIABLE = "SANDBOX_LITE_SECURITY_MIRROR"
DEFAULT = "http://deb.debian.org/debian"
DEFAULT_SECURITY = "http://deb.debian.org/debian-security"

_APT = Path("/etc/apt")
# suites by which one knows Debian's archive from Ubuntu's and from the vendors' own
_SUITE = re.compile(
    r"(oldoldstable|oldstable|stable|testing|unstable|sid"
    r"|buster|bullseye|bookworm|trixie|forky|duke)(-security|-updates)?"
)
# where mirrors have Debian's archive, and where its snapshots are
_PATH = re.compile(r"/debian(-security)?(/\d{8}T\d{6}Z)?/?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """Base addresses, without a slash at the end."""

    main: str
    security: str
    chosen_by: str
    """Who named it, for messages."""
    security_required: bool
    """Named by somebody: then its absence is an error."""


def choose(recipe: Recipe, *, mirror: str | None = None, apt: Path = _APT) -> Mirrors:
    """Return the mirrors: argument, recipe, environment, the host's apt, built-in, in this order.

    Raises:
        RootfsError: What was named is no http or https address.
    """
    own = dict(host_sources(apt))
    variable = os.environ.get(MIRROR_VARIABLE)
    main, chosen_by = next(
        (url, who)
        for url, who in (
            (mirror, "the argument"),
            (recipe.mirror, f"the recipe {recipe.name}"),
            (variable, MIRROR_VARIABLE),
            (own.get("main"), "the host's apt configuration"),
            (DEFAULT, "default"),
        )
        if url
    )
    main = _checked(main, chosen_by)
    named = recipe.security_mirror or os.environ.get(SECURITY_VARIABLE)
    if not named and main == own.get("main"):
        named = own.get("security")
    if named:
        security = _checked(named, "the security mirror")
    elif main == DEFAULT:
        security = DEFAULT_SECURITY
    else:
        # mirrors that carry it do so beside the main archive
        security = main.removesuffix("/debian") + "/debian-security"
    return Mirrors(main=main, security=security, chosen_by=chosen_by, security_required=bool(named))


def public(url: str) -> str:
    """Return an address without the user name and password in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _checked(url: str, chosen_by: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise RootfsError(
            f"not a mirror: {public(url)!r} (from {chosen_by})",
            hint=f"write an address such as {DEFAULT}",
        )
    return url.rstrip("/")


def host_sources(apt: Path = _APT) -> Iterator[tuple[str, str]]:
    """Yield `main` and `security` with the address that this host's apt uses for Debian, if any."""
    seen: set[str] = set()
    for url, suite in _entries(apt):
        kind = "security" if "-security" in suite else "main"
        if kind not in seen and urlsplit(url).scheme in ("http", "https"):
            seen.add(kind)
            yield kind, url.rstrip("/")


def _entries(apt: Path) -> Iterator[tuple[str, str]]:
    texts = [apt / "sources.list"]
    with suppress(OSError):  # a host without apt
        texts += sorted((apt / "sources.list.d").iterdir())
    for path in texts:
        parse = {".list": _one_line, ".sources": _modern}.get(path.suffix)
        if parse is None:
            continue
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        for url, suites, components in parse(text):
            # vendors name Debian's suites too, but have neither its path nor its components
            if "main" in components and _PATH.search(urlsplit(url).path):
                yield from ((url, suite) for suite in suites if _SUITE.fullmatch(suite))


def _modern(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
        if enabled and "deb" in fields.get("types", "").split():
            for url in fields.get("uris", "").split():
                yield url, fields.get("suites", "").split(), fields.get("components", "").split()


def _one_line(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0]).split()
        if len(words) >= 4 and words[0] == "deb":
            yield words[1], [words[2]], words[3:]


def ignores_valid_until(apt: Path = _APT) -> bool:
    """Return whether this host's apt accepts a Release file past its Valid-Until."""
    if apt == _APT and shutil.which("apt-config"):
        try:
            done = subprocess.run(
                ["apt-config", "dump"], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is not None and done.returncode == 0:
            return _says_no(done.stdout)
    parts = apt / "apt.conf.d"
    texts = []
    for path in (*(sorted(parts.iterdir()) if parts.is_dir() else ()), apt / "apt.conf"):
        try:
            texts.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return _says_no("\n".join(texts))


def _says_no(text: str) -> bool:
    found = re.findall(r"^\s*Acquire::Check-Valid-Until\s+([^;]+);", text, re.I | re.M)
    if not found:
        return False
    words = shlex.split(found[-1])
    return bool(words) and words[0].lower() in ("false", "no", "0", "off", "without", "disable")
