"""Directories of the user: checked before anything starts, copied in and out."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sandbox_lite.cli import signals
from sandbox_lite.cli.terminal import status
from sandbox_lite.errors import FileAccessError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.jail.transfer import TransferReport

INPUT, OUTPUT = "/testbed/input", "/testbed/output"
_SHOWN = 5


def checked_input(path: Path | None, flag: str = "--input") -> Path | None:
    """Return the directory, which is there and can be read.

    Raises:
        SpecError: It is not.
    """
    if path is None:
        return None
    if not path.exists():
        raise SpecError(f"{flag}: there is no directory {path}", hint="check the path")
    if not path.is_dir():
        raise SpecError(
            f"{flag}: {path} is a file, not a directory", hint="name the directory that holds it"
        )
    if not os.access(path, os.R_OK | os.X_OK):
        raise SpecError(f"{flag}: {path} cannot be read", hint="check its permissions")
    return path


def checked_output(path: Path | None, flag: str = "--output") -> Path | None:
    """Return the directory, which is there or can be made, and written.

    Raises:
        SpecError: It cannot.
    """
    if path is None:
        return None
    above = path.absolute()
    while not above.exists() and not above.is_symlink():
        above = above.parent
    if not above.is_dir():
        raise SpecError(f"{flag}: {above} is a file, not a directory", hint="name another one")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SpecError(f"{flag}: {above} cannot be written", hint="name a directory of yours")
    return path


def say_skipped(report: TransferReport, doing: str) -> None:
    """Print what was not copied, if anything."""
    for one in report.skipped[:_SHOWN]:
        status(f"note: not {doing}: {one.path}: {one.reason}")
    if len(report.skipped) > _SHOWN:
        status(f"note: not {doing}: {len(report.skipped) - _SHOWN} more")


def send(sandbox: Sandbox, source: Path | None, target: str = INPUT) -> None:
    """Copy the user's directory in."""
    if source is not None:
        say_skipped(sandbox.files.upload(source, target), "copied in")


def fetch(sandbox: Sandbox, source: str, target: Path) -> TransferReport:
    """Copy a directory out; one Ctrl-C meanwhile waits for the end of it.

    Raises:
        FileAccessError: It could not be read or written; what was copied before stays.
    """
    with signals.held("copying the output"):
        return sandbox.files.download(source, target)


@contextlib.contextmanager
def fetched_at_end(sandbox: Sandbox, target: Path | None) -> Iterator[None]:
    """Make the output directory inside, and copy it out when the block ends, however it does."""
    if target is None:
        yield
        return
    sandbox.exec(["mkdir", "-p", OUTPUT])
    try:
        yield
    finally:
        try:
            say_skipped(fetch(sandbox, OUTPUT, target), "copied out")
        except FileAccessError as error:
            raise FileAccessError(
                f"the output could not be copied: {error.message}",
                errno=error.errno,
                path=error.path,
                hint=error.hint,
            ) from error
