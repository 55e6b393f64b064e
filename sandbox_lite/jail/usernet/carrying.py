"""Starts the carrier of one jail, waits until its packets are carried, and ends it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, LaunchError
from sandbox_lite.jail import janitor
from sandbox_lite.jail.process import spawn
from sandbox_lite.jail.usernet import carriers, refused

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

START_SECONDS = 10.0
_MOST_BYTES = 65536

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""PR_SET_PDEATHSIG: neither carrier asks for it, and it outlasts execve(2). Whoever starts another
program than a small one by a fork, to ask for it in between, is slow, and unsafe beside threads.
What Python ignores is given back: pasta fails where SIGPIPE was ignored before."""


@contextlib.contextmanager
def carrying(holder: int, first: int) -> Iterator[str]:
    """Carry the packets of a jail; yield which program does it.

    Args:
        holder: A process in a user namespace above that of the jail's network.
        first: One in the jail's network.

    Raises:
        HostError: No carrier can do it here, or the kernel lacks the filter.
        LaunchError: The carrier did not start; `stderr` is what it said.
    """
    carrier, path = carriers.find()
    owner = os.getpid()
    with contextlib.ExitStack() as stack:
        process = _started(stack, carrier, path, holder, first)
        try:
            namespace = os.open(f"/proc/{first}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _set_up(namespace)
            finally:
                os.close(namespace)
            yield f"{carrier.name} at {path}"
        finally:
            # in a forked child it is not ours to end
            if owner == os.getpid():
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _set_up(namespace: int) -> None:
    words = (
        carriers.INTERFACE, str(carriers.MTU_BYTES), carriers.OWN, carriers.GATEWAY, carriers.DNS,
        # everybody inside can read the routes, and nobody the filter
        *map(str, refused.NOT_PUBLIC), "-", *map(str, refused.own()),
    )  # fmt: skip
    why = janitor.SHARED.set_tap(namespace, " ".join(words))
    if why:
        remedy = "the kernel must have nftables: sudo modprobe nf_tables"
        raise HostError(
            f"the network of the sandbox could not be closed against this host: {why}",
            hint=f"{remedy if why.startswith('nftables') else 'run: sandbox-lite doctor'}; "
            "network web needs no such thing",
        )


def _started(
    stack: contextlib.ExitStack, carrier: carriers.Carrier, path: Path, holder: int, first: int
) -> subprocess.Popen[bytes]:
    """Start it and wait until its interface is there; nothing of it is left if it is not."""
    deadline = time.monotonic() + START_SECONDS
    errors, errors_write = os.pipe2(os.O_CLOEXEC)
    stack.callback(os.close, errors)
    # nobody reads what it says once it runs: it must not wait for that
    os.set_blocking(errors_write, False)
    with contextlib.ExitStack() as start:
        start.callback(os.close, errors_write)
        ready, place = _place(start, holder, first)
        argv = (str(path), *carrier.words(place))
        process = spawn(
            (sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *argv),
            fds=(place.ready_fd,), stderr=errors_write, new_session=True,
        )  # fmt: skip
        try:
            why = _await_ready(process, ready, deadline)
        except BaseException:
            _end(process)
            raise
        if why:
            _end(process)
            raise _launch_error(carrier.name, why, errors, argv)
    return process


def _place(stack: contextlib.ExitStack, holder: int, first: int) -> tuple[int, carriers.Place]:
    """Return the reading end of a FIFO, and the place with its writing end."""
    # a name, not a pipe alone: pasta closes all descriptors that it was not told of
    directory = Path(tempfile.mkdtemp(prefix="sandbox-lite-net-"))
    janitor.SHARED.watch(directory)
    stack.callback(janitor.SHARED.forget, directory)
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    fifo = directory / "ready"
    os.mkfifo(fifo, 0o600)
    ready = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, ready)
    # held open: the end of the one who writes must not look like that of all
    writing = os.open(fifo, os.O_WRONLY | os.O_CLOEXEC)
    stack.callback(os.close, writing)
    place = carriers.Place(
        user=f"/proc/{holder}/ns/user", network=f"/proc/{first}/ns/net",
        ready=fifo, ready_fd=writing,
    )  # fmt: skip
    return ready, place


def _await_ready(process: subprocess.Popen[bytes], ready: int, deadline: float) -> str:
    """Wait until it says that it is; return why not, or nothing."""
    pidfd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ready, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        found = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(pidfd)
    if not found:
        return "was not ready in time"
    return "ended" if pidfd in found else ""


def _launch_error(name: str, why: str, errors: int, argv: Sequence[str]) -> LaunchError:
    os.set_blocking(errors, False)
    stderr = ""
    with contextlib.suppress(OSError):
        stderr = os.read(errors, _MOST_BYTES).decode(errors="replace").strip()
    return LaunchError(
        f"{name}, which carries the sandbox's packets, {why}: {stderr or 'it said nothing'}",
        hint="run: sandbox-lite doctor; network web needs no such program",
        argv=argv,
        stderr=stderr,
    )
