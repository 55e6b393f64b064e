"""Files from a mirror, each checked by hash, kept in a cache that all builds share."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sandbox_lite.errors import RootfsError
from sandbox_lite.jail.rootfs.mirror import MIRROR_VARIABLE, public
from sandbox_lite.jail.rootfs.store import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    import httpx2

_PARALLEL = 8
_ATTEMPTS = 3
_KEEP_SECONDS = 45 * 86400
_RETRIED = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One file, known by its content."""

    url: str
    sha256: str
    """64 hexadecimal digits."""
    size_bytes: int


class Downloads:
    """A client for one build; the cache it fills outlives it.

    Args:
        cache: Directory of finished files, each named by its SHA-256.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._client: httpx2.Client | None = None
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        import httpx2

        with explained(f"make the download cache {self.cache}"):
            self.cache.mkdir(parents=True, exist_ok=True)
            self._tidy()
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(20, connect=10),
            limits=httpx2.Limits(max_connections=_PARALLEL),
            follow_redirects=True,
            # some mirrors compress what is compressed already; hashes are of the file itself
            headers={"User-Agent": "sandbox-lite", "Accept-Encoding": "identity"},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cancelled.set()
        if self._client is not None:
            self._client.close()

    def text(self, url: str, *, limit_bytes: int = 8 << 20) -> bytes | None:
        """Return a small file that has no known hash, or None where the mirror has none.

        Raises:
            RootfsError: The mirror cannot be reached, refuses, or sends too much.
        """
        body = bytearray()

        def take(chunk: bytes) -> None:
            body.extend(chunk)
            if len(body) > limit_bytes:
                raise RootfsError(
                    f"{public(url)} is longer than {limit_bytes} bytes",
                    hint=f"that is no Debian mirror: use another {_VARIABLE}",
                )

        return bytes(body) if self._fetch(url, take, body.clear) else None

    def file(self, wanted: Wanted, *, tell: Callable[[int], None] = lambda _: None) -> Path:
        """Return the path of a file with exactly that content, from the cache or the mirror.

        Args:
            wanted: What to get.
            tell: Told of each piece's bytes as it comes.

        Raises:
            RootfsError: It cannot be had, or what came is something else.
        """
        path = self.cache / wanted.sha256
        with explained(f"write to the download cache {self.cache}"):
            if _matches(path, wanted):
                os.utime(path)
                tell(wanted.size_bytes)
                return path
            partial = self.cache / f".{wanted.sha256}-{secrets.token_hex(4)}"
            try:
                self._download(wanted, partial, tell)
                partial.rename(path)
            finally:
                partial.unlink(missing_ok=True)
        return path

    def files(
        self, wanted: Iterable[Wanted], *, tell: Callable[[int], None] = lambda _: None
    ) -> list[Path]:
        """Return the paths of many files, eight on the way at a time.

        Raises:
            RootfsError: One cannot be had, or what came is something else.
        """
        lock = threading.Lock()

        def told(count: int) -> None:
            with lock:
                tell(count)

        with ThreadPoolExecutor(_PARALLEL) as pool:
            pending = [pool.submit(self.file, one, tell=told) for one in wanted]
            try:
                for done in as_completed(pending):
                    done.result()
            except BaseException:
                self._cancelled.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            return [one.result() for one in pending]

    def _download(self, wanted: Wanted, partial: Path, tell: Callable[[int], None]) -> None:
        digest, received = hashlib.sha256(), 0
        with partial.open("wb") as out:

            def take(chunk: bytes) -> None:
                nonlocal received
                received += len(chunk)
                if received > wanted.size_bytes:
                    raise _differs(wanted, "is longer than the signed index says")
                digest.update(chunk)
                out.write(chunk)
                tell(len(chunk))

            def again() -> None:
                nonlocal digest, received
                tell(-received)
                digest, received = hashlib.sha256(), 0
                out.seek(0)
                out.truncate()

            if not self._fetch(wanted.url, take, again):
                raise RootfsError(
                    f"the mirror lacks {public(wanted.url)}",
                    hint=f"it may be in the middle of an update: try again, or another {_VARIABLE}",
                )
        if digest.hexdigest() != wanted.sha256:
            raise _differs(wanted, "does not have the hash of the signed index")

    def _fetch(self, url: str, take: Callable[[bytes], None], again: Callable[[], None]) -> bool:
        import httpx2

        assert self._client is not None, "used as a context manager"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._client.stream("GET", url) as response:
                    if response.status_code in (404, 410):
                        return False
                    if response.status_code in _RETRIED and attempt < _ATTEMPTS:
                        raise httpx2.ReadError(f"status {response.status_code}")
                    response.raise_for_status()
                    for chunk in response.iter_raw(1 << 16):
                        if self._cancelled.is_set():
                            raise RootfsError(f"the download of {public(url)} was given up")
                        take(chunk)
                    return True
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                final = isinstance(error, httpx2.HTTPStatusError | httpx2.InvalidURL)
                if final or attempt == _ATTEMPTS or self._cancelled.is_set():
                    raise _unreachable(url, error) from error
                again()
                self._cancelled.wait(0.3 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _tidy(self) -> None:
        oldest = time.time() - _KEEP_SECONDS
        for entry in os.scandir(self.cache):
            # a killed build's partial file; another build's living one is minutes old
            limit = time.time() - 86400 if entry.name.startswith(".") else oldest
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < limit:
                    os.unlink(entry.path)  # noqa: PTH108  # an entry of scandir


_VARIABLE = f"mirror ({MIRROR_VARIABLE})"


def _matches(path: Path, wanted: Wanted) -> bool:
    try:
        if path.stat().st_size != wanted.size_bytes:
            return False
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == wanted.sha256
    except FileNotFoundError:
        return False


def _differs(wanted: Wanted, how: str) -> RootfsError:
    return RootfsError(
        f"{public(wanted.url)} {how}",
        hint=f"the mirror is being updated or was altered: try again, or another {_VARIABLE}",
    )


def _unreachable(url: str, error: Exception) -> RootfsError:
    # messages of some errors end in a link to a page about the status code
    said = str(error).partition("\n")[0].partition(" for url ")[0] or type(error).__name__
    return RootfsError(
        f"cannot fetch {public(url)}: {said}",
        hint=f"name another mirror: --mirror URL or {MIRROR_VARIABLE}; "
        "where there is no network at all, the rootfs `host` needs none",
    )
