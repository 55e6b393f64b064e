"""The host's end of the nest: a process in a pruned mount namespace, from which sandboxes are born.

What a sandbox is put on (layers, libraries of bwrap, directories of the host) is bound there once
under neutral names, and every sandbox that is put on the same gets a copy. So a start depends
neither on how many mounts the host has, nor on how large or threaded this program is.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from array import array
from io import FileIO
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError
from sandbox_lite.jail import native
from sandbox_lite.jail.native import nest as native_nest
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.process import pidfd_signal, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START_SECONDS = 60.0
_END_SECONDS = 5.0
_MOST_FDS = 8


class Bird:
    """A process that a nest has borne: of its end only its descriptor tells, for the nest reaps."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = FileIO(pidfd, "rb")

    def ends(self, seconds: float) -> bool:
        """Wait for its end; whether it came within so many seconds."""
        if self._pidfd.closed:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def kill(self) -> None:
        """Kill it."""
        if not self._pidfd.closed:
            pidfd_signal(self._pidfd.fileno(), signal.SIGKILL)

    def close(self) -> None:
        """Let go of it."""
        self._pidfd.close()


class Nest:
    """One nest, as long as something is born from it, and some time beyond."""

    def __init__(
        self, outer: Sequence[str], *, write_maps: Callable[[int], None] | None = None
    ) -> None:
        """Start it and wait until it serves.

        Args:
            outer: The bwrap that makes its namespace.
            write_maps: Maps ids in the user namespace of a process, which waits for that.

        Raises:
            LaunchError: It does not; `stderr` is what bwrap said.
            HostError: By `write_maps`.
        """
        self.users = 0
        self.settled = False
        """Whether it was moved to where it may put children into our control groups."""
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._answers: dict[int, tuple[int, list[int]] | None] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._gone = False
        program = native.descriptor("nest")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        with contextlib.ExitStack() as stack:
            errors, said = _pipe(stack)
            maps = None if write_maps is None else _Maps(stack, write_maps)
            waiting, fds = ((), ()) if maps is None else (maps.words, maps.fds)
            argv = (*outer, *waiting, "--", f"/proc/self/fd/{program}")
            stack.enter_context(theirs)
            try:
                self._process = spawn(
                    argv, fds=(program, *fds), stdin=theirs.fileno(), stdout=said.fileno(),
                    stderr=said.fileno(), new_session=True, own=self._own,
                )  # fmt: skip
                theirs.close()
                said.close()
                if maps is not None:
                    maps.write()
                message, _ = self._receive(START_SECONDS)
                if message is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(_END_SECONDS)
                    os.set_blocking(errors.fileno(), False)
                    stderr = (errors.read(65536) or b"").decode(errors="replace").strip()
                    raise LaunchError(
                        f"the place from which sandboxes start did not come up: {stderr}",
                        hint="run: sandbox-lite doctor", argv=argv, stderr=stderr,
                    )  # fmt: skip
                self.pid = message[3]
            except BaseException:
                self.close()
                raise

    def _own(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def _receive(self, seconds: float) -> tuple[tuple[int, ...] | None, list[int]]:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return None, []
        try:
            data, fds, _, _ = socket.recv_fds(
                self._socket, native.MESSAGE.size, _MOST_FDS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return None, []
        if len(data) != native.MESSAGE.size:
            return None, fds
        return native.MESSAGE.unpack(data), fds

    def _send(self, verb: int, fds: Sequence[int]) -> int:
        """Ask for something; return the number by which `_await` knows the answer."""
        with self._lock:
            number = next(self._numbers)
            self._answers[number] = None
            order = native.MESSAGE.pack(verb, number, 0, 0)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
            with contextlib.suppress(ConnectionError):
                self._socket.sendmsg([order], rights)
            return number

    def _await(self, number: int) -> tuple[int, list[int]]:
        """Return the answer, and what came with it; below zero it is an error of the kernel's."""
        with self._lock:
            deadline = time.monotonic() + START_SECONDS
            try:
                while (answer := self._answers[number]) is None:
                    self._take_one(deadline)
            finally:
                del self._answers[number]
            return answer

    def _take_one(self, deadline: float) -> None:
        message, given = self._receive(max(0.0, deadline - time.monotonic()))
        if message is None:
            self._gone = True
            raise LaunchError(
                "the process from which sandboxes start is gone",
                hint="somebody killed it; try again",
            )
        if message[1] in self._answers:
            self._answers[message[1]] = (message[3], given)
            return
        for fd in given:  # of one whose caller was interrupted: its sandbox has no owner
            pidfd_signal(fd, signal.SIGKILL)
            os.close(fd)

    def bear(self, plan: native_nest.Plan) -> Bird | int:
        """Start a program there.

        Returns:
            It, or the kernel's errno where it could not be started.

        Raises:
            LaunchError: The nest is gone.
        """
        with contextlib.ExitStack() as stack:
            memory = native.memory_file(stack, plan.encoded())
            number = self._send(native_nest.BEAR, (memory, *plan.descriptors()))
            value, fds = self._await(number)
        if value > 0 and not fds:
            # it ends by itself, for nobody holds the other ends of what it was given
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return Bird(value, fds[0]) if value > 0 else -value

    def open_low_ports(self, first: int) -> Callable[[], int]:
        """Let everybody in the network of a process that was born here use low ports.

        Returns:
            What waits until it is done, and returns 0 or the kernel's errno.
        """
        network = os.open(f"/proc/{first}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            number = self._send(native_nest.PORTS, (network,))
        finally:
            os.close(network)
        return lambda: -self._await(number)[0]

    def cover(self, first: int, mounts: Sequence[tuple[str, str]]) -> Callable[[], int]:
        """Mount these inside the jail of a process that was born here.

        Returns:
            As `open_low_ports`.
        """
        with contextlib.ExitStack() as stack:
            memory = native.memory_file(stack, native_nest.covers(mounts))
            inside = os.open(f"/proc/{first}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, inside)
            number = self._send(native_nest.COVER, (memory, inside))
        return lambda: -self._await(number)[0]

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return not self._gone and self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End it; nothing that was born there may be in use any more."""
        self._socket.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
            if self._process.returncode is None:
                self._process.kill()
                self._process.wait()
                # in the middle of its start a bwrap leaves a child that nothing wakes
                kill_orphans()

    def drop(self) -> None:
        """Let go of it in a forked child: it is the parent's."""
        self._socket.close()
        if self._process is not None:
            self._process.returncode = 0  # not ours to wait for, and Popen need not complain


def _pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return stack.enter_context(FileIO(reader, "rb")), stack.enter_context(FileIO(writer, "wb"))


class _Maps:
    """Ids that are mapped from outside, while the bwrap that made the user namespace waits."""

    def __init__(self, stack: contextlib.ExitStack, write_maps: Callable[[int], None]) -> None:
        self._write_maps = write_maps
        self._info, self._info_write = _pipe(stack)
        self._unmapped, self._mapped = _pipe(stack)
        self.fds = (self._info_write.fileno(), self._unmapped.fileno())
        self.words = ("--info-fd", str(self.fds[0]), "--userns-block-fd", str(self.fds[1]))

    def write(self) -> None:
        """Map them and let bwrap go on; one that has ended is left to whoever waits for it."""
        self._info_write.close()
        self._unmapped.close()
        try:
            text = b""
            deadline = time.monotonic() + START_SECONDS
            # bwrap writes it in pieces and closes it behind the last
            while piece := self._piece(deadline):
                text += piece
            if text:
                self._write_maps(int(json.loads(text)["child-pid"]))
        finally:
            # also where it failed: unmapped, bwrap then ends by itself
            self._mapped.close()

    def _piece(self, deadline: float) -> bytes:
        poll = select.poll()
        poll.register(self._info, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise LaunchError("bwrap did not start in time", hint="run: sandbox-lite doctor")
        return self._info.read(4096) or b""
