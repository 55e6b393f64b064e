"""The host's end of process 1: requests and answers, and its children."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import select
import signal
import threading
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from socket import MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET, recv_fds
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError, SandboxClosedError, SandboxLiteError
from sandbox_lite.jail.bwrap import CONTROL
from sandbox_lite.jail.native import MESSAGE, READY, encoded, first, memory_file
from sandbox_lite.jail.process import pidfd_signal

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping, Sequence

    from sandbox_lite.jail.control import Control

ANSWER_SECONDS = 30.0
"""Process 1 answers in microseconds; on a host out of memory or cpu it may take longer."""

END_SECONDS = 5.0
"""For what other threads do between their last use of the sandbox and the end of their call."""

_HINT = "open a fresh sandbox, with a longer limit if it needs one"
# ioctl_tty(2); the same on x86-64 and aarch64
_TIOCSPTLCK, _TIOCGPTN, _TIOCGPTPEER = 0x40045431, 0x80045430, 0x5441
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A shell or program that process 1 started."""

    key: int
    inside: int
    """The jail's own pid of it."""
    pidfd: int


class Supervisor:
    """Talks to process 1; one request at a time, answered at once."""

    def __init__(
        self,
        *,
        channel: socket.socket,
        pid: int,
        holder: int,
        pidfd: int,
        control: Control,
        environment: Mapping[str, str],
        workdir: str,
    ) -> None:
        self._channel = channel
        self._environment = environment
        self._workdir = workdir
        self._requests = itertools.count(1)
        self._keys = itertools.count(1)
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
        self.owner = os.getpid()
        self._closed = False
        self._terminals = -1
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

    def alive(self) -> bool:
        """Return whether process 1 still runs."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not self._reason and not poll.poll(0)

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
                if self._ending:
                    self._users_changed.notify_all()

    def end(self) -> None:
        """End all processes, and wait until the calls of other threads have seen it.

        A descriptor that is closed under a call may be another sandbox's by the next moment.
        """
        self._ending = self.control.doomed = True
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
        self._answer(READY, 0, time.monotonic() + timeout)

    def _answer(self, verb: int, number: int, deadline: float) -> tuple[int, list[int]]:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise LaunchError("process 1 of the sandbox does not answer")
            data, fds = b"", list[int]()
            with contextlib.suppress(ConnectionError):
                data, fds, _, _ = recv_fds(self._channel, MESSAGE.size, 1, MSG_CMSG_CLOEXEC)
            if len(data) != MESSAGE.size:
                raise _gone()
            # an answer may be that to a request whose caller was interrupted
            said, to, _, value = MESSAGE.unpack(data)
            if (said, to) == (verb, number):
                return int(value), fds
            for fd in fds:
                os.close(fd)

    def _ask(self, verb: int, key: int, value: int = 0) -> int:
        """Return the answer to a request; below zero it is an error of the kernel's."""
        found, fds = self._ask_with(verb, key, value)
        for fd in fds:
            os.close(fd)
        return found

    def _ask_with(
        self, verb: int, key: int, value: int = 0, fds: Sequence[int] = ()
    ) -> tuple[int, list[int]]:
        """Return the answer to a request that hands descriptors over, and what came with it."""
        rights = [(SOL_SOCKET, SCM_RIGHTS, array("i", fds))] if fds else []
        with self._lock:
            self.check_open()
            number = next(self._requests)
            try:
                self._channel.sendmsg([MESSAGE.pack(verb, number, key, value)], rights)
            except ConnectionError:
                raise _gone() from None
            return self._answer(verb, number, time.monotonic() + ANSWER_SECONDS)

    def new_key(self) -> int:
        """Return a name that no child had before."""
        return next(self._keys)

    def _start(self, key: int, plan: first.Plan, fds: Sequence[int]) -> Child:
        with contextlib.ExitStack() as stack:
            plan_fd = memory_file(stack, plan.encoded())
            inside, given = self._ask_with(first.START, key, fds=(plan_fd, *fds))
        if inside > 0 and not given:
            # it lives, but the kernel could give us no descriptor of it
            self.abandon(key)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if inside <= 0:
            raise LaunchError(
                f"process 1 of the sandbox could not start {os.fsdecode(plan.words[0])}: "
                f"{os.strerror(-inside)}",
                hint="are there too many processes inside, or on the host? See ulimit -u",
            )
        return Child(key=key, inside=inside, pidfd=self._checked(inside, given[0]))

    def _checked(self, inside: int, pidfd: int) -> int:
        """Return the descriptor of a child, once it is known to be one of this jail's.

        What would take process 1 over could give us one of this very program, to be killed by us.
        """
        for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = [int(word) for word in line.split()[1:]]
                # one that has ended has none any more, and no signal reaches anybody
                if len(numbers) < 2 and numbers != [-1] and numbers != [0]:
                    os.close(pidfd)
                    raise LaunchError("process 1 of the sandbox gave a process of another's")
                if len(numbers) > 1 and numbers[-1] != inside:
                    os.close(pidfd)
                    raise LaunchError("process 1 of the sandbox gave another process")
        return pidfd

    def start_shell(self, rc: str, terminal: int) -> Child:
        """Start a persistent bash on a pseudo-terminal, whose master is given.

        Args:
            rc: Path inside of the file that it reads first.
            terminal: Descriptor of the master.

        Raises:
            LaunchError: Process 1 could not.
        """
        plan = first.Plan(
            words=(
                b"bash", b"--noprofile", b"--rcfile", rc.encode(), b"--noediting", b"-i",
            ),
            environment=self._environment,
            directories=(encoded(self._workdir),),
            terminal=True,
        )  # fmt: skip
        # by its master, so that nothing that was mounted inside can be in the way
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        slave = fcntl.ioctl(terminal, _TIOCGPTPEER, flags)
        try:
            return self._start(self.new_key(), plan, (slave,))
        finally:
            os.close(slave)

    def start_program(
        self,
        key: int,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        fds: tuple[int, int, int],
    ) -> Child:
        """Start a program beside the shell.

        Args:
            key: From `new_key`.
            argv: The program and its arguments.
            env: Variables beside those of the sandbox.
            cwd: Its directory, from the working directory of the sandbox on.
            fds: Its standard input, output and error.

        Raises:
            SpecError: A word cannot be given to a program.
            LaunchError: Process 1 could not.
        """
        workdir, wanted = encoded(self._workdir), encoded(cwd or "")
        where = os.path.join(workdir, wanted)  # noqa: PTH118  # bytes, of another root
        plan = first.Plan(
            words=tuple(encoded(word) for word in argv),
            environment={**self._environment, "PWD": where.rstrip(b"/") or b"/", **env},
            directories=(wanted,) if wanted.startswith(b"/") else (workdir, wanted),
        )
        return self._start(key, plan, fds)

    def refusal(self) -> int:
        """Ask for a program that must not run, and return the kernel's errno; 0 if it did."""
        plan = first.Plan(words=(b"/bin/true",), environment={}, directories=(b"/",))
        key = self.new_key()
        with contextlib.ExitStack() as stack:
            plan_fd = memory_file(stack, plan.encoded())
            found, given = self._ask_with(first.START, key, fds=(plan_fd,))
        for fd in given:
            os.close(fd)
        if found > 0:
            self.abandon(key)
        return max(0, -found)

    def kill(self, child: Child, number: signal.Signals) -> None:
        """Signal a program's process group, from inside, where no foreign pid can be hit."""
        self._ask(first.KILL, child.key, number)

    def exit_code(self, child: Child) -> int:
        """Return how a child ended, as bash has it; the child must have ended."""
        status = self._ask(first.WAIT, child.key)
        if status < 0:
            return 255
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def abandon(self, key: int) -> None:
        """End a program whose caller was interrupted, started or about to be."""
        with contextlib.suppress(SandboxLiteError):
            self._ask(first.KILL, key, signal.SIGKILL)
        self.forget(key)

    def forget(self, key: int) -> None:
        """Never ask how that child ended: process 1 remembers only so many."""
        with contextlib.suppress(SandboxLiteError):
            self._ask(first.FORGET, key)

    def open_terminal(self) -> tuple[int, int]:
        """Return the master of a new pseudo-terminal of the jail, and its number inside."""
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            if self._terminals < 0:
                # held from the first on: whoever takes away what may be done with / takes nothing
                # from us then
                place = f"/proc/{self.pid}/root/dev/pts"
                self._terminals = os.open(place, _DIRECTORY | os.O_NOFOLLOW)
            master = os.open("ptmx", flags, dir_fd=self._terminals)
        except (FileNotFoundError, PermissionError):
            # of one that is just ending the kernel can no longer tell whether we may look at it
            if not _has_ended(self._pidfd):
                raise
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
            if self._terminals >= 0:
                os.close(self._terminals)
            self._channel.close()
            self.control.close()


def _gone() -> SandboxClosedError:
    return SandboxClosedError(
        "the sandbox has ended: its process 1 is gone",
        hint="somebody, or the kernel for want of memory, killed it; open a fresh sandbox",
    )


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(1000))
