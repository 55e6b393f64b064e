"""What this machine can do: real sandboxes are started, and what they hold is read inside."""

from __future__ import annotations

import os
import platform
import tempfile
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, SandboxLiteError
from sandbox_lite.jail import host, limits, places, subids
from sandbox_lite.jail import network as networks
from sandbox_lite.jail.doctor import inside, rungs
from sandbox_lite.jail.doctor.report import Check, Inside, Network, Report, Weaker
from sandbox_lite.jail.limits import states
from sandbox_lite.jail.programs import find_bwrap, version
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.spec import Limits, LimitState, SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.spec import LimitName, WeakerName

OPTIONAL: Mapping[str, Callable[[], HostError | None]] = {"several ids": subids.missing}
"""What not every sandbox needs, with what says whether this host lacks it; a line each."""

_ROOTFS = "host"
_SECONDS = 60.0
_STORED: tuple[LimitName, ...] = ("disk", "shm")


class _Examination:
    """Looks at one thing after the other, in the order in which they depend."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.weaker: list[Weaker] = []
        self.inside: list[Inside] = []
        self.upper: str | None = None
        self.backend: str | None = None
        self.require: str | None = None

    def add(self, name: str, found: str | SandboxLiteError, *, hint: str = "") -> bool:
        """Note what was found; return whether it was good."""
        if isinstance(found, SandboxLiteError):
            self.checks.append(
                Check(name=name, verdict="failed", detail=found.message, hint=found.hint or hint)
            )
            return False
        self.checks.append(Check(name=name, verdict="ok", detail=found, hint=hint))
        return True

    def report(self) -> Report:
        """Return all that can be known here."""
        able = self.add("system", _system())
        able &= self.add("bubblewrap", _bubblewrap())
        able = able and self._namespaces(find_bwrap())
        held = self._limits()
        for name, path in (("data", places.data_dir), ("cache", places.cache_dir)):
            able &= self.add(name, _place(path))
        network: tuple[Network, ...] = ()
        if able:
            self._look_inside()
            network = self._network() if self.inside else ()
        for name, missing in OPTIONAL.items():
            lack = missing()
            self.checks.append(
                Check(name=name, verdict="ok", detail="can be had by name")
                if lack is None
                else Check(name=name, verdict="lacking", detail=lack.message, hint=lack.hint or "")
            )
        return Report(
            checks=tuple(self.checks), upper=self.upper, backend=self.backend, limits=held,
            inside=tuple(self.inside), network=network, weaker=tuple(self.weaker),
        )  # fmt: skip

    def _namespaces(self, path: Path) -> bool:
        """Make the namespaces once; return whether a sandbox of some kind can be made."""
        try:
            found = host.probed(path)
        except SandboxLiteError as error:
            return self.add("jail", error)
        if not isinstance(found, host.Block):
            where = "a private tmpfs, bounded by the kernel" if found == "tmpfs" else "a directory"
            self.upper = found
            return self.add(
                "jail",
                "user, mount, pid, network, ipc, uts and cgroup namespaces, overlay, /proc and "
                f"/dev work; writes go to {where}",
            )
        self.checks.append(
            Check(
                name="jail", verdict="failed", detail=found.error().message, hint=found.hint,
                layer=found.layer, paste=found.paste,
            )
        )  # fmt: skip
        if found.layer != "overlay" or not host.copies(path):
            return False
        self.upper = "copy"
        self.weaker.append(rungs.OVERLAY)
        return True

    def _limits(self) -> tuple[LimitState, ...]:
        """Note who would hold the limits of a sandbox here, and what would be firmer."""
        try:
            rung, probe = limits.choose()
        except SandboxLiteError as error:
            self.add("limits", error)
            self.weaker.append(rungs.REQUIRED)
            self.require = limits.BACKENDS[-1].name
            return ()
        self.backend = rung.name
        remedy = limits.remedy(rung)
        kind: states.UpperKind = "tmpfs" if self.upper in (None, "tmpfs") else "directory"
        bounds = Limits.of(cpus=1)
        found = states.states(bounds, probe.holds, kind, states.ask(bounds, kind, ()))
        kernel = sorted(probe.holds) + [one for one in _STORED if _by(found, one) == "kernel"]
        looked = [one for one in ("memory", "pids", *_STORED) if one not in kernel]
        detail = f"{rung.name}: {probe.detail}; the kernel holds {', '.join(kernel)}"
        detail += f"; by samples {', '.join(looked)}" if looked else ""
        detail += "; cpus not at all" if _by(found, "cpus") == "none" else ""
        try:
            states.check(SandboxSpec(rootfs=_ROOTFS), found, probe, remedy)
            self.add("limits", detail, hint=remedy)
        except HostError as error:
            self.add("limits", error)
            self.weaker.append(rungs.PIDS)
        if _by(found, "cpus") == "none":
            self.weaker.append(rungs.CPUS)
        return found

    def _allowed(self) -> tuple[WeakerName, ...]:
        names: dict[str, WeakerName] = {"overlay": "overlay", "pids": "pids"}
        return tuple(names[one.lacks] for one in self.weaker if one.lacks in names)

    def _sandbox(self, *, user: str = "root", network: str = "none") -> Sandbox:
        return Sandbox(
            _ROOTFS, user=user, network=network,
            allow=("sandbox-lite.invalid",) if network == "allow" else (),
            limits=Limits(timeout_seconds=_SECONDS), require=self.require,
            allow_weaker=self._allowed(),
        )  # fmt: skip

    def _look_inside(self) -> None:
        """Start one sandbox for each kind of user, and read there what holds it."""
        for user in ("root", "user"):
            try:
                found = self._seen_by(user)
            except SandboxLiteError as error:
                self.add(f"{user} inside", error)
                continue
            self.inside.append(found)
            self.add(f"{user} inside", inside.agrees(found))

    def _seen_by(self, user: str) -> Inside:
        with self._sandbox(user=user) as sandbox:
            return inside.look(sandbox, user)

    def _network(self) -> tuple[Network, ...]:
        """Start one sandbox for each way to reach a network, and say which modes it serves."""
        lacks: dict[str, SandboxLiteError | None] = {"none": None}  # that was the start before
        found = []
        for mode in networks.MODES.values():
            # all that have a proxy are made alike
            alike = "allow" if mode.rules is not None else mode.name
            if alike not in lacks:
                lacks[alike] = self._lack_of(alike)
            lack = lacks[alike]
            found.append(
                Network(mode=mode.name, ok=True, detail=mode.summary)
                if lack is None
                else Network(mode=mode.name, ok=False, detail=lack.message, hint=lack.hint or "")
            )
        able = ", ".join(one.mode for one in found if one.ok)
        lacking = [one for one in found if not one.ok]
        self.checks.append(
            Check(
                name="network", verdict="lacking" if lacking else "ok",
                detail="; ".join((able, *(f"not {one.mode}: {one.detail}" for one in lacking))),
                hint="; ".join(dict.fromkeys(one.hint for one in lacking if one.hint)),
            )
        )  # fmt: skip
        return tuple(found)

    def _lack_of(self, mode: str) -> SandboxLiteError | None:
        try:
            with self._sandbox(network=mode):
                return None
        except SandboxLiteError as error:
            return error


def examine() -> Report:
    """Look at this machine; it takes as long as half a dozen sandboxes."""
    return _Examination().report()


def _by(found: Sequence[LimitState], name: LimitName) -> str:
    return next(one.by for one in found if one.name == name)


def _system() -> str | SandboxLiteError:
    found = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64"):
        return found
    return HostError(found, hint="Linux on x86-64 or aarch64")


def _bubblewrap() -> str | SandboxLiteError:
    try:
        path = find_bwrap()
    except SandboxLiteError as error:
        return error
    return f"{'.'.join(map(str, version(path) or ()))} at {path}"


def _place(where: Callable[[], Path]) -> str | SandboxLiteError:
    try:
        path = where()
    except SandboxLiteError as error:
        return error
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
