"""Move bytes from descriptors into an `Output`: by the caller while it waits, by a thread after."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.jail.capture import Output

CHUNK_BYTES = 256 * 1024
_LONGEST_SECONDS = 3600.0


def read_ready(fd: int) -> bytes | None:
    """Return what is there now: bytes, `b""` at end of file, None where more may still come."""
    try:
        return os.read(fd, CHUNK_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        # a pseudo-terminal's master says EIO when its last slave is closed
        return b""


class Pump:
    """The streams of one command, and whatever else its caller watches meanwhile."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._poller: select.epoll | None = None
        """Made when something is waited for: most commands have ended before that."""
        self._ready: list[tuple[int, int]] | None = None
        self._always: set[int] = set()
        """Files on a disk, which are always ready, and which epoll(7) does not take."""
        self._streams: dict[int, str] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._events: dict[int, int] = {}
        self.ended: list[str] = []
        """Streams that everybody has let go of."""
        self.opened = False
        """Whether a stream ever had a writer: poll(2) reports none before."""

    def _epoll(self) -> select.epoll:
        if self._poller is None:
            self._poller = select.epoll()
            for fd in self._streams:
                self._poller.register(fd, select.EPOLLIN)
            for fd in self._watched:
                self._register(self._poller, fd)
        return self._poller

    def _register(self, epoll: select.epoll, fd: int) -> None:
        try:
            epoll.register(fd, self._events[fd])
        except PermissionError:
            self._always.add(fd)

    def stream(self, fd: int, name: str) -> None:
        """Own a descriptor and feed what it gives to the output."""
        self._streams[fd] = name
        if self._poller is not None:
            self._poller.register(fd, select.EPOLLIN)

    def watch(self, fd: int, action: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Call `action` whenever a descriptor of somebody else's is ready."""
        known = fd in self._watched
        self._watched[fd], self._events[fd] = action, events
        if self._poller is None:
            return
        if known and fd not in self._always:
            self._poller.modify(fd, events)
        elif not known:
            self._register(self._poller, fd)

    def unwatch(self, fd: int) -> None:
        """Watch a descriptor no longer."""
        if self._watched.pop(fd, None) is not None:
            if fd in self._always:
                self._always.discard(fd)
            elif self._poller is not None:
                self._poller.unregister(fd)

    def cancel_on(self, fd: int | None) -> None:
        """Raise CancelledError, once, as soon as a descriptor is readable or hung up."""
        if fd is None:
            return

        def cancel() -> None:
            self.unwatch(fd)
            raise CancelledError

        self.watch(fd, cancel, select.EPOLLIN | select.EPOLLRDHUP)

    def turn(self, seconds: float | None) -> None:
        """Wait until something is ready, at most so long, and deal with all that is."""
        if self._ready is None:
            self.block(seconds)
        found, self._ready = self._ready or [], None
        for fd, _ in found:
            if fd in self._streams:
                self.opened = True
                self._read(fd)
            elif fd in self._watched:
                self._watched[fd]()

    def fileno(self) -> int:
        """Return a descriptor that can be read when something is ready."""
        return self._epoll().fileno()

    def block(self, seconds: float | None) -> None:
        """Wait as `turn` does, and leave it to the next one to deal with what is ready."""
        # epoll_wait(2) counts milliseconds in an int; whoever waits longer comes back
        wait = None if seconds is None else min(max(0.0, seconds), _LONGEST_SECONDS)
        found = self._epoll().poll(0 if self._always else wait)
        self._ready = found + [(fd, select.EPOLLIN) for fd in self._always]

    def _read(self, fd: int) -> bool:
        data = read_ready(fd)
        if data:
            self.output.feed(self._streams[fd], data)
            return True
        if data == b"":
            self._drop(fd)
        return False

    def _drop(self, fd: int) -> None:
        self.ended.append(self._streams.pop(fd))
        if self._poller is not None:
            self._poller.unregister(fd)
        os.close(fd)

    def settle(self) -> bool:
        """Take what the ended command left in its pipes; whether somebody still holds them.

        What it wrote is in the pipe by now, so no more than a pipe's capacity is waited for: a
        background job that writes without end does not hold the call.
        """
        for fd in list(self._streams):
            left = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
            while left > 0 and fd in self._streams:
                data = read_ready(fd)
                if data is None:
                    break
                if data == b"":
                    self._drop(fd)
                    break
                self.output.feed(self._streams[fd], data)
                left -= len(data)
        return bool(self._streams)

    def hand_over(self, drainer: Drainer) -> None:
        """Leave the streams to the drainer, which reads them until their last writer is gone."""
        drainer.adopt(tuple(self._streams), self.output)
        self._streams.clear()

    def close(self) -> None:
        """Close the streams that are still held."""
        for fd in self._streams:
            os.close(fd)
        self._streams.clear()
        if self._poller is not None:
            self._poller.close()


class _Serving:
    """The drainer's thread and what it waits on."""

    def __init__(self, serve: Callable[[_Serving], None]) -> None:
        self.wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.epoll = select.epoll()
        self.epoll.register(self.wake, select.EPOLLIN)
        self._thread = threading.Thread(
            target=serve, args=(self,), name="sandbox-lite drainer", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Wait for the end of the thread, which must have been told already."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"x")
        self._thread.join()
        self.epoll.close()
        os.close(self.wake)
        os.close(self._waker)


class Drainer:
    """One thread that reads what background jobs write, so that none of them blocks."""

    def __init__(self) -> None:
        self._outputs: dict[int, Output] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._serving: _Serving | None = None

    def adopt(self, fds: tuple[int, ...], output: Output) -> None:
        """Own these descriptors, which all feed one output."""
        with self._lock:
            if self._serving is None:
                # most sandboxes never have a background job that writes
                self._serving = _Serving(self._serve)
            for fd in fds:
                self._outputs[fd] = output
                self._serving.epoll.register(fd, select.EPOLLIN)

    def _serve(self, serving: _Serving) -> None:
        while not self._closed:
            for fd, _ in serving.epoll.poll():
                if fd != serving.wake:
                    self._read(serving, fd)

    def _read(self, serving: _Serving, fd: int) -> None:
        data = read_ready(fd)
        with self._lock:
            output = self._outputs.get(fd)
            if output is None:
                return
            if data:
                output.feed_late(data)
            elif data == b"":
                serving.epoll.unregister(fd)
                del self._outputs[fd]
                os.close(fd)
                if output not in self._outputs.values():
                    output.spool.close()

    def close(self) -> None:
        """End the thread and close every descriptor."""
        self._closed = True
        serving = self._serving
        if serving is not None:
            serving.end()
        for fd, output in self._outputs.items():
            os.close(fd)
            output.spool.close()
        self._outputs.clear()
