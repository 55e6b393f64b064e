"""Limits where a sandbox has many ids: a process of another one counts like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits, Sandbox
from sandbox_lite.errors import HostError
from sandbox_lite.jail import limits
from sandbox_lite.jail.limits import sampling
from sandbox_lite.spec import MIB, Outcome, SandboxSpec
from tests.conftest import require_subordinate_ids
from tests.limits.conftest import SLACK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUNDS = Limits.of(memory="128MiB", pids=64, disk="64MiB", timeout=10)

MANY_IDS = """
import os, sys, time
made = 0
for uid in range(1000, 1400):
    try:
        pid = os.fork()
    except OSError:
        print(made, flush=True)
        sys.exit(1)
    if pid == 0:
        os.setgid(uid)
        os.setuid(uid)
        time.sleep(60)
        os._exit(0)
    made += 1
print(made)
"""


MEMFD = """
import os, time
fd = os.memfd_create("hoard")
for _ in range(1000):
    os.write(fd, b"x" * (1 << 20))
    time.sleep(0.002)
"""


@pytest.fixture
def sb(rung: str, rootfs: str) -> Iterator[Sandbox]:
    del rung
    require_subordinate_ids()
    with Sandbox(rootfs, ids="subordinate", limits=BOUNDS) as opened:
        yield opened


@pytest.mark.timeout(90)
def test_processes_of_many_ids_are_counted_together(sb: Sandbox, rung: str) -> None:
    assert sb.enforcement.limit("pids").by == "kernel"
    result = sb.exec(["python3", "-c", MANY_IDS], timeout=60)
    assert result.outcome is Outcome.PIDS_LIMIT, result
    # kernel.pid_max leaves 300 more at first, RLIMIT_NPROC would count each id apart
    assert int(result.stdout) <= 64 + (300 if rung == "sampling" else 0)
    assert sb.run("echo alive").stdout == "alive\n"


def test_memory_of_another_id(sb: Sandbox) -> None:
    hog = "x = [bytes([1]) * 4096 for _ in range(1 << 20)]"
    result = sb.run(f'setpriv --reuid 33 --regid 33 --clear-groups python3 -c "{hog}"')
    assert result.outcome is Outcome.OUT_OF_MEMORY, result
    assert sb.run("echo alive").stdout == "alive\n"


def test_memory_that_another_id_holds_behind_a_descriptor(sb: Sandbox) -> None:
    as_another = ["setpriv", "--reuid", "33", "--regid", "33", "--clear-groups"]
    result = sb.exec([*as_another, "python3", "-c", MEMFD])
    assert result.outcome is Outcome.OUT_OF_MEMORY, result
    assert (result.usage.peak_memory_bytes or 0) < 512 * MIB


def test_disk_of_another_id(sb: Sandbox) -> None:
    sb.run("install -d -o 33 -m 700 /srv/w").check()
    fill = "head -c 200M /dev/zero >/srv/w/f"
    result = sb.run(f"setpriv --reuid 33 --regid 33 --clear-groups sh -c '{fill}'")
    assert result.outcome is Outcome.DISK_FULL, result


def test_programs_of_other_ids_are_ended(sb: Sandbox) -> None:
    stubborn = "trap '' INT TERM; sleep 50; sleep 50"
    result = sb.run(f'setpriv --reuid 33 --clear-groups sh -c "{stubborn}"', timeout=0.5)
    assert result.outcome is Outcome.TIMED_OUT
    assert result.seconds < 8 + SLACK_SECONDS
    result = sb.exec(["setpriv", "--reuid", "33", "--clear-groups", "sleep", "50"], timeout=0.3)
    assert result.outcome is Outcome.TIMED_OUT
    assert "sleep" not in sb.run("cat /proc/[0-9]*/comm").stdout


def test_directory_in_which_others_have_files(rung: str, rootfs: str) -> None:
    del rung
    require_subordinate_ids()
    spec = SandboxSpec(rootfs=rootfs, ids="subordinate", upper="directory", limits=BOUNDS)
    with Sandbox(spec) as sandbox:
        # no other user of the host may look into it, and yet it is measured
        sandbox.run("install -d -o 33 -m 700 /srv/w /srv/w/in").check()
        write = "for n in $(seq 400); do head -c 1M /dev/zero >>/srv/w/in/f; sleep 0.02; done"
        result = sandbox.run(f"setpriv --reuid 33 --clear-groups sh -c '{write}'")
        assert result.outcome is Outcome.DISK_FULL, result
        used = sandbox.stats().disk_bytes
        assert 64 * MIB < used < 256 * MIB
        assert sandbox.run("rm -r /srv/w && echo alive").stdout == "alive\n"


def test_without_a_bound_of_all_ids_nothing_is_pretended(
    rootfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_subordinate_ids()
    monkeypatch.setenv(limits.REQUIRE_VARIABLE, "sampling")
    # as before Linux 6.14; RLIMIT_NPROC would let each of 65536 ids have its own 64
    monkeypatch.setattr(sampling, "_numbers_are_bounded", lambda: False)
    with pytest.raises(HostError, match="the limit pids cannot be held here"):
        Sandbox(rootfs, ids="subordinate", limits=BOUNDS).open()
    weaker = Sandbox(rootfs, ids="subordinate", limits=BOUNDS, allow_weaker={"pids"})
    with weaker as sandbox:
        assert sandbox.enforcement.limit("pids").by == "sampling"
