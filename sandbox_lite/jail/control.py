"""The control directory of a sandbox: texts of commands, FIFOs and long outputs pass through it."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import os
import threading
from collections import deque

from sandbox_lite.jail.bwrap import CONTROL
from sandbox_lite.jail.capture import Spool

RESERVE_BYTES = 64 * 1024 * 1024
"""Of the control directory, which outputs leave to the texts of commands."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@functools.cache
def script(name: str) -> str:
    """Return one of our bash files without its comments, which the jail need not see."""
    text = importlib.resources.files("sandbox_lite.jail").joinpath(name).read_text()
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#")
    )


class Control:
    """The control directory: a tmpfs that the jail sees read-only and we write."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.doomed = False
        """The sandbox ends, and with it all that is here."""
        self._outputs: deque[str] = deque()
        self._lock = threading.Lock()

    def directory(self, name: str) -> int:
        """Make a directory and return a descriptor of it."""
        os.mkdir(name, 0o700, dir_fd=self.fd)
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)

    def spool(self, name: str) -> Spool:
        """Return a file for the whole output of one command; the oldest give way to the newest."""

        def opened() -> int:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            return os.open(name, flags, 0o644, dir_fd=self.fd)

        def done() -> None:
            self._outputs.append(name)

        return Spool(f"{CONTROL}/{name}", opened, room=self._make_room, done=done)

    def _make_room(self, count: int) -> bool:
        with self._lock:
            while self.fd >= 0:
                found = os.fstatvfs(self.fd)
                if found.f_bavail * found.f_frsize >= count + RESERVE_BYTES:
                    return True
                if not self._outputs:
                    return False
                with contextlib.suppress(OSError):
                    os.unlink(self._outputs.popleft(), dir_fd=self.fd)
            return False

    def remove(self, name: str) -> None:
        """Remove a directory with the files in it; ours never hold directories."""
        if self.doomed:
            return
        flags = _DIRECTORY | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            fd = os.open(name, flags, dir_fd=self.fd)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        os.unlink(entry.name, dir_fd=fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=self.fd)

    def close(self) -> None:
        """Let go of the directory."""
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


def write_file(directory: int, name: str, data: bytes) -> None:
    """Write a small file into a control directory."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def make_fifo(directory: int, name: str, flags: int) -> int:
    """Make a FIFO in a control directory and open it.

    For reading, non-blocking: the open then does not wait for a writer: fifo(7). With O_RDWR it
    has a reader and a writer at once, so neither end of file nor EPIPE comes while we hold it.
    """
    os.mkfifo(name, 0o600, dir_fd=directory)
    return open_fifo(directory, name, flags)


def open_fifo(directory: int, name: str, flags: int) -> int:
    """Open a FIFO of a control directory, as `make_fifo` does."""
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
