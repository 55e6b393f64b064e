"""The proxy of one sandbox: lets out what its policy allows, and writes down every request.

It listens on a socket that was made inside the jail's network and is served from here: inside there
is no process of ours, no name server and no route. RFC 9110 for CONNECT, RFC 9112 for plain HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import h11

from sandbox_lite.jail.egress import outside
from sandbox_lite.jail.egress.addresses import Names
from sandbox_lite.jail.egress.hello import HELLO_BYTES, Hello, NotTLSError
from sandbox_lite.jail.egress.outside import RefusedError, Streams, UnreachableError
from sandbox_lite.jail.egress.rules import canonical, is_address
from sandbox_lite.spec import NetworkRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from sandbox_lite.jail.egress.rules import Policy
    from sandbox_lite.spec import Verdict

MOST_CONNECTIONS = 64
"""At once, of one sandbox; more are turned away."""
MOST_REMEMBERED = 10_000
_CHUNK = 256 * 1024
_HELLO_SECONDS = 30.0
_HELLO_CHUNK = 16 * 1024
_IDLE_SECONDS = 600.0
_HEAD_BYTES = 64 * 1024
_LINGER_SECONDS = 10.0
_REASON_CHARS = 600
_METHOD_BYTES = 32
_LOOKUPS = 8
"""Names of one sandbox that are looked up at once: a slow one holds a thread that all share."""
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer "
    b"upgrade expect host".split()
)
"""They concern one connection only, RFC 9110 section 7.6.1; `Host` is written anew."""


_T = TypeVar("_T")


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
            verdict=self.verdict, reason=self.reason[:_REASON_CHARS], sent_bytes=self.sent,
            received_bytes=self.received, seconds=round(time.monotonic() - self.began, 3),
        )  # fmt: skip


class _ClientGoneError(Exception):
    """Whoever asked has not waited for the answer."""


def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection once what is written has gone, and anyhow soon."""
    writer.close()
    # a peer that reads no more would keep it for ever
    asyncio.get_running_loop().call_later(_LINGER_SECONDS, writer.transport.abort)


class _Wire:
    """One side of an HTTP/1.1 conversation."""

    def __init__(
        self,
        role: type[h11.CLIENT | h11.SERVER],
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.reader, self.writer = streams
        self.http = h11.Connection(role, max_incomplete_event_size=_HEAD_BYTES)

    async def event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    data = await self.reader.read(_CHUNK)
                broken = None if data else getattr(self.reader, "broken", None)
                if broken is not None:
                    # what has no length ends with the connection, but not like that
                    raise ConnectionResetError(str(broken)) from broken
            except OSError as error:
                raise self._failure(error) from error
            self.http.receive_data(data)

    def _failure(self, error: OSError) -> Exception:
        return _ClientGoneError() if self.http.our_role is h11.SERVER else error

    async def send(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if not data:
            return
        self.writer.write(data)
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self.writer.drain()
        except OSError as error:
            raise self._failure(error) from error


class Proxy:
    """Serves one sandbox; all of it but `note` and the logs runs on one event loop."""

    def __init__(self, policy: Callable[[], Policy]) -> None:
        """Take what says what is allowed, at each request anew."""
        self._policy = policy
        self._requests: deque[NetworkRequest] = deque(maxlen=MOST_REMEMBERED)
        self._count = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._lookups = asyncio.Semaphore(_LOOKUPS)
        self._names = Names()

    # -- what happened ----------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many requests there have been."""
        return self._count

    def since(self, count: int) -> tuple[NetworkRequest, ...]:
        """Return the requests after the first so many, of those that are remembered."""
        with self._lock:
            fresh = self._count - count
            return tuple(self._requests)[-fresh:] if fresh > 0 else ()

    def _note(self, entry: _Entry) -> None:
        with self._lock:
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
        except (OSError, TimeoutError, h11.ProtocolError, _ClientGoneError):
            pass  # the client has gone: there is nobody to tell
        finally:
            self._connections.discard(task)
            _close(writer)

    async def end(self) -> None:
        """End all connections."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _request(self, wire: _Wire) -> bool:
        """Serve one request; whether another may follow on the same connection."""
        try:
            request = await wire.event()
        except h11.RemoteProtocolError as error:
            entry = _Entry("", verdict="refused", reason=f"not a request: {error}")
            self._note(entry)
            await _refuse(wire, error.error_status_hint, entry.reason)
            return False
        if not isinstance(request, h11.Request):
            return False
        entry = _Entry(request.method[:_METHOD_BYTES].decode("ascii", "replace"))
        again, status = False, 0
        try:
            if len(request.method) > _METHOD_BYTES or request.method == b"TRACE":
                # TRACE would tell what is added on the way: the password of the host's own proxy
                raise RefusedError(f"no such method here: {entry.method}")
            if request.method == b"CONNECT":
                await self._tunnel(wire, request, entry)
            else:
                again = await self._forward(wire, request, entry)
        except RefusedError as refusal:
            entry.verdict, entry.reason, status = "refused", str(refusal), 403
        except UnreachableError as failure:
            entry.verdict, entry.reason, status = "failed", str(failure), 502
        except _ClientGoneError:
            entry.reason = "the client did not wait for the end"
        except ValueError as error:
            entry.verdict, entry.reason, status = "refused", f"not a request: {error}", 400
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            entry.verdict, entry.reason, status = "failed", f"broken off: {_said(error)}", 502
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
            port = default_port if parts.port is None else parts.port
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
            _close(streams[1])

    async def _outside(self, entry: _Entry, private: bool) -> Streams:
        proxy = outside.host_proxy("https", entry.host)
        if proxy is None:
            async with self._lookups:
                return await outside.connect(self._names, entry.host, entry.port, private=private)
        if not private:
            async with self._lookups:
                await outside.check_behind_proxy(self._names, entry.host, entry.port)
        return await outside.tunnel(proxy, entry.host, entry.port)

    async def _hello(self, wire: _Wire, entry: _Entry) -> bytes:
        """Return the first bytes of a tunnel, once they are known to ask for the tunnel's host.

        Else whoever shares a server with a host on the list, as many do, could be reached.
        """
        data = piece = wire.http.trailing_data[0]
        hello = Hello()
        name: str | None = None
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                while name is None and len(data) < HELLO_BYTES:
                    if piece:
                        name = hello.feed(piece)
                    if name is None:
                        piece = await wire.reader.read(_HELLO_CHUNK)
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
            asked = repr(name[:100]) if name else "no host"
            entry.reason = f"TLS asks for {asked}, and the tunnel leads to {entry.host}"
            return b""
        return data

    @staticmethod
    def _asks_for(host: str, name: str) -> bool:
        if not name:
            # only where the host is an address there is no name to be asked for: RFC 6066
            return is_address(host)
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
        # of what was looked at, never of what stood there: others may read that otherwise
        place = f"[{entry.host}]" if ":" in entry.host else entry.host
        place += "" if entry.port == 80 else f":{entry.port}"
        proxy = outside.host_proxy("http", entry.host)
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        extra: list[tuple[str, str]] = []
        if proxy is None:
            async with self._lookups:
                streams = await outside.connect(
                    self._names, entry.host, entry.port, private=private
                )
        else:
            if not private:
                async with self._lookups:
                    await outside.check_behind_proxy(self._names, entry.host, entry.port)
            streams = await outside.connect_proxy(proxy)
            extra = proxy.headers()
            path = f"http://{place}{path}"
        try:
            server = _Wire(h11.CLIENT, streams)
            own = [("Host", place), *extra, ("Connection", "close")]
            headers = [(name.encode(), value.encode()) for name, value in own]
            # `Transfer-Encoding` stays: it says that a body follows, which goes out in pieces anew
            kept = _end_to_end(request.headers, keep=b"transfer-encoding")
            again = h11.Request(method=request.method, target=path, headers=headers + kept)
            return await self._exchange(wire, server, again, entry)
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            raise UnreachableError(f"{entry.host} broke off: {_said(error)}") from error
        finally:
            _close(streams[1])

    async def _exchange(
        self, wire: _Wire, server: _Wire, request: h11.Request, entry: _Entry
    ) -> bool:
        await server.send(request)
        # a server may answer, and hang up, before it has read a whole body
        sending = asyncio.ensure_future(self._send_body(wire, server, entry))
        answering = asyncio.ensure_future(self._answer(wire, server, entry))
        try:
            await asyncio.wait((sending, answering), return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not answering.done() and not sending.result():
                return False
            return await answering
        finally:
            for one in (sending, answering):
                one.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)

    async def _send_body(self, wire: _Wire, server: _Wire, entry: _Entry) -> bool:
        """Pass on what the client sends; False where it goes away in the middle."""
        while True:
            event = await wire.event()
            if not isinstance(event, (h11.Data, h11.EndOfMessage)):
                return False
            if isinstance(event, h11.Data):
                entry.sent += len(event.data)
            # an answer that is there already is read before a write could meet the reset behind it
            await asyncio.sleep(0)
            try:
                await server.send(event)
            except OSError:
                return True  # what it has to say of that comes the other way
            if isinstance(event, h11.EndOfMessage):
                return True

    async def _answer(self, wire: _Wire, server: _Wire, entry: _Entry) -> bool:
        """Pass on what the server answers; whether another request can follow."""
        while True:
            event = await server.event()
            if isinstance(event, h11.InformationalResponse):
                continue
            if isinstance(event, h11.Response):
                kept = _end_to_end(event.headers)
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


def _said(error: Exception) -> str:
    return str(error) or "nothing came for too long"


def _end_to_end(
    headers: Iterable[tuple[bytes, bytes]], *, keep: bytes = b""
) -> list[tuple[bytes, bytes]]:
    """Return the headers that are for the other end.

    Two lengths of one body are how a second request is smuggled in: RFC 9112, section 6.1.
    """
    dropped = set(_HOP_BY_HOP)
    for name, value in headers:
        if name == b"connection":
            dropped |= {word.strip().lower() for word in value.split(b",")}
        elif name == b"transfer-encoding":
            dropped |= {b"content-length"}
    dropped |= {b"transfer-encoding"} - {keep}
    dropped -= {keep} if keep else set()
    return [(name, value) for name, value in headers if name not in dropped]


async def _refuse(wire: _Wire, status: int, text: str) -> None:
    """Answer with a reason, where an answer can still be given.

    It stands in the status line as well, which is all that many clients show of a tunnel.
    """
    if wire.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = f"sandbox-lite: {text}\n".encode()
    line = f"{http.HTTPStatus(status).phrase}: {text}".encode("ascii", "replace")
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    with contextlib.suppress(OSError, h11.LocalProtocolError, _ClientGoneError):
        await wire.send(
            h11.Response(
                status_code=status, headers=[*headers, ("Connection", "close")], reason=line
            )
        )
        await wire.send(h11.Data(data=body))
        await wire.send(h11.EndOfMessage())


async def _relay(wire: _Wire, streams: Streams, entry: _Entry) -> None:
    """Carry bytes both ways until both have ended."""

    last = time.monotonic()

    async def patient(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Wait for one side as long as either has done something."""
        while True:
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    return await work()
            except TimeoutError:
                if time.monotonic() - last >= _IDLE_SECONDS:
                    raise

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, out: bool) -> None:
        nonlocal last
        while data := await patient(lambda: reader.read(_CHUNK)):
            last = time.monotonic()
            if out:
                entry.sent += len(data)
            else:
                entry.received += len(data)
            writer.write(data)
            await patient(writer.drain)
        if isinstance(reader, outside.Reader) and reader.broken is not None:
            raise reader.broken
        with contextlib.suppress(OSError, NotImplementedError):
            writer.write_eof()

    both = [
        asyncio.ensure_future(carry(wire.reader, streams[1], True)),
        asyncio.ensure_future(carry(streams[0], wire.writer, False)),
    ]
    try:
        await asyncio.gather(*both)
    except (OSError, TimeoutError) as error:
        entry.verdict, entry.reason = "failed", f"the tunnel broke: {_said(error)}"
    finally:
        for one in both:
            one.cancel()
