"""Removes what is left of sandboxes whose program was killed: a process that waits for its end.

The process reads orders from a pipe whose other end the program holds: `+path` of a directory,
`*path` of a control group, `-path` of what is gone; `#` has the inodes of a tmpfs bounded. The
kernel closes that end however the program dies; what is still on the list is then removed, and the
janitor ends too. It stands in a session of its own, so the program's Ctrl-C does not reach it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.jail import group, inodes
from sandbox_lite.jail.orphans import kill_orphans, siblings
from sandbox_lite.jail.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATIENCE_SECONDS = 10.0
_RETRY_SECONDS = 0.05
_DISMISSAL = b".\0"
_PAUSES = (0.0, 0.02, 0.1, 0.3)
"""Seconds between looks for a bwrap that was killed in its start; the kernel takes its time."""

_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from sandbox_lite.jail.janitor import serve; serve()"
)
"""Without site-packages: it needs nothing but us and the standard library."""


class Janitor:
    """The program's end of the pipe; one janitor serves all sandboxes of a program."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: int | None = None
        self._pid = 0
        self._watched: dict[bytes, bytes] = {}

    def _say(self, order: bytes) -> None:
        with self._lock:
            if order[:1] in (b"+", b"*"):
                self._watched[order[1:]] = order
            elif order[:1] == b"-":
                self._watched.pop(order[1:], None)
            self._started()
            assert self._pipe is not None
            try:
                os.write(self._pipe, order + b"\0")
            except BrokenPipeError:
                # it was killed: another takes over all that there is to watch
                os.close(self._pipe)
                self._pipe = None
                self._pid, self._pipe = _start()
                for one in (*self._watched.values(), order):
                    os.write(self._pipe, one + b"\0")

    def _started(self) -> None:
        if self._pipe is None:
            self._pid, self._pipe = _start()

    def watch(self, path: Path) -> None:
        """Have a directory removed when this program ends."""
        self._say(b"+" + os.fsencode(path))

    def watch_group(self, path: Path) -> None:
        """Have a control group emptied and removed when this program ends."""
        self._say(b"*" + os.fsencode(path))

    def bound_inodes(self, holder: int, mounts: Mapping[str, int]) -> None:
        """Have tmpfs in the namespaces of the process `holder` take so many files, by their path.

        It is done a moment later; `os.fstatvfs` tells when.
        """
        pairs = b"".join(b" %d %s" % (count, os.fsencode(path)) for path, count in mounts.items())
        if pairs:
            self._say(b"#%d%s" % (holder, pairs))

    def forget(self, path: Path) -> None:
        """Watch a directory no longer: it is gone."""
        self._say(b"-" + os.fsencode(path))

    def start(self) -> None:
        """Start it now, so that it is there should this program be killed."""
        with self._lock:
            self._started()

    @property
    def pid(self) -> int:
        """Its pid; it is started where it does not run yet."""
        self.start()
        return self._pid

    def dismiss(self) -> None:
        """Let it end at once: this program ends as it should."""
        with self._lock:
            if self._pipe is not None:
                with contextlib.suppress(OSError):
                    os.write(self._pipe, _DISMISSAL)

    def after_fork(self) -> None:
        """Close the parent's pipe in a forked child, or the parent's end would go unseen."""
        self._lock = threading.Lock()
        self._watched = {}
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def _start() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parents[2])],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
    # it outlives us by design, so nobody will wait for it; this keeps Popen from complaining
    process.returncode = 0
    return process.pid, writer


SHARED = Janitor()
"""The one of this program."""

os.register_at_fork(after_in_child=SHARED.after_fork)
atexit.register(SHARED.dismiss)


def serve() -> None:
    """Be the janitor: read until the program ends, then remove what is on the list."""
    watched: dict[bytes, bytes] = {}
    rest = b""
    dismissed = False
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\0")
        for line in lines:
            sign, path = line[:1], line[1:]
            if sign in (b"+", b"*"):
                watched[path] = sign
            elif sign == b"-":
                watched.pop(path, None)
            elif sign == b"#":
                inodes.bound(path)
            dismissed = line + b"\0" == _DISMISSAL
    deadline = time.monotonic() + _PATIENCE_SECONDS
    if watched or not dismissed:
        _end_starts(deadline)
    while watched and time.monotonic() < deadline:
        for path, sign in list(watched.items()):
            # the jail's last processes may still write while the kernel ends them
            with contextlib.suppress(OSError):
                remove = remove_tree if sign == b"+" else _remove_group
                remove(Path(os.fsdecode(path)))
            if not Path(os.fsdecode(path)).exists():
                del watched[path]
        time.sleep(_RETRY_SECONDS)


def _remove_group(path: Path) -> None:
    group.remove(path, seconds=_RETRY_SECONDS)


def _end_starts(deadline: float) -> None:
    """End the bwraps whose program was killed while they were starting."""
    for pause in _PAUSES:
        time.sleep(pause)
        kill_orphans()
    # one that is not stuck yet may still become so, or ends by itself
    while siblings() and time.monotonic() < deadline:
        time.sleep(_RETRY_SECONDS)
        kill_orphans()
