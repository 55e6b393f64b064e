"""Programs beside the shell, at the same time and in the same jail: exact on all three streams."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from io import FileIO
from typing import TYPE_CHECKING

from sandbox_lite.errors import SandboxClosedError, SpecError
from sandbox_lite.jail.capture import Output, Spool
from sandbox_lite.jail.process import explained
from sandbox_lite.jail.pump import Pump
from sandbox_lite.jail.steps import Wait
from sandbox_lite.spec import CommandResult, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sandbox_lite.jail.limits.meter import Meter
    from sandbox_lite.jail.pump import Drainer
    from sandbox_lite.jail.steps import Steps
    from sandbox_lite.jail.supervisor import Child, Supervisor

_GRACE_SECONDS = 0.2
_KILL_SECONDS = 30.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Input:
    """Feeds bytes, or what comes from a descriptor, to a pipe as far as its reader takes them."""

    def __init__(self, pipe: FileIO, data: bytes | int, pump: Pump) -> None:
        self._pipe = pipe
        self._fd: int | None = pipe.fileno()
        self._source = data if isinstance(data, int) else None
        self._view = memoryview(b"" if isinstance(data, int) else data)
        self._pump = pump
        self._next()

    def _next(self) -> None:
        """Wait for room where there is something to write, else for more of it."""
        if self._fd is None:
            return
        if self._view:
            if self._source is not None:
                self._pump.unwatch(self._source)
            self._pump.watch(self._fd, self._push, select.POLLOUT)
        elif self._source is not None:
            # no event is asked for, so it is called when the last reader has gone: poll(2)
            self._pump.watch(self._fd, self.close, 0)
            self._pump.watch(self._source, self._pull)
        else:
            self.close()

    def _push(self) -> None:
        assert self._fd is not None
        try:
            while self._view:
                self._view = self._view[os.write(self._fd, self._view[: 1 << 16]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.close()
        self._next()

    def _pull(self) -> None:
        assert self._source is not None
        try:
            data = os.read(self._source, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a directory, or a terminal that was hung up
        if data:
            self._view = memoryview(data)
            self._next()
        else:
            self.close()

    def close(self) -> None:
        """Give the reader its end of file; the source stays its owner's."""
        if self._source is not None:
            self._pump.unwatch(self._source)
            self._source = None
        if self._fd is not None:
            self._pump.unwatch(self._fd)
            self._pipe.close()
            self._fd = None


class Program:
    """One program of `Sandbox.exec` from its start to its end."""

    def __init__(
        self,
        supervisor: Supervisor,
        drainer: Drainer,
        meter: Meter,
        *,
        output_bytes: int,
    ) -> None:
        self._supervisor = supervisor
        self._drainer = drainer
        self._meter = meter
        self._key = supervisor.new_key()
        self._output_bytes = output_bytes
        self._ended = False

    def run(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        stdin: bytes | int | None,
        timeout: float | None,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
    ) -> Steps[CommandResult]:
        """Return the steps of starting the program, feeding it, and waiting for its end.

        Raises:
            SpecError: No program is named, a name is no variable's, or a NUL byte stands somewhere.
        """
        if not argv:
            raise SpecError("exec needs a program to start")
        for name in env:
            if _NAME.fullmatch(name) is None:
                raise SpecError(f"not an environment variable: {name!r}")
        with self._meter.turn(beside=True) as turn:
            yield from turn.awaited(cancel_fd)
            return (yield from self._run(argv, env, cwd, stdin, timeout, on_output, cancel_fd))

    def _run(
        self,
        argv: Sequence[str | bytes],
        env: Mapping[str, str],
        cwd: str | None,
        stdin: bytes | int | None,
        timeout: float | None,
        on_output: Callable[[str, bytes], None] | None,
        cancel_fd: int | None,
    ) -> Steps[CommandResult]:
        started = time.monotonic()
        with self._supervisor.in_use(), contextlib.ExitStack() as stack:
            # Ctrl-C may come between the start and the answer, and anywhere behind it
            stack.enter_context(self._abandoned_on_interrupt())
            with explained("start a program in the sandbox"):
                pump = Pump(Output(self._output_bytes, self._spool(), on_output))
                span = stack.enter_context(self._meter.span(None))
                stack.enter_context(contextlib.closing(pump))
                with contextlib.ExitStack() as ends:
                    # only the program holds its ends once it runs
                    reader, writer = _pipe(ends, stack)
                    out = self._stream(ends, pump, "stdout")
                    err = self._stream(ends, pump, "stderr")
                    child = self._supervisor.start_program(
                        self._key, argv, env=env, cwd=cwd, fds=(reader.fileno(), out, err)
                    )
                    span.root = child.inside
            given = b"" if stdin is None else stdin
            with contextlib.closing(_Input(writer, given, pump)):
                pump.cancel_on(cancel_fd)
                result = yield from self._wait(child, pump, argv, started, timeout)
                return self._meter.judged(result, (yield from self._meter.ending(span)))

    @contextlib.contextmanager
    def _abandoned_on_interrupt(self) -> Iterator[None]:
        try:
            yield
        except (SpecError, SandboxClosedError):
            raise
        except BaseException:
            self._supervisor.abandon(self._key)
            raise

    def _stream(self, ends: contextlib.ExitStack, pump: Pump, name: str) -> int:
        """Return the end of a fresh pipe that the program is given."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ends.callback(os.close, writer)
        os.set_blocking(reader, False)
        pump.stream(reader, name)
        return writer

    def _spool(self) -> Spool:
        return self._supervisor.control.spool(f"output-program-{self._key}.txt")

    def _wait(
        self,
        child: Child,
        pump: Pump,
        argv: Sequence[str | bytes],
        started: float,
        timeout: float | None,
    ) -> Steps[CommandResult]:
        def ended() -> None:
            self._ended = True

        self._ended = False
        try:
            pump.watch(child.pidfd, ended)
            deadline = None if timeout is None else started + timeout
            in_time = True
            try:
                in_time = yield from self._until(pump, deadline)
            except GeneratorExit:
                raise
            except BaseException:
                # the caller's callback raised, or Ctrl-C came
                if not self._ended:
                    yield from self._end(child, pump)
                raise
            if not self._ended:
                yield from self._end(child, pump)
        finally:
            os.close(child.pidfd)
        return self._result(child, pump, argv, started, in_time=in_time)

    def _until(self, pump: Pump, deadline: float | None) -> Steps[bool]:
        while not self._ended:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            yield Wait(pump, left)
            pump.turn(0)
        return True

    def _end(self, child: Child, pump: Pump) -> Steps[None]:
        for number, grace in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            self._supervisor.kill(child, number)
            if (yield from self._until(pump, time.monotonic() + grace)):
                # what the group's leader left behind ends with it
                self._supervisor.kill(child, signal.SIGKILL)
                return

    def _result(
        self,
        child: Child,
        pump: Pump,
        argv: Sequence[str | bytes],
        started: float,
        *,
        in_time: bool,
    ) -> CommandResult:
        output = pump.output
        background = pump.settle()
        if background:
            output.spool_all()
            pump.hand_over(self._drainer)
        else:
            output.spool.close()
        words = (os.fsdecode(word) if isinstance(word, bytes) else word for word in argv)
        if self._meter.expired:
            outcome, code = Outcome.TIMED_OUT, 128 + signal.SIGKILL
        else:
            outcome = Outcome.EXITED if in_time else Outcome.TIMED_OUT
            code = self._supervisor.exit_code(child)
        return CommandResult(
            command=" ".join(words),
            outcome=outcome,
            exit_code=code,
            stdout_bytes=output.text("stdout"),
            stderr_bytes=output.text("stderr"),
            merged_bytes=output.text("merged"),
            dropped_bytes=output.merged.missing_bytes,
            full_output=output.spool.path if output.spool.started else None,
            seconds=time.monotonic() - started,
            background=background,
        )


def _pipe(ends: contextlib.ExitStack, stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Return a pipe for the standard input: the program's end, and ours, which never blocks."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    theirs, ours = FileIO(reader, "rb"), FileIO(writer, "wb")
    ends.callback(theirs.close)
    stack.callback(ours.close)
    os.set_blocking(writer, False)
    return theirs, ours
