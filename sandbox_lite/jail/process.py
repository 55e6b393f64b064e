"""Start one argv with given descriptors, wait for it, end it. Knows neither bwrap nor bash."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from sandbox_lite.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO

_HINTS = {
    errno.EMFILE: "raise the limit of open files (ulimit -n); a sandbox takes 16, a command 5 more",
    errno.ENFILE: "close files, or raise the host's limit: sysctl fs.file-max",
    errno.EAGAIN: "end processes, or raise their limit: ulimit -u",
    errno.ENOMEM: "the host is short of memory",
    errno.ENOSPC: "there is no space left for it",
}

_RESET = """
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
os.execv(sys.argv[1], sys.argv[1:])
"""


STARTS_AT_ONCE = len(os.sched_getaffinity(0)) + 1
"""One more than there are processors."""
_gate = threading.BoundedSemaphore(STARTS_AT_ONCE)


@contextlib.contextmanager
def admitted() -> Iterator[None]:
    """Wait until few others start something at this moment.

    One more at a time than there are processors: a burst of starts ends as soon, and each of them
    is done much sooner than if all took turns.
    """
    with _gate:
        yield


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn any OSError of the block into a HostError with the remedy, where one is known."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"cannot {doing}: {error.strerror or error}", hint=_HINTS.get(error.errno or 0)
        ) from error


def _reset_words() -> tuple[str, ...]:
    """Return the words before a command that give it signals as they are by default.

    What is ignored (by nohup, or by a script's `&`) or blocked stays so in every process of the
    jail: time-outs and Ctrl-C would not reach them. Popen can undo it by a fork alone, which is
    slow in a large process and unsafe beside threads; a small Python in between is neither.
    """
    usual = (signal.SIGPIPE, signal.SIGXFSZ)  # Python's own, which Popen resets
    changed = [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]
    if not set(changed).difference(usual) and not signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        return ()
    return (sys.executable, "-I", "-S", "-c", _RESET)


class Process(Protocol):
    """A child of ours, as `Popen` has it."""

    pid: int

    @property
    def returncode(self) -> int | Any:
        """How it ended, as `Popen` has it; None before it was waited for."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""

    def kill(self) -> None:
        """Kill it."""


_P = TypeVar("_P", bound=Process)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    work: Callable[[], Process]
    done: Future[Process]


class _Spawner:
    """One thread that starts all children of this process.

    PR_SET_PDEATHSIG, which --die-with-parent sets, fires when the *thread* that started the
    child ends: prctl(2). So whoever asks, this thread starts, and it lives as long as we do.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.pieces: queue.SimpleQueue[_Piece] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="sandbox-lite spawner", daemon=True).start()
        threading.Thread(
            target=self._serve_pieces, name="sandbox-lite starter", daemon=True
        ).start()

    def _serve_pieces(self) -> None:
        while True:
            # several starts go on at once
            threading.Thread(target=self.pieces.get().run, daemon=True).start()

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job.done.set_result(job.work())
            except BaseException as error:  # noqa: BLE001  # handed to whoever asked
                job.done.set_exception(error)

    def run(self, work: Callable[[], _P], own: Callable[[_P], object]) -> _P:
        done: Future[Process] = Future()
        self._jobs.put(_Job(work=work, done=done))
        interrupt = None
        while not done.done():
            try:
                done.exception()
            except KeyboardInterrupt as error:
                # a moment later: the child that is just being started needs its owner first
                interrupt = error
        process = cast("_P", done.result())
        own(process)
        if interrupt is not None:
            raise interrupt
        return process


class _Piece:
    """Work that runs to its end once it has begun, whatever happens to whoever waits for it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._taken = False
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def _take(self) -> bool:
        with self._lock:
            taken, self._taken = self._taken, True
            return not taken

    def run(self) -> None:
        if not self._take():
            return
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
            self._error = error
        finally:
            self._ended.set()

    def await_end(self) -> None:
        """Wait, unless it never begins."""
        while not self._ended.is_set():
            # Ctrl-C may come more than once
            with contextlib.suppress(KeyboardInterrupt):
                if self._take():
                    return
                self._ended.wait()

    def finish(self) -> None:
        self._ended.wait()
        if self._error is not None:
            raise self._error


def uninterrupted(work: Callable[[], object]) -> None:
    """Run work where Python raises no KeyboardInterrupt, and raise one only when it is done.

    Ctrl-C between any two steps of a start would lose what the first has made. Python raises it
    in the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    spawner = _spawner()
    piece = _Piece(work)
    try:
        # either it is in the queue or it is not: nothing in between can be interrupted
        spawner.pieces.put(piece)
        piece.finish()
    except KeyboardInterrupt:
        piece.await_end()
        raise


_lock = threading.Lock()
_current: _Spawner | None = None


def _renew_lock() -> None:
    # a lock held by another thread at the moment of fork stays held in the child for ever
    global _lock, _gate
    _lock = threading.Lock()
    _gate = threading.BoundedSemaphore(STARTS_AT_ONCE)


os.register_at_fork(after_in_child=_renew_lock)


def _spawner() -> _Spawner:
    global _current
    with _lock:
        # after os.fork no thread but the caller's exists in the child
        if _current is None or _current.pid != os.getpid():
            _current = _Spawner()
        return _current


def spawn(
    argv: Sequence[str],
    *,
    fds: Sequence[int] = (),
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    new_session: bool = False,
    own: Callable[[subprocess.Popen[bytes]], object] = lambda process: None,
) -> subprocess.Popen[bytes]:
    """Start a program from a thread that outlives the caller.

    Args:
        argv: The program and its arguments.
        fds: Descriptors it inherits under their own numbers; all others are closed.
        stdin: As in `subprocess.Popen`, like the next two.
        stdout: See above.
        stderr: See above.
        env: Its whole environment, by default an empty one: what bwrap is started with shows
            in the jail's /proc.
        new_session: Put it into a session of its own, out of reach of the terminal's Ctrl-C.
        own: Told of the child, also where Ctrl-C keeps it from being returned.

    Returns:
        The running child; the caller waits for it.

    Raises:
        OSError: It could not be started.
    """

    def work() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (*_reset_words(), *argv),
            pass_fds=fds,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=dict(env or {}),
            start_new_session=new_session,
        )

    return _spawner().run(work, own)


def pidfd_signal(pidfd: int, number: signal.Signals) -> None:
    """Send a signal to the process behind a descriptor; nothing happens where it has ended."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
