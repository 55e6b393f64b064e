"""What the kernel refuses while a rootfs is read, built or stored, as one clear error."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, RootfsError, SandboxLiteError
from sandbox_lite.jail import places

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_WRONG_KIND = (errno.ENOTDIR, errno.EEXIST)
_UNABLE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESTALE)
_ELSEWHERE = f"set {places.HOME_VARIABLE} to a directory on a local disk"


def explain(error: OSError, doing: str) -> SandboxLiteError:
    """Return the one clear error for what the kernel said while the store did `doing`."""
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    message = f"cannot {doing}: {error.strerror or error}{where}"
    if error.errno in _FULL:
        hint = f"free some space, remove a rootfs (sandbox-lite rootfs rm NAME), or {_ELSEWHERE}"
        return RootfsError(message, hint=hint)
    if error.errno in _DENIED:
        hint = f"it must belong to the user who runs this; give it to him, or {_ELSEWHERE}"
        return RootfsError(message, hint=hint)
    if error.errno in _WRONG_KIND:
        hint = f"something else stands where a directory belongs: move it away, or {_ELSEWHERE}"
        return RootfsError(message, hint=hint)
    if error.errno in _UNABLE:
        return HostError(f"{message}: this file system cannot hold the store", hint=_ELSEWHERE)
    hints = {errno.ENOENT: "check the path", errno.EISDIR: "name a file, not a directory"}
    return RootfsError(message, hint=hints.get(error.errno or 0))


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn any OSError of the block into the one clear error of `explain`."""
    try:
        yield
    except OSError as error:
        raise explain(error, doing) from error
