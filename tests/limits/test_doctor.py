"""`doctor` on every rung, and on hosts that forbid sandboxes; `run-everywhere` brings those."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.jail.host import remedy
from tests.limits.test_hosts import HOST, NAMESPACES
from tests.told import INSIDE, sandbox_lite

if TYPE_CHECKING:
    from tests.told import Told

LAYERS = {
    "docker": "seccomp",
    "userns0": "namespaces-limit",
    "clone0": "userns-switch",
    "aa-userns": "apparmor-denies",
    "ubuntu": "apparmor-restricts",
}
"""Which layer of a host blocks, by the name that `doctor` gives it."""

LIKE_UBUNTU = """\
abi <abi/4.0>,
profile sandbox-lite-test flags=(attach_disconnected) {
  / rwpix, /** rwlkm, network, unix, signal, ptrace, dbus, mount, umount, remount, pivot_root,
  mqueue, io_uring, change_profile, userns, capability, deny capability net_admin, /** pix,
}
"""
"""As there a program may make user namespaces that are of no use, unless it has a profile."""

CONFINED = """\
import os, sys
open("/proc/self/attr/apparmor/exec", "w").write("exec sandbox-lite-test")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.timeout(180)
def test_doctor_on_every_rung(rung: str, tmp_path: Path) -> None:
    told = sandbox_lite(tmp_path, [], "doctor", "--json")
    assert told.code == 0, told.text
    assert told.data["backend"] == rung
    assert told.data["inside"] == INSIDE
    assert told.data["upper"] in ("tmpfs", "directory")
    by = {one["name"]: one["by"] for one in told.data["limits"]}
    assert by["cpus"] == ("none" if rung == "sampling" else "kernel")
    offered = [one["option"] for one in told.data["weaker"]]
    assert offered == (["--allow-weaker cpus"] if rung == "sampling" else [])
    # for each user one start, and for each way to a network
    able = {one["mode"] for one in told.data["network"] if one["ok"]}
    assert {"none", "packages", "web", "allow", "host"} <= able
    # no emulated host has a program that carries raw packets
    assert all(one["ok"] or one["hint"] for one in told.data["network"])


@pytest.mark.timeout(180)
def test_doctor_where_namespaces_are_forbidden(tmp_path: Path) -> None:
    if HOST not in LAYERS:
        pytest.skip("another rung than the one under test")
    told = sandbox_lite(tmp_path, [], "doctor", "--json")
    assert told.code == 125
    assert told.jail()["layer"] == LAYERS[HOST]
    assert NAMESPACES[HOST] in told.jail()["hint"]
    assert told.data["inside"] == []
    if HOST in ("aa-userns", "ubuntu"):
        profile = shlex.split(told.jail()["paste"])[1]
        words = ["apparmor_parser", "--skip-kernel-load", "--skip-cache"]
        subprocess.run(words, input=profile, text=True, check=True, timeout=50)


@pytest.mark.timeout(240)
def test_doctor_s_profile_is_all_that_lacks(tmp_path: Path) -> None:
    if HOST != "profile":
        pytest.skip("another rung than the one under test")
    # the service manager is confined by nothing, and so is what it starts
    free = ["systemd-run", "--quiet", "--pipe", "--wait", "--same-dir"]
    subprocess.run(
        [*free, "apparmor_parser", "-r"], input=LIKE_UBUNTU, text=True, check=True, timeout=50
    )
    confined = [*free, f"--setenv=SANDBOX_LITE_HOME={tmp_path}", sys.executable, "-c", CONFINED]

    def doctor() -> Told:
        return sandbox_lite(tmp_path, confined, "doctor", "--json")

    before = doctor()
    assert before.code == 125, before.errors
    assert before.jail()["layer"] == "apparmor-restricts"
    # what is to be pasted, word for word; root needs no sudo
    script = 'sudo() { "$@"; }\n' + before.jail()["paste"]
    subprocess.run([*free, "bash", "-ec", script], check=True, timeout=50)
    assert Path(remedy.PROFILE).exists()
    after = doctor()
    assert after.code == 0, after.text
    assert after.data["inside"] == INSIDE
