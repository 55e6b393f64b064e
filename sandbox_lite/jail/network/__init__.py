"""Network modes: one file each, one line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.errors import SpecError
from sandbox_lite.jail.network import host, none

if TYPE_CHECKING:
    from sandbox_lite.jail.network.mode import Mode

MODES = {mode.name: mode for mode in (none.MODE, host.MODE)}


def find(name: str) -> Mode:
    """Return the mode of that name.

    Raises:
        SpecError: There is none.
    """
    if name not in MODES:
        raise SpecError(
            f"no network mode {name!r}", hint=f"one of: {', '.join(MODES)}; `none` is the default"
        )
    return MODES[name]
