"""The signed Release file of a suite: everything else is trusted through the hashes in it."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from sandbox_lite.errors import RootfsError
from sandbox_lite.jail.rootfs.download import Wanted
from sandbox_lite.jail.rootfs.mirror import public
from sandbox_lite.jail.rootfs.store import explained

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandbox_lite.jail.rootfs.download import Downloads

_log = logging.getLogger(__name__)

_COMPRESSIONS = (".xz", ".gz", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A Release file whose signature is good."""

    mirror: str
    suite: str
    date: datetime
    valid_until: datetime | None
    by_hash: bool
    """The mirror keeps indexes under their hash too, so an update meanwhile does no harm."""
    signed: bytes
    """As fetched, for apt."""
    files: Mapping[str, tuple[str, int]]
    """SHA-256 and bytes of each index, by path."""

    def index(self, component: str, architecture: str) -> tuple[str, Wanted]:
        """Return the name and place of the smallest package index.

        Raises:
            RootfsError: The suite has no such component or architecture.
        """
        for suffix in _COMPRESSIONS:
            name = f"{component}/binary-{architecture}/Packages{suffix}"
            if name in self.files:
                digest, size = self.files[name]
                path = f"{name.rpartition('/')[0]}/by-hash/SHA256/{digest}"
                url = f"{self.mirror}/dists/{self.suite}/{path if self.by_hash else name}"
                return name, Wanted(url=url, sha256=digest, size_bytes=size)
        raise RootfsError(
            f"{self.suite} has no {component} for {architecture}",
            hint="mend the recipe's `suite` or `components`",
        )

    @property
    def expired(self) -> bool:
        """Whether its Valid-Until is over."""
        return self.valid_until is not None and self.valid_until < datetime.now(UTC)


def fetch(downloads: Downloads, mirror: str, suite: str, keyring: Path) -> Release | None:
    """Return the Release file of a suite, or None where the mirror has no such suite.

    Raises:
        RootfsError: The mirror fails, the signature is bad, or it is of another suite.
    """
    url = f"{mirror}/dists/{suite}/InRelease"
    signed = downloads.text(url)
    if signed is None:
        return None
    fields = _fields(verified(signed, keyring, what=public(url)))
    # a good signature is not enough: it may be over another suite, in place of the one asked for
    if suite not in (fields.get("codename"), fields.get("suite")):
        raise RootfsError(
            f"{public(url)} is of {fields.get('codename') or 'nothing'!r}, not of {suite!r}",
            hint="the mirror is broken or was altered: use another one",
        )
    try:
        return Release(
            mirror=mirror,
            suite=suite,
            date=_date(fields["date"]),
            valid_until=_date(fields["valid-until"]) if "valid-until" in fields else None,
            by_hash=fields.get("acquire-by-hash") == "yes",
            signed=signed,
            files=_hashes(fields["sha256"]),
        )
    except (KeyError, ValueError) as error:
        raise RootfsError(
            f"{public(url)} is no Release file: {error}", hint="use another mirror"
        ) from error


def verified(signed: bytes, keyring: Path, *, what: str) -> bytes:
    """Return the text that one of the keys has signed, and nothing around it.

    Raises:
        RootfsError: No good signature by any of them.
    """
    import pysequoia

    try:
        certificates = pysequoia.Cert.split_bytes(keyring.read_bytes())
    except (OSError, RuntimeError) as error:
        raise RootfsError(
            f"the keyring {keyring} cannot be read: {error}", hint="mend the recipe's `keyring`"
        ) from error
    try:
        result = pysequoia.verify(bytes=signed, store=lambda _: certificates)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RootfsError(
            f"the signature of {what} is not good: {reason}",
            hint="the mirror was altered, or its keys are newer than this sandbox-lite",
        ) from error
    return bytes(result.bytes or b"")


def check_date(release: Release, records: Path, *, ignore_valid_until: bool) -> None:
    """Check that a Release file is not older than the one the last finished build used.

    Whoever stands between us and the mirror can replay an old signed file and so hold back
    security updates; only memory shows that.

    Raises:
        RootfsError: It is older.
    """
    path = _record(records, release.mirror, release.suite)
    last = _recorded(path)
    if last is not None and release.date < last:
        raise RootfsError(
            f"the Release file of {release.suite} at {public(release.mirror)} is of "
            f"{release.date:%Y-%m-%d %H:%M}, older than that of the last build "
            f"({last:%Y-%m-%d %H:%M})",
            hint="the mirror lags behind or is being replayed; use another one, "
            f"or delete {path} to accept it",
        )
    if release.expired and not ignore_valid_until:
        _log.warning(
            "the Release file of %s at %s was valid until %s only: a frozen or forgotten mirror",
            release.suite, public(release.mirror), release.valid_until,
        )  # fmt: skip


def seen(records: Path, mirror: str, suite: str) -> bool:
    """Return whether a finished build used that suite of that mirror before."""
    return _recorded(_record(records, mirror, suite)) is not None


def remember(release: Release, records: Path) -> None:
    """Keep the date of a Release file for `check_date`.

    Raises:
        RootfsError: The disk refuses.
    """
    path = _record(records, release.mirror, release.suite)
    with explained(f"remember the Release date in {records}"):
        last = _recorded(path)
        if last is not None and last > release.date:
            return  # a build that ran beside this one saw a newer file
        records.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{secrets.token_hex(4)}")
        record = {
            "mirror": public(release.mirror),
            "suite": release.suite,
            "date": release.date.isoformat(),
        }
        partial.write_text(json.dumps(record) + "\n")
        partial.rename(path)


def _record(records: Path, mirror: str, suite: str) -> Path:
    key = hashlib.sha256(f"{public(mirror)} {suite}".encode()).hexdigest()
    return records / f"{suite.replace('/', '_')}-{key[:16]}.json"


def _recorded(path: Path) -> datetime | None:
    try:
        return datetime.fromisoformat(json.loads(path.read_text())["date"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        # fail closed: a damaged record must not open the way for an old file
        raise RootfsError(
            f"the record of the last Release date is damaged: {path}", hint=f"delete {path}"
        ) from error


def _fields(text: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in text.decode(errors="replace").splitlines():
        if line[:1] in (" ", "\t"):
            fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
        else:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()
    return fields


def _hashes(text: str) -> dict[str, tuple[str, int]]:
    found = {}
    for line in text.split("\n"):
        if line:
            digest, size, path = line.split()
            if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
                raise ValueError(f"not a SHA-256: {digest!r}")
            found[path] = (digest, int(size))
    return found


def _date(text: str) -> datetime:
    # Debian writes "UTC", which the mail format reads as an unknown zone
    return parsedate_to_datetime(text.replace("UTC", "+0000")).astimezone(UTC)
