"""The `host` rootfs: the host's own programs, read-only, for machines with no network.

Only `/usr` shows as it is (with `/bin`, `/lib*`, `/nix/store`, `/gnu/store` where those are real
directories). `/etc` is made anew: users and groups are ours, of the rest only what programs need
to start, to find each other and to check certificates is copied, and only if every user may read
it. Nothing of `/home`, `/root`, `/var`, `/run` or `/opt` shows.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, RootfsError
from sandbox_lite.jail import places
from sandbox_lite.jail.rootfs.store import HOST, Rootfs, Store, explained
from sandbox_lite.spec import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator

_SKELETON = "skeleton"
_VERSION = "1"
_FILE_BYTES = 4 << 20

_COPIED = (
    # the dynamic linker, and which of several programs a name means
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld-musl-*.path", "alternatives",
    # public certificates and the settings of TLS: Debian, Fedora, Alpine, SUSE
    "ssl/certs", "ssl/cert.pem", "ssl/ca-bundle.pem", "ssl/openssl.cnf", "ca-certificates.conf",
    "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted",
    "crypto-policies/back-ends", "crypto-policies/config",
    # what this system is, where and when
    "os-release", "debian_version", "redhat-release", "fedora-release", "alpine-release",
    "lsb-release", "localtime", "timezone", "locale.alias", "locale.conf",
    # tables of names
    "mime.types", "protocols", "services", "rpc", "ethertypes", "magic", "magic.mime",
    "gai.conf", "host.conf", "inputrc", "terminfo", "shells", "login.defs",
    # languages and libraries that look for their settings here
    "python3*", "perl", "java-*-openjdk", "fonts", "ImageMagick-*", "texmf", "R", "OpenCL/vendors",
)  # fmt: skip

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_STORES = ("nix/store", "gnu/store")

_DIRECTORIES = {
    "boot": 0o755, "dev": 0o755, "home": 0o755, "home/user": 0o755, "media": 0o755, "mnt": 0o755,
    "opt": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755, "run/lock": 0o1777, "srv": 0o755,
    "sys": 0o555, "testbed": 0o755, "tmp": 0o1777, "usr": 0o755, "var": 0o755, "var/cache": 0o755,
    "var/lib": 0o755, "var/log": 0o755, "var/mail": 0o755, "var/spool": 0o755,
    "var/tmp": 0o1777,
}  # fmt: skip

_USERS = (
    ("root", 0, 0, "/root", "/bin/bash"),
    ("daemon", 1, 1, "/usr/sbin", "/usr/sbin/nologin"),
    ("bin", 2, 2, "/bin", "/usr/sbin/nologin"),
    ("mail", 8, 8, "/var/mail", "/usr/sbin/nologin"),
    ("www-data", 33, 33, "/var/www", "/usr/sbin/nologin"),
    ("user", 1000, 1000, "/home/user", "/bin/bash"),
    # files of users that the jail's user namespace does not know, /usr among them, show as this
    ("nobody", 65534, 65534, "/nonexistent", "/usr/sbin/nologin"),
)

_GROUPS = (
    ("root", 0), ("daemon", 1), ("bin", 2), ("sys", 3), ("adm", 4), ("tty", 5), ("disk", 6),
    ("mail", 8), ("staff", 50), ("utmp", 43), ("shadow", 42), ("www-data", 33), ("users", 100),
    ("user", 1000), ("nogroup", 65534),
)  # fmt: skip

_PATH = "/root/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_WRITTEN = {
    "passwd": "".join(f"{n}:x:{u}:{g}:{n}:{home}:{sh}\n" for n, u, g, home, sh in _USERS),
    "group": "".join(f"{name}:x:{number}:\n" for name, number in _GROUPS),
    "nsswitch.conf": "".join(
        f"{table}: {sources}\n"
        for table, sources in {
            "passwd": "files", "group": "files", "shadow": "files", "hosts": "files dns",
            "networks": "files", "protocols": "files", "services": "files", "ethers": "files",
            "rpc": "files",
        }.items()
    ),
    "hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "resolv.conf": "",
    "environment": "",
    "profile": f'export PATH="${{PATH:-{_PATH}}}"\n',
}  # fmt: skip


def make() -> Rootfs:
    """Return the host's own files as a rootfs, for a look; who goes on using it takes a `lease`.

    Raises:
        RootfsError: The cache cannot be written.
        HostError: The host has no `/usr` with programs.
    """
    with lease() as rootfs:
        return rootfs


@contextmanager
def lease() -> Iterator[Rootfs]:
    """Yield the host's own files as a rootfs and keep its skeleton until the block ends.

    Raises:
        RootfsError: The cache cannot be written.
        HostError: The host has no `/usr` with programs.
    """
    if not Path("/usr/bin").is_dir():
        raise HostError(
            "this host has no /usr/bin, so its files make no rootfs",
            hint="run: sandbox-lite rootfs build minimal",
        )
    # the same atomic replacing and locking as for any rootfs, only in a place that may be deleted
    store = Store(places.cache_dir() / HOST)
    fingerprint = _fingerprint()
    try:
        current = store.info(_SKELETON).recipe == fingerprint
    except RootfsError:
        current = False
    if not current:
        with store.stage(_SKELETON) as stage, explained("copy the host's settings"):
            _fill(stage.tree)
            stage.commit(recipe=fingerprint)
    with store.lease(_SKELETON) as skeleton:
        yield Rootfs(
            name=HOST,
            digest="",
            lowers=skeleton.lowers,
            mounts=_mounts(),
            env={"PATH": _path(), "HOME": "/root", "LANG": "C.UTF-8"},
        )


def _path() -> str:
    system = Path("/run/current-system")
    return f"{system}/sw/bin:{_PATH}" if system.is_symlink() else _PATH


def _mounts() -> tuple[Mount, ...]:
    real = [name for name in _MERGED if _is_real(Path("/", name))]
    stores = [name for name in _STORES if _is_real(Path("/", name))]
    return tuple(
        Mount(target=f"/{name}", source=Path("/", name)) for name in ("usr", *real, *stores)
    )


def _is_real(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _sources() -> Iterator[Path]:
    for pattern in _COPIED:
        yield from sorted(Path("/etc").glob(pattern))


def _fingerprint() -> str:
    """Return what changes whenever the skeleton would: programs replace files, never edit them."""
    found = hashlib.sha256(_VERSION.encode())
    for path in (*_sources(), *(Path("/", name) for name in (*_MERGED, *_STORES))):
        try:
            status = path.stat()
        except OSError:
            continue
        where = path.readlink() if path.is_symlink() else ""
        found.update(f"{path}\0{where}\0{status.st_ino} {status.st_mtime_ns}\0".encode())
    return found.hexdigest()


def _fill(tree: Path) -> None:
    for name, mode in _DIRECTORIES.items():
        (tree / name).mkdir()
        (tree / name).chmod(mode)
    for name in _MERGED:
        path = Path("/", name)
        if path.is_symlink():
            (tree / name).symlink_to(path.readlink())
        elif path.is_dir():
            (tree / name).mkdir()
    for name in _STORES:
        if _is_real(Path("/", name)):
            (tree / name).mkdir(parents=True)
    system = Path("/run/current-system")
    if system.is_symlink():
        (tree / "run" / "current-system").symlink_to(system.resolve())
    etc = tree / "etc"
    etc.mkdir()
    for source in _sources():
        _copy(source, etc / source.relative_to("/etc"))
    for name, text in _WRITTEN.items():
        (etc / name).write_text(text, encoding="ascii")
    (etc / "mtab").symlink_to("/proc/mounts")


def _copy(source: Path, target: Path) -> None:
    """Copy what every user of the host may read; the rest is left out without a word."""
    try:
        status = source.lstat()
        if stat.S_ISLNK(status.st_mode):
            _copy_link(source, target)
        elif stat.S_ISDIR(status.st_mode):
            if status.st_mode & stat.S_IROTH:
                for below in sorted(source.iterdir()):
                    _copy(below, target / below.name)
        elif stat.S_ISREG(status.st_mode):
            _copy_file(source, target, status)
    except (PermissionError, FileNotFoundError):
        return  # it is closed to us, or went away meanwhile


def _copy_link(source: Path, target: Path) -> None:
    text = source.readlink()
    meant = Path(os.path.normpath(source.parent / text))
    if _shows(meant) or (len(text.parts) == 1 and source.parent.name == "certs"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(text)
        return
    # it leads through something that does not show, as NixOS's /etc/static
    final = source.resolve(strict=True)
    if _shows(final):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(final)
    elif final.is_file():
        _copy_file(final, target, final.stat())


def _shows(path: Path) -> bool:
    return any(path.is_relative_to(f"/{root}") for root in ("usr", *_MERGED, *_STORES))


def _copy_file(source: Path, target: Path, status: os.stat_result) -> None:
    if not status.st_mode & stat.S_IROTH or status.st_size > _FILE_BYTES:
        return
    content = source.read_bytes()
    if b"PRIVATE KEY-----" in content:
        return  # world-readable or not, a key beside the certificates is nobody's business
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(0o755 if status.st_mode & stat.S_IXOTH else 0o644)
