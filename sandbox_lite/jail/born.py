"""Starts a program that is in its control group from its first moment: clone3 with a group.

To move a process of version 2 that runs already, the kernel waits until every processor has seen
it, some 5 ms; a child that is born in the group costs nothing (CLONE_INTO_CGROUP, clone(2)). No
Python function does it, and a large or threaded program must not fork to do it itself: so the
janitor does, which is small and has one thread, and makes the child its own parent's
(CLONE_PARENT). Nothing but the standard library is needed here.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import resource
import select
import signal
import struct
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLONE3 = 435
"""The same number on every architecture: it is newer than their common table."""
_PARENT, _INTO_CGROUP = 0x8000, 0x200000000
_CLONE_ARGS = struct.Struct("11Q")
"""struct clone_args, as of Linux 5.7."""
_LIMITS = sorted(
    {value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
)  # fmt: skip


class Born:
    """A child, with as much of the face of Popen as its owner needs."""

    def __init__(self, pid: int, argv: Sequence[str]) -> None:
        self.pid = pid
        self.args = tuple(argv)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code if it has ended, negative after a signal."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.returncode = 255  # somebody else has waited for it
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It did not come in so many seconds.
        """
        if self.poll() is None:
            fd = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                if not poll.poll(None if timeout is None else timeout * 1000):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            finally:
                os.close(fd)
        code = self.poll()
        assert code is not None, "its descriptor says that it has ended"
        return code

    def kill(self) -> None:
        """Kill it; until it was waited for no other process can have its pid."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


@functools.cache
def _libc() -> ctypes.PyDLL:
    # the lock of the interpreter is kept: let go of, it would have to be taken again in the child
    return ctypes.PyDLL(None, use_errno=True)


def inheritance() -> tuple[object, ...]:
    """Return what a child has from its parent and could be told by.

    The janitor has what its program had when it started it. A program that has since given up
    root, say, must not have children that are still root.
    """
    return (
        os.getresuid(), os.getresgid(), os.getgroups(), _places(),
        os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0),
        [resource.getrlimit(kind) for kind in _LIMITS],
    )  # fmt: skip


def _places() -> object:
    """Return what tells our namespaces and root directory from others."""
    spaces = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "user", "uts")
    names = [*(f"ns/{name}" for name in spaces), "root"]
    try:
        return [os.stat(f"/proc/thread-self/{name}").st_ino for name in names]  # noqa: PTH116
    except OSError:
        # a security module may forbid even that; what nobody can tell is never the same
        return object()


def reset_signals() -> None:
    """Have signals do by default what they do, and block none: children begin as we are.

    What a program's parent has ignored (nohup, a script's `&`) stays so in every process of a
    jail. Done once, and not in each child: every page that a child touches is copied first.
    """
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def bear(group: int, argv: Sequence[bytes], numbers: Sequence[int], given: Sequence[int]) -> int:
    """Start a program in a group as a sibling of ours; called by a process with one thread.

    Args:
        group: Descriptor of the group's directory.
        argv: The program, by its path, and its arguments; its environment is empty.
        numbers: Under which it shall have the descriptors that follow; all others are closed.
        given: The descriptors, in the same order, all of them closed on exec.

    Returns:
        Its pid.

    Raises:
        OSError: It could not be started; EACCES where the kernel lets us put nothing there.
    """
    arguments = _CLONE_ARGS.pack(_PARENT | _INTO_CGROUP, *(0,) * 9, group)
    pid: int = _libc().syscall(_CLONE3, arguments, _CLONE_ARGS.size)
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if pid == 0:
        try:
            _become(argv, numbers, given)
        finally:
            os._exit(127)
    return pid


def _become(argv: Sequence[bytes], numbers: Sequence[int], given: Sequence[int]) -> None:
    # first out of the way of the numbers that are wanted
    free = max((*numbers, *given)) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for fd in given]
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number)
    os.setsid()
    os.execve(argv[0], list(argv), {})  # the argv is the program's
