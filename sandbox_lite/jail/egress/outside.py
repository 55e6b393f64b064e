"""Connections to the outside: straight, or through the proxy that the host's environment names."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import h11

from sandbox_lite.jail.egress.addresses import Names, is_public

_CONNECT_SECONDS = 30.0
_LOOK_SECONDS = 5.0
_CHUNK = 256 * 1024


class Reader(asyncio.StreamReader):
    """Gives what had come before a connection broke; `broken` then says why it did.

    A server that answers without having read all hangs up, and the kernel sends a reset behind the
    answer. asyncio's own reader drops what it holds as soon as that comes.
    """

    broken: Exception | None = None

    def set_exception(self, exc: Exception) -> None:
        """End behind what has come."""
        self.broken = exc
        self.feed_eof()


class _Protocol(asyncio.StreamReaderProtocol):
    """Reads what had come and was not read yet when a write met the reset behind it.

    The kernel keeps what it received before a reset; asyncio closes at the first failed write.
    """

    def __init__(self, reader: Reader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._into = reader
        self._descriptor = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # below TLS stands what only TLS can read
        if transport.get_extra_info("ssl_object") is None:
            self._descriptor = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        # asyncio closes the descriptor after this call
        if exc is not None and self._descriptor >= 0:
            with contextlib.suppress(OSError):
                while data := os.read(self._descriptor, _CHUNK):
                    self._into.feed_data(data)
        super().connection_lost(exc)


Streams = tuple[Reader, asyncio.StreamWriter]


async def _open(host: str, port: int, context: ssl.SSLContext | None = None) -> Streams:
    loop = asyncio.get_running_loop()
    reader = Reader(limit=_CHUNK, loop=loop)
    protocol = _Protocol(reader, loop)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, ssl=context)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class RefusedError(Exception):
    """It must not be reached; says why, for whoever asked."""


class UnreachableError(Exception):
    """It cannot be reached; says why, for whoever asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProxy:
    """The proxy of the host's own environment."""

    host: str
    port: int
    tls: bool
    credentials: str
    """Of Proxy-Authorization; empty where there are none."""

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that it wants."""
        return [("Proxy-Authorization", f"Basic {self.credentials}")] if self.credentials else []


def host_proxy(scheme: str, host: str) -> HostProxy | None:
    """Return the proxy that the host's environment names for a scheme and a host.

    Raises:
        UnreachableError: It is one of a kind that we do not speak.
    """
    found = urllib.request.getproxies_environment()
    url = found.get(scheme) or found.get("all")
    if not url or urllib.request.proxy_bypass(host):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        own_port = parts.port
    except ValueError:
        raise UnreachableError("the host's proxy is no address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnreachableError(f"the host's proxy is of a kind not known here: {parts.scheme}")
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return HostProxy(
        host=parts.hostname,
        port=own_port or (443 if parts.scheme == "https" else 80),
        tls=parts.scheme == "https",
        credentials=base64.b64encode(pair.encode()).decode() if parts.username else "",
    )


async def check_behind_proxy(names: Names, host: str, port: int) -> None:
    """Look at what a proxy of the host's would be asked for, as far as it can be known here.

    The proxy looks names up, and may know more of them; but what is known here to be private is
    refused as on the straight way.

    Raises:
        RefusedError: It is not public.
    """
    if host == "localhost" or host.endswith(".localhost"):
        raise _not_public(host)
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            addresses = await names.resolve(host, port)
    except (OSError, TimeoutError, UnicodeError):
        return
    if addresses and not any(is_public(one) for one in addresses):
        raise _not_public(host)


def _not_public(host: str) -> RefusedError:
    # which address it is, is nothing that whoever is inside should learn
    return RefusedError(
        f"{host} has no public address; whoever started the sandbox can allow it: "
        f"allow_private {host}"
    )


async def connect(names: Names, host: str, port: int, *, private: bool) -> Streams:
    """Connect straight to a host.

    It is resolved once, and what is connected to is the address that was looked at: a name that
    answers otherwise the next time gains nothing.

    Args:
        names: Looks it up.
        host: Its name or address.
        port: Its port.
        private: Whether its address may be one that is not public.

    Raises:
        RefusedError: None of its addresses is public.
        UnreachableError: There is no way.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            addresses = await names.resolve(host, port)
    except TimeoutError:
        raise UnreachableError(f"{host} is not resolved in time") from None
    except (OSError, UnicodeError) as caught:
        why = getattr(caught, "strerror", None) or "no such name"
        raise UnreachableError(f"{host} cannot be resolved: {why}") from caught
    allowed = [one for one in addresses if private or is_public(one)]
    if addresses and not allowed:
        raise _not_public(host)
    why = "no address"
    for address in allowed:
        try:
            # each for itself: where IPv6 leads nowhere, IPv4 may
            async with asyncio.timeout(_CONNECT_SECONDS / 3):
                return await _open(address, port)
        except TimeoutError:
            why = "it does not answer"
        except OSError as caught:
            why = caught.strerror or str(caught)
    names.forget(host, port)
    raise UnreachableError(f"{host} port {port}: {why}")


async def connect_proxy(proxy: HostProxy) -> Streams:
    """Connect to the host's proxy, whose address may be any.

    Raises:
        UnreachableError: There is no way.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            context = ssl.create_default_context() if proxy.tls else None
            return await _open(proxy.host, proxy.port, context)
    except (OSError, TimeoutError) as error:
        why = str(error) or "it does not answer"
        raise UnreachableError(f"the host's own proxy cannot be reached: {why}") from error


async def tunnel(proxy: HostProxy, host: str, port: int) -> Streams:
    """Connect to a host through the host's proxy: CONNECT of RFC 9110.

    Raises:
        UnreachableError: There is no way, or the proxy refuses.
    """
    reader, writer = await connect_proxy(proxy)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            wire = h11.Connection(h11.CLIENT)
            headers = [("Host", place), *proxy.headers()]
            request = h11.Request(method="CONNECT", target=place, headers=headers)
            writer.write(wire.send(request) or b"")
            while (event := wire.next_event()) is h11.NEED_DATA:
                # line by line: what follows the head is the server's, and must not go to h11
                wire.receive_data(await reader.readuntil(b"\r\n"))
    except (
        OSError, TimeoutError, h11.ProtocolError,
        asyncio.IncompleteReadError, asyncio.LimitOverrunError,
    ) as error:  # fmt: skip
        writer.transport.abort()
        raise UnreachableError("the host's own proxy does not answer as a proxy") from error
    except BaseException:
        writer.transport.abort()
        raise
    if not isinstance(event, h11.Response) or not 200 <= event.status_code < 300:
        writer.close()
        said = event.status_code if isinstance(event, h11.Response) else "nothing"
        raise UnreachableError(f"the host's own proxy refuses {host}: it answers {said}")
    return reader, writer
