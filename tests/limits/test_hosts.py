"""Hosts of other kinds: what is refused there says what to do. `run-everywhere` brings them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_lite import Limits, Sandbox
from sandbox_lite.errors import HostError
from sandbox_lite.jail import limits

HOST = os.environ.get("SANDBOX_LITE_TEST_HOST", "")
"""The kind of host that this is, where it is an emulated one."""

GROUPS = {
    "bare": ["Delegate=yes", "enable-linger tester", "systemd-run --uid=tester"],
    "docker": ["read-only", "ProtectControlGroups=no"],
}
"""What the hint must name where no group is delegated."""

GROUNDS = {
    "user": "in the scope sandbox-lite-",
    "login": "in the scope sandbox-lite-",
    "system": "in the scope sandbox-lite-",
    "scope": "in our own delegated group",
    "root": "below /sys/fs/cgroup/sandbox-lite",
}
"""Where groups are made, by the words of `doctor`."""

NAMESPACES = {
    "docker": "seccomp profile",
    "userns0": "sysctl user.max_user_namespaces",
    "clone0": "sysctl kernel.unprivileged_userns_clone=1",
    "aa-userns": "AppArmor profile",
    "ubuntu": "/etc/apparmor.d/",
}
"""What the hint must name where no user namespace can be made."""


@pytest.mark.timeout(120)
def test_where_groups_are_made() -> None:
    if HOST not in GROUNDS:
        pytest.skip("another rung than the one under test")
    # the second time too: the first may have given controllers to those beside it
    for _ in range(2):
        code = "from sandbox_lite.jail import limits; print(limits.choose()[1].detail)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
        )
        assert GROUNDS[HOST] in done.stdout
    if HOST != "scope":
        assert "leaf" not in Path("/proc/self/cgroup").read_text()


@pytest.mark.timeout(120)
def test_group_that_is_required_and_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    if HOST not in GROUPS:
        pytest.skip("another rung than the one under test")
    monkeypatch.setenv(limits.REQUIRE_VARIABLE, "cgroup")
    with pytest.raises(HostError, match="limits cannot be held by cgroup") as refused:
        Sandbox("host").open()
    for words in GROUPS[HOST]:
        assert words in (refused.value.hint or "")
    monkeypatch.delenv(limits.REQUIRE_VARIABLE)
    with pytest.raises(HostError, match="cpus cannot be held" if HOST == "bare" else None):
        Sandbox("host", limits=Limits.of(cpus=0.5)).open()


@pytest.mark.timeout(120)
def test_namespaces_that_are_forbidden() -> None:
    if HOST not in NAMESPACES:
        pytest.skip("another rung than the one under test")
    with pytest.raises(HostError) as refused:
        Sandbox("host").open()
    assert NAMESPACES[HOST] in (refused.value.hint or "")
