"""Copying as the package does by tar archives: what stands in the way is replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.jail.transfer import Skipped, TransferReport

if TYPE_CHECKING:
    from sandbox_lite.jail.files import Files, Kind

# paths inside, of which pathlib knows nothing:
# ruff: noqa: PTH118


def into(files: Files, source: str, target: str) -> TransferReport:
    """Copy a file or a directory of the host to a path inside, or into it if a slash ends it.

    Raises:
        FileAccessError: Something cannot be read or written.
        OSError: There is no such file on the host.
    """
    path = os.path.join("/", target)
    if path.endswith("/"):
        path += Path(source).name
    Path(source).stat()
    kind = _kind(files, path)
    if kind is not None and not (kind == "directory" and Path(source).is_dir()):
        files.remove(path, recursive=True)
    return _upload(files, source, path)


def content(files: Files, source: str, target: str) -> TransferReport:
    """Copy what is in a directory of the host into one inside.

    Raises:
        FileAccessError: Something cannot be read or written.
        OSError: There is no such directory on the host.
    """
    Path(source).stat()
    if not Path(source).is_dir():
        raise NotADirectoryError(f"not a directory: {source}")
    return _upload(files, source, os.path.join("/", target))


def out(files: Files, source: str, directory: str) -> TransferReport:
    """Copy what is in a directory inside, or a file, into a directory of the host.

    Raises:
        FileAccessError: There is nothing, or something cannot be read or written.
    """
    path = os.path.join("/", source)
    if _kind(files, path) == "link":
        Path(directory).mkdir(parents=True, exist_ok=True)
        link = Skipped(path=".", reason="it is a link itself")
        return TransferReport(files=0, bytes=0, skipped=(link,))
    return files.download(path, directory)


def _upload(files: Files, source: str, target: str) -> TransferReport:
    report = files.upload(source, target)
    paths = (os.path.join(target, one.path) for one in report.skipped)
    in_the_way = [path for path in paths if _kind(files, path) == "directory"]
    for path in in_the_way:
        files.remove(path, recursive=True)
    return files.upload(source, target) if in_the_way else report


def _kind(files: Files, path: str) -> Kind | None:
    """Return what is at a path inside, not following it where it is a link."""
    above, _, name = path.rpartition("/")
    if not name or not files.exists(above or "/"):
        return None
    return next((one.kind for one in files.list(above or "/") if one.name == name), None)
