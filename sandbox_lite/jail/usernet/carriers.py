"""The programs that can carry a jail's packets: which is there, and its words."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

INTERFACE = "tap0"
MTU_BYTES = 65520
"""There is no wire between: the larger, the fewer packets."""
PREFIX = "192.0.0.0/24"
OWN, GATEWAY, DNS = "192.0.0.100", "192.0.0.2", "192.0.0.3"
"""Of a range that no network may use (RFC 6890), so nobody on the host's can have them.
The last byte of each is what slirp4netns makes of such a prefix."""
_TUN = Path("/dev/net/tun")
_ROOT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The namespaces of a jail, by their paths, and how to say that the interface is there."""

    user: str
    network: str
    ready: Path
    """A FIFO."""
    ready_fd: int
    """Its writing end."""


def _pasta(place: Place) -> tuple[str, ...]:
    # As root it would become nobody, who may not enter the jail's namespaces; what it keeps of
    # root are rights over its own user namespace.
    root = ("--runas", "0:0") if os.geteuid() == _ROOT else ()
    return (
        "--foreground", "--quiet", *root,
        "--userns", place.user, "--netns", place.network, "--ns-ifname", INTERFACE,
        # nothing is carried into the jail, nor from its loopback to the host's
        "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
        "--no-map-gw", "--dns-forward", DNS,
        "--ipv4-only", "--address", OWN, "--netmask", "24", "--gateway", GATEWAY,
        "--pid", str(place.ready),
    )  # fmt: skip


def _slirp4netns(place: Place) -> tuple[str, ...]:
    # only root can take files away from it: in the user namespace of others it is not uid 0
    sandbox = ("--enable-sandbox",) if os.geteuid() == _ROOT else ()
    return (
        "--disable-host-loopback", "--cidr", PREFIX, "--mtu", str(MTU_BYTES),
        *sandbox, "--enable-seccomp", "--ready-fd", str(place.ready_fd),
        "--userns-path", place.user, "--netns-type", "path", place.network, INTERFACE,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """A program that carries packets."""

    name: str
    words: Callable[[Place], tuple[str, ...]]
    """What follows its path, for one jail."""


CARRIERS = (
    # the first keeps all its files and rights from itself, whoever starts it
    Carrier(name="pasta", words=_pasta),
    Carrier(name="slirp4netns", words=_slirp4netns),
)


def find() -> tuple[Carrier, Path]:
    """Return the carrier to use, and where it is.

    Raises:
        HostError: None is installed, or this user cannot have a network interface made.
    """
    for carrier in CARRIERS:
        path = shutil.which(carrier.name)
        if path is not None:
            _check_tun()
            return carrier, Path(path)
    raise HostError(
        "network internet needs pasta or slirp4netns, and neither is installed",
        hint="install one: apt-get install passt (it has pasta), dnf install passt, or "
        "slirp4netns; network web needs neither",
    )


def _check_tun() -> None:
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM)
        raise HostError(
            f"network internet needs {_TUN}, which cannot be opened: {error.strerror}",
            hint=f"{f'sudo chmod 0666 {_TUN}' if denied else 'sudo modprobe tun'} (in a container, "
            "give it that device); network web needs none",
        ) from error


def missing() -> HostError | None:
    """Return what network `internet` lacks on this host, with the remedy; None if nothing."""
    try:
        find()
    except HostError as error:
        return error
    return None
