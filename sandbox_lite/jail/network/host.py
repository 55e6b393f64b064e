"""The host's network as it is, the host's loopback included: asked for by name only."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.jail.network.mode import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping


def _files() -> Mapping[str, bytes]:
    # read, not bound: on most hosts it is a link to a place that the jail does not have
    with contextlib.suppress(OSError):
        return {"etc/resolv.conf": Path("/etc/resolv.conf").read_bytes()}
    return {}


MODE = Mode(
    name="host",
    summary="UNSAFE: the host's network, its loopback services included",
    shares_host=True,
    files=_files,
)
