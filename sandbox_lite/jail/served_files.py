"""The files of a sandbox with several ids: a process of ours inside its user namespace has them.

What belongs to a subordinate id is another's to the host's program, and only inside that namespace
is its user root over all of them. The kernel lets only a process with one thread enter, setns(2):
a small one, started with the first use. It has the capabilities of the namespace and nothing of the
jail else: it is in none of its other namespaces, and nobody inside sees it. Nothing but the
standard library is needed here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_lite.errors import FileAccessError, HostError, SandboxClosedError
from sandbox_lite.jail.files import FileEntry, Files
from sandbox_lite.jail.limits.disk import ENDLESS_BYTES, Measure, measure
from sandbox_lite.jail.limits.processes import Memfds, Processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from sandbox_lite.jail.process import Process
    from sandbox_lite.jail.transfer import TransferReport

_PROGRAM = """\
import sys
sys.path.append(sys.argv[1])
from sandbox_lite.jail.served_files import serve
serve(*map(int, sys.argv[2:]))
"""
_READY = "ready"
_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def needed() -> bool:
    """Return whether other ids' files are out of this process's reach."""
    return os.geteuid() != 0


def opened(root: int, pid: int, *, workdir: str, ids: str) -> tuple[Files, ServedFiles | None]:
    """Return the files of a sandbox, and what must be closed in the end, if there is such.

    Args:
        root: Descriptor of its root directory; it stays the caller's.
        pid: A process of it, such as process 1.
        workdir: Absolute path inside.
        ids: As in its `SandboxSpec`.
    """
    if ids == "own" or not needed():
        return Files(root, workdir=workdir), None
    served = ServedFiles(root, pid, workdir=workdir)
    return served, served


class ServedFiles(Files):
    """`Files` whose work is done by another process, one piece at a time.

    Args:
        root: Descriptor of the sandbox's root directory; it stays the caller's.
        pid: A process of the sandbox.
        workdir: Absolute path inside.
    """

    def __init__(self, root: int, pid: int, *, workdir: str = "/") -> None:
        super().__init__(root, workdir=workdir)
        self._namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._connection: Connection | None = None
        self._serves = False
        self._owner = os.getpid()

    def read(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        follow_links: bool = True,
    ) -> bytes:
        """See `Files.read`."""
        found: bytes = self._ask(
            "read", os.fspath(path), max_bytes=max_bytes, follow_links=follow_links
        )
        return found

    def write(
        self, path: str | os.PathLike[str], data: bytes | str, *, mode: int | None = None
    ) -> None:
        """See `Files.write`; what is new belongs to root inside."""
        self._ask("write", os.fspath(path), data, mode=mode)

    def list(self, path: str | os.PathLike[str] = ".") -> tuple[FileEntry, ...]:
        """See `Files.list`."""
        found: tuple[FileEntry, ...] = self._ask("list", os.fspath(path))
        return found

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """See `Files.exists`."""
        found: bool = self._ask("exists", os.fspath(path))
        return found

    def remove(self, path: str | os.PathLike[str], *, recursive: bool = False) -> None:
        """See `Files.remove`."""
        self._ask("remove", os.fspath(path), recursive=recursive)

    def upload(
        self, source: str | os.PathLike[str], target: str | os.PathLike[str]
    ) -> TransferReport:
        """See `Files.upload`; what comes in belongs to root inside."""
        report: TransferReport = self._ask(
            "upload", os.fspath(Path(source).absolute()), os.fspath(target)
        )
        return report

    def download(
        self, path: str | os.PathLike[str], directory: str | os.PathLike[str]
    ) -> TransferReport:
        """See `Files.download`; what comes out belongs to this user."""
        report: TransferReport = self._ask(
            "download", os.fspath(path), os.fspath(Path(directory).absolute())
        )
        return report

    def measure(self, path: Path) -> Measure:
        """Measure a tree of the host in which files of the sandbox are; see `disk.measure`.

        One that cannot be measured counts as endless; none while the process only starts.
        """
        for _ in range(2):
            with contextlib.suppress(HostError, OSError):
                if not self._is_ready():
                    return Measure()
                found: Measure = self._ask("measure", path)
                return found
        return Measure(used_bytes=ENDLESS_BYTES)

    def memfds(self, pid: str) -> Memfds:
        """See `Processes.memfds`, where the root directory is a jail's /proc.

        None while the process only starts: whoever looks at all sandboxes must not wait for it.
        """
        with contextlib.suppress(HostError):
            if self._is_ready():
                found: Memfds = self._ask("memfds", pid)
                return found
        return {}

    def _is_ready(self) -> bool:
        """Start the process where it does not run; return whether it serves, without waiting."""
        with self._lock:
            connection = self._connected()
            if not self._serves and connection.poll():
                with contextlib.suppress(EOFError, ConnectionError):
                    self._serves = connection.recv() == _READY
                if not self._serves:
                    self._end()
            return self._serves

    def _ask(self, name: str, *words: object, **named: object) -> Any:
        with self._lock:
            try:
                connection = self._connected()
                if not self._serves:
                    self._serves = connection.recv() == _READY
                connection.send((name, words, named))
                kind, value = connection.recv()
            except BaseException as error:
                # an answer that comes yet, after Ctrl-C say, would be taken for another's
                self._end()
                if isinstance(error, EOFError | ConnectionError):
                    raise HostError(
                        "the process that has the sandbox's files was killed", hint="try again"
                    ) from error
                raise
        if kind == "file":
            message, number, path, hint = value
            raise FileAccessError(message, errno=number, path=path, hint=hint)
        if kind == "failed":
            raise HostError(f"the sandbox's files could not be reached: {value}")
        return value

    def _connected(self) -> Connection:
        if self._namespace < 0 or self._owner != os.getpid():
            raise SandboxClosedError("the sandbox is closed, or another process's")
        if self._connection is None:
            # most sandboxes need neither
            from multiprocessing.connection import Connection

            from sandbox_lite.jail.process import spawn

            ours, theirs = socket.socketpair()
            with theirs:
                package = str(Path(__file__).parents[2])
                numbers = (self._root, self._namespace, os.getpid())
                try:
                    spawn(
                        [sys.executable, "-I", "-S", "-c", _PROGRAM, package, *map(str, numbers)],
                        stdin=theirs.fileno(), fds=numbers[:2], new_session=True, own=self._own,
                    )  # fmt: skip
                except BaseException:
                    ours.close()
                    raise
            self._connection = Connection(ours.detach())
            self._connection.send(self._workdir)
        return self._connection

    def _own(self, process: Process) -> None:
        self._process = process

    def _end(self) -> None:
        self._serves = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the process; a second call does nothing."""
        with self._lock:
            if self._owner == os.getpid():
                self._end()
            if self._namespace >= 0:
                os.close(self._namespace)
                self._namespace = -1


def serve(root: int, namespace: int, parent: int) -> None:
    """Be that process: do what is asked on standard input until its other end is closed."""
    from multiprocessing.connection import Connection

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    # the socket alone does not tell of the end where a child of the program holds it as well
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    orders = Connection(0)
    with contextlib.suppress(EOFError, ConnectionError):
        files = Files(root, workdir=orders.recv())
        orders.send(_READY)
        others: dict[str, Callable[..., object]] = {
            "measure": measure,
            "memfds": Processes(root).memfds,
        }
        while True:
            name, words, named = orders.recv()
            answer: tuple[str, object]
            try:
                work = others.get(name) or getattr(files, name)
                answer = "done", work(*words, **named)
            except FileAccessError as error:
                answer = "file", (error.message, error.errno, error.path, error.hint)
            except Exception as error:  # noqa: BLE001  # told to whoever asked
                answer = "failed", f"{type(error).__name__}: {error}"
            orders.send(answer)
