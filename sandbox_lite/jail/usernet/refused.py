"""Which IPv4 networks a jail with raw packets must not reach."""

from __future__ import annotations

import socket
from ipaddress import IPv4Network

import psutil

NOT_PUBLIC = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, and the broadcast to all
        "168.63.129.16/32",  # Azure's own, which has secrets to tell
    )
)  # fmt: skip
"""The IANA special-purpose registry (RFC 6890) as `egress.addresses.is_public` reads it."""


def own() -> tuple[IPv4Network, ...]:
    """Return the addresses that this host has now, but for those that are refused anyway."""
    found = (
        IPv4Network(one.address)
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET
    )
    further = (one for one in found if not any(one.subnet_of(known) for known in NOT_PUBLIC))
    return tuple(dict.fromkeys(further))
