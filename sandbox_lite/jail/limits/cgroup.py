"""Control groups, version 2 and 1: one group a sandbox, through one table of file names.

See cgroups(7) and the kernel's admin-guide, cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError
from sandbox_lite.jail import group, janitor
from sandbox_lite.jail.limits import delegation, kept_files
from sandbox_lite.jail.limits.backend import Ask, Counters, Probe, Reading
from sandbox_lite.jail.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sandbox_lite.jail.limits.delegation import Ground
    from sandbox_lite.spec import LimitName

_PERIOD_US = 100_000
_GIVES_WAY = 10
"""A sandbox has so small a part of a busy processor, beside the host's own programs: nice 10."""
_BRIDGE = 1
"""The bwrap that waits outside the jail's own pid namespace is in the group as well."""

_LIMIT_OF: Mapping[str, LimitName] = {"memory": "memory", "pids": "pids", "cpu": "cpus"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    controller: str
    file: str
    value: str
    optional: bool = False
    """Not every kernel has it, and the bound holds without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """The files of one version."""

    memory_now: str
    memory_peak: str
    memory_stat: str
    memory_events: str
    pids_now: str
    pids_events: str
    anonymous: str
    """Field of `memory_stat`."""
    cpu_file: str
    cpu_field: bytes | None
    """None: the whole file is the number."""
    cpu_unit: float
    """Seconds in one of its units."""
    cpu_controller: str
    peak_of_descriptor: bool
    """Whether each descriptor of the peak's file has a peak of its own."""
    threads_move: bool
    """Whether one thread alone can be in a group, and with it the children that it starts."""


_V2 = _Names(
    memory_now="memory.current", memory_peak="memory.peak", memory_stat="memory.stat",
    memory_events="memory.events", pids_now="pids.current", pids_events="pids.events",
    anonymous="anon", cpu_file="cpu.stat", cpu_field=b"usage_usec", cpu_unit=1e-6,
    cpu_controller="cpu",
    peak_of_descriptor=True,
    threads_move=False,
)  # fmt: skip
_V1 = _Names(
    memory_now="memory.usage_in_bytes", memory_peak="memory.max_usage_in_bytes",
    memory_stat="memory.stat", memory_events="memory.oom_control", pids_now="pids.current",
    pids_events="pids.events", anonymous="rss", cpu_file="cpuacct.usage", cpu_field=None,
    cpu_unit=1e-9, cpu_controller="cpuacct", peak_of_descriptor=False, threads_move=True,
)  # fmt: skip


def _settings_v2(ask: Ask) -> Iterator[_Setting]:
    if ask.memory_bytes is not None:
        yield _Setting(controller="memory", file="memory.max", value=str(ask.memory_bytes))
        # without swap accounting there is no such file, and the host's swap is not bounded
        yield _Setting(controller="memory", file="memory.swap.max", value="0", optional=True)
        # the hog alone dies: with 1 the shell and process 1 would go with it
        yield _Setting(controller="memory", file="memory.oom.group", value="0", optional=True)
    if ask.pids is not None:
        pids = str(ask.pids + _BRIDGE)
        yield _Setting(controller="pids", file="pids.max", value=pids)
    if ask.cpus is not None:
        quota = f"{int(ask.cpus * _PERIOD_US)} {_PERIOD_US}"
        yield _Setting(controller="cpu", file="cpu.max", value=quota)
    yield _Setting(controller="cpu", file="cpu.weight", value=str(100 // _GIVES_WAY), optional=True)
    yield _Setting(controller="", file="cgroup.max.descendants", value="0", optional=True)


def _settings_v1(ask: Ask) -> Iterator[_Setting]:
    if ask.memory_bytes is not None:
        memory = str(ask.memory_bytes)
        # in this order: memory with swap may never be below memory
        yield _Setting(controller="memory", file="memory.limit_in_bytes", value=memory)
        yield _Setting(
            controller="memory", file="memory.memsw.limit_in_bytes", value=memory, optional=True
        )
        yield _Setting(controller="memory", file="memory.swappiness", value="0", optional=True)
    if ask.pids is not None:
        pids = str(ask.pids + _BRIDGE)
        yield _Setting(controller="pids", file="pids.max", value=pids)
    if ask.cpus is not None:
        yield _Setting(controller="cpu", file="cpu.cfs_period_us", value=str(_PERIOD_US))
        quota = str(int(ask.cpus * _PERIOD_US))
        yield _Setting(controller="cpu", file="cpu.cfs_quota_us", value=quota)
    yield _Setting(
        controller="cpu", file="cpu.shares", value=str(1024 // _GIVES_WAY), optional=True
    )


def _fields(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _field(data: bytes, name: bytes) -> int:
    """Return one of `_fields`; 0 where it is not there."""
    words = data.split()
    if name in words:
        word = words[words.index(name) + 1]
        return int(word) if word.isdigit() else 0
    return 0


def _count(data: bytes) -> int | None:
    word = data.strip()
    return int(word) if word.isdigit() else None


class CgroupBox:
    """The group of one sandbox, in each hierarchy that has a controller for it."""

    def __init__(self, names: _Names, ground: Ground, paths: Mapping[str, Path]) -> None:
        self._names = names
        self._ground = ground
        self._paths = paths
        self.holds: frozenset[LimitName] = frozenset(
            _LIMIT_OF[controller] for controller in paths if controller in _LIMIT_OF
        )
        self.counts_alone = True
        self.counts_pids = "pids" in paths
        self.by_niceness = False
        self._strings = {controller: str(path) for controller, path in paths.items()}
        self.group: int | None = None
        if not names.threads_move:
            place = next(iter(paths.values()))
            self.group = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def protect(self, first: int) -> None:
        """Nothing: process 1 was born here."""

    def adopt(self, pid: int) -> None:
        """Put a process where it may start children in the group.

        Raises:
            HostError: The kernel refuses.
        """
        place = self._ground.nest
        if place is not None:
            with self._moving(place):
                self._ground.move(pid, place)

    def open_tasks(self, stack: contextlib.ExitStack) -> tuple[int, ...]:
        """Return descriptors of files by which a process of one thread enters by itself.

        Of version 1 only. Whoever moves itself, and one thread, waits for nobody; to move a whole
        process or another one the kernel waits until every processor has seen it: some 5 ms.
        """
        if not self._names.threads_move:
            return ()
        fds = []
        for path in dict.fromkeys(self._paths.values()):
            fds.append(os.open(path / "tasks", os.O_WRONLY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        return tuple(fds)

    def enter(self, pid: int) -> None:
        """Move the process here that becomes bwrap, and waits for that.

        Raises:
            HostError: The kernel refuses.
        """
        place = next(iter(self._paths.values()))
        with self._moving(place):
            self._ground.move(pid, place)

    @contextlib.contextmanager
    def _moving(self, path: Path) -> Iterator[None]:
        try:
            yield
        except ProcessLookupError:
            # it has ended already: what it said of that is the better message
            return
        except OSError as error:
            raise HostError(
                f"a process cannot be moved into {path}: {error.strerror}",
                hint=delegation.remedy(error.errno),
            ) from error

    def _bytes(self, controller: str, name: str) -> bytes:
        path = self._strings.get(controller)
        if path is not None:
            with contextlib.suppress(OSError):
                return kept_files.SHARED.read(f"{path}/{name}", 1 << 12)
        return b""

    def close(self) -> None:
        """Let go of the group."""
        for path in set(self._strings.values()):
            kept_files.SHARED.forget(path)
        if self.group is not None:
            os.close(self.group)
            self.group = None

    def _number(self, controller: str, name: str) -> int | None:
        return _count(self._bytes(controller, name))

    def counters(self) -> Counters:
        """Return the kernel's counts of kills and refusals."""
        memory = self._bytes("memory", self._names.memory_events)
        pids = self._bytes("pids", self._names.pids_events)
        return Counters(
            out_of_memory=_field(memory, b"oom_kill"), pids_refused=_field(pids, b"max")
        )

    def near(self, memory_bytes: int) -> bool:
        """Return whether all that is charged to the group, pages of files included, is so much."""
        return (self._number("memory", self._names.memory_now) or 0) >= memory_bytes

    def pids(self) -> int | None:
        """Return the tasks of the group, without our own."""
        count = self._number("pids", self._names.pids_now)
        return None if count is None else max(0, count - _BRIDGE)

    def read(self, tmpfs_bytes: int) -> Reading:
        """Look at everything."""
        names = self._names
        stat = _fields(self._bytes("memory", names.memory_stat).decode())
        memory = None
        if names.anonymous in stat:
            # What lies on the sandbox's tmpfs is its disk; other shared memory, a memfd for one,
            # is its memory. What we wrote there ourselves is charged to our own group.
            shared = max(0, stat.get("shmem", 0) - tmpfs_bytes)
            kernel = max(0, stat.get("kernel", 0) - stat.get("slab_reclaimable", 0))
            memory = stat[names.anonymous] + shared + kernel
        return Reading(memory_bytes=memory)

    def read_cpu(self) -> float | None:
        """Return what the group has spent, in seconds."""
        data = self._bytes(self._names.cpu_controller, self._names.cpu_file)
        if self._names.cpu_field is None:
            count = _count(data)
        else:
            count = _field(data, self._names.cpu_field) if data else None
        return None if count is None else count * self._names.cpu_unit

    def open_peak(self) -> int | None:
        """Return a descriptor whose file gives the peak of memory from now on, or None.

        Version 1 begins anew for all readers, version 2 from Linux 6.12 on for this descriptor.
        """
        directory = self._strings.get("memory")
        if directory is None:
            return None
        path = f"{directory}/{self._names.memory_peak}"
        fd = None
        try:
            if self._names.peak_of_descriptor:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            else:
                fd = kept_files.SHARED.duplicate(path)
            os.pwrite(fd, b"0", 0)
        except OSError:
            if fd is not None:
                os.close(fd)
            return None
        return fd


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


class _VanishedError(Exception):
    """The directory in which groups were made is no more."""


class _Cgroup:
    """One version as a rung."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.name = f"cgroup{version}"
        self._names = _V2 if version == 2 else _V1

    def probe(self) -> Probe:
        """Look where groups can be made here."""
        ground = delegation.find(self.version)
        if isinstance(ground, HostError):
            return Probe(usable=False, detail=ground.message, hint=ground.hint or "")
        held = (_LIMIT_OF[name] for name in ground.controllers if name in _LIMIT_OF)
        return Probe(usable=True, detail=ground.detail, holds=frozenset(held))

    @contextlib.contextmanager
    def box(self, ask: Ask) -> Iterator[CgroupBox]:
        """Make a group with these bounds.

        Raises:
            HostError: The kernel refuses.
        """
        try:
            with self._box_on(delegation.found(self.version), ask) as box:
                yield box
        except _VanishedError:
            # The place that was remembered is gone: another program of root's was the last to use
            # it, or the scope went with a janitor that was killed.
            delegation.forget()
            with self._box_on(delegation.found(self.version), ask) as box:
                yield box

    @contextlib.contextmanager
    def _box_on(self, ground: Ground, ask: Ask) -> Iterator[CgroupBox]:
        owner = os.getpid()
        name = group.fresh_name(Owner.current())
        paths = {controller: base / name for controller, base in ground.controllers.items()}
        places = tuple(dict.fromkeys(paths.values()))
        try:
            # the janitor first: we may be killed right after
            janitor.SHARED.watch_groups(*map(str, places))
            for path in places:
                self._make(path)
            self._set(ask, paths)
            with contextlib.closing(CgroupBox(self._names, ground, paths)) as box:
                yield box
        finally:
            # a forked child may drop its copy of this generator, which runs this block there too
            if owner == os.getpid():
                gone = [path for path in places if group.remove(path)]
                if gone:
                    janitor.SHARED.forget(*gone)

    def _make(self, path: Path) -> None:
        try:
            os.mkdir(path)  # noqa: PTH102  # pathlib is slow
        except FileNotFoundError:
            raise _VanishedError from None
        except OSError as error:
            raise HostError(
                f"cannot make the control group {path}: {error.strerror}",
                hint=delegation.remedy(error.errno),
            ) from error

    def _set(self, ask: Ask, paths: Mapping[str, Path]) -> None:
        make = _settings_v2 if self.version == 2 else _settings_v1
        for one in make(ask):
            path = paths.get(one.controller) or next(iter(paths.values()))
            if one.controller and one.controller not in paths:
                continue
            try:
                _write(f"{path}/{one.file}", one.value)
            except OSError as error:
                if one.optional and error.errno in (
                    errno.ENOENT,
                    errno.EACCES,
                    errno.EINVAL,
                    errno.EOPNOTSUPP,
                ):
                    continue
                raise HostError(
                    f"cannot set {one.file} to {one.value} in {path}: {error.strerror}",
                    hint="is the bound below what the group above allows?",
                ) from error


V2 = _Cgroup(2)
V1 = _Cgroup(1)
