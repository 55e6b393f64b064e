"""The nest bears children for us: in their group, and with nothing that we did not mean."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.errors import HostError, LaunchError
from sandbox_lite.jail import group, limits
from sandbox_lite.jail.inheritance import inheritance
from sandbox_lite.jail.limits import delegation
from sandbox_lite.jail.limits.backend import Ask
from sandbox_lite.jail.limits.cgroup import CgroupBox
from sandbox_lite.jail.native.nest import Plan
from sandbox_lite.jail.nest import Bird, Nest
from sandbox_lite.jail.nests import Nests
from sandbox_lite.jail.owner import Owner
from sandbox_lite.jail.programs import find_bwrap
from tests.conftest import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place() -> Iterator[Path]:
    """A group of version 2; one without controllers serves as well, for nothing is counted here."""
    ground = delegation.find(2)
    bases = list(getattr(ground, "controllers", {}).values())[:1]
    bases += [mount.point for mount in delegation.mounts() if mount.version == 2]
    found = None
    for base in bases:
        path = base / group.fresh_name(Owner.current())
        with contextlib.suppress(OSError):
            path.mkdir()
            found = path
            break
    require(found is not None, "cgroup2")
    assert found is not None
    yield found
    assert group.remove(found)


def outer() -> list[str]:
    """The host's files as they are, for nothing is mounted here."""
    return [
        str(find_bwrap()), "--unshare-user", "--die-with-parent", "--cap-add", "ALL",
        "--dev-bind", "/", "/",
    ]  # fmt: skip


@pytest.fixture
def nest() -> Iterator[Nest]:
    one = Nest(outer())
    ground = delegation.find(2)
    if isinstance(ground, delegation.Ground) and ground.nest is not None:
        # as a sandbox has it done: from a login's session nobody may be born in the scope
        ground.move(one.pid, ground.nest)
    yield one
    one.close()


SCRIPT = """
grep -v '^[1-9]' /proc/self/cgroup
grep -e SigIgn -e SigBlk -e CapEff /proc/self/status
ls /proc/$$/fd
env
cat /proc/$$/stat
"""


def bear(one: Nest, place: Path) -> str:
    """Return what the script printed."""
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        fds = {0: null, 1: writer, 2: null, 7: writer}
        plan = Plan(words=("/bin/sh", "-c", SCRIPT), mounts=(), fds=fds, group=directory)
        child = one.bear(plan)
        os.close(writer)
        assert isinstance(child, Bird)
        with os.fdopen(reader, "rb", closefd=False) as stream:
            text = stream.read().decode()
        assert child.ends(30)
        child.close()
        *_, stat = text.splitlines()
        assert stat.split()[0] == str(child.pid)
        assert stat.rpartition(")")[2].split()[1] == str(one.pid)
        assert stat.rpartition(")")[2].split()[3] == str(child.pid)  # a session of its own
        numbers = {int(line) for line in text.splitlines() if line.isdigit()}
        assert numbers <= {0, 1, 2, 7, 10, 255}  # and where a shell keeps its script
        assert 7 in numbers
        return text
    finally:
        os.close(directory)
        os.close(reader)
        os.close(null)


def test_born_where_it_belongs(place: Path, nest: Nest) -> None:
    text = bear(nest, place)
    assert f"/{place.name}\n" in text
    assert "SigIgn:\t0000000000000000" in text
    assert "SigBlk:\t0000000000000000" in text
    assert "PATH=" not in text
    assert "HOME=" not in text
    if os.getuid() != 0:
        assert "CapEff:\t0000000000000000" in text


def test_another_nest_after_we_have_changed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    nests = Nests()
    try:
        with nests.taken(outer(), None) as first:
            pass
        with nests.taken(outer(), None) as again:
            assert again is first
        with nests.taken(outer(), "another state") as other:
            assert other is not first
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        with nests.taken(outer(), None) as changed:
            assert changed is not first
            limits = resource.prlimit(changed.pid, resource.RLIMIT_NOFILE)
            assert limits == (soft - 1, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        nests.close()


def test_only_so_many_idle_nests_are_kept() -> None:
    nests = Nests()
    try:
        seen = []
        for number in range(7):
            with nests.taken(outer(), number) as one:
                seen.append(one)
        assert [one.alive for one in seen] == [False] * 3 + [True] * 4
    finally:
        nests.close()
    assert not any(one.alive for one in seen)


def test_nest_that_was_killed_is_made_anew() -> None:
    nests = Nests()
    try:
        with nests.taken(outer(), None) as one:
            os.kill(one.pid, 9)
            with pytest.raises(LaunchError, match="is gone"):
                one.bear(Plan(words=("/bin/true",), mounts=(), fds={}))
        with nests.taken(outer(), None) as another:
            assert another is not one
            child = another.bear(Plan(words=("/bin/true",), mounts=(), fds={}))
            assert isinstance(child, Bird)
            child.close()
    finally:
        nests.close()


def test_nest_that_cannot_be_made_says_why() -> None:
    with pytest.raises(LaunchError, match="nonexistent") as caught:
        Nest([*outer(), "--ro-bind", "/nonexistent", "/x"])
    assert "nonexistent" in caught.value.stderr


def test_not_where_nobody_can_tell_what_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> os.stat_result:
        raise PermissionError

    with monkeypatch.context() as patched:
        # as a profile of AppArmor does
        patched.setattr(os, "stat", forbidden)
        now = inheritance()
        assert now != inheritance()
    assert inheritance() == inheritance()


def test_a_program_that_is_not_there(nest: Nest) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = nest.bear(Plan(words=("/nonexistent",), mounts=(), fds={2: writer}))
    os.close(writer)
    assert isinstance(child, Bird)
    assert child.ends(30)
    child.close()
    with os.fdopen(reader) as stream:
        assert stream.read() == "start /nonexistent: No such file or directory\n"


def test_a_mount_that_cannot_be_made(nest: Nest) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = nest.bear(Plan(words=("/bin/true",), mounts=(("t/no/such", ""),), fds={2: writer}))
    os.close(writer)
    assert isinstance(child, Bird)
    assert child.ends(30)
    child.close()
    with os.fdopen(reader) as stream:
        assert stream.read() == "mount a tmpfs: /no/such: No such file or directory\n"


def test_a_group_that_is_gone(nest: Nest, place: Path) -> None:
    gone = place / "gone"
    gone.mkdir()
    directory = os.open(gone, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    gone.rmdir()
    try:
        plan = Plan(words=("/bin/true",), mounts=(), fds={}, group=directory)
        assert nest.bear(plan) in (errno.ENODEV, errno.ENOENT)
    finally:
        os.close(directory)
    # and it serves on
    assert f"/{place.name}\n" in bear(nest, place)


@pytest.mark.parametrize("leave", [b"1", b""])
def test_end_of_file_is_no_leave_to_go_on(nest: Nest, tmp_path: Path, leave: bytes) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    made = tmp_path / "made"
    child = nest.bear(Plan(words=("/usr/bin/touch", str(made)), mounts=(), fds={}, waits=reader))
    assert isinstance(child, Bird)
    os.close(reader)
    assert not child.ends(0.05)
    os.write(writer, leave)
    os.close(writer)
    assert child.ends(30)
    child.close()
    assert made.exists() is bool(leave)


def test_group_that_went_meanwhile_is_an_error(rung: str) -> None:
    backend = next(one for one in limits.BACKENDS if one.name == rung)
    if rung == "sampling":
        return
    with backend.box(Ask(memory_bytes=None, pids=None, cpus=None)) as box:
        assert isinstance(box, CgroupBox)
        for path in set(box._paths.values()):
            path.rmdir()

        def join() -> None:
            with contextlib.ExitStack() as stack:
                # of version 1; there is nothing to open
                box.open_tasks(stack)
                box.enter(os.getpid())

        with pytest.raises((HostError, FileNotFoundError)):
            join()
