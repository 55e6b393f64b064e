"""The processes of one jail, seen through its own /proc: all of them, daemons too, and no other's.

Every pid here is the jail's. A process is signalled through the directory that stands for it, which
no later process with the same pid shares.
"""

from __future__ import annotations

# All is done on descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH208
import contextlib
import errno
import os
import re
import signal
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHARED_BYTES = 16 * 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAPPING = re.compile(rb"[0-9a-f]+-[0-9a-f]+ .{4} [0-9a-f]+ ([0-9a-f:]+) (\d+) +(.*)")
_LINE, _LINES = 4096, ("stat", "statm")
_PURGE_SECONDS = 2.0
_ANEW = 10
"""Of so many looks one is at everything: a clock of hundredths hides 5 MB of each process."""

Memfds = dict[tuple[int, int], int]

FIRST = 1
"""Process 1, which is ours."""


@cache
def has_autogroups() -> bool:
    """Return whether the kernel makes a group of each session: sched(7)."""
    return Path("/proc/self/autogroup").exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One process: where it belongs, and what it took."""

    pid: int
    parent: int
    session: int
    """0 is one that began outside."""
    threads: int
    cpu_seconds: float
    """Its own, and that of children it has waited for."""
    dead: bool = False
    """Nobody has waited for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Memory of all processes, and the process that holds most of it."""

    total_bytes: int
    largest: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What one look at a process found."""

    clock: bytes | None
    """Its cpu time and its start, as `stat` had them before."""
    place: str
    rough_bytes: int
    memfds: dict[tuple[int, int], int] | None = None
    """None: nobody has looked."""


class Processes:
    """Looks at, and ends, the processes of one jail."""

    def __init__(self, proc: int, *, others: Callable[[str], Memfds] | None = None) -> None:
        """Look through a descriptor of the jail's /proc, which stays its owner's.

        Args:
            proc: The descriptor.
            others: Looks for the memfds of a process whose descriptors this one may not see,
                because it runs as another id; see `memfds`.
        """
        self._proc = proc
        self._others = others
        self._clocks: dict[int, bytes] = {}
        self._known: dict[int, _Known] = {}
        self._looks = 0

    def pids(self) -> list[int]:
        """Return the pids of all processes; none where the jail is gone."""
        with contextlib.suppress(OSError):
            # Opened anew: two threads at once would share one position in the directory, and each
            # see a part of it. A lock would have whoever holds the bounds wait for a thread that
            # gets no processor.
            fd = os.open(".", _DIRECTORY, dir_fd=self._proc)
            try:
                return [int(name) for name in os.listdir(fd) if name.isdigit()]
            finally:
                os.close(fd)
        return []

    def _read(self, pid: int | str, name: str) -> bytes:
        fd = os.open(f"{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            data = os.read(fd, _LINE)
            # what the kernel prints comes in pieces of its own choice; a single line in one
            while name not in _LINES and (piece := os.read(fd, 1 << 16)):
                data += piece
            return data
        finally:
            os.close(fd)

    def entries(self, *, dead: bool = False) -> list[Entry]:
        """Return all processes, with or without the dead that nobody has waited for."""
        found = []
        clocks = {}
        for pid in self.pids():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # the second field may hold blanks and parentheses: proc(5)
                fields = self._read(pid, "stat").rpartition(b")")[2].split()
                # of a process whose first thread alone has ended the kernel says the same
                clocks[pid] = b" ".join((*fields[11:13], fields[19]))
                threads = int(fields[17])
                ended = fields[0] in b"ZX" and threads <= 1
                if ended and not dead:
                    continue
                cpu = sum(map(int, fields[11:15])) / _TICKS
                found.append(
                    Entry(
                        pid=pid,
                        parent=int(fields[1]),
                        session=int(fields[3]),
                        threads=threads,
                        cpu_seconds=cpu,
                        dead=ended,
                    )
                )
        self._clocks = clocks
        return found

    def states(self) -> dict[int, int]:
        """Return the state of every process, a letter of proc(5).

        Where the first thread has ended, or is traced, it is that of another which still runs.
        """
        found = {}
        for pid in self.pids():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # after the second field, which may hold blanks and parentheses
                fields = self._read(pid, "stat").rpartition(b")")[2].split()
                state = fields[0][0]
                if state in b"Zt" and int(fields[17]) > 1:
                    state = next((one for one in self._threads(pid) if one not in b"TtZX"), state)
                found[pid] = state
        return found

    def _threads(self, pid: int) -> Iterator[int]:
        """Yield the states of a process's threads."""
        fd = os.open(f"{pid}/task", _DIRECTORY, dir_fd=self._proc)
        try:
            threads = os.listdir(fd)
        finally:
            os.close(fd)
        for thread in threads:
            with contextlib.suppress(OSError, IndexError):
                fields = self._read(f"{pid}/task/{thread}", "stat").rpartition(b")")[2].split()
                yield fields[0][0]

    def soften(self, pid: int, nice: int) -> bool | None:
        """Have the whole session of a process give way to others by a nice value.

        With sched(7)'s autogroups each session has the same weight on a processor, whatever the
        nice values in it: fifty sandboxes were fifty times our own part of it.

        Returns:
            False where it has to be asked again later: the kernel grants an ordinary user one such
            change in a tenth of a second. None where there is no such process any more.
        """
        try:
            fd = os.open(f"{pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._proc)
            try:
                os.write(fd, str(nice).encode())
            finally:
                os.close(fd)
        except BlockingIOError:
            return False
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            # else it is another id's, or in no such group
            return error.errno not in (errno.EMFILE, errno.ENFILE)
        return True

    # -- memory -------------------------------------------------------------------------------

    def _place(self, pid: int) -> tuple[str, int, int]:
        """Return where a process's memory can be read, and its resident and shared bytes.

        The first thread may have ended while others go on; then its own files show nothing.
        """
        resident, shared = _two(self._read(pid, "statm"))
        if resident:
            return str(pid), resident, shared
        fd = os.open(f"{pid}/task", _DIRECTORY, dir_fd=self._proc)
        try:
            threads = os.listdir(fd)
        finally:
            os.close(fd)
        for thread in threads:
            place = f"{pid}/task/{thread}"
            with contextlib.suppress(OSError, ValueError):
                resident, shared = _two(self._read(place, "statm"))
                if resident:
                    return place, resident, shared
        return str(pid), 0, 0

    def rough_bytes(self, *, memfds: bool) -> tuple[int, int]:
        """Return at least what all processes hold, apart from memfds, and with it those.

        What a fork shares is counted each time. Memfds are looked for where that is asked.
        """
        total = 0
        inodes: dict[tuple[int, int], int] = {}
        self._looks += 1
        anew = self._looks % _ANEW == 0
        known: dict[int, _Known] = {}
        for pid in self.pids():
            with contextlib.suppress(OSError, ValueError):
                clock = self._clocks.get(pid)
                one = self._known.get(pid)
                # Who has not run holds what it held. Of a fork bomb most sleep, and with fifty of
                # them there is no time to look at each.
                if anew or one is None or clock is None or one.clock != clock:
                    one = self._looked_at(pid, clock)
                if memfds and one.memfds is None:
                    one = replace(one, memfds=self.memfds(one.place))
                known[pid] = one
                total += one.rough_bytes
                inodes |= one.memfds or {}
        self._known = known
        return total, sum(inodes.values())

    def _looked_at(self, pid: int, clock: bytes | None) -> _Known:
        place, resident, shared = self._place(pid)
        rough = resident - shared
        # of files, mostly, which the kernel can drop: only the longer text tells them apart
        if shared > _SHARED_BYTES:
            rough += _shared_memory(self._read(place, "status"))
        return _Known(clock=clock, place=place, rough_bytes=rough)

    def held(self) -> Held:
        """Return what all processes hold, each shared page once, and who holds most.

        Pages of files are none of it: of those on the disk of the sandbox the disk's limit takes
        account, all others the kernel can drop. A memfd is memory, mapped or not.
        """
        total, largest, most = 0, None, 0
        inodes: dict[tuple[int, int], int] = {}
        for pid in self.pids():
            with contextlib.suppress(OSError, ValueError):
                place, _, _ = self._place(pid)
                own = self.memfds(place)
                inodes |= own
                shares = _rollup(self._read(place, "smaps_rollup"))
                unmapped = self._shared(place, {number for _, number in inodes})
                total += shares + unmapped
                mine = shares + unmapped + sum(own.values())
                if mine > most and pid != FIRST:
                    largest, most = pid, mine
        return Held(total_bytes=total + sum(inodes.values()), largest=largest)

    def memfds(self, pid: str) -> Memfds:
        """Return the bytes of each memfd that a process has open, by device and inode."""
        found = {}
        try:
            fd = os.open(f"{pid}/fd", _DIRECTORY, dir_fd=self._proc)
        except PermissionError:
            if self._others is None:
                raise
            return self._others(pid)
        try:
            for name in os.listdir(fd):
                with contextlib.suppress(OSError):
                    if os.readlink(name, dir_fd=fd).startswith("/memfd:"):
                        status = os.stat(name, dir_fd=fd)
                        found[status.st_dev, status.st_ino] = status.st_blocks * 512
        finally:
            os.close(fd)
        return found

    def _shared(self, pid: str, counted: Collection[int]) -> int:
        """Return a process's part of shared memory that no descriptor stands for any more."""
        total, ours = 0, False
        for line in self._read(pid, "smaps").splitlines():
            mapping = _MAPPING.fullmatch(line)
            if mapping is not None:
                name = mapping[3]
                ours = name.startswith((b"/dev/zero", b"/SYSV", b"[anon_shmem:")) or (
                    name.startswith(b"/memfd:") and int(mapping[2]) not in counted
                )
            elif ours and line.startswith(b"Pss:"):
                total += int(line.split()[1]) * 1024
        return total

    # -- ending -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def pinned(self, pid: int) -> Iterator[int]:
        """Yield a directory that stands for this very process.

        Raises:
            FileNotFoundError: It has ended.
        """
        fd = os.open(str(pid), _DIRECTORY, dir_fd=self._proc)
        try:
            yield fd
        finally:
            os.close(fd)

    def kill(self, pid: int) -> int | None:
        """Kill one process.

        Returns:
            A descriptor for `holds_memory`, which the caller closes: it takes a while until all is
            given back. None where it was gone.
        """
        with contextlib.suppress(OSError):
            fd = os.open(str(pid), _DIRECTORY, dir_fd=self._proc)
            try:
                # pidfd_send_signal(2) takes a directory of /proc as well
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            except BaseException:
                os.close(fd)
                raise
            return fd
        return None

    def purge(self, doomed: Callable[[list[Entry]], set[int]], *, wait: bool = False) -> int:
        """Kill whatever `doomed` picks, until it picks nobody new; return how many there were.

        Who has a signal to come cannot fork any more (fork(2) begins anew after it), so nobody
        need be stopped first. Stopping all at one blow was tried: what is spared then stands still
        again and again, and some of fifty hogs came to no end in their minute.

        Args:
            doomed: Picks pids.
            wait: Until they are gone as well, which takes the dying a while on a busy host.
        """
        done: set[int] = set()
        deadline = time.monotonic() + _PURGE_SECONDS
        while time.monotonic() < deadline:
            picked = doomed(self.entries())
            fresh = picked - done
            for pid in fresh:
                with contextlib.suppress(OSError), self.pinned(pid) as fd:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            done |= fresh
            if not fresh and not (wait and picked):
                break
            if not fresh:
                time.sleep(0.001)
        return len(done)


def descendants(entries: Collection[Entry], roots: Collection[int]) -> set[int]:
    """Return the pids among `entries` that are one of `roots` or come from one."""
    parents = {entry.pid: entry.parent for entry in entries}
    found = set()
    for pid in parents:
        line: list[int] = []
        at = pid
        while at in parents and at not in roots and at not in line:
            line.append(at)
            at = parents[at]
        if at in roots:
            found.add(pid)
    return found


def _two(statm: bytes) -> tuple[int, int]:
    """Return the resident and the shared bytes of a /proc/PID/statm."""
    words = statm.split()
    return int(words[1]) * _PAGE, int(words[2]) * _PAGE


def _shared_memory(status: bytes) -> int:
    """Return RssShmem of a /proc/PID/status, in bytes."""
    for line in status.splitlines():
        if line.startswith(b"RssShmem:"):
            return int(line.split()[1]) * 1024
    return 0


def _rollup(smaps_rollup: bytes) -> int:
    for line in smaps_rollup.splitlines():
        if line.startswith(b"Pss_Anon:"):
            return int(line.split()[1]) * 1024
    return 0


def holds_memory(fd: int) -> bool:
    """Return whether a process that was killed has yet to give its memory back."""
    try:
        stat = os.open("statm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return False
    try:
        return os.read(stat, 256).split()[1:2] not in ([b"0"], [])
    except OSError:
        return False
    finally:
        os.close(stat)


def host_shared_bytes() -> int:
    """Return what the whole host holds in shared memory, memfds among it: a cheap look."""
    for line in Path("/proc/meminfo").read_bytes().splitlines():
        if line.startswith(b"Shmem:"):
            return int(line.split()[1]) * 1024
    return 0
