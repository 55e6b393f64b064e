"""Warm sandboxes: fresh each time, refilled, and gone with their pool."""

from __future__ import annotations

import os
import select
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Limits, Pool, SandboxSpec
from sandbox_lite.errors import RootfsError, SandboxClosedError, SpecError
from sandbox_lite.jail import pressure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite import Sandbox

SPEC = SandboxSpec(rootfs="minimal", limits=Limits.of(timeout=15))


@pytest.fixture
def pool(home: Path) -> Iterator[Pool]:
    with Pool(SPEC, size=2) as one:
        assert one.await_ready()
        yield one


def test_each_is_fresh_and_closed_after_use(pool: Pool) -> None:
    seen = []
    for _ in range(5):
        with pool.take() as sandbox:
            assert sandbox.run("ls /tmp /testbed; echo ${mine-none}").stdout.endswith("none\n")
            assert not sandbox.files.exists("/tmp/used")
            sandbox.run("touch /tmp/used; mine=x; sleep 100 &")
            seen.append(psutil.Process(sandbox.pid))
        assert pool.await_ready(1)
    assert len({process.pid for process in seen}) == 5
    assert not any(process.is_running() for process in seen)


def test_it_fills_again(pool: Pool) -> None:
    with pool.take(), pool.take(), pool.take() as third:
        assert third.run("echo opened now").ok
        assert pool.await_ready()
    assert pool.ready() == 2


def test_what_was_killed_while_it_waited_is_not_handed_out(pool: Pool) -> None:
    waiting = [one.pid for one in pool._shelves[0].waiting]
    for pid in waiting:
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
        os.close(pidfd)
    with pool.take() as sandbox:
        assert sandbox.pid not in waiting
        assert sandbox.run("echo alive").stdout == "alive\n"


def test_wall_time_begins_with_its_use(home: Path) -> None:
    spec = replace(SPEC, limits=Limits.of(wall=1.5))
    with Pool(spec, size=1) as pool:
        assert pool.await_ready()
        (waiting,) = pool._shelves[0].waiting
        meter = waiting._meter
        assert meter is not None
        meter.started -= 1.4  # as if it had waited so long
        with pool.take() as sandbox:
            assert sandbox is waiting
            assert sandbox.run("sleep 0.5; echo on").stdout == "on\n"
            assert sandbox.run("sleep 100").outcome == "timed_out"


def test_another_request_is_kept_warm_once_it_was_taken(pool: Pool) -> None:
    other = replace(SPEC, env={"COLOUR": "green"})
    with pool.take(other) as sandbox:
        assert sandbox.run("echo $COLOUR").stdout == "green\n"
    with pool._changed:
        assert pool._changed.wait_for(lambda: len(pool._shelves[1].waiting) == 2, 30)
    assert pool.ready(replace(SPEC, env={"COLOUR": "green"})) == 2
    with pool.take() as sandbox:
        assert sandbox.run("echo ${COLOUR-none}").stdout == "none\n"


def test_many_threads_take_at_once(pool: Pool) -> None:
    said = []

    def take(number: int) -> None:
        with pool.take() as sandbox:
            said.append(sandbox.run(f"echo {number}; ls /tmp").stdout)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert sorted(said) == sorted(f"{number}\n" for number in range(12))


def test_closed_pool(home: Path) -> None:
    pool = Pool(SPEC, size=2)
    with pytest.raises(SandboxClosedError), pool.take():
        pass
    with pool:
        assert pool.await_ready()
        waiting: list[Sandbox] = list(pool._shelves[0].waiting)
        pids = [one.pid for one in waiting]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(SandboxClosedError), pool.take():
        pass


def test_what_cannot_be_opened_is_told_to_whoever_takes_it(home: Path) -> None:
    with pytest.raises(SpecError):
        Pool(SPEC, size=0)
    with Pool("no-such-rootfs", size=1) as pool, pytest.raises(RootfsError), pool.take():
        pass


def test_short_of_memory_nothing_is_added_and_what_waits_is_given_up(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "is_high", lambda: True)
    with pool.take() as sandbox:
        # one was taken; instead of another the last one goes as well
        with pool._changed:
            assert pool._changed.wait_for(lambda: not pool._shelves[0].waiting, 30)
        assert sandbox.run("echo on").ok
    with pool.take() as sandbox:
        assert sandbox.run("echo opened now").ok


@pytest.mark.parametrize(
    ("text", "high"),
    [
        (
            "some avg10=0.00 avg60=9.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0 total=1\n",
            False,
        ),
        (
            "some avg10=10.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0 total=1\n",
            True,
        ),
    ],
)
def test_pressure_is_what_the_kernel_says(tmp_path: Path, text: str, high: bool) -> None:
    path = tmp_path / "memory"
    path.write_text(text)
    assert pressure.is_high(path) is high


def test_pressure_without_the_kernels_word(tmp_path: Path) -> None:
    assert pressure.is_high(tmp_path / "none") is (psutil.virtual_memory().percent > 90)


def test_a_forked_child_has_no_pool(pool: Pool) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with pool.take():
                pass
        except SandboxClosedError:
            pool.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pool.take() as sandbox:
        assert sandbox.run("echo ours").stdout == "ours\n"
