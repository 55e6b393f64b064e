"""Owners are told apart from later processes with the same pid."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from sandbox_lite.jail.owner import Owner


def test_we_are_alive_and_another_start_time_is_not() -> None:
    owner = Owner.current()
    assert owner.pid == os.getpid()
    assert owner.alive()
    assert Owner.from_json(owner.to_json()) == owner
    assert not replace(owner, start_time=owner.start_time + 1).alive()
    assert not replace(owner, boot_id="another").alive()
    # another container's process cannot be seen from here: its directory is not ours to remove
    assert replace(owner, pid_namespace=1, start_time=1).alive()


def test_a_zombie_is_not_alive() -> None:
    code = "from sandbox_lite.jail.owner import Owner; print(Owner.current().to_json())"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        owner = Owner.from_json(child.stdout.readline())
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert owner.pid == child.pid
        assert not owner.alive()
        child.wait()
    assert not owner.alive()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"boot_id": "x", "pid": null}', "null"])
def test_torn_records(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # JSON's own error is one too
        Owner.from_json(text)
