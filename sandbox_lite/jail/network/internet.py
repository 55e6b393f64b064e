"""Raw packets to every public address, carried by a program of the host's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.jail.network.mode import Mode
from sandbox_lite.jail.usernet import carriers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager


def _check() -> None:
    carriers.find()


def _files() -> Mapping[str, bytes]:
    return {"etc/resolv.conf": f"nameserver {carriers.DNS}\n".encode()}


def _carrying(holder: int, first: int) -> AbstractContextManager[str]:
    from sandbox_lite.jail.usernet import carrying  # psutil is slow to import

    return carrying.carrying(holder, first)


MODE = Mode(
    name="internet",
    summary="raw packets to every public IPv4 address; nothing of this host or its own network",
    check=_check,
    files=_files,
    carrying=_carrying,
)
