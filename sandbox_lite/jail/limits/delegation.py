"""Where on this host groups can be made: below our own, at the top as root, or in a scope of our
own that the user's service manager makes when it is asked.

Found once in each process; a scope is asked for once, and the janitor is the process that keeps it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import pwd
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError
from sandbox_lite.jail import group, janitor
from sandbox_lite.jail.limits import service_manager

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONTROLLERS = ("memory", "pids", "cpu")
_NEEDED = frozenset({"memory", "pids"})
_LEAF = "sandbox-lite-leaf"
_KEEPER = "keeper"
_WAIT_SECONDS = 5.0
_ROUNDS = 20

_READ_ONLY = (
    "control groups are read-only here: a service needs ProtectControlGroups=no beside "
    "Delegate=yes; a container needs /sys/fs/cgroup writable in a cgroup namespace of its own "
    "(podman run --cgroupns=private --security-opt unmask=/sys/fs/cgroup; docker run --privileged)"
)


def remedy(number: int | None, here: Path | None = None) -> str:
    """Return what helps on this host where the kernel refuses to make or enter a group.

    Args:
        number: The kernel's errno.
        here: Our own group, where that is the one refused.
    """
    user = _user_name()
    scope = "systemd-run --user --scope -p Delegate=yes CMD"
    manager = f"sudo loginctl enable-linger {user} (starts your service manager), and try again"
    if number == errno.EROFS:
        return _READ_ONLY
    if not Path("/run/systemd/system").is_dir():
        return (
            "have root make a group for you: mkdir it, chown it and the files that "
            f"/sys/kernel/cgroup/delegate lists to {user}, and start the program in it"
        )
    if number == errno.ENOENT:
        return (
            "the controllers memory and pids are not given to this group; start the program in "
            f"one that has them: {scope}"
        )
    unit = "" if here is None else here.name
    if unit.endswith(".service"):
        return (
            f"{manager}; or give {unit} a Delegate=yes (sudo systemctl edit {unit}); or start it "
            f"by: sudo systemd-run --uid={user} -p Delegate=yes --pipe --wait CMD"
        )
    return f"{manager}; or: {scope}"


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A place below which groups can be made."""

    controllers: Mapping[str, Path] = field(default_factory=dict)
    """For each controller the directory to make them in."""
    detail: str
    unit: str = ""
    """The scope that the service manager made for us, if it did."""

    @property
    def nest(self) -> Path | None:
        """Where whoever starts children in our groups must stand; None: where we do."""
        return next(iter(self.controllers.values())) / _KEEPER if self.unit else None

    def move(self, pid: int, path: Path) -> None:
        """Move a process into a group below.

        Raises:
            OSError: The kernel refuses.
        """
        try:
            (path / "cgroup.procs").write_text(str(pid))
        except PermissionError:
            # The kernel wants us to own the nearest group above both places as well; from a login
            # session that is root's, and only the service manager can do it.
            if not self.unit:
                raise
            service_manager.attach(self.unit, f"/{path.name}", pid)


_lock = threading.Lock()
_swept: list[int] = []
_found: dict[int, Ground | HostError] = {}


def forget() -> None:
    """Look anew at the next call."""
    with _lock:
        _found.clear()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _found.clear()


# the janitor, who keeps our scope, is the parent's
os.register_at_fork(after_in_child=_after_fork)


def found(version: int) -> Ground:
    """Return where groups of that version can be made.

    Raises:
        HostError: Nowhere; the hint names the remedy.
    """
    ground = find(version)
    if isinstance(ground, HostError):
        raise ground
    return ground


def swept() -> int:
    """Return how many orphans were removed since this process began to look."""
    return sum(_swept)


def find(version: int) -> Ground | HostError:
    """Return where groups of that version can be made, or why nowhere."""
    with _lock:
        if version not in _found:
            try:
                ground = _find_v2() if version == 2 else _find_v1()
                bases = dict.fromkeys(ground.controllers.values())
                _swept.extend(group.sweep(base) for base in bases)
                _found[version] = ground
            except HostError as error:
                _found[version] = error
        return _found[version]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One hierarchy, as this process sees it."""

    point: Path
    root: str
    version: int
    controllers: frozenset[str]


def mounts() -> Iterator[Mount]:
    """Yield the hierarchies that are mounted here."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            words = before.split()
            yield Mount(
                point=Path(words[4].encode().decode("unicode_escape")),
                root=words[3],
                version=2 if kind == "cgroup2" else 1,
                controllers=frozenset(options.split()[-1].split(",")),
            )


def _own_paths() -> dict[str, str]:
    """Return our group in each hierarchy, by controller; `""` is version 2."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def _below(mount: Mount, path: str) -> Path:
    """Return where a group is seen; in a namespace of its own the mount's root is not `/`."""
    inside = path.removeprefix(mount.root) if mount.root != "/" else path
    return mount.point / inside.lstrip("/")


def _controllers(path: Path) -> frozenset[str]:
    with contextlib.suppress(OSError):
        return frozenset((path / "cgroup.controllers").read_text().split())
    return frozenset()


# -- version 1 ----------------------------------------------------------------------------------


def _find_v1() -> Ground:
    own = _own_paths()
    found: dict[str, Path] = {}
    refused: OSError | None = None
    for mount in mounts():
        if mount.version != 1:
            continue
        for controller in ("memory", "pids", "cpu", "cpuacct"):
            if controller in mount.controllers and controller in own:
                base = _below(mount, own[controller])
                try:
                    _try(base)
                    found[controller] = base
                except OSError as error:
                    refused = error
    if not found.keys() >= _NEEDED:
        if refused is not None:
            raise HostError(
                f"cgroup v1 cannot be written here: {refused.strerror} ({refused.filename})",
                hint="run as root, or have root give you a group of your own in the hierarchies "
                "memory, pids and cpu: cgcreate -a USER -t USER -g memory,pids,cpu:sandbox, then "
                "cgexec -g memory,pids,cpu:sandbox CMD",
            )
        raise HostError("cgroup v1 has no controllers for memory and pids here", hint="")
    return Ground(controllers=found, detail=f"cgroup v1 below {found['memory']}")


def _try(base: Path) -> None:
    """Make a group and remove it again: permissions alone do not tell."""
    path = base / f"sandbox-lite-probe-{secrets.token_hex(6)}"
    path.mkdir()
    path.rmdir()


# -- version 2 ----------------------------------------------------------------------------------


def _find_v2() -> Ground:
    mount = next((one for one in mounts() if one.version == 2), None)
    own = _own_paths().get("")
    if mount is None or own is None:
        raise HostError("cgroup v2 is not mounted here", hint="")
    here = _below(mount, own)
    if here.name == _LEAF:
        # an earlier program of ours put whoever was here into this leaf
        here = here.parent
    top = mount.point
    # the true root alone has no type, and takes processes beside groups
    at_root = not (top / "cgroup.type").exists()
    if at_root and not _controllers(top) >= _NEEDED:
        raise HostError("cgroup v2 has no controllers for memory and pids here", hint="")
    if os.geteuid() == 0 and at_root and not _is_delegated(here):
        return _below_top(top)
    whole = _controllers(here) >= set(_CONTROLLERS) and os.access(here, os.W_OK)
    # A unit of the user's manager is the user's to write, also where nobody gave it to us; there
    # we ask for one of our own, and leave the processes of the user where they are.
    promised = f"/user@{os.getuid()}.service/" not in own or service_manager.delegates(here.name)
    if whole and promised is not False:
        with contextlib.suppress(HostError):
            # somebody else's processes may sit in it as well
            return _below_own(here)
    scope, reason = _below_scope(mount)
    if scope is not None:
        return scope
    if _controllers(here) >= _NEEDED and os.access(here, os.W_OK):
        return _below_own(here)
    raise _refusal(here, reason)


def _is_delegated(path: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(path, name) == b"1"
    return False


def _below_top(top: Path) -> Ground:
    base = top / group.PREFIX
    try:
        _enable(top)
        base.mkdir(exist_ok=True)
        _enable(base)
        _try(base)
        # the last of us to go takes it away
        atexit.register(_rmdir, base)
    except OSError as error:
        raise HostError(
            f"control groups cannot be made in {top}: {error.strerror}", hint=remedy(error.errno)
        ) from error
    return _ground(base, f"cgroup v2 below {base}")


def _rmdir(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def _ground(base: Path, detail: str, unit: str = "") -> Ground:
    given = _subtree(base)
    return Ground(
        controllers={name: base for name in _CONTROLLERS if name in given}, detail=detail, unit=unit
    )


def _subtree(base: Path) -> frozenset[str]:
    return frozenset((base / "cgroup.subtree_control").read_text().split())


def _enable(base: Path) -> None:
    """Give the controllers to the groups below.

    Raises:
        OSError: The kernel refuses; EBUSY while processes sit in `base` itself.
    """
    wanted = [name for name in _CONTROLLERS if name in _controllers(base) - _subtree(base)]
    if wanted:
        words = " ".join(f"+{name}" for name in wanted)
        (base / "cgroup.subtree_control").write_text(words)


def _below_own(here: Path) -> Ground:
    """Use our own group, which was given to us: whoever sits in it moves into a leaf."""
    leaf = here / _LEAF
    try:
        if not _subtree(here) >= _NEEDED & _controllers(here):
            leaf.mkdir(exist_ok=True)
            for _ in range(_ROUNDS):
                for pid in group.members(here):
                    with contextlib.suppress(ProcessLookupError):
                        (leaf / "cgroup.procs").write_text(str(pid))
                try:
                    _enable(here)
                    break
                except OSError as error:
                    # somebody was started meanwhile
                    if error.errno != errno.EBUSY:
                        raise
            else:
                _enable(here)
        else:
            _enable(here)
        _try(here)
    except OSError as error:
        raise HostError(
            f"control groups cannot be made in {here}: {error.strerror}", hint=remedy(error.errno)
        ) from error
    return _ground(here, f"cgroup v2 in our own delegated group {here}")


def _below_scope(mount: Mount) -> tuple[Ground | None, str]:
    """Ask the user's service manager for a scope; return why not where there is none."""
    pid = janitor.SHARED.pid
    unit = f"{group.PREFIX}-{os.getpid()}-{secrets.token_hex(4)}.scope"
    try:
        service_manager.start_scope(unit, pid)
        base = _awaited(mount, unit, pid)
        keeper = base / _KEEPER
        keeper.mkdir()
        (keeper / "cgroup.procs").write_text(str(pid))
        _enable(base)
        _try(base)
    except OSError as error:
        return None, f"{error.strerror or error}"
    return _ground(base, f"cgroup v2 in the scope {unit} of the user's service manager", unit), ""


def _awaited(mount: Mount, unit: str, pid: int) -> Path:
    """Wait until the janitor stands in its scope; the manager answers before it has done that."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        match = re.search(r"^0::(.*)$", Path(f"/proc/{pid}/cgroup").read_text(), re.MULTILINE)
        if match is not None and match[1].endswith(f"/{unit}"):
            return _below(mount, match[1])
        time.sleep(0.002)
    raise TimeoutError(errno.ETIMEDOUT, "the service manager made no scope in time")


def _refusal(here: Path, reason: str) -> HostError:
    number = errno.EACCES
    try:
        _try(here)
        number = errno.ENOENT
    except OSError as error:
        number = error.errno or number
    said = f"; the user's service manager: {reason}" if reason else ""
    return HostError(
        f"no control group is delegated to us: {here}: {os.strerror(number)}{said}",
        hint=remedy(number, here),
    )
