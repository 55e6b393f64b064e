"""One generation of a persistent shell: its process, FIFOs, terminal, and what it reports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import select
import signal
import struct
import termios
import time
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError
from sandbox_lite.jail.control import make_fifo, open_fifo, script, write_file
from sandbox_lite.jail.process import explained, pidfd_signal
from sandbox_lite.jail.pump import read_ready

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox_lite.jail.pump import Pump
    from sandbox_lite.jail.supervisor import Supervisor

START_SECONDS = 30.0
ROWS, COLUMNS = 24, 80

_STATUS, _STATUS_END = re.compile(rb"\x01(\d{1,18}) (\d{1,3}) "), b"\x02\n"
_STATUS_LIMIT = 64 * 1024
_CODE = re.compile(rb"(\d{1,3})\n")
_TEXT = "text"
_STATE_LIMIT = 1024 * 1024
_ASKED_LIMIT = 64 * _STATE_LIMIT
"""Of a state that was asked for, which must be whole."""
_ASKED_SECONDS = 30.0
_STATE_READS = 32
_MARK_BYTES = 32
_MOST_READY = 3
_STATE_OFTEN = 64 * 1024
"""A larger state is asked for after every 16th command only: printing 6 MB takes bash 0.5 s."""

# ioctl_tty(2); the same on x86-64 and aarch64
_TIOCSIG, _TIOCGSID, _TCGETS, _TCSETS = 0x40045436, 0x5429, 0x5401, 0x5402
_TERMIOS_FLAGS, _TERMIOS_BYTES = struct.Struct("4I"), 36
"""The kernel's own, which tcsetattr(3) asks for three times on its way."""


class Bash:
    """A running bash; when it ends, `Shell` starts the next from the `state` it left."""

    def __init__(self, supervisor: Supervisor, *, key: str, state: bytes) -> None:
        """Start it and wait until it takes commands.

        Args:
            supervisor: Process 1 of the sandbox.
            key: Name of its directory in the control directory, never used before.
            state: What an earlier generation reported, to be sourced first.

        Raises:
            LaunchError: It did not start.
        """
        self.key = key
        self.state = state
        """Bash code that brings back directory, variables, functions, aliases, options, traps."""
        self.state_code: int | None = None
        """`$?` when that state was printed."""
        self.cwd = ""
        self.ended = False
        self._supervisor = supervisor
        self._nonce = secrets.token_hex(8)
        self._mark = f"#{self._nonce} ".encode()
        self._status_buffer = b""
        self._state_buffer = bytearray()
        self._state_limit = _STATE_LIMIT
        self._stale = False
        self._states_asked = self._states_before = self._states_seen = 0
        self._found: list[tuple[int, int]] | None = None
        self._reusable: set[str] = set()
        """FIFOs for output that nobody holds any more."""
        with contextlib.ExitStack() as stack:
            with explained(f"start the shell {key}"):
                self._open(stack)
            try:
                self._handshake()
            except BaseException:
                # without its FIFOs it would wait at one of them as long as the sandbox lives
                self.kill()
                self.forget()
                raise
            self._stack = stack.pop_all()

    def _open(self, stack: contextlib.ExitStack) -> None:
        control = self._supervisor.control
        self.directory = control.directory(self.key)
        stack.callback(control.remove, self.key)
        stack.callback(os.close, self.directory)
        text = script("rc.bash").replace("KEY", self.key).replace("NONCE", self._nonce)
        write_file(self.directory, "rc", text.encode())
        if self.state:
            write_file(self.directory, "restore", self.state)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._text = os.open(_TEXT, flags, 0o600, dir_fd=self.directory)
        stack.callback(os.close, self._text)

        def fifo(name: str) -> int:
            fd = make_fifo(self.directory, name, os.O_RDWR)
            stack.callback(os.close, fd)
            return fd

        self._commands, self._status, self._states = fifo("command"), fifo("status"), fifo("state")
        self.terminal, self.terminal_number = self._supervisor.open_terminal()
        stack.callback(os.close, self.terminal)
        self._prepare_terminal()
        rc = self._supervisor.where(self.key, "rc")
        self._child = self._supervisor.start_shell(rc, self.terminal)
        stack.callback(os.close, self._child.pidfd)
        self._epoll = select.epoll()
        stack.callback(self._epoll.close)
        # what background jobs print on /dev/tty goes nowhere, but must not block them
        for fd in (self._status, self.terminal, self._child.pidfd):
            self._epoll.register(fd, select.EPOLLIN)

    def _handshake(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.turn(0) is None:
            left = deadline - time.monotonic()
            if self.ended or left <= 0:
                how = "it ended" if self.ended else "it says nothing"
                raise LaunchError(
                    f"bash did not start in the sandbox: {how}",
                    hint="does the rootfs have bash?",
                    began=True,
                )
            self.block(left)

    def _prepare_terminal(self) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        modes = fcntl.ioctl(self.terminal, _TCGETS, bytes(_TERMIOS_BYTES))
        flags = list(_TERMIOS_FLAGS.unpack_from(modes))
        flags[3] &= ~termios.ECHO
        self._modes = _TERMIOS_FLAGS.pack(*flags) + modes[_TERMIOS_FLAGS.size :]

    @property
    def pid(self) -> int:
        """The jail's own pid of it."""
        return self._child.inside

    # -- commands -----------------------------------------------------------------------------

    def stream(self, name: str) -> int:
        """Return the reading end of a FIFO for an output of the next command.

        The one of an earlier command is taken where that has let go of it: see `release`.
        """
        if name in self._reusable:
            self._reusable.discard(name)
            # opened anew: poll(2) tells of writers that were there since then
            return open_fifo(self.directory, name, os.O_RDONLY)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.directory)
        return make_fifo(self.directory, name, os.O_RDONLY)

    def release(self, name: str) -> None:
        """Use the FIFO of that output again: nobody has it open."""
        self._reusable.add(name)

    def give(self, text: bytes) -> None:
        """Put the text of the next command where it is sourced from."""
        # bash has read the last one to its end before it ran the first line of it
        fd, done = self._text, 0
        while done < len(text):
            done += os.pwrite(fd, text[done:] if done else text, done)
        os.ftruncate(fd, len(text))

    def send(self, number: int, streams: Sequence[str], *, tty: bool) -> None:
        """Let it source the command that it was given.

        Args:
            number: Under which the end is reported; never used before.
            streams: Those whose FIFOs it writes to; a single one takes all output.
            tty: It has the terminal instead.
        """
        # job control and a killed program may leave the terminal raw
        fcntl.ioctl(self.terminal, _TCSETS, self._modes)
        often = len(self.state) <= _STATE_OFTEN or number % 16 == 0
        base = self._supervisor.where(self.key)
        if tty:
            terminal = f"/dev/pts/{self.terminal_number}"
            where = f"<{terminal} >{terminal} 2>&1"
        else:
            where = f"</dev/null >{base}/{streams[0]} 2>"
            where += "&1" if len(streams) == 1 else f"{base}/{streams[1]}"
        # Two lines: an abort (set -u, SIGINT, a syntax error) drops the first alone. The backslash
        # keeps an alias of that name away. At the top level, for in a function `declare` is local.
        lines = f"\\. {base}/{_TEXT} {where}\n__sbx_status $? {number}\n"
        self._states_before = self._states_asked
        self._states_asked += often
        os.write(self._commands, (lines + "__sbx_state\n" * often).encode())

    def signal_foreground(self, number: signal.Signals) -> None:
        """Signal what runs in the foreground; the shell itself gets SIGINT only."""
        with contextlib.suppress(OSError):
            if number is signal.SIGINT:
                # no pid is named, so none can be the wrong one; takes INT, QUIT and TSTP only
                fcntl.ioctl(self.terminal, _TIOCSIG, int(number))
                return
            # asked from the master, the kernel answers in our own pid numbering
            group = _ioctl_int(self.terminal, termios.TIOCGPGRP)
            if group > 1 and group != _ioctl_int(self.terminal, _TIOCGSID):
                os.killpg(group, number)

    def kill(self) -> None:
        """Kill it; what it started stays."""
        pidfd_signal(self._child.pidfd, signal.SIGKILL)

    def forget(self) -> None:
        """Never ask how it ended."""
        self._supervisor.forget(self._child.key)

    def exit_code(self) -> int:
        """Return how it ended, which it must have."""
        return self._supervisor.exit_code(self._child)

    # -- reports ------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return a descriptor that can be read when it has something to say, or has ended."""
        return self._epoll.fileno()

    def block(self, seconds: float | None) -> None:
        """Wait for that, at most so long, and leave it to `turn` to deal with it."""
        self._found = self._epoll.poll(seconds, _MOST_READY)

    def turn(self, number: int) -> int | None:
        """Deal with all that it has said; return the exit code of that command if it was there."""
        if self._found is None:
            self.block(0)
        found, self._found = self._found or (), None
        code = None
        for fd, _ in found:
            if fd == self._status:
                code = self.read_status(number)
            elif fd == self.terminal:
                self._discard()
            else:
                self.ended = True
        return code

    @contextlib.contextmanager
    def terminal_left(self) -> Iterator[None]:
        """Read nothing from the terminal: somebody else does."""
        self._epoll.unregister(self.terminal)
        try:
            yield
        finally:
            self._epoll.register(self.terminal, select.EPOLLIN)

    def watch_state(self, pump: Pump) -> None:
        """Let a pump take the state of the last command as it comes.

        One that fills its FIFO keeps bash waiting. Else it is best left there: to be woken by each
        of its lines costs more than most commands.
        """
        pump.watch(self._states, self.read_state)

    def read_status(self, number: int) -> int | None:
        """Return the exit code of that command if it was reported."""
        self._status_buffer += read_ready(self._status) or b""
        code = None
        *marks, rest = self._status_buffer.split(_STATUS_END)
        # anybody inside can write here, and without end: each byte is looked at once
        for mark in marks:
            for match in _STATUS.finditer(mark):
                if int(match[1]) == number:
                    code = int(match[2]) & 255
                    self.cwd = mark[match.end() :].decode(errors="replace")
                    break
        # keep no more than a mark could need
        self._status_buffer = rest[-_STATUS_LIMIT:]
        return code

    def read_state_before(self) -> None:
        """Take the state of the command before the last, which has been printed by now.

        Bash may be printing the next: to read that line by line would take its time.
        """
        if self._states_seen < self._states_before:
            self._take_state()

    def read_state(self) -> None:
        """Take the states that were printed."""
        # anybody inside can write here as fast as it is read
        for _ in range(_STATE_READS):
            if not self._take_state():
                return

    def _take_state(self) -> bool:
        data = read_ready(self._states)
        if data:
            self._state_buffer += data
            # a mark can only end in what is new
            start = max(0, len(self._state_buffer) - len(data) - _MARK_BYTES)
            while (at := self._state_buffer.find(self._mark, start)) >= 0:
                start = at + len(self._mark)
                code = _CODE.match(self._state_buffer, start)
                if code is None:
                    continue
                self._stale = at > self._state_limit
                if not self._stale:
                    self.state = bytes(self._state_buffer[:at])
                self.state_code = int(code[1])
                self._states_seen += 1
                del self._state_buffer[: code.end()]
                start = 0
            # too large to keep: only enough is held to find the mark that ends it
            if len(self._state_buffer) > 2 * self._state_limit:
                del self._state_buffer[self._state_limit + 1 : -_MARK_BYTES]
        return bool(data)

    def ask_state(self, number: int) -> bytes | None:
        """Have it print its state, between two commands.

        Args:
            number: As that of a command, and never used before.

        Returns:
            The state; None where it is too large to keep, or bash has ended or does not answer.
        """
        self._state_limit = _ASKED_LIMIT
        try:
            # the status comes behind the state, so that once it is there all of that has been said
            os.write(self._commands, f"__sbx_state\n__sbx_status $? {number}\n".encode())
            self._states_asked += 1
            poll = select.poll()
            poll.register(self._states, select.POLLIN)
            poll.register(self._epoll, select.POLLIN)
            deadline = time.monotonic() + _ASKED_SECONDS
            told = False
            while not told:
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return None
                self.read_state()
                told = self.turn(number) is not None
                if self.ended and not told:
                    return None
            self._states_before = self._states_asked
            self.read_state()
            return None if self._stale else self.state
        finally:
            self._state_limit = _STATE_LIMIT

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self.terminal, 65536)

    def close(self) -> None:
        """Let go of descriptors and files; the process itself belongs to the jail."""
        self._stack.close()


def _ioctl_int(fd: int, request: int) -> int:
    buffer = fcntl.ioctl(fd, request, struct.pack("i", 0))
    return int(struct.unpack("i", buffer)[0])
