"""The janitor bears children for us: in their group, and with nothing that we did not mean."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.jail import born, group, janitor
from sandbox_lite.jail.limits import delegation
from sandbox_lite.jail.owner import Owner
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


@pytest.fixture
def ready() -> janitor.Janitor:
    """Return a janitor that serves."""
    one = janitor.SHARED
    deadline = time.monotonic() + 30
    while not one.serves():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return one


SCRIPT = """
grep -v '^[1-9]' /proc/self/cgroup
grep -e PPid -e SigIgn -e SigBlk /proc/self/status
ls /proc/$$/fd
env
cat /proc/$$/stat
"""


def bear(one: janitor.Janitor, place: Path) -> tuple[int, str] | None:
    """Return the exit code and what the script printed."""
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        argv = ["/bin/sh", "-c", SCRIPT]
        child = one.bear(directory, argv, fds=(writer,), standard=(null, writer, null))
        os.close(writer)
        if child is None:
            return None
        with os.fdopen(reader, "rb", closefd=False) as stream:
            text = stream.read().decode()
        code = child.wait(30)
        assert f"PPid:\t{child.pid}" in text  # grep's parent is the shell
        *_, stat = text.splitlines()
        assert stat.rpartition(")")[2].split()[1] == str(os.getpid())
        assert stat.rpartition(")")[2].split()[3] == str(child.pid)  # a session of its own
        numbers = {int(line) for line in text.splitlines() if line.isdigit()}
        assert numbers <= {0, 1, 2, writer, 10, 255}  # and where a shell keeps its script
        return code, text
    finally:
        os.close(directory)
        os.close(reader)
        os.close(null)


def test_born_where_it_belongs(place: Path, ready: janitor.Janitor) -> None:
    found = bear(ready, place)
    assert found is not None
    code, text = found
    assert code == 0
    assert f"/{place.name}\n" in text
    assert "SigIgn:\t0000000000000000" in text
    assert "SigBlk:\t0000000000000000" in text
    assert "PATH=" not in text
    assert "HOME=" not in text


def test_not_after_we_have_changed(place: Path, ready: janitor.Janitor) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        assert bear(ready, place) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bear(ready, place) is not None


def test_not_where_nobody_can_tell_what_we_are(
    place: Path, ready: janitor.Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> os.stat_result:
        raise PermissionError

    with monkeypatch.context() as patched:
        # as a profile of AppArmor does
        patched.setattr(os, "stat", forbidden)
        now = born.inheritance()
        assert now != born.inheritance()
    assert born.inheritance() == born.inheritance()
    assert bear(ready, place) is not None


def test_a_program_that_is_not_there(place: Path, ready: janitor.Janitor) -> None:
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        child = ready.bear(directory, ["/nonexistent"], fds=(), standard=(null, null, null))
        assert child is not None
        assert child.wait(30) == 127
    finally:
        os.close(directory)
        os.close(null)


def test_a_group_that_is_gone(ready: janitor.Janitor, place: Path) -> None:
    gone = place / "gone"
    gone.mkdir()
    directory = os.open(gone, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    gone.rmdir()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        standard = (null, null, null)
        assert ready.bear(directory, ["/bin/true"], fds=(), standard=standard) is None
        # and it serves on
        os.close(directory)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        child = ready.bear(directory, ["/bin/true"], fds=(), standard=standard)
        assert child is not None
        assert child.wait(30) == 0
    finally:
        os.close(directory)
        os.close(null)
