"""`doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite.cli.terminal import console, emit, one_line, visible
from sandbox_lite.errors import SandboxLiteError
from sandbox_lite.spec import format_size

if TYPE_CHECKING:
    from sandbox_lite.jail.host import Check

_NEEDED = ("system", "bubblewrap", "sandbox", "data")
"""Without these no sandbox can be made."""


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object.")
    ] = False,
) -> int:
    """Look at what sandboxes need of this machine; exit code 125 where one cannot be made.

    \b
    Examples:
      sandbox-lite doctor
      sandbox-lite doctor --json
    """
    from sandbox_lite.jail import host
    from sandbox_lite.jail.rootfs.store import Store

    checks = (*host.checks(), _limits())
    good = all(check.ok for check in checks if check.name in _NEEDED)
    trouble = None
    try:
        found = Store().list()
    except SandboxLiteError as error:
        found, trouble, good = (), error, False
    if as_json:
        emit(
            {
                "ok": good,
                "checks": [dataclasses.asdict(check) for check in checks],
                "rootfs": [
                    {"name": one.name, "digest": one.digest, "size_bytes": one.size_bytes}
                    for one in found
                ],
                "error": trouble and trouble.message,
            }
        )
        return 0 if good else 125
    screen = console()
    for check in checks:
        _line(check.ok, check.name, check.detail, check.hint)
    if trouble is not None:
        _line(False, "rootfs", trouble.message, trouble.hint or "")
    for one in found:
        _line(True, "rootfs", f"{one.name} ({one.suite}), {format_size(one.size_bytes)}", "")
    if not found and trouble is None:
        hint = "run: sandbox-lite rootfs build standard (without network: --rootfs host)"
        _line(None, "rootfs", "none is built yet", hint)
    screen.print("A sandbox can be made here." if good else "No sandbox can be made here.")
    return 0 if good else 125


def _limits() -> Check:
    """Return who would hold the limits of a sandbox here, and what would be firmer."""
    from sandbox_lite.jail import limits
    from sandbox_lite.jail.host import Check

    try:
        rung, probe = limits.choose()
    except SandboxLiteError as error:
        return Check(name="limits", ok=False, detail=error.message, hint=error.hint or "")
    kernel = ", ".join(sorted(probe.holds)) or "none of them"
    detail = f"{rung.name}: {probe.detail}; the kernel counts {kernel}, disk and /dev/shm"
    return Check(name="limits", ok=True, detail=detail, hint=limits.remedy(rung))


def _line(ok: bool | None, name: str, detail: str, hint: str) -> None:
    from rich.text import Text

    word, style = {True: ("ok", "green"), False: ("FAIL", "bold red"), None: ("-", "yellow")}[ok]
    screen = console()
    screen.print(
        Text.assemble((f"{word:<5}", style), f"{name:<11}", visible(detail)), soft_wrap=True
    )
    if hint:
        screen.print(f"     hint: {one_line(hint)}", soft_wrap=True)
