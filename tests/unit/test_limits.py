"""Verdicts, states, names of groups, wire and registry: all that needs no kernel."""

from __future__ import annotations

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.errors import FileAccessError, HostError, SpecError
from sandbox_lite.jail import group, limits, places
from sandbox_lite.jail.kept import registry, wire
from sandbox_lite.jail.limits import states, verdict
from sandbox_lite.jail.limits.backend import Counters, Probe
from sandbox_lite.jail.limits.disk import TmpfsDisk, measure
from sandbox_lite.jail.limits.processes import Entry, Processes, descendants
from sandbox_lite.jail.owner import Owner
from sandbox_lite.spec import (
    GIB,
    MIB,
    CommandResult,
    Limits,
    Mount,
    Outcome,
    SandboxSpec,
    Usage,
    inodes_of,
)

if TYPE_CHECKING:
    from sandbox_lite.spec import LimitName


@pytest.mark.parametrize(
    ("ended", "code", "hit", "expected"),
    [
        (Outcome.EXITED, 0, ["memory"], Outcome.EXITED),
        (Outcome.EXITED, 137, [], Outcome.EXITED),
        (Outcome.EXITED, 137, ["memory"], Outcome.OUT_OF_MEMORY),
        (Outcome.EXITED, 1, ["pids"], Outcome.PIDS_LIMIT),
        (Outcome.EXITED, 1, ["pids", "disk"], Outcome.DISK_FULL),
        (Outcome.EXITED, 1, ["shm"], Outcome.DISK_FULL),
        (Outcome.EXITED, 1, ["pids", "memory", "disk"], Outcome.OUT_OF_MEMORY),
        (Outcome.KILLED, 137, ["memory"], Outcome.OUT_OF_MEMORY),
        (Outcome.KILLED, 137, [], Outcome.KILLED),
        (Outcome.TIMED_OUT, 130, ["memory", "pids"], Outcome.TIMED_OUT),
    ],
)
def test_outcome(ended: Outcome, code: int, hit: list[LimitName], expected: Outcome) -> None:
    assert verdict.outcome(ended, code, hit) is expected


def test_what_was_hit_is_what_grew() -> None:
    before = Counters(out_of_memory=3, pids_refused=7, disk_filled=1)
    assert verdict.hit(before, before) == ()
    assert verdict.hit(before, Counters(out_of_memory=4, pids_refused=7, disk_filled=1)) == (
        "memory",
    )
    more = Counters(out_of_memory=3, pids_refused=9, disk_filled=2, shm_filled=1)
    assert set(verdict.hit(before, more)) == {"pids", "disk", "shm"}


def test_pages_of_a_tmpfs_are_memory_to_the_kernel() -> None:
    bounds = Limits.of(memory="1GiB", disk="2GiB", shm="64MiB", pids=50, cpus=1.5)
    mounts = [Mount(target="/scratch", mode="tmpfs", size_bytes=GIB)]
    asked = states.ask(bounds, "tmpfs", mounts)
    assert asked.memory_bytes == 4 * GIB + 64 * MIB
    assert (asked.pids, asked.cpus) == (50, 1.5)
    assert states.ask(bounds, "directory", ()).memory_bytes == GIB + 64 * MIB
    unbounded = [Mount(target="/scratch", mode="tmpfs")]
    assert states.ask(bounds, "tmpfs", unbounded).memory_bytes is None


def held_by(spec: SandboxSpec, holds: set[LimitName], upper: states.UpperKind = "tmpfs") -> None:
    asked = states.ask(spec.limits, upper, spec.mounts)
    found = states.states(spec.limits, holds, upper, asked)
    states.check(spec, found, Probe(usable=True, detail="this host"), "a remedy")


def test_what_was_named_is_held_or_refused() -> None:
    spec = SandboxSpec(limits=Limits.of(cpus=0.5, pids=64))
    held_by(spec, {"memory", "cpus", "pids"})
    with pytest.raises(HostError, match="cpus cannot be held") as refused:
        held_by(spec, {"memory", "pids"})
    assert "a remedy" in (refused.value.hint or "")
    with pytest.raises(HostError, match="pids cannot be held"):
        held_by(spec, {"cpus"})
    held_by(SandboxSpec(limits=spec.limits, allow_weaker=("cpus", "pids")), set())
    # defaults may weaken, but never so far that a fork storm ends the host
    held_by(SandboxSpec(), {"pids"})
    with pytest.raises(HostError, match="pids cannot be held"):
        held_by(SandboxSpec(), set())
    held_by(SandboxSpec(limits=Limits.none()), set())


def test_limits_know_what_was_named() -> None:
    assert Limits().named == ()
    assert Limits.of(memory="4GiB").named == ("memory",)
    assert Limits(pids=7 * 9).named == ("pids",)
    assert set(Limits.none().named) == {
        "memory", "pids", "disk", "shm", "timeout",
    }  # fmt: skip
    assert Limits.of(disk="64MiB").shm_bytes == 64 * MIB
    assert Limits.of(disk="64MiB", shm="128MiB").shm_bytes == 128 * MIB
    assert Limits.of(memory="1.5GiB", cpus=2, wall=60).memory_bytes == 3 * GIB // 2


@pytest.mark.parametrize(
    "bad",
    [
        {"memory": "1MiB"}, {"memory": 0}, {"cpus": 0}, {"cpus": 0.001}, {"pids": 1}, {"wall": -1},
        {"disk": "many"}, {"timeout": 0}, {"cpus": float("nan")},
    ],
)  # fmt: skip
def test_bounds_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        Limits.of(**bad)  # type: ignore[arg-type]


def test_weaker_and_require_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="names no limit"):
        SandboxSpec(allow_weaker=("colour",))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="nothing called"):
        limits.choose("jail")
    monkeypatch.setenv(limits.REQUIRE_VARIABLE, "prison")
    with pytest.raises(SpecError, match="prison"):
        limits.choose()


def test_names_of_groups_tell_whose_they_are() -> None:
    owner = Owner.current()
    name = group.fresh_name(owner)
    assert name != group.fresh_name(owner)
    assert not group.is_orphan(name)
    dead = name.replace(f"-{owner.start_time}-", f"-{owner.start_time + 1}-")
    assert group.is_orphan(dead)
    # of another pid namespace nothing can be known, and what is not ours is left alone
    assert not group.is_orphan(dead.replace(f"-{owner.pid_namespace}-", "-1-"))
    assert not group.is_orphan("sandbox-lite-keeper")
    assert not group.is_orphan("user.slice")


def test_sweep_takes_orphans_alone(tmp_path: Path) -> None:
    owner = Owner.current()
    mine = tmp_path / group.fresh_name(owner)
    orphan = tmp_path / mine.name.replace(f"-{owner.start_time}-", f"-{owner.start_time + 1}-")
    for path in (mine, orphan, tmp_path / "other.slice"):
        path.mkdir()
    assert group.sweep(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, "other.slice"}


def test_descendants_of_roots() -> None:
    def entry(pid: int, parent: int) -> Entry:
        return Entry(pid=pid, parent=parent, session=1, threads=1, cpu_seconds=0)

    # 1 -> 2 -> 5 -> 6; 1 -> 3; a parent that is gone; a ring, which a torn look can show
    entries = [entry(1, 0), entry(2, 1), entry(5, 2), entry(6, 5), entry(3, 1), entry(9, 77)]
    entries += [entry(20, 21), entry(21, 20)]
    assert descendants(entries, {2}) == {2, 5, 6}
    assert descendants(entries, set()) == set()
    assert descendants(entries, {3, 77}) == {3, 9}


def test_disk_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * MIB)
    (tmp_path / "two").hardlink_to(tmp_path / "a" / "one")
    (tmp_path / "link").symlink_to("/")
    # mode 000 hides nothing, and stays
    (tmp_path / "a").chmod(0)
    assert MIB <= measure(tmp_path).used_bytes < 2 * MIB
    assert measure(tmp_path).files == 3
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0
    (tmp_path / "a").chmod(0o755)
    deep = tmp_path
    for _ in range(205):
        deep /= "d"
    deep.mkdir(parents=True)
    assert measure(tmp_path).used_bytes >= 1 << 60
    assert measure(tmp_path / "nothing").used_bytes == 0


def test_files_of_a_disk() -> None:
    assert inodes_of(4 * GIB) == 262144
    assert inodes_of(1) == 64


def test_tmpfs_that_is_gone_is_empty() -> None:
    assert TmpfsDisk({"disk": 987654}).look().used_bytes == 0


# -- kept sandboxes ----------------------------------------------------------------------------


SPEC = SandboxSpec(
    rootfs="minimal", env={"A": "secret"}, mounts=(Mount(target="/m", source=Path("/srv")),),
    limits=Limits.of(memory="1GiB", wall=5), allow_weaker=("cpus",),
)  # fmt: skip


def test_requests_pass_the_wire() -> None:
    assert wire.spec_from_json(json.loads(json.dumps(wire.spec_to_json(SPEC)))) == SPEC


def test_results_pass_the_wire() -> None:
    result = CommandResult(
        command="c\udcff", outcome=Outcome.DISK_FULL, exit_code=1, stdout_bytes=b"\0\xff" * 9000,
        stderr_bytes=b"", merged_bytes=b"x", limits_hit=("disk",), usage=Usage(cpu_seconds=1.5),
    )  # fmt: skip
    one, two = socket.socketpair()
    with one, two:
        wire.send_result(one, result)
        assert wire.receive_result(two, wire.receive_json(two)["result"]) == result
        one.close()
        with pytest.raises(wire.Hangup):
            wire.receive_json(two)


def test_errors_pass_the_wire() -> None:
    for error in (
        HostError("no", hint="do"),
        FileAccessError("x", errno=13, path="/p", hint=None),
        SpecError("y"),
    ):
        again = wire.error_from_json(json.loads(json.dumps(wire.error_to_json(error))))
        assert type(again) is type(error)
        assert (again.message, again.hint) == (error.message, error.hint)
    odd = wire.error_from_json({"error": "os", "message": "m", "hint": None})
    assert isinstance(odd, HostError)


def test_garbage_on_the_wire_is_a_hangup() -> None:
    for garbage in (b"X" + b"\xff" * 4, b"J\0\0\0\2[]", b"J\0\0\0\1{", b"O\0\0\0\0"):
        one, two = socket.socketpair()
        with one, two:
            one.sendall(garbage)
            one.close()
            with pytest.raises(wire.Hangup):
                wire.receive_json(two)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(places.HOME_VARIABLE, str(tmp_path))
    return tmp_path / "kept"


def record(name: str, owner: Owner, host: str = "") -> registry.Record:
    return registry.Record(
        name=name, owner=owner, host=host or socket.gethostname(), rootfs="minimal",
        network="none", created=time.time(), ends=None,
    )  # fmt: skip


def test_registry(kept: Path) -> None:
    mine = Owner.current()
    dead = Owner(boot_id=mine.boot_id, pid=mine.pid, start_time=1, pid_namespace=mine.pid_namespace)
    for one in (record("a", mine), record("b", dead), record("c", dead, "elsewhere")):
        registry.make(one.name)
        registry.write(one)
    (kept / "torn").mkdir()
    assert [one.name for one in registry.records()] == ["a", "b", "c"]
    assert [one.alive for one in registry.records()] == [True, False, False]
    assert (kept / "a").stat().st_mode & 0o777 == 0o700
    with pytest.raises(SpecError, match="already"):
        registry.make("a")
    # what a dead keeper left gives way; of another host's nothing is known
    assert registry.prune() == ["b"]
    with pytest.raises(SpecError, match="already"):
        registry.make("c")
    with pytest.raises(SpecError, match="no kept sandbox 'b'"):
        registry.read("b")
    with pytest.raises(HostError, match="elsewhere"):
        registry.end("c")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 80, "a b", "-x"])
def test_names_that_are_none(kept: Path, name: str) -> None:
    with pytest.raises(SpecError, match="not a name"):
        registry.make(name)


def test_directory_that_others_may_enter_is_refused(kept: Path) -> None:
    registry.make("open").chmod(0o755)
    with pytest.raises(HostError, match="another user"), registry.directory("open"):
        pass


def test_looks_at_the_same_time_see_everybody() -> None:
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        processes = Processes(proc)
        with ThreadPoolExecutor(4) as threads:
            looks = [threads.submit(processes.pids) for _ in range(400)]
        assert all({1, os.getpid()} <= set(look.result()) for look in looks)
    finally:
        os.close(proc)
