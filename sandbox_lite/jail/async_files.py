"""The files of a sandbox for asyncio."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from sandbox_lite.errors import FileAccessError
from sandbox_lite.jail.coroutines import in_thread
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    import os

    from sandbox_lite.jail.files import FileEntry, Files
    from sandbox_lite.jail.transfer import TransferReport

LONG_BYTES = MIB
"""Of a file; to copy less takes no longer than to wake a thread and to hand it over."""


class AsyncFiles:
    """`Files` for asyncio: what may take long is done in a thread, all else at once."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def read(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        follow_links: bool = True,
    ) -> bytes:
        """See `Files.read`."""
        read = partial(self._files.read, path, follow_links=follow_links)
        if max_bytes is None or max_bytes > LONG_BYTES:
            try:
                return read(max_bytes=LONG_BYTES)
            except FileAccessError as error:
                if error.errno != errno.EFBIG:
                    raise
            return await in_thread("files", lambda: read(max_bytes=max_bytes))
        return read(max_bytes=max_bytes)

    async def write(
        self, path: str | os.PathLike[str], data: bytes | str, *, mode: int | None = None
    ) -> None:
        """See `Files.write`."""
        if len(data) > LONG_BYTES:
            await in_thread("files", lambda: self._files.write(path, data, mode=mode))
        else:
            self._files.write(path, data, mode=mode)

    async def list(self, path: str | os.PathLike[str] = ".") -> tuple[FileEntry, ...]:
        """See `Files.list`."""
        return self._files.list(path)

    async def exists(self, path: str | os.PathLike[str]) -> bool:
        """See `Files.exists`."""
        return self._files.exists(path)

    async def remove(self, path: str | os.PathLike[str], *, recursive: bool = False) -> None:
        """See `Files.remove`."""
        if recursive:
            await in_thread("files", lambda: self._files.remove(path, recursive=True))
        else:
            self._files.remove(path)

    async def upload(
        self, source: str | os.PathLike[str], target: str | os.PathLike[str]
    ) -> TransferReport:
        """See `Files.upload`."""
        return await in_thread("files", lambda: self._files.upload(source, target))

    async def download(
        self, path: str | os.PathLike[str], directory: str | os.PathLike[str]
    ) -> TransferReport:
        """See `Files.download`."""
        return await in_thread("files", lambda: self._files.download(path, directory))
