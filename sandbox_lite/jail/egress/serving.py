"""One thread that serves the proxies and published ports of all sandboxes of this program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox_lite.errors import HostError
from sandbox_lite.jail import janitor
from sandbox_lite.jail.egress import PORT
from sandbox_lite.jail.egress.proxy import Proxy
from sandbox_lite.jail.egress.rules import Policy, parse_all
from sandbox_lite.spec import PublishedPort

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Iterator, Sequence

    from sandbox_lite.spec import NetworkRequest, Publish

_CHUNK = 256 * 1024
_CONNECT_SECONDS = 10.0
_T = TypeVar("_T")


class _Loop:
    """An event loop in a thread of its own, started when it is first wanted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something there, and return what it returns."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="sandbox-lite network", daemon=True
                ).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_shared = _Loop()


def _renew() -> None:
    # no thread of the parent's is here
    global _shared
    _shared = _Loop()


os.register_at_fork(after_in_child=_renew)


class Egress:
    """The way out of one sandbox, for its owner: what may be reached, and what was."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        """What is allowed now."""
        self.proxy = Proxy(lambda: self.policy)

    def grant(self, *rules: str) -> None:
        """Allow more, from now on: `[METHOD,METHOD ]HOST[:PORT]`.

        Raises:
            SpecError: A rule is none.
        """
        more = parse_all(rules)
        self.policy = Policy(
            mode=self.policy.mode,
            rules=(*self.policy.rules, *more),
            private=self.policy.private,
        )

    @property
    def count(self) -> int:
        """How many requests there have been."""
        return self.proxy.count

    def since(self, count: int) -> tuple[NetworkRequest, ...]:
        """Return the requests that ended after the first `count`; the latest are remembered."""
        return self.proxy.since(count)


@contextlib.contextmanager
def egress(namespace: int, policy: Policy) -> Iterator[Egress]:
    """Serve the way out of the jail whose network namespace that descriptor is.

    Raises:
        HostError: The socket could not be made inside.
    """
    way = Egress(policy)
    owner = os.getpid()
    (listening,) = janitor.SHARED.sockets(namespace, f"listen {PORT}")
    with listening:
        listening.setblocking(False)

        async def begin() -> asyncio.Server:
            return await asyncio.start_server(way.proxy.serve, sock=listening, limit=_CHUNK)

        async def end(server: asyncio.Server) -> None:
            server.close()
            await way.proxy.end()

        server = _shared.run(begin())
        try:
            yield way
        finally:
            if owner == os.getpid():
                _shared.run(end(server))


# -- the way in ------------------------------------------------------------------------------------


class _Door:
    """One published port: what comes there is carried to the jail's own loopback."""

    def __init__(self, namespace: int, port: int) -> None:
        self._namespace = namespace
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        inner: asyncio.StreamWriter | None = None
        try:
            loop = asyncio.get_running_loop()
            (made,) = await loop.run_in_executor(
                None, janitor.SHARED.sockets, self._namespace, "connect 1"
            )
            try:
                made.setblocking(False)
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await loop.sock_connect(made, ("127.0.0.1", self._port))
                back, inner = await asyncio.open_connection(sock=made, limit=_CHUNK)
            except BaseException:
                made.close()
                raise
            await asyncio.gather(_carry(reader, inner), _carry(back, writer))
        except (OSError, TimeoutError, HostError):
            pass  # nobody listens inside, or one side has gone: the other sees it end
        finally:
            self._tasks.discard(task)
            writer.close()
            if inner is not None:
                inner.close()

    async def end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError, NotImplementedError):
        writer.write_eof()


@contextlib.contextmanager
def published(namespace: int, ports: Sequence[Publish]) -> Iterator[tuple[PublishedPort, ...]]:
    """Open ports on the host that lead to servers inside; yield where they are.

    Raises:
        HostError: A port is taken, or may not be opened.
    """
    owner = os.getpid()
    doors: list[tuple[asyncio.Server, _Door]] = []
    found: list[PublishedPort] = []

    async def begin(one: Publish) -> tuple[asyncio.Server, _Door, socket.socket]:
        door = _Door(namespace, one.inner_port)
        server = await asyncio.start_server(door.serve, one.address, one.port, limit=_CHUNK)
        return server, door, server.sockets[0]

    async def end() -> None:
        for server, door in doors:
            server.close()
            await door.end()

    try:
        for one in ports:
            try:
                server, door, made = _shared.run(begin(one))
            except OSError as error:
                raise HostError(
                    f"port {one.port} of {one.address} cannot be opened: {error.strerror}",
                    hint="publish another port of the host, or 0 for any that is free",
                ) from error
            doors.append((server, door))
            address, port = made.getsockname()[:2]
            found.append(PublishedPort(address=address, port=port, inner_port=one.inner_port))
        yield tuple(found)
    finally:
        if owner == os.getpid():
            _shared.run(end())
