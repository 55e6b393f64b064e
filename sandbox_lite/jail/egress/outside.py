"""Connections to the outside: straight, or through the proxy that the host's environment names."""

from __future__ import annotations

import asyncio
import base64
import ssl
import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import h11

from sandbox_lite.jail.egress.addresses import is_public, resolve

_CONNECT_SECONDS = 30.0
_CHUNK = 256 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnreachableError(f"the host's proxy is of a kind not known here: {parts.scheme}")
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return HostProxy(
        host=parts.hostname,
        port=parts.port or (443 if parts.scheme == "https" else 80),
        tls=parts.scheme == "https",
        credentials=base64.b64encode(pair.encode()).decode() if parts.username else "",
    )


async def connect(host: str, port: int, *, private: bool) -> Streams:
    """Connect straight to a host.

    It is resolved once, and what is connected to is the address that was looked at: a name that
    answers otherwise the next time gains nothing.

    Args:
        host: Its name or address.
        port: Its port.
        private: Whether its address may be one that is not public.

    Raises:
        RefusedError: None of its addresses is public.
        UnreachableError: There is no way.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            addresses = await resolve(host, port)
            allowed = [one for one in addresses if private or is_public(one)]
            if addresses and not allowed:
                raise RefusedError(
                    f"{host} has the address {addresses[0]}, which is not public; "
                    f"whoever started the sandbox can allow it: allow_private {host}"
                )
            error: OSError | None = None
            for address in allowed:
                try:
                    return await asyncio.open_connection(address, port, limit=_CHUNK)
                except OSError as caught:
                    error = caught
    except TimeoutError:
        raise UnreachableError(f"{host} port {port} does not answer") from None
    except OSError as caught:
        raise UnreachableError(f"{host} cannot be resolved: {caught.strerror}") from caught
    raise UnreachableError(f"{host} port {port}: {error.strerror if error else 'no address'}")


async def connect_proxy(proxy: HostProxy) -> Streams:
    """Connect to the host's proxy, whose address may be any.

    Raises:
        UnreachableError: There is no way.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            context = ssl.create_default_context() if proxy.tls else None
            return await asyncio.open_connection(proxy.host, proxy.port, ssl=context, limit=_CHUNK)
    except (OSError, TimeoutError) as error:
        raise UnreachableError(f"the host's own proxy cannot be reached: {error}") from error


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
    except (OSError, TimeoutError, h11.ProtocolError, asyncio.IncompleteReadError) as error:
        writer.close()
        raise UnreachableError(f"the host's own proxy does not answer: {error}") from error
    if not isinstance(event, h11.Response) or event.status_code != 200:
        writer.close()
        said = event.status_code if isinstance(event, h11.Response) else "nothing"
        raise UnreachableError(f"the host's own proxy refuses {host}: it answers {said}")
    return reader, writer
