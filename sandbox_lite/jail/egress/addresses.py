"""Which addresses are public, and what a name stands for."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time

import psutil

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_KNOWN = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's own, which has secrets to tell
        "fec0::/10",  # site-local, as it once was
        "192.0.0.0/24",  # older Pythons know parts of it
    )
)
"""Not public, although nothing in `ipaddress` says so."""
KEPT_SECONDS = 30.0
"""Names that move with the load have answers for as short a time."""
_MOST_KEPT = 256
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does: a way round any check."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    for found in (address.ipv4_mapped, address.sixtofour, (address.teredo or (None, None))[1]):
        if found is not None:
            return found
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(text: str) -> bool:
    """Return whether an address is one of the internet's, and none of this very host's.

    Not: private, loopback, link-local (clouds tell secrets there), shared, reserved, multicast.
    """
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _KNOWN) and address not in _own()


def _own() -> set[Address]:
    found = set()
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                found.add(ipaddress.ip_address(one.address.partition("%")[0]))
    return found


class Names:
    """What one sandbox's names stand for: looked up anew only after a while.

    apt asks one host for hundreds of files, and of so many questions a name server leaves some
    without an answer, each of which costs five seconds. Of one sandbox, so that none can tell from
    the time of an answer what another asks for.
    """

    def __init__(self) -> None:
        """Know none yet."""
        self._answers: dict[tuple[str, int], tuple[float, list[str]]] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, the preferred one first.

        Raises:
            OSError: There are none.
        """
        kept = self.known(host, port)
        if kept:
            return kept
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        # the oldest goes first: a dictionary keeps the order in which its keys came
        self._answers.pop((host, port), None)
        while len(self._answers) >= _MOST_KEPT:
            del self._answers[next(iter(self._answers))]
        self._answers[host, port] = (time.monotonic(), addresses)
        return addresses

    def known(self, host: str, port: int) -> list[str]:
        """Return what is known of a host; nothing where it is to be looked up."""
        when, addresses = self._answers.get((host, port), (0.0, []))
        return addresses if time.monotonic() - when < KEPT_SECONDS else []

    def forget(self, host: str, port: int) -> None:
        """Look a host up anew the next time."""
        self._answers.pop((host, port), None)
