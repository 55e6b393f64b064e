"""Keep the head and the tail of a stream of any length in bounded memory; spool the whole of it."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SPOOL_BYTES = 64 * 1024 * 1024
"""Of one command's output, kept for reading inside."""


class Capture:
    """The first and the last `limit_bytes / 2` of what was fed, and the count of the rest."""

    def __init__(self, limit_bytes: int) -> None:
        self._head_limit = (limit_bytes + 1) // 2
        self._tail_limit = limit_bytes - self._head_limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.dropped_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail and self._tail_bytes - len(self._tail[0]) >= self._tail_limit:
            gone = len(self._tail.popleft())
            self._tail_bytes -= gone
            self.dropped_bytes += gone

    def _trimmed_tail(self) -> bytes:
        tail = b"".join(self._tail)
        return tail[max(0, len(tail) - self._tail_limit) :]

    @property
    def missing_bytes(self) -> int:
        """How many bytes stand between head and tail and are not kept."""
        return self.dropped_bytes + max(0, self._tail_bytes - self._tail_limit)

    def fits(self, data: bytes) -> bool:
        """Return whether these bytes would still be kept without cutting any."""
        kept = len(self._head) + self._tail_bytes + self.dropped_bytes
        return kept + len(data) <= self._head_limit + self._tail_limit

    def whole(self) -> bytes:
        """Return all that was fed, which must not have been cut yet."""
        assert not self.dropped_bytes, "the middle of the stream is gone"
        return bytes(self._head) + b"".join(self._tail)

    def text(self, where: str | None) -> bytes:
        """Return head and tail, with a line between them that says what is missing and where."""
        missing = self.missing_bytes
        if not missing:
            return self.whole()
        hint = f"; the whole text is in {where}" if where else ""
        return (
            bytes(self._head)
            + f"\n[... {missing} bytes left out{hint} ...]\n".encode()
            + self._trimmed_tail()
        )


class Spool:
    """The whole output of one command, up to a cap, in a file that opens when it is needed."""

    def __init__(
        self,
        path: str,
        opener: Callable[[], int],
        *,
        room: Callable[[int], bool] | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            path: Where the file is read inside.
            opener: Makes it.
            room: Whether so many bytes more may be written.
            done: Called when nothing more will be.
        """
        self.path = path
        self._opener = opener
        self._may_take = room
        self._done = done
        self._fd: int | None = None
        self._room = SPOOL_BYTES
        self.started = False

    def write(self, data: bytes) -> None:
        """Append what still fits; a full file system ends the spool, never the command."""
        if not self.started:
            self.started = True
            with contextlib.suppress(OSError):
                self._fd = self._opener()
        view = memoryview(data)[: self._room]
        while self._fd is not None and view:
            if self._may_take is not None and not self._may_take(len(view)):
                self.close()
                return
            try:
                written = os.write(self._fd, view)
            except OSError:
                self.close()
                return
            self._room -= written
            view = view[written:]

    def close(self) -> None:
        """Close the file; what was written stays readable inside."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            if self._done is not None:
                self._done()


class Output:
    """Both streams of one command: each by itself, merged as they came, and spooled when long."""

    def __init__(
        self,
        limit_bytes: int,
        spool: Spool,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self.streams = {"stdout": Capture(limit_bytes), "stderr": Capture(limit_bytes)}
        self.merged = Capture(limit_bytes)
        self.spool = spool
        self._on_output = on_output

    def feed(self, stream: str, data: bytes) -> None:
        """Take the next bytes of `stdout` or `stderr`."""
        self._feed_merged(data)
        self.streams[stream].feed(data)
        if self._on_output is not None:
            self._on_output(stream, data)

    def _feed_merged(self, data: bytes) -> None:
        if self.spool.started:
            self.merged.feed(data)
            self.spool.write(data)
            return
        if not self.merged.fits(data):
            self.spool.write(self.merged.whole() + data)
        self.merged.feed(data)

    def spool_all(self) -> None:
        """Start the spool with what is there: more will come when nobody waits for it."""
        if not self.spool.started:
            self.spool.write(self.merged.whole())

    def feed_late(self, data: bytes) -> None:
        """Take bytes of a background job after its command has ended."""
        self.spool.write(data)

    def text(self, stream: str) -> bytes:
        """Return what is kept of `stdout`, `stderr` or `merged`."""
        capture = self.merged if stream == "merged" else self.streams[stream]
        return capture.text(self.spool.path if self.spool.started else None)
