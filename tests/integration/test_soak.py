"""The eyes of scripts/soak: each kind of thing that is left over is seen."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from endurance.leftovers import held, left

from sandbox_lite import Sandbox
from sandbox_lite.jail import places


@pytest.fixture
def used(sandbox: Sandbox) -> Sandbox:
    """One that has made all that stays for later ones."""
    sandbox.run("echo hi").check()
    return sandbox


def test_nothing_is_left_of_a_sandbox(used: Sandbox, tmp_path: Path) -> None:
    before = held(tmp_path)
    with Sandbox("minimal") as other:
        other.run("sleep 1000 & echo hi").check()
        open_now = "\n".join(held(tmp_path).beyond(before))
    assert "descriptors: " in open_now
    assert "processes: " in open_now
    assert left(before, tmp_path) == []


def test_each_kind_is_seen(used: Sandbox, tmp_path: Path) -> None:
    before = held(tmp_path)
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="forgotten")
    thread.start()
    sleeper = subprocess.Popen(["sleep", "1000"])
    descriptor = os.memfd_create("forgotten")
    memory = b"x" * 200_000_000
    made = [tempfile.mkdtemp(dir=tmp_path)]
    places.run_dir().mkdir(exist_ok=True)
    made.append(tempfile.mkdtemp(dir=places.run_dir(), prefix=f"{os.getpid()}-"))
    try:
        found = "\n".join(left(before, tmp_path, patience=0))
    finally:
        os.close(descriptor)
        sleeper.kill()
        sleeper.wait()
        done.set()
        thread.join()
        for path in made:
            Path(path).rmdir()
    assert "descriptors: 1 more of /memfd:forgotten" in found
    assert "processes: 1 more of sleep (sleep 1000)" in found
    assert "threads: 1 more of forgotten" in found
    assert all(f"directories: 1 more of {path}" in found for path in made)
    assert "MB more than" in found
    assert len(memory) == 200_000_000
    del memory
    assert left(before, tmp_path) == []
