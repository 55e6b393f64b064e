"""Removes what is left of sandboxes whose program was killed: a process that waits for its end.

Here is the program's end of it; `chores.py` is the process. It gets orders on a socket whose other
end the program holds and the kernel closes however the program dies; what is still on its list is
then removed, and the janitor ends too. It stands in a session of its own, so the program's Ctrl-C
does not reach it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

from sandbox_lite.errors import HostError
from sandbox_lite.jail import process
from sandbox_lite.jail.chores import CLOSING, DISMISSAL, DONE, NUMBERS, READY, SOCKETS, TAP
from sandbox_lite.jail.process import pidfd_signal

_MOST_SOCKETS = 64
_END_SECONDS = 10.0
_PATIENCE = struct.pack("ll", 30, 0)
"""struct timeval: seconds, microseconds."""

_PROGRAM = """\
import sys
sys.path.append(sys.argv[1])
from sandbox_lite.jail.chores import serve as be_the_janitor
be_the_janitor()
"""
"""Without site-packages: it needs nothing but us and the standard library."""


class _Running:
    """One janitor process, and our end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                child = process.spawn(
                    [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parents[2])],
                    stdin=theirs.fileno(),
                    new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        # it outlives us by design, so nobody will wait for it; this keeps Popen from complaining
        child.returncode = 0
        # one that was stopped must not stop us
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        self.socket = ours
        self.pid = child.pid
        self._pidfd = os.pidfd_open(child.pid)
        self._ready = False

    def end(self) -> None:
        """Kill it, and wait until it can do nothing any more."""
        pidfd_signal(self._pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll(_END_SECONDS * 1000)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        self.close()

    def close(self) -> None:
        """Let go of it: it ends, once what it watches is removed."""
        self.socket.close()
        os.close(self._pidfd)

    def await_ready(self) -> None:
        """Wait until it serves, or has ended."""
        if not self._ready:
            with contextlib.suppress(OSError):
                self._ready = self.socket.recv(64) == READY


class Janitor:
    """The program's end; one janitor serves all sandboxes of a program."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._watched: dict[bytes, bytes] = {}

    def _say(self, order: bytes) -> None:
        with self._lock:
            for path in order[1:].split(b"\0"):
                if order[:1] in (b"+", b"*"):
                    self._watched[path] = order[:1] + path
                elif order[:1] == b"-":
                    self._watched.pop(path, None)
            try:
                self._started().socket.send(order)
            except ConnectionError:
                self._renewed().socket.send(order)

    def _renewed(self) -> _Running:
        # it was killed, or is so slow that it may as well be: another takes over all that there is
        # to watch. One that is merely slow must not come to see our end closed, and tidy up.
        if self._running is not None:
            self._running.end()
            self._running = None
        running = self._started()
        for one in self._watched.values():
            running.socket.send(one)
        return running

    def _started(self) -> _Running:
        if self._running is None:
            self._running = _Running()
        return self._running

    def sockets(self, namespace: int, order: str) -> list[socket.socket]:
        """Return sockets made in a network namespace: `listen PORT`, one, or `connect COUNT`.

        Args:
            namespace: Descriptor of the namespace.
            order: The words.

        Raises:
            HostError: They could not be made; the port may be taken.
        """
        _, fds = self._inside(SOCKETS + order.encode(), namespace)
        if not fds:
            raise HostError(
                "no socket could be made in the sandbox's network",
                hint="run: sandbox-lite doctor",
            )
        return [socket.socket(fileno=fd) for fd in fds]

    def set_tap(self, namespace: int, order: str) -> str:
        """Have a network interface of a jail set up.

        Args:
            namespace: Descriptor of its network namespace.
            order: `NAME MTU OWN GATEWAY DNS REFUSED... - SILENT...`; see `tap.answer`.

        Returns:
            Why it could not be done; empty when it is done.
        """
        said, _ = self._inside(TAP + order.encode(), namespace)
        return "" if said == b"yes" else said.decode(errors="replace").removeprefix("no: ") or "?"

    def forbid_namespaces(self, holder: int) -> None:
        """Have no further namespace made in the user namespace of a process; done on return.

        Raises:
            HostError: It could not be done.
        """
        if self._inside(CLOSING + b"%d" % holder)[0] != DONE:
            raise HostError(
                "the sandbox could not be kept from making namespaces",
                hint="run: sandbox-lite doctor",
            )

    def bound_numbers(self, first: int, count: int) -> None:
        """Have a process's pid namespace give no more than so many numbers; done on return.

        Inside nobody can raise it again.

        Raises:
            HostError: It could not be done.
        """
        if self._inside(NUMBERS + b"%d %d" % (first, count))[0] != DONE:
            raise HostError(
                "the processes of a sandbox cannot be bounded here",
                hint="run as an ordinary user, or where a control group can be made",
            )

    def _inside(self, order: bytes, *namespaces: int) -> tuple[bytes, list[int]]:
        """Return the answer to an order for a jail, and the descriptors that came with it."""
        said, fds = b"", list[int]()
        with self._lock:
            for _ in range(2):
                running = self._started()
                running.await_ready()
                try:
                    socket.send_fds(running.socket, [order], namespaces)
                    said, fds, _, _ = socket.recv_fds(
                        running.socket, 1024, _MOST_SOCKETS, socket.MSG_CMSG_CLOEXEC
                    )
                except OSError:
                    said = b""
                if said:
                    break
                # it was killed, or its answer may still come and would be taken for another's
                self._renewed()
        return said, fds

    def watch(self, path: Path) -> None:
        """Have a directory removed when this program ends."""
        self._say(b"+" + os.fsencode(path))

    def watch_groups(self, *paths: str) -> None:
        """Have control groups emptied and removed when this program ends."""
        self._say(b"*" + b"\0".join(map(os.fsencode, paths)))

    def forget(self, *paths: Path | str) -> None:
        """Watch directories no longer: they are gone."""
        self._say(b"-" + b"\0".join(map(os.fsencode, paths)))

    def start(self) -> None:
        """Start it now, so that it is there should this program be killed."""
        with self._lock:
            self._started()

    @property
    def pid(self) -> int:
        """Its pid; it is started where it does not run yet."""
        with self._lock:
            return self._started().pid

    def dismiss(self) -> None:
        """Let it end at once: this program ends as it should."""
        with self._lock:
            if self._running is not None:
                with contextlib.suppress(OSError):
                    self._running.socket.send(DISMISSAL)

    def after_fork(self) -> None:
        """Close the parent's end in a forked child, or the parent's death would go unseen."""
        self._lock = threading.Lock()
        self._watched = {}
        if self._running is not None:
            self._running.close()
            self._running = None


SHARED = Janitor()
"""The one of this program."""

os.register_at_fork(after_in_child=SHARED.after_fork)
atexit.register(SHARED.dismiss)
