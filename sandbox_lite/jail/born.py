"""Starts a program that is in its control group from its first moment: posix_spawn of glibc 2.39.

To move a process of version 2 that runs already, the kernel waits until every processor has seen
it, some 5 ms; a child that is born in the group costs nothing (CLONE_INTO_CGROUP, clone(2)), and
like vfork this copies no page tables, however large the program is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SETSIGDEF, _SETSIGMASK, _SETSID, _SETCGROUP = 0x04, 0x08, 0x80, 0x100
_OBJECT_BYTES = 1024
"""More than any of glibc's opaque objects takes: 336, 80 and 128."""


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
def _libc() -> ctypes.CDLL | None:
    """Return the C library, if it can do it."""
    library = ctypes.CDLL(None)
    wanted = ("posix_spawnattr_setcgroup_np", "posix_spawn_file_actions_addclosefrom_np")
    return library if all(hasattr(library, name) for name in wanted) else None


def available() -> bool:
    """Return whether this host's C library can do it."""
    return _libc() is not None


def _check(number: int) -> None:
    if number != 0:
        raise OSError(number, os.strerror(number))


def spawn_into(
    group: int,
    argv: Sequence[str],
    *,
    fds: Sequence[int],
    standard: tuple[int, int, int],
    env: Mapping[str, str],
    new_session: bool,
) -> Born:
    """Start a program in a control group, with signals as they are by default.

    Args:
        group: Descriptor of the group's directory.
        argv: The program, by its path, and its arguments.
        fds: Descriptors it inherits under their own numbers; all others are closed.
        standard: Its standard input, output and error; none of them below 3.
        env: Its whole environment.
        new_session: Put it into a session of its own.

    Returns:
        The running child.

    Raises:
        OSError: It could not be started; EACCES where the kernel lets us put nothing there.
    """
    libc = _libc()
    assert libc is not None, "asked only where it is available"
    attributes, actions, signals = (ctypes.create_string_buffer(_OBJECT_BYTES) for _ in range(3))
    _check(libc.posix_spawnattr_init(attributes))
    _check(libc.posix_spawn_file_actions_init(actions))
    try:
        flags = _SETSIGDEF | _SETSIGMASK | _SETCGROUP | (_SETSID if new_session else 0)
        libc.sigemptyset(signals)
        _check(libc.posix_spawnattr_setsigmask(attributes, signals))
        libc.sigfillset(signals)
        _check(libc.posix_spawnattr_setsigdefault(attributes, signals))
        _check(libc.posix_spawnattr_setcgroup_np(attributes, ctypes.c_int(group)))
        _check(libc.posix_spawnattr_setflags(attributes, ctypes.c_short(flags)))
        for number, fd in enumerate(standard):
            _check(libc.posix_spawn_file_actions_adddup2(actions, fd, number))
        for fd in fds:
            # onto itself: that takes close-on-exec away in the child alone
            _check(libc.posix_spawn_file_actions_adddup2(actions, fd, fd))
        for fd in _inheritable():
            if fd > 2 and fd not in fds:
                _check(libc.posix_spawn_file_actions_addclose(actions, fd))
        words = (ctypes.c_char_p * (len(argv) + 1))(*(os.fsencode(word) for word in argv), None)
        pairs = [os.fsencode(f"{name}={value}") for name, value in env.items()]
        variables = (ctypes.c_char_p * (len(pairs) + 1))(*pairs, None)
        pid = ctypes.c_int()
        _check(
            libc.posix_spawn(
                ctypes.byref(pid), os.fsencode(argv[0]), actions, attributes, words, variables
            )
        )
        return Born(pid.value, argv)
    finally:
        libc.posix_spawn_file_actions_destroy(actions)
        libc.posix_spawnattr_destroy(attributes)


def _inheritable() -> list[int]:
    """Return the descriptors that a child would get although nobody means it to."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # numbers are all that is asked for
        try:
            if os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            continue  # the one we looked with
    return found
