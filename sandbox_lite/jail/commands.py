"""The one place that joins all parts to the command that makes a sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.jail import bwrap, etc, host, subids
from sandbox_lite.jail import network as networks
from sandbox_lite.jail.restricted import NO_PROGRAMS
from sandbox_lite.jail.seccomp import filter_path
from sandbox_lite.spec import MIB, inodes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.jail import seccomp
    from sandbox_lite.jail.launch import LaunchFds
    from sandbox_lite.jail.layers import Upper
    from sandbox_lite.jail.rootfs.store import Rootfs
    from sandbox_lite.spec import Limits, Mount, SandboxSpec

CONTROL_BYTES = 512 * MIB
"""Of the control directory, where output too long to return is kept for reading inside."""

_BASE_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
}
PERSONAL = ("HOME", "USER", "LOGNAME", "SHELL")
"""Variables that are the account's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The bwrap of the nest and the one of a sandbox, but for what is tied to descriptors."""

    outer: tuple[str, ...]
    lowers: tuple[Path, ...]
    """Which the outer one holds."""
    uppers: Path | None
    """Where the upper layers on disk are, which it holds as well."""
    own: tuple[str, ...]
    inner: tuple[str, ...]
    """As a person can start it, without a nest."""
    born: tuple[str, ...]
    """The same as it starts in the nest, which has done and does a part of it."""
    covers: tuple[str, ...]
    """That part of it which is done inside."""
    environment: Mapping[str, str]
    filters: tuple[seccomp.FilterName, ...]
    several_ids: bool
    programs: bool = True
    """Whether any runs inside."""

    def argv(self, fds: LaunchFds) -> tuple[str, ...]:
        """Return the inner command with these descriptors and our process 1."""
        inner, *words = self.born
        return (
            inner, "--json-status-fd", str(fds.status), *words,
            # variables come later, to each program: a token must not show in the host's `ps`
            "--clearenv", *bwrap.filters(fds.seccomp), "--", f"/proc/self/fd/{fds.first}",
            *(() if self.programs else (NO_PROGRAMS,)),
        )  # fmt: skip

    def printable(self) -> str:
        """Return both as one command that a person can paste."""
        files = dict(enumerate(self.filters, 8))
        at = self.outer.index("--cap-add")
        # the nest drops what it mounts with; a user's inner bwrap refuses to start with it
        outer = (*self.outer[:at], *self.outer[at + 2 :])
        if self.several_ids:
            # in the place of our mapping from outside, util-linux's
            words = (word for word in self.outer if word != "--unshare-user")
            outer = (*subids.unshare_words(), *words)
        whole = (
            *outer, *self.own, "--", *self.inner, *bwrap.environment(self.environment),
            *bwrap.filters(files), "--", "bash",
        )  # fmt: skip
        opened = (f"{fd}<{bwrap.printable([str(filter_path(name))])}" for fd, name in files.items())
        return " ".join((bwrap.printable(whole), *opened))


def filters(spec: SandboxSpec) -> tuple[seccomp.FilterName, ...]:
    """Return the system call filters that are loaded."""
    # whoever is an ordinary user inside is told so, as anywhere; and nothing need be pretended
    # where it is real
    pretending = spec.user == "root" and spec.ids == "own"
    return ("deny", "fakeroot") if pretending else ("deny",)


def capabilities(spec: SandboxSpec) -> tuple[str, ...]:
    """Return what root inside holds over its own user namespace."""
    if spec.ids == "subordinate":
        return bwrap.ROOT_CAPABILITIES
    return bwrap.CAPABILITIES if spec.user == "root" else ()


def inodes(limits: Limits) -> dict[str, int]:
    """Return how many files each tmpfs may hold, by its path."""
    bounds = {bwrap.SHM: limits.shm_bytes, bwrap.UPPER: limits.disk_bytes}
    return {path: inodes_of(size) for path, size in bounds.items() if size is not None}


def lowers(spec: SandboxSpec, rootfs: Rootfs) -> tuple[Path, ...]:
    """Return the layers below the upper one: the rootfs, and what we put over it.

    Raises:
        HostError: The cache cannot be written.
    """
    return _lowers(spec, rootfs, _trust(rootfs))


def _trust(rootfs: Rootfs) -> Mapping[str, bytes]:
    return etc.trust(rootfs.lowers, of_host=bool(rootfs.mounts))


def _lowers(spec: SandboxSpec, rootfs: Rootfs, trust: Mapping[str, bytes]) -> tuple[Path, ...]:
    mode = networks.find(spec.network)
    files = {"etc/hosts": etc.hosts(spec.hostname), **mode.files(), **trust}
    return (*rootfs.lowers, etc.layer(files))


def _environment(
    spec: SandboxSpec, rootfs: Rootfs, account: etc.Account, *, trusting: bool, proxied: bool
) -> dict[str, str]:
    person = {
        "HOME": account.home, "USER": account.name, "LOGNAME": account.name,
        "SHELL": account.shell,
    }  # fmt: skip
    return {
        **_BASE_ENV, **person, **rootfs.env, **({} if account.uid == 0 else person),
        **(etc.TRUST_ENV if trusting else {}), **(networks.environment() if proxied else {}),
        **spec.env,
    }  # fmt: skip


def join(
    spec: SandboxSpec,
    path: Path,
    rootfs: Rootfs,
    upper: Upper,
    *,
    filters: tuple[seccomp.FilterName, ...],
    proxied: bool,
    frozen: Sequence[Path] = (),
    covers: Mapping[Mount, Mapping[str, bool]] | None = None,
) -> Command:
    """Join all parts to the one command that makes this sandbox.

    Args:
        spec: What is asked for.
        path: The bwrap.
        rootfs: What it is put on.
        upper: Where it writes.
        filters: The system call filters to load.
        proxied: Whether programs find the outside by a proxy.
        frozen: Directories of the layers of a snapshot, the lowest first.
        covers: What stays read-only in overlays over directories of the caller's.

    Raises:
        RootfsError: There is no such user in the rootfs.
        HostError: The cache cannot be written.
    """
    several_ids = spec.ids == "subordinate"
    trust = _trust(rootfs)
    below = _lowers(spec, rootfs, trust)
    # an account may have been added in the sandbox that was frozen
    account = etc.account((*rootfs.lowers, *(path / "upper" for path in frozen)), spec.user)
    mounts = (*rootfs.mounts, *spec.mounts)
    overlays = [n for n, one in enumerate(mounts) if one.mode == "overlay"]
    libraries, inner = host.inner_bwrap(path)
    # the layers of snapshots are beside the upper ones
    kept = frozen[0] if frozen else None if upper.path is None else upper.path.parent
    uppers = None if kept is None else kept.parent
    identity = bwrap.identity(hostname=spec.hostname, uid=account.uid, gid=account.gid)
    if several_ids:
        identity = bwrap.true_root(hostname=spec.hostname)
    shares_host = networks.find(spec.network).shares_host
    first = (
        *bwrap.namespaces(network_host=shares_host, users=not several_ids),
        *identity,
        *(upper.root or bwrap.overlay(len(below), len(frozen))),
    )
    rest = (
        *(
            word
            for n, one in enumerate(mounts)
            for word in (
                *bwrap.mount(one, n), *bwrap.covered(one, n, (covers or {}).get(one, {})),
            )
        ),
        "--ro-bind", bwrap.HELD, bwrap.CONTROL,
        *(word for path in spec.directories for word in ("--dir", path)),
        "--dir", spec.workdir, "--chdir", "/",
        *upper.part.bwrap,
    )  # fmt: skip
    return Command(
        outer=(str(path), *libraries, *bwrap.nest(lowers=below, uppers=uppers, mounts=mounts)),
        lowers=below,
        uppers=uppers,
        own=bwrap.own(
            (*upper.part.own, *bwrap.uppers_of(overlays)),
            control_bytes=CONTROL_BYTES,
            shm_bytes=spec.limits.shm_bytes,
            frozen=frozen,
        ),
        inner=(inner, *first, *bwrap.devices(hidden=host.hidden()), *rest),
        born=(inner, *first, *bwrap.held_devices(), *rest),
        covers=bwrap.covers(host.hidden()),
        environment=_environment(spec, rootfs, account, trusting=bool(trust), proxied=proxied),
        filters=filters,
        several_ids=several_ids,
        programs=spec.programs,
    )
