"""Which addresses are public, and what a name stands for."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

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


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, the preferred one first.

    Raises:
        OSError: There are none.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))
