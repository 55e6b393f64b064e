"""Which server a TLS client asks for, read from its first message by OpenSSL itself."""

from __future__ import annotations

import ssl
from typing import Any

HELLO_BYTES = 64 * 1024
"""More than a ClientHello has; post-quantum keys make it some thousand bytes long."""


class NotTLSError(Exception):
    """What came is no beginning of TLS."""


class Hello:
    """The beginning of one TLS conversation, fed as it comes."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._data = b""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # what the client is willing to speak is between it and the server
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.sni_callback = self._note
        self._incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, outgoing, server_side=True)

    def _note(self, _: Any, name: str | None, __: ssl.SSLContext) -> int:
        self._names.append(name or "")
        return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE

    def feed(self, data: bytes) -> str | None:
        """Return the name asked for, empty where there is none; None: it is not all there.

        RFC 6066, section 3.

        Raises:
            NotTLSError: It is none, or the name is no host name.
        """
        self._data += data
        # of such a name the ssl module could only complain on our standard error
        if _foreign_name(self._data):
            raise NotTLSError("the name is no host name")
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            if not self._names:
                raise NotTLSError(error.reason or "no TLS") from error
        return self._names[0] if self._names else None


def _foreign_name(data: bytes) -> bool:
    """Return whether something that looks like the extension holds what is not ASCII."""
    at = data.find(b"\0\0")
    while at >= 0:
        # extension server_name: type 0, its length, that of the list, kind 0, that of the name
        extension, names, kind, length = (
            int.from_bytes(data[at + start : at + end])
            for start, end in ((2, 4), (4, 6), (6, 7), (7, 9))
        )
        if extension == names + 2 == length + 5 and kind == 0:
            name = data[at + 9 : at + 9 + length]
            if len(name) == length and not name.isascii():
                return True
        at = data.find(b"\0\0", at + 1)
    return False
