"""No control group outlives its sandbox, and many hogs at once neither escape nor stop the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sandbox_lite import Sandbox
from sandbox_lite.jail import group, limits
from sandbox_lite.jail.limits import delegation
from sandbox_lite.spec import Outcome
from tests.limits.conftest import SLACK_SECONDS

LEAF = "sandbox-lite-leaf"
"""Where we ourselves are, in a group that was given to us."""

WORKER = """
import os, sys
from sandbox_lite import Limits, Sandbox
bounds = Limits.of(memory="256MiB", pids=64, disk="64MiB")
boxes = [Sandbox(sys.argv[1], limits=bounds).open() for _ in range(2)]
if sys.argv[2] == "replaced":
    import psutil
    from sandbox_lite.jail.janitor import SHARED
    psutil.Process(SHARED.pid).kill()
    psutil.Process(SHARED.pid).wait(10)
boxes += [Sandbox(sys.argv[1], limits=bounds).open() for _ in range(2)]
for box in boxes:
    box.run("(while true; do :; done) & setsid -f sleep 1000").check()
print(open(f"/proc/{boxes[0].pid}/cgroup").read().replace("\\n", ";"), flush=True)
print(boxes[0].pid, *[child.pid for child in __import__("psutil").Process().children()], flush=True)
boxes[0].run("sleep 1000", timeout=1000)
"""


def directories(cgroup: str) -> set[Path]:
    """Where the groups of a /proc/PID/cgroup are, of those that are ours."""
    own = {mount: mount.point for mount in delegation.mounts()}
    found = set()
    for line in cgroup.split(";"):
        path = line.rpartition(":")[2]
        if group.PREFIX in path:
            for mount, point in own.items():
                place = point / path.lstrip("/")
                if mount.root == "/" and place.is_dir():
                    found.add(place)
    return found


def gone(places: set[Path], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(place.exists() for place in places) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(place.exists() for place in places)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("janitor", ["lives", "dies too", "replaced"])
def test_sigkill_leaves_no_group(rung: str, rootfs: str, janitor: str) -> None:
    if rung == "sampling":
        return
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, rootfs, janitor], stdout=subprocess.PIPE, text=True
    )
    with worker:
        assert worker.stdout is not None
        places = directories(worker.stdout.readline())
        assert places
        pids = [int(word) for word in worker.stdout.readline().split()]
        if janitor == "dies too":
            for pid in pids:
                words = " ".join(psutil.Process(pid).cmdline())
                if "janitor" in words:
                    psutil.Process(pid).kill()
        worker.kill()
    if janitor == "dies too" and not gone(places, 0.5):
        # the next program of ours sweeps; this process has looked already
        code = "from sandbox_lite.jail import limits; limits.choose()"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert gone(places, 2 + 2 * SLACK_SECONDS)


def test_every_process_is_born_in_its_group(rung: str, rootfs: str) -> None:
    if rung == "sampling":
        return
    with Sandbox(rootfs) as sandbox:
        own = Path(f"/proc/{sandbox.pid}/cgroup").read_text()
        # process 1, and the bwrap that waits for it; whoever bore that one stays outside
        bwrap, bearer = psutil.Process(sandbox.pid).parents()[:2]
        assert (bwrap.name(), bearer.name()) == ("bwrap", "sandbox-nest")
        assert Path(f"/proc/{bwrap.pid}/cgroup").read_text() == own
        assert Path(f"/proc/{bearer.pid}/cgroup").read_text() != own
        assert group.PREFIX in own
        assert group.PREFIX not in Path("/proc/self/cgroup").read_text().replace(LEAF, "")
        sandbox.run("sleep 50 & sleep 50 & wait", timeout=0.2)
        assert sandbox.stats().pids == 4


def test_closing_leaves_no_group(rung: str, rootfs: str) -> None:
    if rung == "sampling":
        return
    with Sandbox(rootfs) as sandbox:
        places = directories(Path(f"/proc/{sandbox.pid}/cgroup").read_text().replace("\n", ";"))
        assert places
        sandbox.run("setsid -f sleep 1000").check()
    assert gone(places, 0)


def test_a_start_that_fails_leaves_no_group(rung: str, rootfs: str) -> None:
    from sandbox_lite.errors import SandboxLiteError
    from sandbox_lite.spec import Mount

    def ours() -> set[str]:
        found: set[str] = set()
        for version in (1, 2):
            ground = delegation.find(version)
            for base in getattr(ground, "controllers", {}).values():
                found |= {path.name for path in base.glob(f"{group.PREFIX}-*")}
        return found

    limits.choose()
    before = ours()
    broken = Mount(target="/data", source=Path("/nonexistent"))
    with pytest.raises(SandboxLiteError):
        Sandbox(rootfs, mounts=[broken]).open()
    assert ours() == before


HOGS = Path(__file__).parents[2] / "scripts" / "hogs.py"
COUNT = 50


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_at_once(rung: str, rootfs: str) -> None:
    if SLACK_SECONDS > 1 or (rung == "sampling" and os.getuid() == 0):
        pytest.skip("another rung than the one under test")
    argv = [sys.executable, str(HOGS), "--rootfs", rootfs, "--count", str(COUNT), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["hogs"]) == COUNT
    expected = {Outcome.OUT_OF_MEMORY, Outcome.PIDS_LIMIT, Outcome.TIMED_OUT}
    assert not [hog for hog in found["hogs"] if hog["outcome"] not in expected]
    assert not [hog for hog in found["hogs"] if not {"memory", "pids"} & set(hog["limits_hit"])]
    assert found["answering"] == COUNT
    # the host goes on; how well is a measurement, made by the same script
    assert found["late_p99_ms"] < 10 * found["bar_ms"]
