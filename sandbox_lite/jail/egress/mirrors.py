"""Package mirrors that this host's own clients are set to: pip, uv, npm and apt.

Only host and port are taken; a password that stands in such an address stays outside.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sandbox_lite.errors import SpecError
from sandbox_lite.jail.egress.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARIABLES = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX",
    "UV_EXTRA_INDEX_URL", "npm_config_registry", "NPM_CONFIG_REGISTRY",
)  # fmt: skip
_PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")
_NPM_FILES = ("/etc/npmrc", "/usr/etc/npmrc", "~/.npmrc")
_APT_PLACES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d")
_LIMIT_BYTES = 1 << 20


def _text(path: str | Path) -> str:
    # RuntimeError: there is no home
    with contextlib.suppress(OSError, RuntimeError):
        with Path(path).expanduser().open("rb") as file:
            return file.read(_LIMIT_BYTES).decode(errors="replace")
    return ""


def _pip() -> Iterator[str]:
    for name in _PIP_FILES:
        parser = configparser.RawConfigParser(strict=False)
        with contextlib.suppress(configparser.Error):
            parser.read_string(_text(name))
            for section in parser.sections():
                for option in ("index-url", "extra-index-url"):
                    yield from parser.get(section, option, fallback="").split()


def _npm() -> Iterator[str]:
    for name in _NPM_FILES:
        for match in re.finditer(r"^\s*(?:@[^:=\s]+:)?registry\s*=\s*(\S+)", _text(name), re.M):
            yield match[1].strip("\"'")


def _apt() -> Iterator[str]:
    for place in _APT_PLACES:
        path = Path(place)
        files = [path]
        with contextlib.suppress(OSError):
            files += path.iterdir()
        for file in files:
            text = _text(file) if file.suffix in (".list", ".sources") else ""
            pattern = r"^URIs:(.*)$" if file.suffix == ".sources" else r"^\s*deb(?:-src)?\s(.*)$"
            for match in re.finditer(pattern, text, re.M):
                yield from match[1].split()


def rules() -> tuple[Rule, ...]:
    """Return a rule for each mirror that is reached over HTTP."""
    words = [word for name in _VARIABLES for word in os.environ.get(name, "").split()]
    found: dict[Rule, None] = {}
    for url in (*words, *_pip(), *_npm(), *_apt()):
        with contextlib.suppress(ValueError, SpecError):
            # uv gives an index a name before a `=`
            parts = urlsplit(re.sub(r"^[\w.-]+=", "", url))
            if parts.scheme in ("http", "https") and parts.hostname:
                port = f":{parts.port}" if parts.port else ""
                host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
                found[Rule.parse(host + port)] = None
    return tuple(found)
