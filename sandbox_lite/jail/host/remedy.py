"""What helps where a layer blocks: the narrow remedy, ready to paste, before any wide one."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite.jail.host.evidence import Engine, Evidence

PROFILE = "/etc/apparmor.d/sandbox-lite"
_RESTRICTED = "kernel.apparmor_restrict_unprivileged_userns"
_ENOUGH = 15000
"""Namespaces that a host may have of each kind, where it had fewer than a sandbox takes."""
_NEEDED = 4

SYSTEM_CALLS = "clone clone3 unshare setns mount umount2 pivot_root sethostname"
"""What bwrap calls beyond what every program does, and engines' default profiles refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What to do."""

    hint: str
    """In one line."""
    paste: str = ""
    """The same as commands for a shell, where it can be said so."""


def profile_text(bwrap: Path) -> str:
    """Return an AppArmor profile that gives this bwrap user namespaces, and nobody else.

    It holds where another mount namespace has the program under another name as well: what an
    unconfined profile starts, and no profile is attached to, stays in it.
    """
    # AppArmor knows a program by where it really is, and has patterns of its own
    path = re.sub(r"[][\\\"*?{}^@]", r"\\\g<0>", str(bwrap.resolve()))
    return (
        "abi <abi/4.0>,\n"
        f'profile sandbox-lite "{path}" flags=(unconfined) {{\n'
        "  userns,\n"
        "}"
    )  # fmt: skip


def apparmor(bwrap: Path, seen: Evidence) -> Remedy:
    """Return how AppArmor is told to let this one bwrap work."""
    hint = (
        f"give {bwrap} an AppArmor profile of its own, {PROFILE}: `sandbox-lite doctor` prints it"
    )
    if seen.profile:
        hint += f"; this program is itself confined by the profile {seen.profile}: start it outside"
    if seen.sysctls.get(_RESTRICTED):
        hint += f" (every program is let go by: sudo sysctl {_RESTRICTED}=0)"
    paste = (
        f"echo {shlex.quote(profile_text(bwrap))} | sudo tee {PROFILE}\n"
        f"sudo apparmor_parser -r {PROFILE}"
    )
    return Remedy(hint=hint, paste=paste)


def selinux(bwrap: Path, seen: Evidence) -> Remedy:
    """Return how SELinux is told."""
    return Remedy(
        hint="see what was denied: sudo ausearch -m avc -c bwrap; and allow user_namespace create "
        "to the domain of this program"
    )


def namespaces(bwrap: Path, seen: Evidence) -> Remedy:
    """Return which count of namespaces is to be raised."""
    low = [
        name
        for name, value in seen.sysctls.items()
        if name.startswith("user.max_") and value < _NEEDED
    ]
    names = low or ["user.max_user_namespaces"]
    settings = " ".join(f"{name}={_ENOUGH}" for name in names)
    lines = "\\n".join(f"{name}={_ENOUGH}" for name in names)
    return Remedy(
        hint=f"sudo sysctl {settings}",
        paste=f"printf '{lines}\\n' | sudo tee -a /etc/sysctl.d/60-sandbox-lite.conf\n"
        "sudo sysctl --system",
    )


def clone_switch(bwrap: Path, seen: Evidence) -> Remedy:
    """Return how Debian's own switch is turned."""
    return Remedy(
        hint="sudo sysctl kernel.unprivileged_userns_clone=1 (Debian)",
        paste="echo kernel.unprivileged_userns_clone=1 | "
        "sudo tee -a /etc/sysctl.d/60-sandbox-lite.conf\nsudo sysctl --system",
    )


_FILTERS: dict[Engine, str] = {
    "docker": "docker run --security-opt seccomp=PROFILE.json, Docker's own default with these "
    "calls allowed; and --security-opt systempaths=unconfined for /proc",
    "podman": "podman run --security-opt seccomp=PROFILE.json, its default "
    "(/usr/share/containers/seccomp.json) with these calls allowed; and --security-opt "
    "unmask=/proc/* for /proc",
    "kubernetes": "in the pod's securityContext seccompProfile: {type: Localhost, "
    "localhostProfile: PROFILE.json}; and hostUsers: false with procMount: Unmasked for /proc",
    "systemd": "in the unit RestrictNamespaces=no, and SystemCallFilter without these calls",
}
_PROCS: dict[Engine, str] = {
    "docker": "docker run --security-opt systempaths=unconfined",
    "podman": "podman run --security-opt unmask=/proc/*",
    "kubernetes": "hostUsers: false in the pod, procMount: Unmasked in its securityContext",
    "systemd": "in the unit ProtectKernelTunables=no, ProtectKernelLogs=no, and no "
    "InaccessiblePaths below /proc",
}


def _of_engine(texts: dict[Engine, str], engine: Engine) -> str:
    return texts.get(engine) or "; ".join(texts.values())


def container_filter(bwrap: Path, seen: Evidence) -> Remedy:
    """Return how the engine around us is told to let bwrap's calls pass."""
    return Remedy(
        hint=f"allow these calls in the seccomp profile around this program: {SYSTEM_CALLS}: "
        + _of_engine(_FILTERS, seen.engine)
    )


def masked_proc(bwrap: Path, seen: Evidence) -> Remedy:
    """Return how the engine around us leaves /proc whole."""
    return Remedy(
        hint="the box around this program must leave /proc whole: "
        + _of_engine(_PROCS, seen.engine)
        + "; the sandbox's own /proc still hides what it must not see"
    )


def fixed(hint: str) -> Remedy:
    """Return what is the same on every host."""
    return Remedy(hint=hint)
