"""Whether this machine is short of memory: by the kernel's pressure stall information if it can."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

_MOST_STALLED_PERCENT = 10.0
"""Of the last ten seconds, in which some process waited for memory."""
_LEAST_FREE = 0.1
_SOME = re.compile(r"^some avg10=([0-9.]+)", re.MULTILINE)


def is_high(path: Path = Path("/proc/pressure/memory")) -> bool:
    """Return whether nothing should be started that can wait.

    `path` is the file of Documentation/accounting/psi.rst; where there is none, or it is switched
    off, what is available counts.
    """
    try:
        match = _SOME.search(path.read_text())
    except OSError:
        match = None
    if match is not None:
        return float(match[1]) >= _MOST_STALLED_PERCENT
    memory = psutil.virtual_memory()
    return bool(memory.available < memory.total * _LEAST_FREE)
