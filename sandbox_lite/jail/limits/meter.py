"""The limits of one sandbox at work: looks, ends what is beyond them, says what a command met.

Called by whoever runs a command, before and after, and by the watchdog in between.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sandbox_lite.jail.limits import verdict
from sandbox_lite.jail.limits.backend import NICE, Counters
from sandbox_lite.jail.limits.disk import DirectoryDisk, DiskUse, TmpfsDisk
from sandbox_lite.jail.limits.memory import MemoryWatch
from sandbox_lite.jail.limits.processes import FIRST, Entry, descendants, has_autogroups
from sandbox_lite.jail.limits.turns import Turn
from sandbox_lite.jail.steps import Wait
from sandbox_lite.spec import Outcome, SandboxStats, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_lite.jail.limits.backend import Box
    from sandbox_lite.jail.limits.processes import Processes
    from sandbox_lite.jail.limits.turns import Turns
    from sandbox_lite.jail.steps import Steps
    from sandbox_lite.spec import CommandResult, LimitName, Limits

BUSY_SECONDS = 0.02
"""Between two looks while a command runs: a process touches about 0.4 GB in a second."""
CALM_SECONDS = 0.1
"""Between two looks at what a command left behind, and at one that is far from every bound."""
_PURGES, _CALM_AGAIN_SECONDS = 20, 1.0
"""After so many in a row the bomb is among those that were there before, and none is spared."""
_SEVERAL = 2
"""Processes left behind, from which on a look is taken whether they become more."""
_MISSED = 2
"""Processes that come and go while we count, so that a full sandbox seldom looks full."""
_OUTLAST_SECONDS = 0.5
_STILL = 3
_LIMIT_OUTCOMES = (Outcome.OUT_OF_MEMORY, Outcome.PIDS_LIMIT, Outcome.DISK_FULL, Outcome.TIMED_OUT)


@dataclass(slots=True, eq=False)
class Span:
    """One command while it runs."""

    before: Counters
    cpu_before: float | None
    root: int | None
    shared: bool
    peak_fd: int | None
    peak_memory: int = 0
    peak_pids: int = 0
    pids_before: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a command met and took."""

    met: tuple[LimitName, ...]
    """Limits that were reached while it ran: these may be why it failed."""
    full: frozenset[LimitName]
    """What is full, perhaps since before."""
    shared: bool
    leftovers_killed: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """How a command left the sandbox where nothing but idle shells is in it any more."""

    counters: Counters
    cpu_seconds: float | None
    count: int
    shells: frozenset[int]


@dataclass(slots=True)
class _Samples:
    """What our own looks have counted; they only grow."""

    pids_refused: int = 0
    disk_filled: int = 0
    shm_filled: int = 0
    leftovers_killed: int = 0
    told_leftovers: int = 0
    full: frozenset[LimitName] = frozenset()
    stored: tuple[int, int] = (0, 0)
    healthy: frozenset[int] = field(default_factory=frozenset)
    purged_at: float = float("-inf")
    purges: int = 0


class Meter:
    """Holds what the kernel does not, and tells what both did."""

    def __init__(
        self,
        limits: Limits,
        box: Box,
        processes: Processes,
        disk: TmpfsDisk | DirectoryDisk,
        *,
        end: Callable[[str], None],
        wake: Callable[[], None],
        soften: Callable[[], None],
        turns: Turns,
    ) -> None:
        """Take the parts.

        Args:
            limits: What was asked for.
            box: The sandbox's place on the rung.
            processes: Those of the jail.
            disk: Where it writes.
            end: Ends the sandbox, for the reason it is given.
            wake: Has the watchdog look soon.
            soften: Has it call `soften` soon.
            turns: Which sandboxes that do not give way may begin commands.
        """
        self._limits = limits
        self._box = box
        self._processes = processes
        self._disk = disk
        self._memory = MemoryWatch(limits.memory_bytes, box, processes, disk)
        self._end_sandbox = end
        self._wake = wake
        self._soften_soon = soften
        self._turns = turns
        self._lock = threading.RLock()
        self._spans: list[Span] = []
        self._shells: set[int] = set()
        self._samples = _Samples()
        self._streak: tuple[Outcome, int] = (Outcome.EXITED, 0)
        self._closed = False
        self._dormant = False
        self._rest: _Rest | None = None
        self._gives_way = box.by_niceness and has_autogroups()
        self._sessions: dict[int, int] = {}
        self._softened: set[int] = set()
        self._crowd = 0
        """Processes at the last look, where sessions are looked at."""
        self.started = time.monotonic()
        self.begun = 0
        """Beginnings and ends of commands so far."""
        self.expired = False
        """The wall time is over, and with it the sandbox."""

    # -- for whoever runs commands ----------------------------------------------------------------

    def begin(self) -> None:
        """Count the wall time from now on."""
        with self._lock:
            self.started = time.monotonic()
        if self._limits.wall_seconds is not None:
            self._wake()

    def adopt_shell(self, pid: int) -> None:
        """Know a persistent shell: it is never among what is left behind."""
        with self._lock:
            self._shells.add(pid)
            if self._gives_way:
                self._sessions[pid] = pid
                self._soften_soon()

    def drop_shell(self, pid: int) -> None:
        """Forget a shell that has ended."""
        with self._lock:
            self._shells.discard(pid)

    def make_room(self) -> None:
        """End what fills the sandbox with processes, so that a shell can be started."""
        with self._lock:
            if self._limits.pids is not None:
                self._purge(wait=True)

    def turn(self, *, beside: bool = False) -> Turn:
        """Return what a command waits for before it is begun.

        Args:
            beside: It is a program that process 1 starts, in its own session.
        """

        def needed() -> bool:
            return (
                self._gives_way
                and not self._closed
                and (self.rough or (beside and FIRST not in self._softened))
            )

        return Turn(self._turns, self, needed)

    @contextlib.contextmanager
    def span(self, root: int | None) -> Iterator[Span]:
        """Watch over one command.

        Args:
            root: Its shell or program, by the jail's pid; None if that has ended already.
        """
        with self._lock:
            self.begun += 1
            span = self._begin(root)
            self._spans.append(span)
        if self._dormant:
            self._dormant = False
            self._wake()
        try:
            yield span
        finally:
            with self._lock:
                # once more: who looked in the middle of it must see a difference afterwards
                self.begun += 1
                self._spans.remove(span)
            if span.peak_fd is not None:
                os.close(span.peak_fd)

    def _begin(self, root: int | None) -> Span:
        rest, self._rest = self._rested(), None
        count = self._recover() if rest is None else rest.count
        for other in self._spans:
            other.shared = True
        counters, cpu = None, self._box.read_cpu()
        if rest is not None:
            counters = rest.counters if self._box.counts_alone else None
            cpu = rest.cpu_seconds if cpu is None else cpu
        return Span(
            before=self._counters() if counters is None else counters,
            cpu_before=self._cpu_seconds() if cpu is None else cpu,
            root=root,
            # what an earlier command left behind may meet a limit as well
            shared=bool(self._spans) or count > 1 + len(self._shells),
            peak_fd=self._box.open_peak(),
            pids_before=count,
        )

    def _rested(self) -> _Rest | None:
        """Return how the last command left the sandbox, where nothing can have changed since."""
        rest, limit = self._rest, self._limits.pids
        if rest is None or self._spans or rest.shells != self._shells:
            return None
        if limit is not None:
            if rest.count >= limit // 2:
                return None
            self._samples.healthy = rest.shells | {FIRST}
        return rest

    def _count(self) -> int:
        """Return the number of processes and threads."""
        count = self._box.pids()
        if count is not None:
            return count
        entries = self._processes.entries(dead=True)
        if self._gives_way:
            self._sessions = {
                one.session: one.pid for one in entries if one.session and one.pid != FIRST
            }
            # that of process 1 stays, where no program is in it as well
            self._softened &= self._sessions.keys() | {FIRST}
            self._crowd = len(entries)
        return _tasks(entries)

    def _count_and_cpu(self) -> tuple[int, float]:
        """Return the number of processes and threads, and the cpu seconds spent so far."""
        count, cpu = self._box.pids(), self._box.read_cpu()
        if count is None or cpu is None:
            entries = self._processes.entries(dead=True)
            count = _tasks(entries) if count is None else count
            cpu = _spent(entries) if cpu is None else cpu
        return count, cpu

    def _recover(self) -> int:
        """See that a command can start processes, and remember who was there before it."""
        count, limit = self._count(), self._limits.pids
        if self._spans or limit is None:
            return count
        if count >= limit - 1:
            self._purge(wait=True)
        elif count < limit // 2:
            self._samples.healthy = frozenset(self._processes.pids())
        return count

    def _grows(self, span: Span, count: int) -> bool:
        """Return whether an ended command may have left behind what becomes more and more."""
        alone = self._limits.pids is not None and len(self._spans) == 1
        return alone and count >= span.pids_before + _SEVERAL

    def _outlast(self, span: Span, count: int) -> Steps[None]:
        """Wait for the end of a growth that a command has left behind, and end it.

        Args:
            span: The command, which has ended.
            count: How many processes and threads there are.

        A fork bomb returns at once. Were the next command sent meanwhile, its bash would find no
        room for a process and sleep for a second and more before it tries again.
        """
        limit = self._limits.pids
        assert limit is not None, "else nothing need be waited for"
        still = 0
        deadline = time.monotonic() + _OUTLAST_SECONDS
        while time.monotonic() < deadline:
            if count >= limit - 1:
                with self._lock:
                    span.peak_pids = max(span.peak_pids, count)
                    self._purge(idle=True, wait=True)
                break
            yield Wait(None, BUSY_SECONDS)
            with self._lock:
                before, count = count, self._count()
            # a small share of a processor lets it rest in between
            still = 0 if count > before else still + 1
            if still >= _STILL:
                break

    def ending(self, span: Span) -> Steps[Ending]:
        """Return what a command met and took; its span must still be open."""
        count, cpu = self._count_and_cpu()
        idle = not self._grows(span, count)
        if not idle:
            yield from self._outlast(span, count)
            count, cpu = self._count_and_cpu()
        with self._lock:
            use = self._look_at_disk()
            if not self._box.counts_pids:
                self._look_at_pids(count)
            after = self._counters()
            if idle and len(self._spans) == 1 and count <= 1 + len(self._shells):
                shells = frozenset(self._shells)
                self._rest = _Rest(counters=after, cpu_seconds=cpu, count=count, shells=shells)
            spent = None if span.cpu_before is None else cpu - span.cpu_before
            fresh = self._samples.leftovers_killed - self._samples.told_leftovers
            self._samples.told_leftovers += fresh
            return Ending(
                met=verdict.hit(span.before, after),
                full=use.full,
                shared=span.shared,
                leftovers_killed=fresh,
                usage=Usage(
                    cpu_seconds=None if spent is None else max(0.0, spent),
                    peak_memory_bytes=_peak(span),
                    peak_pids=span.peak_pids or None,
                    disk_bytes=use.used_bytes,
                ),
            )

    def judged(self, result: CommandResult, ending: Ending) -> CommandResult:
        """Return the result with its verdict."""
        outcome = verdict.outcome(result.outcome, result.exit_code, ending.met)
        hit = [*ending.met, *sorted(ending.full.difference(ending.met))]
        if ending.leftovers_killed and "pids" not in hit:
            hit.append("pids")
        if result.outcome is Outcome.TIMED_OUT:
            hit.append("wall" if self.expired else "timeout")
        if result.dropped_bytes:
            hit.append("output")
        with self._lock:
            repeats = self._streak[1] + 1 if self._streak[0] is outcome else 0
            self._streak = (outcome, repeats)
        return replace(
            result,
            outcome=outcome,
            limits_hit=tuple(hit),
            shared=ending.shared,
            repeats=repeats if outcome in _LIMIT_OUTCOMES else 0,
            leftovers_killed=ending.leftovers_killed,
            usage=ending.usage,
        )

    # -- for the watchdog -------------------------------------------------------------------------

    def sample(self) -> float | None:
        """Look, and end what is beyond its bound.

        Returns:
            Seconds until the next look; None where nothing can happen before a command comes.
        """
        with self._lock:
            if self._closed:
                return None
            wall = self._wall_left()
            if wall is not None and wall <= 0:
                self._expire()
                return None
            pids = self._look_at_pids()
            near = self._look_at_memory()
            self._look_at_disk()
            # process 1 and idle shells do nothing by themselves
            if not self._spans and pids <= 1 + len(self._shells):
                self._dormant = True
                return wall
            quiet = not self._spans or (
                not near and self._limits.pids is not None and pids < self._limits.pids // 2
            )
            pause = CALM_SECONDS if quiet and self._box.holds else BUSY_SECONDS
            return pause if wall is None else min(wall, pause)

    @property
    def rough(self) -> bool:
        """Whether `soften` has something to do."""
        return bool(self._sessions.keys() - self._softened)

    @property
    def urgency(self) -> int:
        """How soon it should give way: at once with many processes, late without any command."""
        limit, crowd = self._limits.pids, self._crowd
        if limit is not None and crowd >= limit // 2:
            return 2
        # what a command has left behind may be as busy as one under way
        return 1 if self._spans or crowd > 1 + len(self._shells) else 0

    def soften(self) -> bool | None:
        """Have one more of its sessions give way to the host's own programs.

        Returns:
            None where all do by now; False where the kernel wants to be asked again later.
        """
        with self._lock:
            rough = (
                None if self._closed else next(iter(self._sessions.keys() - self._softened), None)
            )
            if rough is None:
                return None
            done = self._processes.soften(self._sessions[rough], NICE)
            if done is None:
                self._sessions.pop(rough, None)
            elif done:
                self._softened.add(rough)
            if done is False:
                return False
            return True if self.rough else None

    def close(self) -> None:
        """Look no more."""
        with self._lock:
            self._closed = True
            self._memory.close()

    def is_crowded(self) -> bool:
        """Whether its processes are as many as may be, so that the next is refused."""
        limit = self._limits.pids
        return limit is not None and self.stats().pids >= limit - 1

    def stats(self) -> SandboxStats:
        """Return one look for a person."""
        with self._lock:
            use = self._look_at_disk()
            memory = self._box.read(use.tmpfs_bytes).memory_bytes
            return SandboxStats(
                memory_bytes=self._processes.held().total_bytes if memory is None else memory,
                pids=self._look_at_pids(),
                cpu_seconds=self._cpu_seconds(),
                disk_bytes=use.used_bytes,
                age_seconds=time.monotonic() - self.started,
            )

    def _wall_left(self) -> float | None:
        if self._limits.wall_seconds is None:
            return None
        return self.started + self._limits.wall_seconds - time.monotonic()

    def _expire(self) -> None:
        self.expired = True
        self._closed = True
        self._end_sandbox(f"its wall time of {self._limits.wall_seconds:g} s is over")

    def _counters(self) -> Counters:
        kernel, ours = self._box.counters(), self._samples
        return Counters(
            out_of_memory=kernel.out_of_memory + self._memory.kills,
            pids_refused=kernel.pids_refused + ours.pids_refused,
            disk_filled=ours.disk_filled,
            shm_filled=ours.shm_filled,
        )

    def _cpu_seconds(self) -> float | None:
        found = self._box.read_cpu()
        return _spent(self._processes.entries()) if found is None else found

    def _look_at_pids(self, count: int | None = None) -> int:
        limit = self._limits.pids
        if count is None:
            count = self._count()
        for span in self._spans:
            span.peak_pids = max(span.peak_pids, count)
        sampled = not self._box.counts_pids
        if limit is not None and sampled and count >= limit - _MISSED:
            self._samples.pids_refused += 1
        if limit is not None and count >= limit:
            # a kernel that holds it exactly lets none be beyond, whatever we have counted
            self._purge(everything=count > limit and "pids" not in self._box.holds)
        return count

    def _purge(self, *, everything: bool = False, idle: bool = False, wait: bool = False) -> None:
        """Kill what earlier commands left behind, which keeps the next from starting anything.

        Spared is what was there when all was well, unless that does not help, and what the commands
        under way have started; with `everything` not that, with `idle` there are none any more.
        """
        now = time.monotonic()
        if now - self._samples.purged_at > _CALM_AGAIN_SECONDS:
            self._samples.purges = 0
        in_vain = self._samples.purges >= _PURGES
        spared = frozenset() if in_vain else self._samples.healthy
        roots = {span.root for span in self._spans if span.root is not None}

        def doomed(entries: list[Entry]) -> set[int]:
            ours = {FIRST, *self._shells, *roots}
            living = set() if everything or idle else descendants(entries, roots)
            return {entry.pid for entry in entries} - ours - living - spared

        killed = self._processes.purge(doomed, wait=wait)
        if killed:
            # they had been refused, or were about to be; of RLIMIT_NPROC nobody counts
            self._samples.pids_refused += not self._box.counts_pids
            self._samples.purged_at = now
            self._samples.purges += 1
            self._samples.leftovers_killed += killed

    def _look_at_memory(self) -> bool:
        memory, near = self._memory.look()
        for span in self._spans:
            span.peak_memory = max(span.peak_memory, memory)
        return near

    def _look_at_disk(self) -> DiskUse:
        use = self._disk.look()
        fresh = use.full - self._samples.full
        self._samples.disk_filled += "disk" in fresh
        self._samples.shm_filled += "shm" in fresh
        self._samples.full = use.full
        # no kernel stops it; one that frees space may go on
        disk = self._disk
        if isinstance(disk, DirectoryDisk):
            stored, self._samples.stored = self._samples.stored, disk.stored
            if disk.over and any(map(int.__gt__, disk.stored, stored)):
                self._stop_writers(disk)
        return use

    def _stop_writers(self, disk: DirectoryDisk) -> None:
        def doomed(entries: list[Entry]) -> set[int]:
            return {entry.pid for entry in entries} - {FIRST, *self._shells}

        self._processes.purge(doomed)
        # what they wrote to the last must not be taken for the next one's doing
        disk.walk()
        self._samples.stored = disk.stored


def _tasks(entries: list[Entry]) -> int:
    # RLIMIT_NPROC, like pids.max, counts the dead until they have been waited for
    return sum(max(1, entry.threads) for entry in entries)


def _spent(entries: list[Entry]) -> float:
    # the time of the dead is in whoever waited for them
    return sum(entry.cpu_seconds for entry in entries if not entry.dead)


def _peak(span: Span) -> int | None:
    if span.peak_fd is not None:
        with contextlib.suppress(OSError, ValueError):
            return int(os.pread(span.peak_fd, 64, 0))
    return span.peak_memory or None
