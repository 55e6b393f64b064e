"""The vocabulary: what is asked for and what comes back.

Frozen dataclasses only. Knows nothing of bwrap, files or models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, StrEnum
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


class Unnamed(Enum):
    """The one value that says: this was not asked for."""

    UNNAMED = "unnamed"


UNNAMED = Unnamed.UNNAMED

LEAST_CPUS = 0.01
"""The kernel takes no quota below a millisecond in its period of a tenth of a second."""

LEAST_PIDS = 8
LEAST_MEMORY_BYTES = 16 * MIB

MountMode = Literal["bind", "ro_bind", "tmpfs", "overlay"]
"""`overlay`: a directory that can be written inside, and of which the host's is not touched."""
GitAccess = Literal["read_only", "writable"]


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
    git: GitAccess = "read_only"
    """Whether each `.git` in an overlay can be written inside, and be changed on the host by what
    is applied: its configuration and hooks are programs that run as the user."""

    def __post_init__(self) -> None:
        if not self.target.startswith("/") or ".." in self.target.split("/"):
            raise SpecError(f"a mount's target must be an absolute path, not {self.target!r}")
        if (self.source is None) != (self.mode == "tmpfs"):
            need = "takes no" if self.source else "needs a"
            raise SpecError(f"a {self.mode} mount {need} source")
        if self.mode != "overlay" and self.git != "read_only":
            raise SpecError(f"a {self.mode} mount takes no word about git")
        if self.mode == "overlay" and not self.target.strip("/"):
            raise SpecError("an overlay cannot be mounted at /", hint="the rootfs is there")


LimitName = Literal["memory", "cpus", "pids", "disk", "shm", "timeout", "wall", "output"]
LIMIT_NAMES: tuple[LimitName, ...] = (
    "memory", "cpus", "pids", "disk", "shm", "timeout", "wall", "output",
)  # fmt: skip
WeakerName = LimitName | Literal["overlay"]
WEAKER_NAMES: tuple[WeakerName, ...] = (*LIMIT_NAMES, "overlay")
"""What a caller may name as dispensable; without an overlay each sandbox gets a whole copy."""
_FIELDS: dict[LimitName, str] = {
    "memory": "memory_bytes", "cpus": "cpus", "pids": "pids", "disk": "disk_bytes",
    "shm": "shm_bytes", "timeout": "timeout_seconds", "wall": "wall_seconds",
    "output": "output_bytes",
}  # fmt: skip
INODE_BYTES = 16 * KIB
"""A disk holds one file at most for so many of its bytes, as ext4 has it: each costs memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one sandbox; None is no bound.

    What differs from the default, or stands in `named`, was asked for and is hard: it is enforced,
    or the sandbox is refused. A default may be weaker on a host that cannot do better.
    """

    memory_bytes: int | None = 4 * GIB
    """Of all its processes together, beside what it stores on its disk."""
    cpus: float | None = None
    """Processors' worth of time, such as 0.5."""
    pids: int | None = 1024
    """Processes and threads at once."""
    disk_bytes: int | None = 4 * GIB
    """What the sandbox may write, with as many files as `INODE_BYTES` allows."""
    shm_bytes: int | None = 256 * MIB
    """Size of /dev/shm; never more than the disk, unless named."""
    timeout_seconds: float | None = 120.0
    """Per command, where the call names none."""
    wall_seconds: float | None = None
    """Of the whole sandbox, from its start."""
    output_bytes: int = 1 * MIB
    """Kept of each stream of a command, head and tail; the rest is counted and spooled."""
    named: tuple[LimitName, ...] = ()
    """Those that were asked for."""

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "wall_seconds", "cpus"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SpecError(f"{name.partition('_')[0]} must be positive, not {value}")
        if self.cpus is not None and self.cpus < LEAST_CPUS:
            raise SpecError(f"cpus must be at least {LEAST_CPUS}, not {self.cpus:g}")
        if self.pids is not None and self.pids < LEAST_PIDS:
            raise SpecError(
                f"pids must be at least {LEAST_PIDS}, not {self.pids}",
                hint="the sandbox's own process 1 and its shell are two of them",
            )
        for name in ("memory_bytes", "disk_bytes", "shm_bytes", "output_bytes"):
            if getattr(self, name) is not None:
                parse_size(getattr(self, name))
        if self.memory_bytes is not None and self.memory_bytes < LEAST_MEMORY_BYTES:
            raise SpecError(
                f"memory must be at least {format_size(LEAST_MEMORY_BYTES)}",
                hint="the sandbox's own shell takes some of it",
            )
        differing = {
            limit for limit, name in _FIELDS.items() if getattr(self, name) != _default(name)
        }
        object.__setattr__(self, "named", tuple(sorted(differing.union(self.named))))
        if "shm" not in self.named and None not in (self.shm_bytes, self.disk_bytes):
            smaller = min(self.shm_bytes or 0, self.disk_bytes or 0)
            object.__setattr__(self, "shm_bytes", smaller)

    @classmethod
    def of(
        cls,
        *,
        memory: str | int | Unnamed | None = UNNAMED,
        cpus: float | Unnamed | None = UNNAMED,
        pids: int | Unnamed | None = UNNAMED,
        disk: str | int | Unnamed | None = UNNAMED,
        shm: str | int | Unnamed | None = UNNAMED,
        timeout: float | Unnamed | None = UNNAMED,
        wall: float | Unnamed | None = UNNAMED,
        output: str | int | Unnamed = UNNAMED,
    ) -> Limits:
        """Return limits from human sizes such as `"512MiB"`; times are in seconds.

        What is given, be it the default's own value, is hard; None switches a bound off.

        Raises:
            SpecError: A size, count or time is none.
        """
        given: dict[LimitName, object] = {
            "memory": memory, "cpus": cpus, "pids": pids, "disk": disk, "shm": shm,
            "timeout": timeout, "wall": wall, "output": output,
        }  # fmt: skip
        values = {name: value for name, value in given.items() if value is not UNNAMED}
        fields = {
            _FIELDS[name]: parse_size(value)
            if isinstance(value, str | int) and _FIELDS[name].endswith("_bytes")
            else value
            for name, value in values.items()
        }
        return cls(**fields, named=tuple(values))  # type: ignore[arg-type]

    @property
    def bounded(self) -> bool:
        """Whether there is a bound that a control group would hold."""
        return (self.memory_bytes, self.pids, self.cpus) != (None, None, None)

    @classmethod
    def none(cls) -> Limits:
        """Return no bounds at all, but for what is kept of a command's output."""
        return cls(
            memory_bytes=None, cpus=None, pids=None, disk_bytes=None, shm_bytes=None,
            timeout_seconds=None, wall_seconds=None,
        )  # fmt: skip


def inodes_of(size_bytes: int) -> int:
    """Return how many files a disk of that size may hold."""
    return max(64, size_bytes // INODE_BYTES)


def _default(name: str) -> object:
    return Limits.__dataclass_fields__[name].default


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """A port of the host that leads to a server inside."""

    port: int
    """On the host; 0 is any that is free."""
    inner_port: int
    address: str = "127.0.0.1"
    """Of the host; others than loopback let other machines in."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16 or not 0 < self.inner_port < 1 << 16:
            raise SpecError(f"not a pair of ports: {self.port} and {self.inner_port}")

    @classmethod
    def parse(cls, text: str) -> Publish:
        """Return what `[[ADDRESS:]PORT:]INNER` asks for.

        Raises:
            SpecError: It is none.
        """
        match = re.fullmatch(r"(?:(?:(\[[0-9a-fA-F:]+\]|[^:\[\]]+):)?(\d{1,5}):)?(\d{1,5})", text)
        if match is None:
            raise SpecError(
                f"not a port to publish: {text!r}",
                hint="such as 8080, 8000:80 or 0.0.0.0:8000:80",
            )
        address, outer, inner = match.groups()
        return cls(
            port=int(inner if outer is None else outer),
            inner_port=int(inner),
            address=(address or "127.0.0.1").strip("[]"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port of the host that leads to a server inside, as it was opened."""

    address: str
    port: int
    inner_port: int


UpperKind = Literal["auto", "tmpfs", "directory", "copy"]

Ids = Literal["own", "subordinate"]
"""`own`: the caller's id alone, and root is pretended. `subordinate`: 65535 others beside it."""
IDS: tuple[Ids, ...] = ("own", "subordinate")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """All that is asked of a sandbox."""

    rootfs: str = "standard"
    """A name in the store, or `host`."""
    network: str = "none"
    """A mode of `sandbox_lite.jail.network`."""
    allow: tuple[str, ...] = ()
    """What may be reached beside the mode's own list: `[METHOD,METHOD ]HOST[:PORT]`."""
    allow_private: tuple[str, ...] = ()
    """Hosts that may have an address which is not public, such as a company's mirror."""
    publish: tuple[Publish, ...] = ()
    """Ports of the host that lead to servers inside."""
    workdir: str = "/testbed"
    """Where the shell starts; made if the rootfs lacks it."""
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    limits: Limits = field(default_factory=Limits)
    hostname: str = "sandbox"
    user: str = "root"
    """Whom everything inside belongs to and runs as: an account of the rootfs."""
    ids: Ids = "own"
    """Which ids there are inside: with `subordinate`, those of subuid(5), chown and su are real."""
    upper: UpperKind = "auto"
    """Where writes go; `auto` takes a tmpfs where the kernel can, else a directory.

    `copy` is a directory with a copy of the whole rootfs, and needs no overlay."""
    allow_weaker: tuple[WeakerName, ...] = ()
    """Named limits that this host may hold less firmly, or not at all; and `overlay`, in whose
    place `auto` then may take a copy where this host has none."""
    require: str | None = None
    """Who must hold the limits: `cgroup`, `cgroup2`, `cgroup1`; None takes the best there is."""
    directories: tuple[str, ...] = ()
    """Further ones that are made where they are not there."""
    writable: tuple[str, ...] | None = None
    """The only files that can be written inside, by anybody; None is all of them. Of the kernel."""
    programs: bool = True
    """False: nothing ever runs inside, by the kernel's word; its files can be read and written."""

    def __post_init__(self) -> None:
        for path in (*self.directories, *(self.writable or ())):
            if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
                raise SpecError(f"not an absolute path without `..`: {path!r}")
        if self.writable is not None and any(one.mode != "ro_bind" for one in self.mounts):
            raise SpecError(
                "where only named files can be written a mount can be ro_bind alone",
                hint="name no directory of yours, or leave `writable` out",
            )
        if not self.workdir.startswith("/"):
            raise SpecError(f"workdir must be an absolute path, not {self.workdir!r}")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", self.hostname) is None:
            raise SpecError(f"not a host name: {self.hostname!r}")
        if re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", self.user) is None:
            raise SpecError(f"not a user name: {self.user!r}")
        if self.ids not in IDS:
            raise SpecError(f"ids is one of {', '.join(IDS)}, not {self.ids!r}")
        if self.ids == "subordinate" and self.user != "root":
            # whoever is not root could make no use of another id: set-user-ID has no effect
            raise SpecError(
                f"ids 'subordinate' and the user {self.user!r} do not go together",
                hint="own ids, or start as root and have it run:"
                f" runuser -u {self.user} -- COMMAND",
            )
        unknown = set(self.allow_weaker) - set(WEAKER_NAMES)
        if unknown:
            raise SpecError(
                f"allow_weaker names no limit: {', '.join(sorted(unknown))}",
                hint=f"it takes: {', '.join(WEAKER_NAMES)}",
            )
        for name, value in self.env.items():
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None or "\0" in value:
                raise SpecError(f"not an environment variable: {name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgvPart:
    """What one mechanism adds to the command that starts a sandbox."""

    own: tuple[str, ...] = ()
    """In the words of bwrap, what is mounted around the jail for this sandbox alone."""
    bwrap: tuple[str, ...] = ()
    """Arguments of the bwrap that makes the jail."""


class Outcome(StrEnum):
    """How a command came to its end."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    """At its own limit, or at the end of the sandbox's wall time."""
    OUT_OF_MEMORY = "out_of_memory"
    """It failed, and a process was killed at the limit of memory meanwhile."""
    PIDS_LIMIT = "pids_limit"
    """It failed, and a process was refused at the limit of pids meanwhile."""
    DISK_FULL = "disk_full"
    """It failed, and the sandbox's disk or /dev/shm became full meanwhile."""
    KILLED = "killed"
    """Its shell, or the sandbox, was killed while it ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a sandbox took while a command ran; None where this host does not tell."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    """Where the kernel counts it, with the pages of files and of the disk; else as sampled."""
    peak_pids: int | None = None
    """As sampled, processes and threads."""
    disk_bytes: int | None = None
    """In use at the end, /dev/shm included."""


Verdict = Literal["allowed", "refused", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """One request of a sandbox to the outside, as its proxy saw it."""

    when: float
    """Seconds since 1970."""
    method: str
    """`CONNECT` is a tunnel, which HTTPS takes."""
    host: str
    port: int
    verdict: Verdict
    """`failed`: it was allowed, and the outside did not answer."""
    reason: str = ""
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0


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
    """Both streams in order of arrival: exact with `merge=True`; else as the kernel woke us, and of
    the first milliseconds all of standard output first."""
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
    limits_hit: tuple[LimitName, ...] = ()
    """Limits that were reached while it ran, also where it went on and ended well."""
    shared: bool = False
    """Other commands ran meanwhile: what was hit, and the usage, may be theirs."""
    repeats: int = 0
    """How many commands before this one ended with the same outcome, if that was a limit's."""
    leftovers_killed: int = 0
    """Processes that earlier commands had left behind: they had used up the limit of pids."""
    usage: Usage = field(default_factory=Usage)
    refused: tuple[NetworkRequest, ...] = ()
    """Requests to the outside that were refused, or failed, while it ran."""

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
class SandboxStats:
    """What a sandbox takes just now."""

    memory_bytes: int | None
    """Of its processes, without what lies on its disk."""
    pids: int
    """Processes and threads."""
    cpu_seconds: float | None
    """Since its start."""
    disk_bytes: int
    """Written, /dev/shm included."""
    age_seconds: float


Holder = Literal["kernel", "sampling", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """How one limit is held."""

    name: LimitName
    value: float | None
    """Bytes, seconds or a count; None is no bound."""
    by: Holder
    """`sampling`: by this program, which looks again and again and ends what is beyond it."""
    detail: str = ""
    """What else a reader should know, such as why it is no better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """What is really in force in one sandbox."""

    rootfs: str
    """Name and digest."""
    upper: Literal["tmpfs", "directory", "copy"]
    network: str
    """The mode."""
    seccomp: tuple[str, ...]
    """Names of the filters loaded."""
    capabilities: tuple[str, ...] = ()
    """Those that uid 0 inside holds over its own user namespace; another user holds none."""
    user: str = "root"
    """Whom everything inside belongs to and runs as."""
    ids: Ids = "own"
    """`subordinate`: chown, setuid and their like are real."""
    backend: str = ""
    """Who holds the limits: `cgroup2`, `cgroup1` or `sampling`."""
    limits: tuple[LimitState, ...] = ()
    reachable: str = ""
    """What may be reached through the proxy, in one line; empty where there is none."""
    published: tuple[PublishedPort, ...] = ()
    writable: tuple[str, ...] | None = None
    """The only files that can be written; None: there is no such restriction."""
    programs: bool = True
    """False: the kernel starts none inside."""
    carrier: str = ""
    """The program that carries raw packets, and where it is; empty where none are carried."""

    def limit(self, name: LimitName) -> LimitState:
        """Return how the limit of that name is held."""
        return next(state for state in self.limits if state.name == name)
