"""The host's end of process 1: its control directory, requests and reports, and child pids."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.resources
import os
import re
import select
import signal
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError, SandboxClosedError, SandboxLiteError
from sandbox_lite.jail.bwrap import CONTROL
from sandbox_lite.jail.capture import Spool
from sandbox_lite.jail.process import pidfd_signal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

ANSWER_SECONDS = 30.0
"""Process 1 answers in microseconds; on a host out of memory or cpu it may take longer."""

END_SECONDS = 5.0
"""For what other threads do between their last use of the sandbox and the end of their call."""

RESERVE_BYTES = 64 * 1024 * 1024
"""Of the control directory, which outputs leave to the texts of commands."""

_HINT = "open a fresh sandbox, with a longer limit if it needs one"
_LINE_LIMIT = 4096
_NUMBER = re.compile("[0-9]{1,9}")  # reports can be forged: Python's int() takes more, or raises
_TIOCSPTLCK, _TIOCGPTN = 0x40045431, 0x80045430  # ioctl_tty(2); the same on x86-64 and aarch64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


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
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A shell or program that process 1 started."""

    key: str
    inside: int
    """The jail's own pid of it."""
    pidfd: int | None
    """None where it ended before we could look."""


class Supervisor:
    """Talks to process 1; one request at a time, answered at once."""

    def __init__(
        self,
        *,
        requests: FileIO,
        reports: FileIO,
        pid: int,
        holder: int,
        pidfd: int,
        control: Control,
    ) -> None:
        self._requests = requests
        self._reports = reports
        self.pid = pid
        """Host pid of process 1."""
        self.holder = holder
        """Host pid of the bwrap that waits for it, in the outer mount namespace."""
        self._pidfd = pidfd
        self.control = control
        self._lock = threading.Lock()
        self._users: Counter[int] = Counter()
        self._users_changed = threading.Condition()
        self._ending = False
        self._buffer = b""
        self.owner = os.getpid()
        self._closed = False
        self._reason = ""

    def check_open(self) -> None:
        """Raise unless the sandbox is open in this very process.

        Raises:
            SandboxClosedError: It was closed, or belongs to the process that forked us.
        """
        if self._closed or self._ending:
            raise SandboxClosedError("the sandbox is closed")
        if self._reason:
            raise SandboxClosedError(
                f"the sandbox has ended: {self._reason}", hint=_HINT, expired=True
            )
        if self.owner != os.getpid():
            raise SandboxClosedError(
                "the sandbox belongs to the process that opened it",
                hint="open a sandbox of its own after os.fork or in the multiprocessing worker",
            )

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the sandbox's descriptors open for a call: `end` waits for it.

        Raises:
            SandboxClosedError: As `check_open`.
        """
        thread = threading.get_ident()
        with self._users_changed:
            self.check_open()
            self._users[thread] += 1
        try:
            yield
        finally:
            with self._users_changed:
                self._users[thread] -= 1
                if not self._users[thread]:
                    del self._users[thread]
                self._users_changed.notify_all()

    def end(self) -> None:
        """End all processes, and wait until the calls of other threads have seen it.

        A descriptor that is closed under a call may be another sandbox's by the next moment.
        """
        self._ending = True
        pidfd_signal(self._pidfd, signal.SIGKILL)
        thread = threading.get_ident()
        with self._users_changed:
            self._users_changed.wait_for(
                lambda: not self._users.keys() - {thread},
                timeout=END_SECONDS,
            )

    def expire(self, reason: str) -> None:
        """End all processes for a reason that later calls are told."""
        self._reason = reason
        pidfd_signal(self._pidfd, signal.SIGKILL)

    def await_ready(self, timeout: float) -> None:
        """Wait until process 1 runs.

        Raises:
            LaunchError: It said nothing in time.
            SandboxClosedError: It ended.
        """
        self._answer("ready", "0", time.monotonic() + timeout)

    def _read_line(self, deadline: float) -> str:
        while b"\n" not in self._buffer:
            poll = select.poll()
            poll.register(self._reports, select.POLLIN)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise LaunchError("process 1 of the sandbox does not answer")
            data = self._reports.read(65536)
            if not data:
                raise _gone()
            # what stands here can be written from inside too: never let it grow
            self._buffer = (self._buffer + data)[-_LINE_LIMIT * 16 :]
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line[:_LINE_LIMIT].decode(errors="replace")

    def _answer(self, verb: str, key: str, deadline: float) -> str:
        while True:
            words = self._read_line(deadline).split(" ", 2)
            if words[:2] == [verb, key]:
                return words[2] if len(words) > 2 else ""

    def _ask(self, request: str, verb: str, key: str) -> str:
        with self._lock:
            self.check_open()
            try:
                self._requests.write(request.encode() + b"\n")
            except BrokenPipeError:
                raise _gone() from None
            return self._answer(verb, key, time.monotonic() + ANSWER_SECONDS)

    def _start(self, request: str, key: str) -> Child:
        inside = self._ask(request, "started", key)
        if _NUMBER.fullmatch(inside) is None:
            raise LaunchError(
                f"process 1 of the sandbox could not start {key}",
                hint="are there too many processes inside, or on the host? See ulimit -u",
            )
        return Child(key=key, inside=int(inside), pidfd=self._open_child(int(inside)))

    def start_shell(self, key: str, terminal: int) -> Child:
        """Start a persistent bash on the jail's pseudo-terminal of that number."""
        return self._start(f"shell {key} {terminal}", key)

    def start_program(self, key: str, stderr: str) -> Child:
        """Start the program whose text and FIFOs lie in the control directory `key`."""
        return self._start(f"program {key} {stderr}", key)

    def kill(self, child: Child, number: signal.Signals) -> None:
        """Signal a program's process group, from inside, where no foreign pid can be hit."""
        self._ask(f"kill {child.key} {number.name.removeprefix('SIG')}", "sent", child.key)

    def exit_code(self, child: Child) -> int:
        """Return how a child ended, as bash has it; the child must have ended."""
        text = self._ask(f"wait {child.key}", "ended", child.key)
        return int(text) & 255 if _NUMBER.fullmatch(text) else 255

    def abandon(self, key: str) -> None:
        """End a program whose caller was interrupted, started or about to be."""
        with contextlib.suppress(SandboxLiteError):
            self._ask(f"kill {key} KILL", "sent", key)
            self._ask(f"wait {key}", "ended", key)

    def _open_child(self, inside: int) -> int | None:
        for pid in self._children():
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                # read after the descriptor is held: the pid cannot have changed hands since
                if _inner_pid(pid) == inside:
                    return pidfd
                os.close(pidfd)
        return None

    def _children(self) -> Sequence[int]:
        # no generator: Ctrl-C in the moment of its end would be lost
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            return [int(word) for word in reversed(text.split())]
        return ()

    def open_terminal(self) -> tuple[int, int]:
        """Return the master of a new pseudo-terminal of the jail, and its number inside."""
        path = f"/proc/{self.pid}/root/dev/pts/ptmx"
        try:
            master = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise _gone() from None
        unlock = bytearray(4)
        fcntl.ioctl(master, _TIOCSPTLCK, unlock)
        number = bytearray(4)
        fcntl.ioctl(master, _TIOCGPTN, number)
        return master, int.from_bytes(number, "little")

    def where(self, *parts: str) -> str:
        """Return the path inside of something in the control directory."""
        return "/".join((CONTROL, *parts))

    def close(self) -> None:
        """Let process 1 go: end of file on its requests ends the sandbox."""
        if not self._closed:
            self._closed = True
            self._requests.close()
            self._reports.close()
            self.control.close()


def _gone() -> SandboxClosedError:
    return SandboxClosedError(
        "the sandbox has ended: its process 1 is gone",
        hint="somebody, or the kernel for want of memory, killed it; open a fresh sandbox",
    )


def _inner_pid(pid: int) -> int | None:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return None
