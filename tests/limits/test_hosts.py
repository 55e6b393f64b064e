"""Hosts of other kinds: what is refused there says what to do. `run-everywhere` brings them."""

from __future__ import annotations

import os

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

NAMESPACES = {
    "docker": "seccomp profile",
    "userns0": "sysctl user.max_user_namespaces",
    "clone0": "sysctl kernel.unprivileged_userns_clone=1",
    "aa-userns": "AppArmor profile",
    "ubuntu": "/etc/apparmor.d/",
}
"""What the hint must name where no user namespace can be made."""


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
