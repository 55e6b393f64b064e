"""The proxy of one sandbox: lets out what its policy allows, and writes down every request.

It listens on a socket that was made inside the jail's network and is served from here: inside there
is no process of ours, no name server and no route. RFC 9110 for CONNECT, RFC 9112 for plain HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11

from sandbox_lite.jail.egress import outside
from sandbox_lite.jail.egress.hello import HELLO_BYTES, NotTLSError, server_name
from sandbox_lite.jail.egress.outside import RefusedError, Streams, UnreachableError
from sandbox_lite.jail.egress.rules import canonical
from sandbox_lite.spec import NetworkRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.jail.egress.rules import Policy
    from sandbox_lite.spec import Verdict

MOST_CONNECTIONS = 128
"""At once, of one sandbox; more are turned away."""
MOST_REMEMBERED = 10_000
_CHUNK = 256 * 1024
_HELLO_SECONDS = 30.0
_IDLE_SECONDS = 600.0
_HEAD_BYTES = 64 * 1024
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer "
    b"upgrade expect host".split()
)
"""They concern one connection only, RFC 9110 section 7.6.1; `Host` is written anew."""


@dataclass(slots=True)
class _Entry:
    """A request that is being served."""

    method: str
    host: str = ""
    port: int = 0
    verdict: Verdict = "allowed"
    reason: str = ""
    sent: int = 0
    received: int = 0
    when: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)

    def done(self) -> NetworkRequest:
        return NetworkRequest(
            when=round(self.when, 3), method=self.method, host=self.host, port=self.port,
            verdict=self.verdict, reason=self.reason, sent_bytes=self.sent,
            received_bytes=self.received, seconds=round(time.monotonic() - self.began, 3),
        )  # fmt: skip


class _Wire:
    """One side of an HTTP/1.1 conversation."""

    def __init__(self, role: type[h11.CLIENT | h11.SERVER], streams: Streams) -> None:
        self.reader, self.writer = streams
        self.http = h11.Connection(role, max_incomplete_event_size=_HEAD_BYTES)

    async def event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            async with asyncio.timeout(_IDLE_SECONDS):
                self.http.receive_data(await self.reader.read(_CHUNK))

    async def send(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()


class Proxy:
    """Serves one sandbox; all of it but `note` and the logs runs on one event loop."""

    def __init__(self, policy: Callable[[], Policy]) -> None:
        """Take what says what is allowed, at each request anew."""
        self._policy = policy
        self._requests: deque[NetworkRequest] = deque(maxlen=MOST_REMEMBERED)
        self._count = 0
        self._connections: set[asyncio.Task[None]] = set()

    # -- what happened ----------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many requests there have been."""
        return self._count

    def since(self, count: int) -> tuple[NetworkRequest, ...]:
        """Return the requests after the first so many, of those that are remembered."""
        fresh = self._count - count
        return tuple(self._requests)[-fresh:] if fresh > 0 else ()

    def _note(self, entry: _Entry) -> None:
        self._requests.append(entry.done())
        self._count += 1

    # -- serving ----------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the sandbox to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            wire = _Wire(h11.SERVER, (reader, writer))
            if len(self._connections) > MOST_CONNECTIONS:
                text = (
                    f"this sandbox may have {MOST_CONNECTIONS} connections to the outside at once"
                )
                entry = _Entry("", verdict="refused", reason=text)
                self._note(entry)
                await _refuse(wire, 503, text)
                return
            while await self._request(wire):
                wire.http.start_next_cycle()
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # the client has gone, or talks nonsense: there is nobody to tell
        finally:
            self._connections.discard(task)
            writer.close()

    async def end(self) -> None:
        """End all connections."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _request(self, wire: _Wire) -> bool:
        """Serve one request; whether another may follow on the same connection."""
        request = await wire.event()
        if not isinstance(request, h11.Request):
            return False
        entry = _Entry(request.method.decode("ascii", "replace"))
        again, status = False, 0
        try:
            if request.method == b"CONNECT":
                await self._tunnel(wire, request, entry)
            else:
                again = await self._forward(wire, request, entry)
        except RefusedError as refusal:
            entry.verdict, entry.reason, status = "refused", str(refusal), 403
        except UnreachableError as failure:
            entry.verdict, entry.reason, status = "failed", str(failure), 502
        finally:
            # before it is answered: whoever asked may look at once
            self._note(entry)
        if status:
            await _refuse(wire, status, entry.reason)
        return again

    def _checked(self, entry: _Entry, place: str, default_port: int | None) -> bool:
        """Fill in where a request goes, and look whether it may; whether its address is free."""
        try:
            parts = urlsplit(f"//{place}")
            port = parts.port or default_port
            entry.host, entry.port = canonical(parts.hostname or ""), port or 0
        except ValueError:
            raise RefusedError(f"not a place to go to: {place[:200]}") from None
        if not entry.port:
            raise RefusedError(f"no port is named: {place[:200]}")
        policy = self._policy()
        # before it is resolved: a question to a name server tells the outside something as well
        refusal = policy.refusal(entry.method, entry.host, entry.port)
        if refusal is not None:
            raise RefusedError(refusal)
        return policy.may_be_private(entry.host)

    # -- tunnels ----------------------------------------------------------------------------------

    async def _tunnel(self, wire: _Wire, request: h11.Request, entry: _Entry) -> None:
        private = self._checked(entry, request.target.decode("ascii", "replace"), None)
        streams = await self._outside(entry, private)
        try:
            await wire.event()  # the end of the message
            await wire.send(h11.Response(status_code=200, headers=[], reason=b"Connected"))
            hello = await self._hello(wire, entry)
            if hello:
                streams[1].write(hello)
                entry.sent += len(hello)
                await _relay(wire, streams, entry)
        finally:
            streams[1].close()

    async def _outside(self, entry: _Entry, private: bool) -> Streams:
        proxy = outside.host_proxy("https", entry.host)
        if proxy is not None:
            return await outside.tunnel(proxy, entry.host, entry.port)
        return await outside.connect(entry.host, entry.port, private=private)

    async def _hello(self, wire: _Wire, entry: _Entry) -> bytes:
        """Return the first bytes of a tunnel, once they are known to ask for the tunnel's host.

        Else whoever shares a server with a host on the list, as many do, could be reached.
        """
        data = wire.http.trailing_data[0]
        name: str | None = None
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                while name is None and len(data) < HELLO_BYTES:
                    if data:
                        name = server_name(data)
                    if name is None:
                        piece = await wire.reader.read(_CHUNK)
                        if not piece:
                            return b""
                        data += piece
        except NotTLSError:
            entry.verdict, entry.reason = "refused", "what goes through a tunnel must be TLS"
            return b""
        except TimeoutError:
            entry.verdict, entry.reason = "failed", "nothing was sent through the tunnel"
            return b""
        if not self._asks_for(entry.host, name or ""):
            entry.verdict = "refused"
            entry.reason = f"TLS asks for {name or 'no host'}, and the tunnel leads to {entry.host}"
            return b""
        return data

    @staticmethod
    def _asks_for(host: str, name: str) -> bool:
        if not name:
            # only where the host is an address there is no name to be asked for: RFC 6066
            return host.replace(".", "").isdigit() or ":" in host
        try:
            return canonical(name) == host
        except ValueError:
            return False

    # -- plain HTTP -------------------------------------------------------------------------------

    async def _forward(self, wire: _Wire, request: h11.Request, entry: _Entry) -> bool:
        target = request.target.decode("ascii", "replace")
        parts = urlsplit(target)
        if parts.scheme != "http":
            raise RefusedError(
                "this is the way out of a sandbox: clients find it by http_proxy and https_proxy. "
                f"Allowed (network {self._policy().mode}): {self._policy().summary()}"
            )
        private = self._checked(entry, parts.netloc.rpartition("@")[2], 80)
        proxy = outside.host_proxy("http", entry.host)
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        if proxy is not None:
            streams = await outside.connect_proxy(proxy)
            extra = proxy.headers()
            path = f"http://{parts.netloc.rpartition('@')[2]}{path}"
        else:
            streams = await outside.connect(entry.host, entry.port, private=private)
            extra = []
        try:
            server = _Wire(h11.CLIENT, streams)
            place = parts.netloc.rpartition("@")[2]
            own = [("Host", place), *extra, ("Connection", "close")]
            headers = [(name.encode(), value.encode()) for name, value in own]
            kept = [(name, value) for name, value in request.headers if name not in _HOP_BY_HOP]
            again = h11.Request(method=request.method, target=path, headers=headers + kept)
            return await self._exchange(wire, server, again, entry)
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            raise UnreachableError(f"{entry.host} broke off: {error}") from error
        finally:
            streams[1].close()

    async def _exchange(
        self, wire: _Wire, server: _Wire, request: h11.Request, entry: _Entry
    ) -> bool:
        await server.send(request)
        while True:
            event = await wire.event()
            if isinstance(event, h11.Data):
                entry.sent += len(event.data)
                await server.send(event)
            elif isinstance(event, h11.EndOfMessage):
                await server.send(event)
                break
            else:
                return False
        while True:
            event = await server.event()
            if isinstance(event, h11.InformationalResponse):
                continue
            if isinstance(event, h11.Response):
                hop = _HOP_BY_HOP | {b"transfer-encoding"}
                kept = [(name, value) for name, value in event.headers if name not in hop]
                await wire.send(
                    h11.Response(status_code=event.status_code, headers=kept, reason=event.reason)
                )
            elif isinstance(event, h11.Data):
                entry.received += len(event.data)
                await wire.send(event)
            elif isinstance(event, h11.EndOfMessage):
                await wire.send(h11.EndOfMessage())
                return wire.http.our_state is h11.DONE and wire.http.their_state is h11.DONE
            else:
                raise UnreachableError(f"{entry.host} broke off")


async def _refuse(wire: _Wire, status: int, text: str) -> None:
    """Answer with a reason, where an answer can still be given.

    It stands in the status line as well, which is all that many clients show of a tunnel.
    """
    if wire.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = f"sandbox-lite: {text}\n".encode()
    line = f"{http.HTTPStatus(status).phrase}: {text}".encode("ascii", "replace")
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    with contextlib.suppress(OSError, h11.LocalProtocolError):
        await wire.send(
            h11.Response(
                status_code=status, headers=[*headers, ("Connection", "close")], reason=line
            )
        )
        await wire.send(h11.Data(data=body))
        await wire.send(h11.EndOfMessage())


async def _relay(wire: _Wire, streams: Streams, entry: _Entry) -> None:
    """Carry bytes both ways until both have ended."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, out: bool) -> None:
        while True:
            async with asyncio.timeout(_IDLE_SECONDS):
                data = await reader.read(_CHUNK)
            if not data:
                break
            if out:
                entry.sent += len(data)
            else:
                entry.received += len(data)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, NotImplementedError):
            writer.write_eof()

    both = [
        asyncio.ensure_future(carry(wire.reader, streams[1], True)),
        asyncio.ensure_future(carry(streams[0], wire.writer, False)),
    ]
    try:
        await asyncio.gather(*both)
    finally:
        for one in both:
            one.cancel()
