"""Who holds the limits: a ladder of rungs, the firmest first; one file, one line in the table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail.limits import cgroup, delegation, sampling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_lite.jail.limits.backend import Backend, Probe

BACKENDS: tuple[Backend, ...] = (cgroup.V2, cgroup.V1, sampling.SAMPLING)

REQUIRE_VARIABLE = "SANDBOX_LITE_REQUIRE"
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "cgroup": ("cgroup2", "cgroup1"),
    **{backend.name: (backend.name,) for backend in BACKENDS},
}


def sweep() -> int:
    """Remove the groups of programs that are gone; return how many there were."""
    for backend in BACKENDS:
        backend.probe()
    return delegation.swept()


def remedy(chosen: Backend) -> str:
    """Return what would help to stand on a firmer rung than the chosen one; empty if nothing."""
    for backend in BACKENDS:
        if backend is chosen:
            break
        probe = backend.probe()
        if not probe.usable and probe.hint:
            return probe.hint
    return ""


def choose(require: str | None = None, *, bounded: bool = True) -> tuple[Backend, Probe]:
    """Return the firmest rung of this host.

    Args:
        require: Which it must be: `cgroup`, or the name of one; None asks the variable
            SANDBOX_LITE_REQUIRE, and then takes any.
        bounded: Whether there is anything to hold; where nothing is, nothing is made for it.

    Raises:
        SpecError: There is no rung of that name.
        HostError: It cannot be had here; the hint says how it could.
    """
    wanted = require or os.environ.get(REQUIRE_VARIABLE) or None
    if wanted is not None and wanted not in _GROUPS:
        raise SpecError(
            f"nothing called {wanted!r} holds limits", hint=f"one of: {', '.join(_GROUPS)}"
        )
    if wanted is None and not bounded:
        return sampling.SAMPLING, sampling.SAMPLING.probe()
    names = _GROUPS[wanted] if wanted else tuple(backend.name for backend in BACKENDS)
    refused = []
    for backend in BACKENDS:
        if backend.name in names:
            probe = backend.probe()
            if probe.usable:
                return backend, probe
            refused.append(probe)
    # the first that has a remedy: of v1 on a host with v2 there is nothing to say
    hint = next((probe.hint for probe in refused if probe.hint), None)
    raise HostError(
        f"limits cannot be held by {wanted} here: " + "; ".join(probe.detail for probe in refused),
        hint=hint,
    )
