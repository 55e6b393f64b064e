"""The protocol of one persistent bash: commands in, exact results out, whatever a command does.

The text of a command goes into a file that bash sources, its output through FIFOs of its own, its
end comes as a mark on a status FIFO. The terminal carries job control, signals and interactive
programs only. Knows nothing of bwrap or overlays.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError, ShellDiedError, SpecError
from sandbox_lite.jail.bash import START_SECONDS, Bash
from sandbox_lite.jail.capture import Output, Spool
from sandbox_lite.jail.interaction import Interaction
from sandbox_lite.jail.process import explained
from sandbox_lite.jail.pump import Pump
from sandbox_lite.jail.steps import Wait, finish
from sandbox_lite.spec import CommandResult, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_lite.jail.limits.meter import Meter, Span
    from sandbox_lite.jail.pump import Drainer
    from sandbox_lite.jail.steps import Steps
    from sandbox_lite.jail.supervisor import Supervisor

_TRIES = 3
_KILLED = 128 + signal.SIGKILL
_BRIEF_SECONDS = 0.003
"""Most commands have ended by then, and nothing but their end need have been watched."""
_STARTS = 3
"""Tries to start a fresh bash among processes that keep it from being started."""
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
    bash: Bash
    pump: Pump
    started: float
    code: int | None = None
    sent: bool = False
    brief: bool = True
    """It has only begun: its end alone is waited for, and its output may wait."""
    span: Span | None = None

    def turn(self) -> None:
        code = self.bash.turn(self.number)
        if code is not None:
            self.code = code

    def watch(self) -> None:
        """Let the pump watch all that there is."""
        self.brief = False
        self.pump.watch(self.bash.fileno(), self.turn)
        self.bash.watch_state(self.pump)

    @property
    def over(self) -> bool:
        return self.code is not None or self.bash.ended


class Shell:
    """A bash whose directory, variables, functions, aliases and options carry over.

    One command at a time; a second caller waits. The shell that a command ends, kills or makes
    useless is replaced by a fresh one with the state of the last command.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        drainer: Drainer,
        meter: Meter,
        *,
        name: str,
        output_bytes: int,
        state: bytes = b"",
    ) -> None:
        if re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name) is None:
            raise SpecError(f"not a shell name: {name!r}", hint="use letters, digits, - and _")
        self.name = name
        self._supervisor = supervisor
        self._drainer = drainer
        self._meter = meter
        self._output_bytes = output_bytes
        self._lock = threading.RLock()
        self._busy = False
        self._number = 0
        self._generation = 0
        self._bash: Bash | None = self._start(state)

    @property
    def cwd(self) -> str:
        """The shell's directory, as far as it has said."""
        return "" if self._bash is None else self._bash.cwd

    @property
    def pid(self) -> int:
        """The jail's own pid of it; 0 where it is closed."""
        return 0 if self._bash is None else self._bash.pid

    def _start(self, state: bytes) -> Bash:
        self._generation += 1
        key = f"shell-{self.name}-{self._generation}"
        bash = Bash(self._supervisor, key=key, state=state)
        self._meter.adopt_shell(bash.pid)
        return bash

    def _ready(self) -> Bash:
        """Return a live bash, a fresh one where the last has ended."""
        bash = self._bash
        assert bash is not None, "closed shells are not asked"
        if not bash.ended:
            bash.turn(0)
        if not bash.ended:
            return bash
        bash.read_state()
        # in a storm of processes its number is soon another's, who must not be spared for it
        self._meter.drop_shell(bash.pid)
        fresh = self._fresh(bash.state)
        self._bash = fresh
        bash.forget()
        bash.close()
        return fresh

    def _fresh(self, state: bytes) -> Bash:
        for tries_left in reversed(range(_STARTS)):
            try:
                return self._start(state)
            except LaunchError as error:
                if not tries_left:
                    raise ShellDiedError(
                        f"shell {self.name!r} ended and no fresh one could be started: "
                        f"{error.message}",
                        hint=error.hint,
                        inside=self._supervisor.alive()
                        and (error.began or self._meter.is_crowded()),
                    ) from error
            self._meter.make_room()
        raise AssertionError("the last try returns or raises")

    def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
    ) -> CommandResult:
        """Run a command and wait for its end; what it sets stays for the next.

        Args:
            command: Any text that bash can read, of any length; no NUL.
            timeout: Seconds; then SIGINT, SIGTERM, SIGKILL to the command, at last to the shell.
            merge: Give the command one pipe for both streams, which keeps their order exactly.
            on_output: Called with `"stdout"` or `"stderr"` and bytes while they come.
            cancel_fd: A descriptor; when it can be read, or is hung up, the command is ended.

        Returns:
            What happened. A failing, timed out or killed command is a result.

        Raises:
            SpecError: The command holds a NUL byte.
            SandboxClosedError: The sandbox is closed.
            ShellDiedError: The shell ended and no other could be started.
            concurrent.futures.CancelledError: By `cancel_fd`.
        """
        steps = self.run_steps(
            command, timeout=timeout, merge=merge, on_output=on_output, cancel_fd=cancel_fd
        )
        return finish(steps)

    def run_steps(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
    ) -> Steps[CommandResult]:
        """Return the steps of `run`, for whoever does not wait in a thread."""
        with self._meter.turn() as turn:
            yield from turn.awaited(cancel_fd)
            return (yield from self._run(command, timeout, merge, on_output, cancel_fd))

    def _run(
        self,
        command: str | bytes,
        timeout: float | None,
        merge: bool,
        on_output: Callable[[str, bytes], None] | None,
        cancel_fd: int | None,
    ) -> Steps[CommandResult]:
        with self._alone():
            for _ in range(_TRIES):
                with self._call(command, merge=merge, on_output=on_output) as call:
                    try:
                        call.pump.cancel_on(cancel_fd)
                        if cancel_fd is not None or on_output is not None:
                            call.watch()
                        if not (yield from self._never_began(call, timeout)):
                            return (yield from self._complete(call, timeout))
                    except GeneratorExit:
                        raise
                    except BaseException:
                        if not call.over:
                            yield from self._end(call)
                        raise
        raise ShellDiedError(
            f"shell {self.name!r} ends before it runs a command", inside=self._supervisor.alive()
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other threads; a callback that comes back here would wait for itself."""
        with self._supervisor.in_use(), self._lock:
            if self._busy:
                raise SpecError(
                    f"shell {self.name!r} is busy with a command of this very thread",
                    hint="use exec, or a shell of another name, meanwhile",
                )
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _never_began(self, call: _Call, timeout: float | None) -> Steps[bool]:
        """Wait for the end; whether the shell ended of an earlier command's doing instead.

        A command that closes the shell's stdin, for one, ends it some time after its own end.
        """
        yield from _wait(call, None if timeout is None else call.started + timeout)
        if call.code is None and call.bash.ended:
            call.pump.turn(0)
            return not call.pump.opened and not self._meter.expired
        return False

    @contextlib.contextmanager
    def quiet(self) -> Iterator[bytes]:
        """Keep it from running commands until the block ends, and yield its state as bash code.

        Raises:
            SandboxClosedError: The sandbox is closed.
            ShellDiedError: It ended, or does not tell its state.
        """
        with self._alone():
            self._supervisor.check_open()
            self._number += 1
            state = self._ready().ask_state(self._number)
            if state is None:
                raise ShellDiedError(
                    f"shell {self.name!r} does not tell its state: it ended, is out of order, or"
                    " holds more than 64 MiB of variables and functions",
                    hint="unset what is large, or run `exit` in it for a fresh one",
                )
            yield state

    @contextlib.contextmanager
    def interact(self, command: str | bytes) -> Iterator[Interaction]:
        """Run a command on the shell's terminal and talk to it; see `Interaction`."""
        with self._alone(), self._call(command, tty=True) as call, call.bash.terminal_left():
            call.watch()

            def over() -> bool:
                call.pump.turn(0)
                return call.over

            interaction = Interaction(
                call.bash.terminal, call.pump.output,
                over=over,
                finish=lambda timeout: self._complete(call, timeout),
                end=lambda: self._end(call),
            )  # fmt: skip
            yield interaction
            finish(interaction.end_steps())

    @contextlib.contextmanager
    def _call(
        self,
        command: str | bytes,
        *,
        merge: bool = False,
        tty: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> Iterator[_Call]:
        try:
            text = command.encode(errors="surrogateescape") if isinstance(command, str) else command
        except UnicodeEncodeError as error:
            raise SpecError(
                "a command holds half of a surrogate pair, which is no character",
                hint="give bytes instead of a string",
            ) from error
        if b"\0" in text:
            raise SpecError("a command holds a NUL byte", hint="write the bytes with sb.files")
        self._supervisor.check_open()
        bash = self._ready()
        self._number += 1
        with explained("hand the command to the shell"):
            pump = Pump(Output(self._output_bytes, self._spool(self._number), on_output))
        call = _Call(
            number=self._number,
            text=text.decode(errors="replace"),
            bash=bash,
            pump=pump,
            started=time.monotonic(),
        )
        try:
            with self._meter.span(bash.pid) as call.span:
                self._send(call, text, merge=merge, tty=tty)
                yield call
        except BaseException:
            if call.sent and not call.over:
                finish(self._end(call))
            raise
        finally:
            call.pump.close()

    def _send(self, call: _Call, text: bytes, *, merge: bool, tty: bool) -> None:
        bash = call.bash
        streams = () if tty else ("stdout",) if merge else ("stdout", "stderr")
        with explained("hand the command to the shell"):
            bash.give(text)
            for stream in streams:
                call.pump.stream(bash.stream(stream), stream)
        call.sent = True
        bash.send(call.number, streams, tty=tty)

    def _spool(self, number: int) -> Spool:
        return self._supervisor.control.spool(f"output-{self.name}-{number}.txt")

    def _end(self, call: _Call) -> Steps[None]:
        """End a running command: its foreground group, in the last resort the shell with it."""
        for number, grace in _GRACE:
            call.bash.signal_foreground(number)
            if (yield from _wait(call, time.monotonic() + grace)):
                return
        call.bash.kill()
        if not (yield from _wait(call, time.monotonic() + START_SECONDS)):
            raise ShellDiedError(f"shell {self.name!r} cannot be killed")

    def _complete(self, call: _Call, timeout: float | None) -> Steps[CommandResult]:
        in_time = yield from _wait(call, None if timeout is None else call.started + timeout)
        if not in_time:
            yield from self._end(call)
        background = call.pump.settle()
        for stream in call.pump.ended:
            call.bash.release(stream)
        if call.bash.ended:
            call.bash.read_state()
        else:
            call.bash.read_state_before()
        output = call.pump.output
        if background:
            output.spool_all()
            call.pump.hand_over(self._drainer)
        else:
            output.spool.close()
        outcome = Outcome.EXITED if in_time else Outcome.TIMED_OUT
        code = call.code
        if code is None and self._meter.expired:
            outcome, code = Outcome.TIMED_OUT, _KILLED
        elif code is None:
            code = call.bash.exit_code()
            # a shell that exits leaves its state and that very code; one that is killed cannot
            if in_time and code > 128 and call.bash.state_code != code:
                outcome = Outcome.KILLED
        result = CommandResult(
            command=call.text,
            outcome=outcome,
            exit_code=code,
            stdout_bytes=output.text("stdout"),
            stderr_bytes=output.text("stderr"),
            merged_bytes=output.text("merged"),
            dropped_bytes=output.merged.missing_bytes,
            full_output=output.spool.path if output.spool.started else None,
            seconds=time.monotonic() - call.started,
            cwd=call.bash.cwd,
            background=background,
            restarted=call.code is None and not self._meter.expired,
        )
        assert call.span is not None, "a command that was sent has one"
        return self._meter.judged(result, (yield from self._meter.ending(call.span)))

    def end(self) -> None:
        """Kill the shell, and let go of it."""
        if self._bash is not None:
            self._bash.kill()
            self._bash.forget()
            self._meter.drop_shell(self._bash.pid)
        self.close()

    def close(self) -> None:
        """Let go of the descriptors; the shell ends with its sandbox."""
        if self._bash is not None:
            self._bash.close()
            self._bash = None


def _wait(call: _Call, deadline: float | None) -> Steps[bool]:
    """Pump until the command has ended; False at the deadline."""
    while not call.over:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        if call.brief:
            yield Wait(call.bash, _BRIEF_SECONDS if left is None else min(left, _BRIEF_SECONDS))
            call.turn()
            if time.monotonic() >= call.started + _BRIEF_SECONDS:
                call.watch()
        else:
            yield Wait(call.pump, left)
            call.pump.turn(0)
    return True
