"""One thread that serves the proxies and published ports of all sandboxes of this program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox_lite.errors import HostError
from sandbox_lite.jail import janitor
from sandbox_lite.jail.egress import PORT
from sandbox_lite.jail.egress.proxy import Proxy
from sandbox_lite.jail.egress.rules import parse_all
from sandbox_lite.spec import PublishedPort

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from sandbox_lite.jail.egress.rules import Policy
    from sandbox_lite.spec import NetworkRequest, Publish

_CHUNK = 256 * 1024
_CONNECT_SECONDS = 10.0
_FINISH_SECONDS = 30.0
_T = TypeVar("_T")


class _Loop:
    """An event loop in a thread of its own, started when it is first wanted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.listening: set[socket.socket] = set()
        """What a forked child must let go of, or a port outlives its sandbox."""
        self.helpers = ThreadPoolExecutor(2, thread_name_prefix="sandbox-lite network")
        """Apart from those in which names are looked up, of which slow ones may hold all."""

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something there, and return what it returns."""
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=loop.run_forever, name="sandbox-lite network", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError as error:
                    work.close()
                    loop.close()
                    raise HostError(
                        "no thread can be started that serves the sandbox's network",
                        hint="end processes, or raise their limit: ulimit -u",
                    ) from error
                self._loop = loop
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what closes something: never waits for ever, and for itself not at all.

        A sandbox that nobody closed is dropped by whatever thread collects it, ours among them, or
        when the interpreter ends, where no other thread runs any more.
        """
        if self._loop is None or sys.is_finalizing():
            work.close()
        elif threading.current_thread() is self._thread:
            task = self._loop.create_task(work)
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        else:
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(work, self._loop).result(_FINISH_SECONDS)


_shared = _Loop()


def _renew() -> None:
    # no thread of the parent's is here
    global _shared
    for one in _shared.listening:
        one.close()
    _shared = _Loop()


os.register_at_fork(after_in_child=_renew)


class Egress:
    """The way out of one sandbox, for its owner: what may be reached, and what was."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        """What is allowed now."""
        self.proxy = Proxy(lambda: self.policy)
        self._lock = threading.Lock()

    def grant(self, *rules: str) -> None:
        """Allow more, from now on: `[METHOD,METHOD ]HOST[:PORT]`.

        Raises:
            SpecError: A rule is none.
        """
        more = parse_all(rules)
        with self._lock:
            self.policy = replace(self.policy, rules=(*self.policy.rules, *more))

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
        _shared.listening.add(listening)

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
                _shared.listening.discard(listening)
                _shared.finish(end(server))


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
            # of its own: the sandbox may close its one while the janitor is asked
            namespace = os.dup(self._namespace)
            made = await loop.run_in_executor(_shared.helpers, _connecting, namespace)
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
            writer.transport.abort() if writer.is_closing() else writer.close()
            if inner is not None:
                inner.close()

    async def end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _connecting(namespace: int) -> socket.socket:
    try:
        (made,) = janitor.SHARED.sockets(namespace, "connect 1")
    finally:
        os.close(namespace)
    return made


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
    opened: list[socket.socket] = []

    async def begin(one: Publish) -> tuple[asyncio.Server, _Door, socket.socket]:
        door = _Door(namespace, one.inner_port)
        family = socket.AF_INET6 if ":" in one.address else socket.AF_INET
        made = socket.create_server((one.address, one.port), family=family)
        server = await asyncio.start_server(door.serve, sock=made, limit=_CHUNK)
        return server, door, made

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
            _shared.listening.add(made)
            opened.append(made)
            address, port = made.getsockname()[:2]
            found.append(PublishedPort(address=address, port=port, inner_port=one.inner_port))
        yield tuple(found)
    finally:
        if owner == os.getpid():
            _shared.listening.difference_update(opened)
            _shared.finish(end())
