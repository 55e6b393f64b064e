"""One thin lower layer over the rootfs: host name, name servers, the host's extra certificates.

A layer, not binds: packages replace `/etc/ssl/certs/ca-certificates.crt` by a rename, which the
kernel refuses on a mount point.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, RootfsError
from sandbox_lite.jail import places
from sandbox_lite.jail.openat2 import IN_ROOT, NO_MAGICLINKS, openat2
from sandbox_lite.jail.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_ANCHORS = ("/usr/local/share/ca-certificates", "/etc/pki/ca-trust/source/anchors")
_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s+[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_LIMIT_BYTES = 4 * 1024 * 1024


@functools.lru_cache(maxsize=8)
def _certificates(data: bytes) -> tuple[bytes, ...]:
    # Certificates only: a private key that stands in the same file stays outside. Every start
    # asks for those of the same few files, so what was found in the same bytes is kept.
    found = (match[0].replace(b"\r", b"").strip() + b"\n" for match in _PEM.finditer(data))
    return tuple(found)


_contents: dict[Path, tuple[tuple[int, ...], bytes]] = {}
"""What was read of a file, and what it then was: every start asks for the same few."""


def _content(path: Path, root: Path | None = None) -> bytes:
    """Return what a regular file holds; in a rootfs of others a link may lead anywhere."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if root is None:
        fd = os.open(path, flags)
    else:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            below = os.fsencode(path.relative_to(root))
            fd = openat2(top, below, flags, resolve=IN_ROOT | NO_MAGICLINKS)
        finally:
            os.close(top)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "no regular file", str(path))
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = _contents.get(path)
        if known is None or known[0] != state:
            known = _contents[path] = (state, file.read(_LIMIT_BYTES))
        return known[1]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # pathlib is slow
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _sources() -> Iterator[Path]:
    for anchor in _ANCHORS:
        below = (f"{top}/{name}" for top, _, names in os.walk(anchor) for name in names)
        yield from (Path(path) for path in sorted(below) if os.path.isfile(path))  # noqa: PTH113
    known = {_identity(path) for path in _SYSTEM_BUNDLES}
    for variable in _VARIABLES:
        name = os.environ.get(variable)
        # the distribution's own bundle is no addition of this host
        if name and _identity(name) not in known:
            yield Path(name)


def extra_certificates(bundle: bytes = b"") -> tuple[bytes, ...]:
    """Return the CA certificates, in PEM, that this host trusts beside those of a bundle."""
    return _extra(bundle, _source_contents())


def _source_contents() -> tuple[bytes, ...]:
    found = []
    for path in _sources():
        with contextlib.suppress(OSError):
            found.append(_content(path))
    return tuple(found)


@functools.lru_cache(maxsize=8)
def _extra(bundle: bytes, sources: tuple[bytes, ...]) -> tuple[bytes, ...]:
    have = set(_certificates(bundle))
    found = dict.fromkeys(one for source in sources for one in _certificates(source))
    return tuple(one for one in found if one not in have)


def trust(lowers: Sequence[Path], *, of_host: bool = False) -> Mapping[str, bytes]:
    """Return the files that add the host's extra certificates to a rootfs's trust store.

    Args:
        lowers: Its layers.
        of_host: Whether it is the rootfs `host`, whose links lead into the host's /usr, which is
            shown inside.
    """
    for lower in reversed(lowers):
        with contextlib.suppress(OSError):
            bundle = _content(lower / BUNDLE, None if of_host else lower)
            break
    else:
        bundle = b""
    return _trusted(bundle, _source_contents())


@functools.lru_cache(maxsize=8)
def _trusted(bundle: bytes, sources: tuple[bytes, ...]) -> Mapping[str, bytes]:
    extra = _extra(bundle, sources)
    if not extra:
        return {}
    files = {BUNDLE: bundle.rstrip(b"\n") + b"\n" + b"".join(extra)}
    for number, one in enumerate(extra):
        # where update-ca-certificates looks when a package makes the bundle anew
        files[f"usr/local/share/ca-certificates/host-{number}.crt"] = one
    return files


_TRUST_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT",
                    "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")  # fmt: skip
TRUST_ENV = dict.fromkeys(_TRUST_VARIABLES, f"/{BUNDLE}")
"""Set where the host has extra certificates: pip, uv and Node.js bring a list of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


_ACCOUNT = re.compile(r"([^:]+):[^:]*:(\d{1,9}):(\d{1,9}):[^:]*:(/[^:]*):([^:]*)")
ROOT = Account(name="root", uid=0, gid=0, home="/root", shell="/bin/bash")


def account(lowers: Sequence[Path], name: str) -> Account:
    """Return the account of that name in a rootfs.

    Raises:
        RootfsError: There is none.
    """
    if name == ROOT.name:
        return ROOT
    for one in _accounts(lowers):
        if one.name == name:
            return one
    raise RootfsError(
        f"this rootfs has no user {name!r}", hint="`standard` has `user`; all have `root`"
    )


def _accounts(lowers: Sequence[Path]) -> Iterator[Account]:
    for lower in reversed(lowers):
        with contextlib.suppress(OSError):
            text = _content(lower / "etc/passwd", lower).decode(errors="replace")
            for match in map(_ACCOUNT.fullmatch, text.splitlines()):
                if match is not None:
                    yield Account(
                        name=match[1], uid=int(match[2]), gid=int(match[3]), home=match[4],
                        shell=match[5] or ROOT.shell,
                    )  # fmt: skip
            return


def people(lowers: Sequence[Path]) -> tuple[Account, ...]:
    """Return the accounts of a rootfs that are a person's and have a home below /home.

    Debian gives people the ids from 1000 to 59999: Debian Policy, 9.2.2.
    """
    return tuple(
        one for one in _accounts(lowers)
        if 1000 <= one.uid < 60000 and re.fullmatch(r"/home/[A-Za-z0-9_][\w.-]*", one.home)
    )  # fmt: skip


def hosts(hostname: str) -> bytes:
    """Return an `/etc/hosts` that knows loopback and the sandbox itself."""
    return (
        f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n"
    ).encode()


@functools.lru_cache(maxsize=64)
def _digest(files: tuple[tuple[str, bytes], ...]) -> str:
    digest = hashlib.sha256()
    for name, data in files:
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:24]


def layer(files: Mapping[str, bytes]) -> Path:
    """Return the directory of a lower layer with these files, made once and shared.

    Raises:
        HostError: The cache cannot be written.
    """
    base = places.cache_dir() / "layers"
    path = base / _digest(tuple(sorted(files.items())))
    if path.is_dir():
        return path
    stage = base / f".{os.getpid()}-{secrets.token_hex(4)}"
    try:
        for name, data in files.items():
            target = stage / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o644)
        for directory in (stage, *(one for one in stage.rglob("*") if one.is_dir())):
            directory.chmod(0o755)
        # another start may have been quicker; then its directory is as good
        with contextlib.suppress(OSError):
            stage.rename(path)
    except OSError as error:
        raise HostError(
            f"cannot write the cache {base}: {error.strerror}",
            hint=f"set {places.HOME_VARIABLE} to a directory of yours with free space",
        ) from error
    finally:
        remove_tree(stage)
    return path
