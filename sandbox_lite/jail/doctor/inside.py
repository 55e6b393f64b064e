"""What holds a program in a sandbox, as the kernel says there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, SandboxLiteError
from sandbox_lite.jail import bwrap
from sandbox_lite.jail.doctor.report import Inside
from sandbox_lite.jail.host.evidence import seccomp_filters, status_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.jail.sandbox import Sandbox

_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
"""By their numbers, capabilities(7)."""


def look(sandbox: Sandbox, user: str) -> Inside:
    """Return what holds the programs of an open sandbox."""
    status = status_fields(sandbox.exec(["cat", "/proc/self/status"]).check().stdout)
    filters = sandbox.enforcement.seccomp
    # before Linux 5.9 the kernel does not tell how many
    count = status.get("Seccomp_filters")
    return Inside(
        user=user,
        filters=filters,
        filters_in_force=len(filters) if count is None else int(count) - seccomp_filters(),
        capabilities=_capabilities(status["CapEff"]),
        bounding=_capabilities(status["CapBnd"]),
        no_new_privileges=status["NoNewPrivs"] == "1" and status["Seccomp"] == "2",
    )


def _capabilities(mask: str) -> tuple[str, ...]:
    bits = int(mask, 16)
    names = (*_CAPABILITIES, *map(str, range(len(_CAPABILITIES), 64)))
    return tuple(f"CAP_{name}" for number, name in enumerate(names) if bits >> number & 1)


def agrees(found: Inside) -> str | SandboxLiteError:
    """Return what is in force, or in what it is less than was asked for."""
    wanted = bwrap.CAPABILITIES if found.user == "root" else ()
    held = ", ".join(found.capabilities) or "none"
    wrong = []
    if set(found.capabilities) != set(wanted):
        wrong.append(f"capabilities {held}")
    if found.filters_in_force != len(found.filters):
        wrong.append(f"{found.filters_in_force} filters")
    if not found.no_new_privileges:
        wrong.append("new privileges, or no filter")
    if wrong:
        return HostError(
            f"a sandbox has {'; '.join(wrong)}", hint="this is a fault of ours: please report it"
        )
    filters = _listed(found.filters, "filter")
    return f"{filters} in force; capabilities: {held}; no new privileges"


def _listed(names: Sequence[str], word: str) -> str:
    return f"{word}{'' if len(names) == 1 else 's'} {', '.join(names)}"
