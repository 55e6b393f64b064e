"""The package indexes of pip, apt and npm, and the mirrors that this host is set to."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib

from sandbox_lite.jail.egress import mirrors
from sandbox_lite.jail.egress.rules import Rule, parse_all
from sandbox_lite.jail.network.mode import Mode


@functools.cache
def preset() -> tuple[Rule, ...]:
    """Return the rules of `packages.toml`."""
    file = importlib.resources.files("sandbox_lite.jail.network").joinpath("packages.toml")
    return parse_all(tomllib.loads(file.read_text())["hosts"])


def _rules() -> tuple[Rule, ...]:
    return tuple(dict.fromkeys((*preset(), *mirrors.rules())))


MODE = Mode(
    name="packages", summary="the package indexes of pip, apt and npm, nothing else", rules=_rules
)
