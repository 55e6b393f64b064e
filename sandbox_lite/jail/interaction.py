"""Talk to a program on the shell's terminal: pexpect drives it, or a person's own terminal."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time
from typing import TYPE_CHECKING, Protocol

from sandbox_lite.jail.pump import read_ready
from sandbox_lite.jail.steps import Readable, Wait, finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.jail.capture import Output
    from sandbox_lite.jail.steps import Steps
    from sandbox_lite.spec import CommandResult

_SLICE_SECONDS = 0.05
_READS = 64


class _Finish(Protocol):
    def __call__(self, timeout: float | None) -> Steps[CommandResult]: ...


class _Log:
    """What pexpect reads from the terminal goes into the output of the command."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, data: bytes) -> None:
        self._output.feed("stdout", data)

    def flush(self) -> None:
        return


class Interaction:
    """A program that runs on the sandbox's terminal, between two calls of `run`."""

    def __init__(
        self,
        terminal: int,
        output: Output,
        *,
        over: Callable[[], bool],
        finish: _Finish,
        end: Callable[[], Steps[None]] | None = None,
    ) -> None:
        from pexpect import fdpexpect

        self._terminal = terminal
        self._over = over
        self._finish = finish
        self._end = end
        self._output = output
        # pexpect's select() raises for descriptors above 1023
        self._spawn = fdpexpect.fdspawn(terminal, use_poll=True)
        self._spawn.logfile_read = _Log(output)

    @property
    def terminal(self) -> int:
        """Descriptor of the terminal's master, which stays its owner's."""
        return self._terminal

    @property
    def over(self) -> bool:
        """Whether the program has ended."""
        return self._over()

    def result(self, timeout: float | None) -> CommandResult:
        """Return what happened to the program, whose terminal somebody else has read."""
        return finish(self.result_steps(timeout))

    def result_steps(self, timeout: float | None) -> Steps[CommandResult]:
        """Return the steps of `result`, for whoever does not wait in a thread."""
        return self._finish(timeout)

    def end_steps(self) -> Steps[None]:
        """Return the steps of ending the program, if it has not ended and that is ours to do."""
        if self._end is not None and not self._over():
            yield from self._end()

    @property
    def before(self) -> str:
        """What the program printed before the last match of `expect`."""
        before: object = self._spawn.before
        return before.decode(errors="replace") if isinstance(before, bytes) else ""

    def send(self, data: str | bytes) -> None:
        """Type some characters."""
        self._spawn.send(data.encode() if isinstance(data, str) else data)

    def sendline(self, line: str = "") -> None:
        """Type a line and press Enter."""
        self.send(f"{line}\n")

    def control(self, letter: str) -> None:
        """Press Ctrl and a letter: `c` interrupts, `d` ends the input, `z` stops."""
        self.send(bytes([ord(letter.lower()) & 0x1F]))

    def expect(self, pattern: str, *, timeout: float = 30.0) -> str:
        r"""Wait until the program prints what a regular expression describes.

        Lines end with `\r\n`, as on any terminal.

        Returns:
            The text that matched; what stood before it is in `before`.

        Raises:
            pexpect.TIMEOUT: It did not come in so many seconds.
            pexpect.EOF: The program ended without printing it.
        """
        return finish(self.expect_steps(pattern, timeout=timeout))

    def expect_steps(self, pattern: str, *, timeout: float = 30.0) -> Steps[str]:
        """Return the steps of `expect`."""
        import pexpect

        deadline = time.monotonic() + timeout
        compiled = self._spawn.compile_pattern_list([pattern.encode(), pexpect.TIMEOUT])
        while True:
            over = self._over()
            if self._spawn.expect_list(compiled, timeout=0) == 0:
                after = self._spawn.after
                assert isinstance(after, bytes)
                return after.decode(errors="replace")
            if over:
                raise pexpect.EOF(f"the program ended before {pattern!r} came: {self.before!r}")
            if time.monotonic() > deadline:
                raise pexpect.TIMEOUT(f"no {pattern!r} in {timeout} s: {self.before!r}")
            yield Wait(Readable(self._terminal), _SLICE_SECONDS)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the program the size of its window."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def echo(self, on: bool) -> None:
        """Let the terminal show what is typed, as a person's does."""
        modes = termios.tcgetattr(self._terminal)
        modes[3] = modes[3] | termios.ECHO if on else modes[3] & ~termios.ECHO
        termios.tcsetattr(self._terminal, termios.TCSANOW, modes)

    def attach(self, stdin: int, stdout: int) -> None:
        """Pass bytes between a person's terminal and the program until it ends."""
        poll = select.poll()
        poll.register(stdin, select.POLLIN)
        poll.register(self._terminal, select.POLLIN)
        while True:
            over = self._over()
            ready = {fd for fd, _ in poll.poll(_SLICE_SECONDS * 1000)}
            # nothing comes, although it is ready, when the shell itself has ended
            data = read_ready(self._terminal) if self._terminal in ready else None
            if data:
                _write_all(stdout, data)
            elif over:
                return
            if stdin in ready:
                data = os.read(stdin, 65536)
                if data:
                    _write_all(self._terminal, data)
                else:
                    poll.unregister(stdin)
                    self.control("d")

    def finish(self, *, timeout: float | None = 30.0) -> CommandResult:
        """Wait for the end of the program and return what happened to it.

        Its output is the terminal's: both streams in one, lines ending with a carriage return.
        """
        return finish(self.finish_steps(timeout=timeout))

    def finish_steps(self, *, timeout: float | None = 30.0) -> Steps[CommandResult]:
        """Return the steps of `finish`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._over() and (deadline is None or time.monotonic() < deadline):
            yield Wait(Readable(self._terminal), _SLICE_SECONDS)
            self._drain()
        self._drain()
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return (yield from self._finish(left))

    def _drain(self) -> None:
        poll = select.poll()
        poll.register(self._terminal, select.POLLIN)
        # a program may write as fast as it is read
        for _ in range(_READS):
            data = read_ready(self._terminal) if poll.poll(0) else None
            if not data:
                return
            self._output.feed("stdout", data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
