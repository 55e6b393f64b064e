"""What a host says of itself: bwrap's words alone do not tell which layer refused."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Engine = Literal["docker", "podman", "kubernetes", "systemd", ""]

_SYSCTLS = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    *(f"user/max_{kind}_namespaces" for kind in ("user", "mnt", "pid", "net", "ipc", "uts")),
    "user/max_cgroup_namespaces",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found; by default nothing."""

    sysctls: Mapping[str, int] = field(default_factory=dict)
    """Of those that concern namespaces, in sysctl's words: `user.max_user_namespaces`."""
    filtered: bool = False
    """Whether a system call filter is on us already."""
    engine: Engine = ""
    """Who put us into a box, where that shows."""
    chrooted: bool = False
    """Whether our root directory is no mount's root: the kernel makes no user namespace then."""
    profile: str = ""
    """The AppArmor profile that confines this very program; empty where none does."""
    selinux: bool = False
    """Whether SELinux enforces."""


def gather() -> Evidence:
    """Look at this host."""
    return Evidence(
        sysctls=_sysctls(),
        filtered=seccomp_filters() != 0,
        engine=_engine(),
        chrooted=_chrooted(),
        profile=apparmor_profile(),
        selinux=_text("/sys/fs/selinux/enforce") == "1",
    )


def status_fields(text: str) -> dict[str, str]:
    """Return the fields of a /proc/PID/status."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def seccomp_filters() -> int:
    """Return how many system call filters are on this process, and so on all that it starts."""
    found = status_fields(_text("/proc/self/status"))
    # before Linux 5.9 only whether there is any
    return int(found.get("Seccomp_filters", "1" if found.get("Seccomp") == "2" else "0"))


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip("\n\0 ")
    return ""


def _sysctls() -> dict[str, int]:
    found = {name.replace("/", "."): _text(f"/proc/sys/{name}") for name in _SYSCTLS}
    return {name: int(text) for name, text in found.items() if text.isdigit()}


def _engine() -> Engine:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    if Path("/run/.containerenv").exists():
        return "podman"
    if Path("/.dockerenv").exists():
        return "docker"
    # INVOCATION_ID alone is in every login as well
    if re.search(r"\.service$", _text("/proc/self/cgroup"), re.MULTILINE):
        return "systemd"
    return ""


def _chrooted() -> bool:
    lines = _text("/proc/self/mountinfo").splitlines()
    return bool(lines) and all(line.split()[4] != "/" for line in lines)


def apparmor_profile() -> str:
    """Return the AppArmor profile that confines this process; empty where none does."""
    for path in ("/proc/self/attr/apparmor/current", "/proc/self/attr/current"):
        name, _, mode = _text(path).rpartition(" ")
        if mode == "(enforce)":
            return name
    return ""
