"""Pure: what is asked for becomes words for bwrap. Knows nothing of the disk or of processes."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.spec import Mount

CAPABILITIES = ("CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETFCAP")
"""What uid 0 keeps over its own user namespace: dpkg re-opens files of mode 0440.

With one id, CAP_CHOWN has no other to give away, and CAP_NET_BIND_SERVICE is asked for in the
namespace that the network belongs to, which is the outer one.
"""

ROOT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETFCAP",
    "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
"""What root keeps where it has other ids below it: Docker's list but for four.

Without CAP_MKNOD, which makes no device in any user namespace; CAP_AUDIT_WRITE, which the kernel
asks of the host's root alone; CAP_NET_BIND_SERVICE, for low ports are everybody's; CAP_NET_RAW, for
what leaves a sandbox leaves it by the proxy. CAP_SETPCAP can only take away: daemons shed what
they need no longer with it. CAP_SYS_CHROOT is for the likes of sshd; behind a chroot stands the
root of the sandbox's own mounts.
"""

CONTROL = "/run/sandbox-lite"
"""Where the jail sees our control directory, read-only."""

LOWER, UPPER, HELD, MOUNTS, SHM = "/lower", "/upper", "/control", "/mounts", "/shm"
FROZEN = "/frozen"
DEVICES = "/devices"
"""Names in the outer mount namespace: the jail's mountinfo shows them instead of host paths."""

COPY = ("--bind", f"{UPPER}/upper", "/")
"""The root where no overlay can be had: the upper layer holds a copy of the lower ones."""


def namespaces(*, network_host: bool, users: bool = True) -> tuple[str, ...]:
    """Return the words that unshare everything, but for the network where it is the host's.

    Args:
        network_host: It is.
        users: With a user namespace; without, the one of the outer bwrap is the jail's own.
    """
    # --disable-userns is refused without an explicit --unshare-user, also where bwrap implies it.
    # --as-pid-1: bwrap's own reaper would show the host's words in /proc/1/cmdline.
    return (
        *(("--unshare-user", "--disable-userns") if users else ()),
        "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try",
        *(() if network_host else ("--unshare-net",)),
        "--as-pid-1", "--new-session", "--die-with-parent",
    )  # fmt: skip


def true_root(*, hostname: str) -> tuple[str, ...]:
    """Return the words for host name and capabilities where ids are mapped from outside."""
    return (
        "--hostname", hostname, "--cap-drop", "ALL",
        *(word for capability in ROOT_CAPABILITIES for word in ("--cap-add", capability)),
    )  # fmt: skip


def identity(*, hostname: str, uid: int = 0, gid: int = 0) -> tuple[str, ...]:
    """Return the words for host name, ids and capabilities; bwrap always sets no-new-privs.

    Another id than root's holds no capability: programs take an ordinary user for one.
    """
    held = CAPABILITIES if uid == 0 else ()
    return (
        "--hostname", hostname, "--uid", str(uid), "--gid", str(gid),
        "--cap-drop", "ALL",
        *(word for capability in held for word in ("--cap-add", capability)),
    )  # fmt: skip


def covers(hidden: Sequence[str]) -> tuple[str, ...]:
    """Return the words that cover what a jail's /proc must not show, or let be written.

    Args:
        hidden: Files below /proc, and directories, whose names end with a slash.
    """
    # bwrap's own cover of these looks whether their directory can be written, but what root of
    # the host may write is the files below it: sysctls, and the key that reboots the machine
    words = [
        word
        for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/fs")
        for word in ("--ro-bind-try", path, path)
    ]
    for path in hidden:
        # bound without --dev-bind it opens for nobody
        empty = ("--size", "4096", "--perms", "0755", "--tmpfs")
        words += [*(empty if path.endswith("/") else ("--ro-bind-try", "/dev/null"))]
        words.append(path.rstrip("/"))
    return tuple(words)


def devices(*, shm_bytes: int | None = None, hidden: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the words for /proc and a /dev of which only /dev/shm takes files, and few.

    Args:
        shm_bytes: Size of /dev/shm; None is the one that the outer bwrap holds.
        hidden: See `covers`.
    """
    shm: tuple[str, ...] = ("--bind", SHM, "/dev/shm")
    if shm_bytes is not None:
        shm = ("--size", str(shm_bytes), "--perms", "1777", "--tmpfs", "/dev/shm")
    # bwrap's /dev is a tmpfs of half the memory: read-only it takes nothing, pts and shm go on
    return (
        "--proc", "/proc", *covers(hidden), "--dev", "/dev",
        *shm, "--remount-ro", "/dev",
    )  # fmt: skip


def held_devices() -> tuple[str, ...]:
    """Return the words for an uncovered /proc, and the /dev that the nest holds.

    For each mount of its own bwrap reads the list of all anew; this one takes the place of ten, and
    what is covered is left to the nest.
    """
    return ("--proc", "/proc", "--dev-bind", DEVICES, "/dev")


NODES = ("null", "zero", "full", "random", "urandom", "tty")
"""Devices of the host's that are shown."""


def _prepared_devices() -> tuple[str, ...]:
    """Return the words for what is the same in the /dev of all sandboxes, as bwrap's --dev has it.

    Terminals and shm, which are one sandbox's alone, have directories to be mounted on.
    """
    nodes = (f"/dev/{name}" for name in NODES)
    links = {
        "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
        "fd": "/proc/self/fd", "core": "/proc/kcore", "ptmx": "pts/ptmx",
    }  # fmt: skip
    return (
        "--perms", "0755", "--tmpfs", DEVICES,
        *(word for node in nodes for word in ("--dev-bind", node, f"{DEVICES}{node[4:]}")),
        *(word for name, to in links.items() for word in ("--symlink", to, f"{DEVICES}/{name}")),
        "--dir", f"{DEVICES}/pts", "--dir", f"{DEVICES}/shm", "--remount-ro", DEVICES,
    )  # fmt: skip


def filters(fds: Iterable[int]) -> tuple[str, ...]:
    """Return the words that load system call filters, each from a descriptor of its own."""
    return tuple(word for fd in fds for word in ("--add-seccomp-fd", str(fd)))


def environment(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words that replace the whole environment."""
    words = ["--clearenv"]
    for name, value in env.items():
        words += ["--setenv", name, value]
    return tuple(words)


def overlay(lowers: int, frozen: int = 0) -> tuple[str, ...]:
    """Return the words for a root of so many held lower layers under the held upper one.

    Args:
        lowers: The rootfs, and what we put over it.
        frozen: Layers of snapshots above those.
    """
    # bwrap stacks --overlay-src with the last one named on top
    below = (
        *(f"{LOWER}/{n}" for n in range(lowers)),
        *(f"{FROZEN}/{n}/upper" for n in range(frozen)),
    )
    sources = tuple(word for path in below for word in ("--overlay-src", path))
    return (*sources, "--overlay", f"{UPPER}/upper", f"{UPPER}/work", "/")


def sized(size_bytes: int | None) -> tuple[str, ...]:
    """Return the words that bound the `--tmpfs` behind them; without, it takes half the memory."""
    return () if size_bytes is None else ("--size", str(size_bytes))


def mount(one: Mount, number: int) -> tuple[str, ...]:
    """Return the words for one further mount, held by the outer bwrap under its number."""
    if one.mode == "tmpfs":
        return (*sized(one.size_bytes), "--tmpfs", one.target)
    if one.mode == "overlay":
        base = f"{UPPER}/{UPPERS_OF_MOUNTS}/{number}"
        return (
            "--overlay-src", f"{MOUNTS}/{number}",
            "--overlay", f"{base}/upper", f"{base}/work", one.target,
        )  # fmt: skip
    option = "--bind" if one.mode == "bind" else "--ro-bind"
    return (option, f"{MOUNTS}/{number}", one.target)


_NAMES_BYTES = 64 * 1024
"""Of a tmpfs that holds nothing but directories to mount on."""


def covered(one: Mount, number: int, paths: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the words that make paths in an overlay read-only: they show the host's own.

    Args:
        one: The overlay.
        number: Its own.
        paths: Below it, each with whether it is a directory.
    """
    words: list[str] = []
    for path, directory in paths.items():
        source, target = f"{MOUNTS}/{number}/{path}", f"{one.target.rstrip('/')}/{path}"
        if directory:
            # in the place of a bind, of which the jail's mountinfo tells where it is on the host;
            # bwrap wants two layers
            empty = f"{UPPER}/{UPPERS_OF_MOUNTS}/{number}/empty"
            words += ["--overlay-src", empty, "--overlay-src", source, "--ro-overlay", target]
        else:
            words += ["--ro-bind", source, target]
    return tuple(words)


UPPERS_OF_MOUNTS = "mounts"
"""Beside the upper layer of the root: those of further overlays, in the same disk and bound."""


def upper_of(number: int) -> str:
    """Return where the outer namespace has the upper layer of a further overlay."""
    return f"{UPPER}/{UPPERS_OF_MOUNTS}/{number}/upper"


def uppers_of(numbers: Sequence[int]) -> tuple[str, ...]:
    """Return the words that make the upper layers of further overlays, where the root's is."""
    if not numbers:
        return ()
    base = f"{UPPER}/{UPPERS_OF_MOUNTS}"
    words = ["--dir", base]
    for number in numbers:
        words += ["--dir", f"{base}/{number}"]
        for name in ("upper", "work", "empty"):
            words += ["--dir", f"{base}/{number}/{name}"]
    return tuple(words)


UPPERS = "/uppers"
"""Where the nest finds the directories of all upper layers on disk."""


def nest(
    *, lowers: Sequence[Path], uppers: Path | None, mounts: Sequence[Mount]
) -> tuple[str, ...]:
    """Return the words for the outer bwrap: it holds every source under a neutral name.

    Binds and overlays show their source in the jail's mountinfo. In a mount namespace of their
    own the rootfs is `/lower/0` and the upper layer `/upper`, wherever they are on the host, and
    the host's mounts, each of which makes every start slower, are gone. What is one sandbox's
    alone, see `own`, is mounted in a copy of that namespace.
    """
    # the kernel lets a user namespace mount a new /proc only where a whole one is visible already
    words = ["--unshare-user", "--die-with-parent", "--bind", "/proc", "/proc"]
    # it mounts for every sandbox
    words += ["--cap-add", "ALL"]
    # bwrap itself works below /tmp
    words += ["--dev-bind", "/dev", "/dev"]
    words += _prepared_devices()
    words += [word for path in ("/tmp", UPPER, SHM, HELD, FROZEN) for word in ("--dir", path)]
    for number, path in enumerate(lowers):
        words += ["--ro-bind", str(path), f"{LOWER}/{number}"]
    if uppers is not None:
        words += ["--bind", str(uppers), UPPERS]
    for number, one in enumerate(mounts):
        if one.source is not None:
            option = "--bind" if one.mode == "bind" else "--ro-bind"
            words += [option, str(one.source), f"{MOUNTS}/{number}"]
    return tuple(words)


def own(
    upper: Sequence[str],
    *,
    control_bytes: int,
    shm_bytes: int | None = None,
    frozen: Sequence[Path] = (),
) -> tuple[str, ...]:
    """Return the words for what is mounted around the jail for one sandbox alone.

    Args:
        upper: Those of its upper layer.
        frozen: Directories of the layers of its snapshot, the lowest first.
        control_bytes: Size of the control directory.
        shm_bytes: Size of /dev/shm; None is what the kernel gives, half the memory.
    """
    # under names of one length: overlay's option string is cut without a word at 4095 bytes
    layers = () if not frozen else (*sized(_NAMES_BYTES), "--perms", "0755", "--tmpfs", FROZEN)
    for number, path in enumerate(frozen):
        layers += ("--dir", f"{FROZEN}/{number}", "--bind", str(path), f"{FROZEN}/{number}")
    return (
        *upper, *layers,
        *sized(shm_bytes), "--perms", "1777", "--tmpfs", SHM,
        *sized(control_bytes), "--perms", "0755", "--tmpfs", HELD,
    )  # fmt: skip


def printable(argv: Sequence[str]) -> str:
    """Return the command as it can be pasted into a shell."""
    return shlex.join(argv)
