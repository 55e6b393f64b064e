"""The protocol of one persistent bash: commands in, exact results out, whatever a command does.

The text of a command goes into a file that bash sources, its output through FIFOs of its own, its
end comes as a mark on a status FIFO. The terminal carries job control, signals and interactive
programs only. Knows nothing of bwrap or overlays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import signal
import struct
import termios
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError, ShellDiedError, SpecError
from sandbox_lite.jail.capture import Output, Spool
from sandbox_lite.jail.interaction import Interaction
from sandbox_lite.jail.process import pidfd_signal
from sandbox_lite.jail.pump import Pump, read_ready
from sandbox_lite.jail.supervisor import make_fifo, script, write_file
from sandbox_lite.spec import CommandResult, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_lite.jail.pump import Drainer
    from sandbox_lite.jail.supervisor import Child, Supervisor

START_SECONDS = 30.0
_STATUS = re.compile(rb"\x01(\d+) (\d+) (.*?)\x02\n", re.DOTALL)
_STATUS_LIMIT = 64 * 1024
_TRIES = 3
_STATE_LIMIT = 1024 * 1024
_MARK_BYTES = 32
_STATE_OFTEN = 64 * 1024
"""A larger state is asked for after every 16th command only: printing 6 MB takes bash 0.5 s."""

_TIOCSIG, _TIOCGSID = 0x40045436, 0x5429  # ioctl_tty(2); the same on x86-64 and aarch64
_GRACE = (
    (signal.SIGINT, 0.2),
    (signal.SIGTERM, 0.1),
    (signal.SIGKILL, 0.05),
    (signal.SIGINT, 0.05),
    (signal.SIGKILL, 0.05),
)
"""A script goes on after a child of it was killed, hence the second round."""


@dataclass(slots=True)
class _Call:
    """One command under way."""

    number: int
    text: str
    pump: Pump
    started: float
    status: tuple[int, str] | None = None
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class _Bash:
    """One generation of the shell: its process, FIFOs and terminal."""

    child: Child
    key: str
    directory: int
    command: int
    status: int
    state: int
    terminal: int
    number: int
    nonce: str
    mark: re.Pattern[bytes]
    """What ends a state, with the exit code at that moment."""
    state_code: int | None = None
    modes: list[int | list[bytes | int]] = field(default_factory=list)
    ended: bool = False

    def close(self) -> None:
        """Let go of every descriptor; the process itself belongs to the jail."""
        for fd in (self.directory, self.command, self.status, self.state, self.terminal):
            os.close(fd)
        if self.child.pidfd is not None:
            os.close(self.child.pidfd)


class Shell:
    """A bash whose directory, variables, functions, aliases and options carry over.

    One command at a time; a second caller waits. The shell that a command ends, kills or makes
    useless is replaced by a fresh one with the state of the last command.
    """

    def __init__(
        self, supervisor: Supervisor, drainer: Drainer, *, name: str, output_bytes: int
    ) -> None:
        if re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name) is None:
            raise SpecError(f"not a shell name: {name!r}", hint="use letters, digits, - and _")
        self.name = name
        self._supervisor = supervisor
        self._drainer = drainer
        self._output_bytes = output_bytes
        self._lock = threading.RLock()
        self._number = 0
        self._generation = 0
        self._state = b""
        self._state_buffer = bytearray()
        self._status_buffer = b""
        self.cwd = ""
        self._bash: _Bash | None = self._start()

    # -- one generation -----------------------------------------------------------------------

    def _start(self) -> _Bash:
        self._generation += 1
        self._status_buffer = b""
        self._state_buffer.clear()
        key = f"shell-{self.name}-{self._generation}"
        nonce = secrets.token_hex(8)
        with contextlib.ExitStack() as undo:
            directory = self._supervisor.control.directory(key)
            undo.callback(self._supervisor.control.remove, key)
            undo.callback(os.close, directory)
            text = script("rc.bash").replace("KEY", key).replace("NONCE", nonce)
            write_file(directory, "rc", text.encode())
            write_file(directory, "restore", self._state)
            fifos = {}
            for name in ("command", "status", "state"):
                fifos[name] = make_fifo(directory, name, os.O_RDWR)
                undo.callback(os.close, fifos[name])
            terminal, number = self._supervisor.open_terminal()
            undo.callback(os.close, terminal)
            child = self._supervisor.start_shell(key, number)
            bash = _Bash(
                child=child,
                key=key,
                directory=directory,
                command=fifos["command"],
                status=fifos["status"],
                state=fifos["state"],
                terminal=terminal,
                number=number,
                nonce=nonce,
                mark=re.compile(f"#{nonce} (\\d+)\n".encode()),
            )
            self._handshake(bash)
            undo.pop_all()
        return bash

    def _handshake(self, bash: _Bash) -> None:
        import pexpect
        from pexpect import fdpexpect

        # pexpect's select() raises for descriptors above 1023
        spawn = fdpexpect.fdspawn(bash.terminal, timeout=START_SECONDS, use_poll=True)
        try:
            spawn.expect_exact(f"sandbox-lite ready {bash.nonce}\r\n".encode())
        except (pexpect.EOF, pexpect.TIMEOUT) as error:
            raise LaunchError(
                f"bash did not start in the sandbox ({type(error).__name__})",
                hint="does the rootfs have bash and setsid (util-linux)?",
            ) from None
        fcntl.ioctl(bash.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        bash.modes = termios.tcgetattr(bash.terminal)
        bash.modes[3] &= ~termios.ECHO  # type: ignore[operator]  # index 3 is the int of lflags
        self._read_status(bash, None)

    def _ready(self) -> _Bash:
        """Return a live shell, a fresh one where the last ended between two commands."""
        bash = self._bash
        if bash is not None and not bash.ended:
            pump = Pump(Output(1, Spool("", lambda: -1)))
            self._watch(bash, pump, None)
            pump.turn(0)
        if bash is None or bash.ended:
            bash = self._replace()
        return bash

    def _replace(self) -> _Bash:
        if self._bash is not None:
            self._read_state(self._bash)
            self._supervisor.control.remove(self._bash.key)
            self._bash.close()
            self._bash = None
        try:
            self._bash = self._start()
        except LaunchError as error:
            raise ShellDiedError(
                f"shell {self.name!r} ended and no fresh one could be started: {error.message}",
                hint=error.hint,
            ) from error
        return self._bash

    # -- what comes back ----------------------------------------------------------------------

    def _read_status(self, bash: _Bash, call: _Call | None) -> None:
        self._status_buffer += read_ready(bash.status) or b""
        while match := _STATUS.search(self._status_buffer):
            self._status_buffer = self._status_buffer[match.end() :]
            number, code, cwd = int(match[1]), int(match[2]), match[3].decode(errors="replace")
            if number == (0 if call is None else call.number):
                self.cwd = cwd
                if call is not None:
                    call.status = (code & 255, cwd)
        # anybody inside can write here: keep no more than a mark could need
        self._status_buffer = self._status_buffer[-_STATUS_LIMIT:]

    def _read_state(self, bash: _Bash) -> None:
        while data := read_ready(bash.state):
            self._state_buffer += data
            # a mark can only end in what is new
            start = max(0, len(self._state_buffer) - len(data) - _MARK_BYTES)
            while mark := bash.mark.search(self._state_buffer, start):
                if mark.start() <= _STATE_LIMIT:
                    self._state = bytes(self._state_buffer[: mark.start()])
                bash.state_code = int(mark[1])
                del self._state_buffer[: mark.end()]
                start = 0
            # too large to keep: only enough is held to find the mark that ends it
            if len(self._state_buffer) > 2 * _STATE_LIMIT:
                del self._state_buffer[_STATE_LIMIT + 1 : -_MARK_BYTES]

    def _watch(self, bash: _Bash, pump: Pump, call: _Call | None, *, tty: bool = False) -> None:
        def ended() -> None:
            bash.ended = True

        pump.watch(bash.status, lambda: self._read_status(bash, call))
        pump.watch(bash.state, lambda: self._read_state(bash))
        if not tty:
            # what background jobs print on /dev/tty goes nowhere, but must not block them
            pump.watch(bash.terminal, lambda: _discard(bash.terminal))
        if bash.child.pidfd is None:
            bash.ended = True
        else:
            pump.watch(bash.child.pidfd, ended)

    # -- running ------------------------------------------------------------------------------

    def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command and wait for its end; what it sets stays for the next.

        Args:
            command: Any text that bash can read, of any length; no NUL.
            timeout: Seconds; then SIGINT, SIGTERM, SIGKILL to the command, at last to the shell.
            merge: Give the command one pipe for both streams, which keeps their order exactly.
            on_output: Called with `"stdout"` or `"stderr"` and bytes while they come.

        Returns:
            What happened. A failing, timed out or killed command is a result.

        Raises:
            SpecError: The command holds a NUL byte.
            SandboxClosedError: The sandbox is closed.
            ShellDiedError: The shell ended and no other could be started.
        """
        with self._lock:
            for _ in range(_TRIES):
                with self._call(command, merge=merge, on_output=on_output) as call:
                    if not self._never_began(call, timeout):
                        return self._complete(call, timeout)
        raise ShellDiedError(f"shell {self.name!r} ends before it runs a command")

    def _never_began(self, call: _Call, timeout: float | None) -> bool:
        """Wait for the end; whether the shell ended of an earlier command's doing instead.

        A command that closes the shell's stdin, for one, ends it some time after its own end.
        """
        self._wait(call, None if timeout is None else call.started + timeout)
        if call.status is None and self._bash is not None and self._bash.ended:
            call.pump.turn(0)
            return not call.pump.opened
        return False

    @contextlib.contextmanager
    def interact(self, command: str | bytes) -> Iterator[Interaction]:
        """Run a command on the shell's terminal and talk to it; see `Interaction`."""
        with self._lock, self._call(command, tty=True) as call:
            bash = self._bash
            assert bash is not None

            def finish(timeout: float | None) -> CommandResult:
                return self._complete(call, timeout)

            def over() -> bool:
                call.pump.turn(0)
                return call.status is not None or bash.ended

            yield Interaction(bash.terminal, call.pump.output, over=over, finish=finish)
            if call.status is None:
                self._end(call)

    @contextlib.contextmanager
    def _call(
        self,
        command: str | bytes,
        *,
        merge: bool = False,
        tty: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> Iterator[_Call]:
        text = command.encode(errors="surrogateescape") if isinstance(command, str) else command
        if b"\0" in text:
            raise SpecError("a command holds a NUL byte", hint="write the bytes with sb.files")
        self._supervisor.check_open()
        bash = self._ready()
        call = self._send(bash, text, merge=merge, tty=tty, on_output=on_output)
        try:
            yield call
        except BaseException:
            if call.status is None and not bash.ended:
                self._end(call)
            raise
        finally:
            call.pump.close()
            for name in call.names:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=bash.directory)

    def _send(
        self,
        bash: _Bash,
        text: bytes,
        *,
        merge: bool,
        tty: bool,
        on_output: Callable[[str, bytes], None] | None,
    ) -> _Call:
        self._number += 1
        number = self._number
        spool = self._spool(number)
        pump = Pump(Output(self._output_bytes, spool, on_output))
        call = _Call(number, text.decode(errors="replace"), pump, time.monotonic())
        self._watch(bash, pump, call, tty=tty)
        write_file(bash.directory, f"{number}", text)
        base = self._supervisor.where(bash.key, str(number))
        if tty:
            call.names = (f"{number}",)
            where = f"</dev/pts/{bash.number} >/dev/pts/{bash.number} 2>&1"
        else:
            streams = ("stdout",) if merge else ("stdout", "stderr")
            call.names = (f"{number}", *(f"{number}.{stream}" for stream in streams))
            for stream in streams:
                pump.stream(make_fifo(bash.directory, f"{number}.{stream}", os.O_RDONLY), stream)
            where = f"</dev/null >{base}.stdout 2>" + ("&1" if merge else f"{base}.stderr")
        # job control and a killed program may leave the terminal raw
        termios.tcsetattr(bash.terminal, termios.TCSANOW, bash.modes)
        often = len(self._state) <= _STATE_OFTEN or number % 16 == 0
        # Two lines: an abort (set -u, SIGINT, a syntax error) drops the first alone. The backslash
        # keeps an alias of that name away. At the top level, for in a function `declare` is local.
        lines = f"\\. {base} {where}\n__sbx_status $? {number}\n" + "__sbx_state\n" * often
        os.write(bash.command, lines.encode())
        return call

    def _spool(self, number: int) -> Spool:
        name = f"output-{self.name}-{number}.txt"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        control = self._supervisor.control
        return Spool(
            self._supervisor.where(name), lambda: os.open(name, flags, 0o644, dir_fd=control.fd)
        )

    def _wait(self, call: _Call, deadline: float | None) -> bool:
        """Pump until the command has ended; False at the deadline."""
        bash = self._bash
        assert bash is not None
        while call.status is None and not bash.ended:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            call.pump.turn(left)
        return True

    def _end(self, call: _Call) -> None:
        """End a running command: its foreground group, in the last resort the shell with it."""
        bash = self._bash
        assert bash is not None
        for number, grace in _GRACE:
            self._signal_foreground(bash, number)
            if self._wait(call, time.monotonic() + grace):
                return
        if bash.child.pidfd is not None:
            pidfd_signal(bash.child.pidfd, signal.SIGKILL)
        if not self._wait(call, time.monotonic() + START_SECONDS):
            raise ShellDiedError(f"shell {self.name!r} cannot be killed")

    def _signal_foreground(self, bash: _Bash, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            if number is signal.SIGINT:
                # no pid is named, so none can be the wrong one; takes INT, QUIT and TSTP only
                fcntl.ioctl(bash.terminal, _TIOCSIG, int(number))
                return
            # asked from the master, the kernel answers in our own pid numbering
            group = _ioctl_int(bash.terminal, termios.TIOCGPGRP)
            if group > 1 and group != _ioctl_int(bash.terminal, _TIOCGSID):
                os.killpg(group, number)

    def _complete(self, call: _Call, timeout: float | None) -> CommandResult:
        bash = self._bash
        assert bash is not None
        deadline = None if timeout is None else call.started + timeout
        in_time = self._wait(call, deadline)
        if not in_time:
            self._end(call)
        background = call.pump.settle()
        if background:
            call.pump.output.spool_all()
            call.pump.hand_over(self._drainer)
        outcome = Outcome.EXITED if in_time else Outcome.TIMED_OUT
        restarted = call.status is None
        if call.status is None:
            self._read_state(bash)
            code = self._supervisor.exit_code(bash.child)
            # a shell that exits leaves its state and that very code; one that is killed cannot
            if in_time and code > 128 and bash.state_code != code:
                outcome = Outcome.KILLED
        else:
            code = call.status[0]
        output = call.pump.output
        if not background:
            output.spool.close()
        return CommandResult(
            command=call.text,
            outcome=outcome,
            exit_code=code,
            stdout_bytes=output.text("stdout"),
            stderr_bytes=output.text("stderr"),
            merged_bytes=output.text("merged"),
            dropped_bytes=output.merged.missing_bytes,
            full_output=output.spool.path if output.spool.started else None,
            seconds=time.monotonic() - call.started,
            cwd=self.cwd,
            background=background,
            restarted=restarted,
        )

    def close(self) -> None:
        """Let go of the descriptors; the shell ends with its sandbox."""
        if self._bash is not None:
            self._bash.close()
            self._bash = None


def _discard(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.read(fd, 65536)


def _ioctl_int(fd: int, request: int) -> int:
    buffer = fcntl.ioctl(fd, request, struct.pack("i", 0))
    return int(struct.unpack("i", buffer)[0])
