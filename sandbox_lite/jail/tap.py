"""Sets up the interface by which a jail has raw packets, and what no packet may reach.

The carrier outside carries whatever it is sent, so the jail's own kernel must not send it: routes
say at once that a network is unreachable, but a socket that is tied to the interface
(SO_BINDTODEVICE, IP_PKTINFO: anybody may) goes past all routes, "assume that the destination is on
link", ip_route_output_key. A filter of nftables is what really holds. Both belong to the network
namespace, over which nobody inside has any say. Done by a child of the janitor, in that namespace.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

from sandbox_lite.jail import netlink
from sandbox_lite.jail.forked import succeeds
from sandbox_lite.jail.netns import join

_UP = 1
_NEWLINK, _NEWADDR, _NEWROUTE = 16, 20, 24
_MAIN, _STATIC, _UNICAST, _UNREACHABLE, _ONLINK = 254, 4, 1, 7, 4
_LINK_SCOPE = 253
_SET = netlink.CREATE | netlink.REPLACE
"""Whoever was killed in the middle of it may have to begin again."""
_IPV4 = b"\x02"
"""NFPROTO_IPV4, one byte."""
_LOOPBACK = struct.pack("=I", 1)
"""The index of `lo` in every network namespace."""
_DNS_PORT = 53


def _route(
    kind: int, network: ipaddress.IPv4Network, *attributes: bytes, flags: int = 0, scope: int = 0
) -> tuple[int, int, bytes]:
    body = struct.pack(
        "=8BI", socket.AF_INET, network.prefixlen, 0, 0, _MAIN, _STATIC, scope, kind, flags
    )
    if network.prefixlen:
        body += netlink.attribute(1, network.network_address.packed)
    return _NEWROUTE, _SET, body + b"".join(attributes)


def _rules(dns: bytes, refused: list[ipaddress.IPv4Network]) -> list[bytes]:
    everywhere = b"\xff" * 4
    return [
        netlink.meta(netlink.OIF, _LOOPBACK) + netlink.verdict(netlink.ACCEPT),
        netlink.meta(netlink.NFPROTO, _IPV4, netlink.OTHER) + netlink.verdict(netlink.DROP),
        *(
            netlink.destination(dns, everywhere)
            + netlink.meta(netlink.L4PROTO, bytes([protocol]))
            + netlink.destination_port(_DNS_PORT)
            + netlink.verdict(netlink.ACCEPT)
            for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
        ),
        *(
            netlink.destination(one.network_address.packed, one.netmask.packed)
            + netlink.verdict(netlink.DROP)
            for one in refused
        ),
        netlink.verdict(netlink.ACCEPT),
    ]


def _set(
    name: str, mtu: int, own: str, gateway: str, dns: str, refused: list[str], silent: list[str]
) -> None:
    networks = [ipaddress.IPv4Network(one) for one in refused]
    hidden = [ipaddress.IPv4Network(one) for one in silent]
    address, way, server = (socket.inet_aton(one) for one in (own, gateway, dns))
    try:
        netlink.set_output(_rules(server, networks + hidden))
    except OSError as error:
        raise OSError(f"nftables: {error.strerror}") from error
    index = socket.if_nametoindex(name)
    through = netlink.attribute(4, struct.pack("=I", index))
    # addresses of version 6 change while a sandbox runs: nobody could say which are the host's
    with contextlib.suppress(OSError):
        with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:  # noqa: PTH123
            file.write("1")
    link = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _UP, _UP)
    own_body = struct.pack("=4BI", socket.AF_INET, 32, 0, 0, index)
    netlink.talk(netlink.ROUTE, [
        *(_route(_UNREACHABLE, one) for one in networks),
        (_NEWADDR, _SET,
         own_body + netlink.attribute(1, address) + netlink.attribute(2, address)),
        (_NEWLINK, 0, link + netlink.attribute(4, struct.pack("=I", mtu))),
        _route(_UNICAST, ipaddress.IPv4Network(dns), through, scope=_LINK_SCOPE),
        _route(_UNICAST, ipaddress.IPv4Network("0.0.0.0/0"), through,
               netlink.attribute(5, way), flags=_ONLINK),
    ])  # fmt: skip


def answer(order: bytes, namespace: int, orders: socket.socket) -> bool:
    """Carry out `NAME MTU OWN GATEWAY DNS REFUSED... - SILENT...`; tell whoever gave the order.

    Args:
        order: The words: the interface, its MTU in bytes, three IPv4 addresses, and the networks
            that are not to be reached, the latter of which no route tells of.
        namespace: Descriptor of the network namespace.
        orders: Where the answer goes: `yes`, or `no: ` and why.

    Returns:
        Whether it was sent.
    """

    def work() -> None:
        try:
            name, mtu, own, gateway, dns, *refused = order.decode().split()
            join(namespace)
            end = refused.index("-")
            _set(name, int(mtu), own, gateway, dns, refused[:end], refused[end + 1 :])
        except OSError as error:
            orders.send(b"no: " + str(error).encode())
        else:
            orders.send(b"yes")

    return succeeds(work)
