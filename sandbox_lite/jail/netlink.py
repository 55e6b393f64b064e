"""Words of netlink(7) and their answers; of rtnetlink(7) and nftables as much as a jail needs.

Spoken in the jail's own namespace by a child of the janitor, so that no program of the host's is
needed for it, and nothing but the standard library here.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROUTE, NETFILTER = 0, 12
"""Families of netlink."""
CREATE, REPLACE = 0x400, 0x100
"""NLM_F_CREATE, NLM_F_REPLACE."""
_REQUEST, _ACK = 0x1, 0x4
_ERROR = 2
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_PATIENCE = struct.pack("ll", 5, 0)
"""struct timeval: seconds, microseconds."""

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = 10
_INET, _LOCAL_OUT = 1, 3
NFPROTO, OIF, L4PROTO = 15, 5, 16
"""Keys of the expression `meta`."""
DROP, ACCEPT = 0, 1
EQUAL, OTHER = 0, 1
_REGISTER, _VERDICT = 1, 0


def attribute(kind: int, data: bytes) -> bytes:
    """Return one attribute, padded."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """Return one attribute made of others."""
    return attribute(kind | _NESTED, b"".join(parts))


def talk(family: int, messages: Iterable[tuple[int, int, bytes]]) -> None:
    """Send messages, each its type, flags and body, and wait until the kernel has taken all.

    Raises:
        OSError: It refused one, or the kernel has no such family.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family) as kernel:
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        sent, pending = b"", 0
        for number, (kind, flags, body) in enumerate(messages):
            # the two that frame a batch are no requests of their own
            framing = kind in (_BATCH_BEGIN, _BATCH_END)
            flags |= _REQUEST if framing else _REQUEST | _ACK
            pending += not framing
            sent += _HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body
        kernel.sendto(sent, (0, 0))
        while pending:
            data = kernel.recv(1 << 16)
            while len(data) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", data, _HEADER.size)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    pending -= 1
                data = data[(length + 3) & ~3 :]


# -- nftables --------------------------------------------------------------------------------------


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def _expression(name: bytes, *parts: bytes) -> bytes:
    return nested(1, attribute(1, name + b"\0"), nested(2, *parts))


def _compared(value: bytes, operation: int) -> bytes:
    return _expression(
        b"cmp", _number(1, _REGISTER), _number(2, operation), nested(3, attribute(1, value))
    )


def meta(key: int, value: bytes, operation: int = EQUAL) -> bytes:
    """Return the expressions that compare something about a packet."""
    loaded = _expression(b"meta", _number(1, _REGISTER), _number(2, key))
    return loaded + _compared(value, operation)


def destination(network: bytes, mask: bytes) -> bytes:
    """Return the expressions that compare the address an IPv4 packet goes to."""
    loaded = _expression(
        b"payload", _number(1, _REGISTER), _number(2, 1), _number(3, 16), _number(4, 4)
    )
    masked = _expression(
        b"bitwise", _number(1, _REGISTER), _number(2, _REGISTER), _number(3, 4),
        nested(4, attribute(1, mask)), nested(5, attribute(1, bytes(4))),
    )  # fmt: skip
    return loaded + masked + _compared(network, EQUAL)


def destination_port(port: int) -> bytes:
    """Return the expressions that compare the port that a TCP or UDP packet goes to."""
    loaded = _expression(
        b"payload", _number(1, _REGISTER), _number(2, 2), _number(3, 2), _number(4, 2)
    )
    return loaded + _compared(struct.pack("!H", port), EQUAL)


def verdict(code: int) -> bytes:
    """Return the expression that ends a rule."""
    return _expression(b"immediate", _number(1, _VERDICT), nested(2, nested(2, _number(1, code))))


def set_output(rules: Sequence[bytes]) -> None:
    """Have every packet that leaves this network namespace pass these rules, else be dropped.

    Raises:
        OSError: The kernel has no nftables, or refused.
    """
    table, chain = b"sandbox-lite\0", b"out\0"
    hook = nested(4, _number(1, _LOCAL_OUT), _number(2, 0))

    def message(kind: int, *parts: bytes) -> tuple[int, int, bytes]:
        body = struct.pack("!BBH", _INET, 0, 0) + b"".join(parts)
        return _NFTABLES << 8 | kind, CREATE, body

    frame = struct.pack("!BBH", 0, 0, _NFTABLES)
    talk(NETFILTER, [
        (_BATCH_BEGIN, 0, frame),
        message(0, attribute(1, table)),
        message(3, attribute(1, table), attribute(3, chain), hook, _number(5, DROP),
                attribute(7, b"filter\0")),
        # NLM_F_APPEND
        *((kind, flags | 0x800, body) for kind, flags, body in (
            message(6, attribute(1, table), attribute(2, chain), nested(4, rule))
            for rule in rules
        )),
        (_BATCH_END, 0, frame),
    ])  # fmt: skip
