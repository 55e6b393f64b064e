"""Which server a TLS client asks for, read from its first message by OpenSSL itself."""

from __future__ import annotations

import ssl
from typing import Any

HELLO_BYTES = 64 * 1024
"""More than a ClientHello has; post-quantum keys make it some thousand bytes long."""


class NotTLSError(Exception):
    """What came is no beginning of TLS."""


def server_name(data: bytes) -> str | None:
    """Return the name in a ClientHello, empty where there is none; None: it is not all there.

    RFC 6066, section 3.

    Raises:
        NotTLSError: It is none.
    """
    names: list[str] = []

    def note(_: Any, name: str | None, __: ssl.SSLContext) -> int:
        names.append(name or "")
        return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE

    # a context of its own: the callback belongs to it
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.sni_callback = note
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(data)
    try:
        context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    except ssl.SSLWantReadError:
        return names[0] if names else None
    except ssl.SSLError as error:
        if not names:
            raise NotTLSError(error.reason or "no TLS") from error
    return names[0] if names else None
