"""From one command to a running process 1: descriptors, status of bwrap, and the way back."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, replace
from io import FileIO
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError, SandboxClosedError
from sandbox_lite.jail import native, seccomp
from sandbox_lite.jail.bwrap import HELD
from sandbox_lite.jail.control import Control
from sandbox_lite.jail.native.nest import Plan
from sandbox_lite.jail.nest import Bird
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.process import pidfd_signal
from sandbox_lite.jail.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandbox_lite.jail.limits.backend import Box
    from sandbox_lite.jail.nest import Nest

START_SECONDS = 60.0
_CLOSE_SECONDS = 30.0
_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFds:
    """Descriptors whose numbers the command names."""

    status: int
    seccomp: tuple[int, ...]
    """One for each filter."""
    first: int
    """The program that becomes process 1."""

    def numbers(self) -> tuple[int, ...]:
        """Return all of them."""
        return (self.status, self.first, *self.seccomp)


def _pipe(readers: contextlib.ExitStack, writers: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Return both ends of a pipe, each closed with its stack if not before.

    A FileIO forgets its number in the same step that closes it, which Ctrl-C cannot cut in two: a
    second close of a number could hit somebody else's.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    ends = FileIO(reader, "rb"), FileIO(writer, "wb")
    readers.callback(ends[0].close)
    writers.callback(ends[1].close)
    return ends


def _read_child_pid(fd: int, deadline: float) -> int:
    """Return the pid in the first JSON object of bwrap's status descriptor."""
    text = b""
    # the JSON may arrive in pieces
    while b"}" not in text:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise LaunchError("bwrap did not start in time")
        data = os.read(fd, 4096)
        if not data:
            raise LaunchError("bwrap ended before the sandbox was there")
        text += data
    return int(json.loads(text[: text.index(b"}") + 1])["child-pid"])


def launch(
    stack: contextlib.ExitStack,
    argv_of: Callable[[LaunchFds], tuple[str, ...]],
    *,
    nest: Nest,
    mounts: tuple[tuple[str, str], ...],
    filter_names: Sequence[seccomp.FilterName],
    box: Box,
    protect: Callable[[Nest, int], Callable[[], object]],
    environment: Mapping[str, str],
    workdir: str,
) -> Supervisor:
    """Start a sandbox and wait for its process 1; all that it holds goes with `stack`.

    Args:
        stack: Closes the descriptors, kills process 1 and waits for bwrap.
        argv_of: Makes the command from the numbers of the descriptors.
        nest: Where it is born.
        mounts: What is mounted for it alone, as the nest takes it.
        filter_names: The system call filters to load.
        box: Who holds its limits, and takes it in before it can start another process.
        protect: Is given the nest and process 1, before that is asked for anything; what it returns
            is called, and has done its work, before this function returns.
        environment: Of every program inside.
        workdir: Where programs start.

    Returns:
        The host's end of process 1.

    Raises:
        LaunchError: It did not start; `stderr` is what bwrap said.
        HostError: `box` or `protect` could not do it.
    """
    deadline = time.monotonic() + START_SECONDS
    # Unwound before `stack`: once `ours` has closed the channel, process 1 ends by itself. What
    # bwrap reports is read until it has ended: SIGPIPE would kill it in the middle of its start.
    with contextlib.ExitStack() as ours:
        status, status_write = _pipe(stack, ours)
        errors, errors_write = _pipe(stack, ours)
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.callback(channel.close)
        ours.callback(theirs.close)
        filters = []
        for name in filter_names:
            filters.append(seccomp.pipe_of(name))
            ours.callback(os.close, filters[-1])
        named = LaunchFds(
            status=status_write.fileno(),
            seccomp=tuple(filters),
            first=native.descriptor("first"),
        )
        argv = argv_of(named)
        said = errors_write.fileno()
        fds = {0: theirs.fileno(), 1: said, 2: said, **{n: n for n in named.numbers()}}
        bird = _born(stack, ours, nest, box, Plan(words=argv, mounts=mounts, fds=fds))
        pid = None
        try:
            # only the jail holds these ends from here on: its death shows as end of file
            for end in (status_write, theirs, errors_write):
                end.close()
            pid = _read_child_pid(status.fileno(), deadline)
            pidfd = _own(stack, pid)
            ours.callback(protect(nest, pid))
            # the outer namespace's own view: inside the jail the same tmpfs is read-only
            control = Control(os.open(f"/proc/{bird.pid}/root{HELD}", _PLACE))
            stack.callback(control.close)
            if bird.ends(0):
                # the nest has waited for it, and the number may have been another's by then
                raise LaunchError("bwrap ended while the sandbox started")
            supervisor = Supervisor(
                # a duplicate, for the first one goes with the start
                channel=channel.dup(),
                pid=pid,
                holder=bird.pid,
                pidfd=pidfd,
                control=control,
                environment=environment,
                workdir=workdir,
            )
            stack.callback(supervisor.close)
            supervisor.await_ready(deadline - time.monotonic())
        except (LaunchError, SandboxClosedError, OSError) as error:
            channel.close()
            bird.ends(_CLOSE_SECONDS)
            if pid is None:
                # one that is killed in the middle of its start leaves a child that nothing wakes
                kill_orphans()
            raise _launch_error(error, errors.fileno(), argv) from error
    for end in (status, errors):
        end.close()
    return supervisor


def _born(
    stack: contextlib.ExitStack, ours: contextlib.ExitStack, nest: Nest, box: Box, plan: Plan
) -> Bird:
    """Start the bwrap of a sandbox in its control group; it goes with `stack`."""

    def own(born: Bird | int) -> Bird:
        if isinstance(born, int):
            raise LaunchError(
                f"the sandbox did not start: no process can be made: {os.strerror(born)}",
                hint="are there too many processes on the host? See ulimit -u",
                argv=plan.words,
            )
        stack.callback(_reap, born)
        return born

    plan = replace(plan, tasks=box.open_tasks(ours))
    if box.group is not None:
        if not nest.settled:
            box.adopt(nest.pid)
            nest.settled = True
        born = nest.bear(replace(plan, group=box.group))
        if isinstance(born, Bird):
            return own(born)
        # before Linux 5.7, in a container whose filter does not know clone3, or where the nearest
        # group above both is not ours: it waits until it was moved
        waited, go = _pipe(ours, ours)
        bird = own(nest.bear(replace(plan, waits=waited.fileno())))
        box.enter(bird.pid)
        go.write(b"1")
        return bird
    return own(nest.bear(plan))


def _own(stack: contextlib.ExitStack, pid: int) -> int:
    # killing bwrap would leave process 1 to the host's init; killing process 1 ends all
    pidfd = os.pidfd_open(pid)
    stack.callback(os.close, pidfd)
    stack.callback(pidfd_signal, pidfd, signal.SIGKILL)
    return pidfd


def _launch_error(error: Exception, errors: int, argv: Sequence[str]) -> LaunchError:
    os.set_blocking(errors, False)
    stderr = ""
    with contextlib.suppress(OSError):
        stderr = os.read(errors, 65536).decode(errors="replace").strip()
    return LaunchError(
        f"the sandbox did not start: {stderr or error}",
        hint="run: sandbox-lite doctor",
        argv=argv,
        stderr=stderr,
    )


def _reap(bird: Bird) -> None:
    # Not killed at once: in the middle of a start that leaves a child which nothing wakes.
    if not bird.ends(_CLOSE_SECONDS):
        bird.kill()
        kill_orphans()
    bird.close()
