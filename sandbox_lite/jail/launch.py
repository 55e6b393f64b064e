"""From one command to a running process 1: descriptors, status of both bwraps, and the way back."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

from sandbox_lite.errors import LaunchError, SandboxClosedError
from sandbox_lite.jail import janitor, seccomp
from sandbox_lite.jail.bwrap import HELD
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.process import pidfd_signal, spawn
from sandbox_lite.jail.supervisor import Control, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_lite.jail.process import Process

START_SECONDS = 60.0
_CLOSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFds:
    """Descriptors whose numbers the command names."""

    outer_status: int
    inner_status: int
    block: int
    """The outer bwrap waits for it before it becomes the inner one."""
    maps: int | None
    """The outer bwrap waits for it before it lets its child go on, where ids are mapped for it."""
    seccomp: tuple[int, ...]
    """One for each filter."""
    arguments: int
    """Holds further words for the inner bwrap, each ended by a NUL."""

    def numbers(self) -> tuple[int, ...]:
        """Return all of them."""
        maps = () if self.maps is None else (self.maps,)
        return (
            self.outer_status, self.inner_status, self.block, *maps, self.arguments, *self.seccomp,
        )  # fmt: skip


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


def _memory(stack: contextlib.ExitStack, data: bytes) -> int:
    fd = os.memfd_create("arguments")
    stack.callback(os.close, fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _read_child_pid(fd: int, deadline: float, name: str) -> int:
    """Return the pid in the first JSON object of a bwrap's status descriptor."""
    text = b""
    # the JSON may arrive in pieces
    while b"}" not in text:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise LaunchError(f"the {name} bwrap did not start in time")
        data = os.read(fd, 4096)
        if not data:
            raise LaunchError(f"the {name} bwrap ended before the sandbox was there")
        text += data
    return int(json.loads(text[: text.index(b"}") + 1])["child-pid"])


def launch(
    stack: contextlib.ExitStack,
    argv_of: Callable[[LaunchFds], Sequence[str]],
    *,
    filter_names: Sequence[seccomp.FilterName],
    group: int | None,
    spawning: Callable[[], contextlib.AbstractContextManager[None]],
    enter: Callable[[int], None],
    protect: Callable[[int, int], None],
    write_maps: Callable[[int], None] | None = None,
    hidden: Sequence[str] = (),
    fds: Sequence[int] = (),
) -> Supervisor:
    """Start a sandbox and wait for its process 1; all that it holds goes with `stack`.

    Args:
        stack: Closes the descriptors, kills process 1 and waits for bwrap.
        argv_of: Makes the command from the numbers of the descriptors.
        filter_names: The system call filters to load.
        group: Descriptor of the control group to be born in, if there is one.
        spawning: Gives the context in which a thread starts the first bwrap.
        enter: Takes in the process that becomes the sandbox, before it can start another.
        protect: Is given the outer bwrap's child and process 1, before that is asked for anything.
        write_maps: Maps ids in the user namespace of the outer bwrap's child, which waits for that.
        hidden: Words for the inner bwrap that `ps` on the host must not show.
        fds: Further descriptors that the command names.

    Returns:
        The host's end of process 1.

    Raises:
        LaunchError: It did not start; `stderr` is what bwrap said.
        HostError: `enter`, `write_maps` or `protect` could not do it.
    """
    deadline = time.monotonic() + START_SECONDS
    children: list[Process] = []

    def own(process: Process) -> None:
        children.append(process)
        stack.callback(_reap, process)

    # Unwound before `stack`: once `ours` has closed the requests, process 1 ends by itself. What
    # bwrap reports is read until it has ended: SIGPIPE would kill it in the middle of its start.
    with contextlib.ExitStack() as ours:
        outer_read, outer_write = _pipe(stack, ours)
        inner_read, inner_write = _pipe(stack, ours)
        reports, reports_write = _pipe(stack, ours)
        requests_read, requests = _pipe(ours, ours)
        blocked, unblock = _pipe(ours, ours)
        unmapped, mapped = (None, None) if write_maps is None else _pipe(ours, ours)
        errors, errors_write = _pipe(stack, ours)
        filters = []
        for name in filter_names:
            filters.append(seccomp.pipe_of(name))
            ours.callback(os.close, filters[-1])
        named = LaunchFds(
            outer_status=outer_write.fileno(),
            inner_status=inner_write.fileno(),
            block=blocked.fileno(),
            maps=None if unmapped is None else unmapped.fileno(),
            seccomp=tuple(filters),
            arguments=_memory(ours, b"".join(os.fsencode(word) + b"\0" for word in hidden)),
        )
        argv = argv_of(named)
        # A session of its own: Ctrl-C of a terminal goes to every process of the foreground group;
        # it is ours to interrupt the command, and the sandbox must outlive it.
        standard = requests_read.fileno(), reports_write.fileno(), errors_write.fileno()
        passed = (*named.numbers(), *fds)
        child = None
        if group is not None:
            child = janitor.SHARED.bear(group, argv, fds=passed, standard=standard)
        if child is not None:
            own(child)
        else:
            stdin, stdout, stderr = standard
            spawn(
                argv, fds=passed, stdin=stdin, stdout=stdout, stderr=stderr,
                new_session=True, within=spawning, own=own,
            )  # fmt: skip
        try:
            # only the jail holds these ends from here on: its death shows as end of file
            for end in (outer_write, inner_write, reports_write, errors_write):
                end.close()
            holder = _read_child_pid(outer_read.fileno(), deadline, "outer")
            enter(holder)
            if write_maps is not None and mapped is not None:
                write_maps(holder)
                mapped.close()
            unblock.close()
            first = _read_child_pid(inner_read.fileno(), deadline, "inner")
            pidfd = _own(stack, first)
            protect(holder, first)
            supervisor = _supervisor(stack, holder, first, pidfd, requests, reports)
            supervisor.await_ready(deadline - time.monotonic())
        except (LaunchError, SandboxClosedError, OSError) as error:
            requests.close()
            _reap(children[0])
            raise _launch_error(error, errors.fileno(), argv) from error
    for end in (outer_read, inner_read, errors):
        end.close()
    return supervisor


def _own(stack: contextlib.ExitStack, first: int) -> int:
    # killing bwrap would leave process 1 to the host's init; killing process 1 ends all
    pidfd = os.pidfd_open(first)
    stack.callback(os.close, pidfd)
    stack.callback(pidfd_signal, pidfd, signal.SIGKILL)
    return pidfd


def _supervisor(
    stack: contextlib.ExitStack,
    holder: int,
    first: int,
    pidfd: int,
    requests: FileIO,
    reports: FileIO,
) -> Supervisor:
    # The outer namespace's own view: inside the jail the same tmpfs is read-only.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    control = Control(os.open(f"/proc/{holder}/root{HELD}", flags))
    supervisor = Supervisor(
        # a duplicate, for the first one goes with the start
        requests=FileIO(os.dup(requests.fileno()), "wb"),
        reports=reports,
        pid=first,
        holder=holder,
        pidfd=pidfd,
        control=control,
    )
    stack.callback(supervisor.close)
    return supervisor


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


def _reap(process: Process) -> None:
    # Not killed at once: in the middle of a start that leaves a child which nothing wakes.
    if process.returncode is None and not _ends(process, _CLOSE_SECONDS):
        process.kill()
        process.wait()
        kill_orphans()
    process.wait()


def _ends(process: Process, seconds: float) -> bool:
    """Wait for the end of a child; whether it came within so many seconds."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        # no descriptor is left: then in the growing steps in which Popen looks
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
        return process.returncode is not None
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)
