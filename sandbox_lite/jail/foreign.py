"""Removes the directory of an upper layer in which files of subordinate ids may be.

To this user they are others': only in a user namespace with the same ids is he root over them. When
the sandbox's own is gone another must be made, by the bwrap that made that one: a security module
may allow it to no other program. Nothing but the standard library is needed here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

from sandbox_lite.errors import HostError
from sandbox_lite.jail import subids
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.jail.removal import remove_tree

MARK = "bwrap"
"""A link beside the upper layer, out of the sandbox's sight, to the program that made it."""
PARTS = ("upper", "work", "mounts")

_PROGRAM = """\
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from sandbox_lite.jail.removal import remove_tree
for path in sys.argv[2:]:
    remove_tree(Path(path))
"""
_SECONDS = 600.0
_RETRY_SECONDS = 0.05


def mark(path: Path, bwrap: Path) -> None:
    """Note that what is below `path` may belong to subordinate ids of this user."""
    (path / MARK).symlink_to(bwrap)


def remove_upper(path: Path) -> None:
    """Remove a directory with an upper layer, whoever its files belong to.

    Raises:
        OSError: Something could not be removed.
    """
    # root of the host needs no namespace for it
    if os.geteuid() != 0:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            bwrap = (path / MARK).readlink()
            # the mark goes last: who comes after a half-done removal needs it again
            _remove_parts(bwrap, [path / part for part in PARTS])
    remove_tree(path)


def _remove_parts(bwrap: Path, parts: list[Path]) -> None:
    try:
        _remove_inside(bwrap, parts)
    except OSError as error:
        # ids that were taken away meanwhile are not missed where nothing belongs to them
        for part in parts:
            try:
                remove_tree(part)
            except OSError:
                raise error from None


def _remove_inside(bwrap: Path, paths: list[Path]) -> None:
    info_read, info = os.pipe2(os.O_CLOEXEC)
    unmapped, mapped = os.pipe2(os.O_CLOEXEC)
    with (
        os.fdopen(info_read, "rb") as reports, os.fdopen(info, "wb") as reports_write,
        os.fdopen(unmapped, "rb") as blocked, os.fdopen(mapped, "wb") as unblock,
    ):  # fmt: skip
        argv = [
            str(bwrap), "--unshare-user", "--cap-add", "ALL", "--die-with-parent",
            "--info-fd", str(info), "--userns-block-fd", str(unmapped), "--dev-bind", "/", "/",
            "--", sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parents[2]),
            *map(str, paths),
        ]  # fmt: skip
        process = subprocess.Popen(
            argv, pass_fds=(info, unmapped), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={}, start_new_session=True,
        )  # fmt: skip
        place = str(paths[0].parent)
        try:
            reports_write.close()
            blocked.close()
            # bwrap writes it in pieces and closes it behind the last
            text = reports.read()
            problem = _mapped(int(json.loads(text)["child-pid"])) if text else None
            # where that failed, too: it then ends by itself
            unblock.close()
            said = process.communicate(timeout=_SECONDS)[1].decode(errors="replace").strip()
        except subprocess.TimeoutExpired as error:
            raise OSError(errno.ETIMEDOUT, "it took too long", place) from error
        finally:
            unblock.close()
            _end(process)
        if problem is not None or process.returncode != 0:
            said = said[-500:] if problem is None else problem.message
            raise OSError(errno.EACCES, said or "bwrap failed", place) from problem


def _mapped(pid: int) -> HostError | None:
    try:
        subids.write_maps(pid)
    except HostError as error:
        return error
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of it, after Ctrl-C say, and wait."""
    while process.returncode is None:
        process.kill()
        # in the middle of its start a bwrap leaves a child that nothing wakes
        kill_orphans()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_RETRY_SECONDS)
