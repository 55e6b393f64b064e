"""The vocabulary: what is asked for and what comes back.

Frozen dataclasses only. Knows nothing of bwrap, files or models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from sandbox_lite.errors import CommandFailedError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def parse_size(text: str | int) -> int:
    """Return the bytes that a human size such as `"512MiB"`, `"1.5G"` or `"64kB"` means.

    As in Docker's options a bare `M` or `MB` is binary too: memory is counted in powers of 1024.

    Raises:
        SpecError: It is no size, or not a positive one.
    """
    if isinstance(text, int):
        value = text
    else:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise SpecError(f"not a size: {text!r}", hint="write it as 512MiB, 2G or a byte count")
        value = int(float(match["number"]) * 1024 ** _POWERS[match["unit"].lower()])
    if value <= 0:
        raise SpecError(f"a size must be positive, not {text!r}")
    return value


def format_size(count: int) -> str:
    """Return a byte count as a person reads it, such as `12.5 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


MountMode = Literal["bind", "ro_bind", "tmpfs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One more mount inside the jail, in bwrap's words."""

    target: str
    """Absolute path inside."""
    source: Path | None = None
    """Path on the host; none for a tmpfs."""
    mode: MountMode = "ro_bind"
    size_bytes: int | None = None
    """Bound of a tmpfs."""

    def __post_init__(self) -> None:
        if not self.target.startswith("/") or ".." in self.target.split("/"):
            raise SpecError(f"a mount's target must be an absolute path, not {self.target!r}")
        if (self.source is None) != (self.mode == "tmpfs"):
            need = "takes no" if self.source else "needs a"
            raise SpecError(f"a {self.mode} mount {need} source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one sandbox."""

    timeout_seconds: float | None = 120.0
    """Per command, where the call names none."""
    output_bytes: int = 1 * MIB
    """Kept of each stream of a command, head and tail; the rest is counted and spooled."""
    disk_bytes: int = 4 * GIB
    """What the sandbox may write, on its private tmpfs."""
    shm_bytes: int = 256 * MIB
    """Size of /dev/shm."""

    def __post_init__(self) -> None:
        if self.timeout_seconds is not None and self.timeout_seconds <= 0:
            raise SpecError(f"timeout must be positive, not {self.timeout_seconds}")
        for name in ("output_bytes", "disk_bytes", "shm_bytes"):
            parse_size(getattr(self, name))

    @classmethod
    def of(
        cls,
        *,
        timeout: float | None = 120.0,
        output: str | int = 1 * MIB,
        disk: str | int = 4 * GIB,
        shm: str | int = 256 * MIB,
    ) -> Limits:
        """Return limits from human sizes such as `"512MiB"`; `timeout` is in seconds.

        Raises:
            SpecError: A size or time is no size or time.
        """
        return cls(
            timeout_seconds=timeout,
            output_bytes=parse_size(output),
            disk_bytes=parse_size(disk),
            shm_bytes=parse_size(shm),
        )


UpperKind = Literal["auto", "tmpfs", "directory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """All that is asked of a sandbox."""

    rootfs: str = "standard"
    """A name in the store, or `host`."""
    network: str = "none"
    """A mode of `sandbox_lite.jail.network`."""
    workdir: str = "/testbed"
    """Where the shell starts; made if the rootfs lacks it."""
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    limits: Limits = field(default_factory=Limits)
    hostname: str = "sandbox"
    upper: UpperKind = "auto"
    """Where writes go; `auto` takes a tmpfs where the kernel can, else a directory."""

    def __post_init__(self) -> None:
        if not self.workdir.startswith("/"):
            raise SpecError(f"workdir must be an absolute path, not {self.workdir!r}")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", self.hostname) is None:
            raise SpecError(f"not a host name: {self.hostname!r}")
        for name, value in self.env.items():
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None or "\0" in value:
                raise SpecError(f"not an environment variable: {name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgvPart:
    """What one mechanism adds to the command that starts a sandbox."""

    prefix: tuple[str, ...] = ()
    """Words in front of bwrap."""
    outer: tuple[str, ...] = ()
    """Arguments of the outer bwrap, which only holds mounts under neutral names."""
    bwrap: tuple[str, ...] = ()
    """Arguments of the bwrap that makes the jail."""
    fds: tuple[int, ...] = ()
    """Descriptors that the arguments name."""


class Outcome(StrEnum):
    """How a command came to its end."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    """Its shell, or the sandbox, was killed while it ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What happened to one command; a non-zero exit or a time-out is a result too."""

    command: str
    outcome: Outcome
    exit_code: int
    """The shell's: 128 + N after signal N."""
    stdout_bytes: bytes
    stderr_bytes: bytes
    merged_bytes: bytes
    """Both streams in order of arrival: exact with `merge=True`, else as the kernel woke us."""
    dropped_bytes: int = 0
    """Left out between head and tail of the streams above."""
    full_output: str | None = None
    """Path inside the sandbox of the whole text, where it was cut or goes on arriving."""
    seconds: float = 0.0
    cwd: str = ""
    """Directory of the shell afterwards (a hint: `PWD` can be assigned)."""
    background: bool = False
    """A job of the command still holds its output; what it writes goes to `full_output`."""
    restarted: bool = False
    """The shell ended with the command; a fresh one has directory and variables back."""

    @property
    def stdout(self) -> str:
        """Standard output as text; bytes that are no UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; bytes that are no UTF-8 become U+FFFD."""
        return self.stderr_bytes.decode(errors="replace")

    @property
    def output(self) -> str:
        """Both streams as text, in order of arrival."""
        return self.merged_bytes.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself with exit code 0."""
        return self.outcome is Outcome.EXITED and self.exit_code == 0

    def check(self) -> CommandResult:
        """Return this result.

        Raises:
            CommandFailedError: The command timed out, was killed, or its exit code is not 0.
        """
        if self.ok:
            return self
        how = f"exit code {self.exit_code}" if self.outcome is Outcome.EXITED else self.outcome
        raise CommandFailedError(
            f"command failed ({how}): {self.command[:200]}\n{self.stderr[-2000:]}".rstrip(),
            result=self,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """What is really in force in one sandbox."""

    rootfs: str
    """Name and digest."""
    upper: Literal["tmpfs", "directory"]
    network: str
    seccomp: tuple[str, ...]
    """Names of the filters loaded."""
    disk: Literal["kernel", "none"]
    """Whether the kernel holds `disk_bytes`."""
    capabilities: tuple[str, ...] = ()
    """Those that uid 0 inside holds over its own user namespace."""
