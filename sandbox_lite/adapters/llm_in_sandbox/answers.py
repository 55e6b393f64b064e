"""What the package makes of a command's end: pure, from our result to its texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sandbox_lite.errors import SpecError
from sandbox_lite.spec import Outcome

if TYPE_CHECKING:
    from sandbox_lite.spec import CommandResult

_TIMED_OUT = 124
"""timeout(1)'s exit code, which the package cannot tell from a command's own."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\r")
_INTERVAL = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<unit>[smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TOO_LONG = b"exec: bash: Argument list too long\n"


def seconds(timeout: float | str) -> float | None:
    """Return what timeout(1) understands by an interval; None is no bound.

    Raises:
        SpecError: It is none.
    """
    match = _INTERVAL.fullmatch(str(timeout))
    if match is None:
        raise SpecError(
            f"not a time-out: {timeout!r}", hint="seconds, or an interval such as 2m; 0 is none"
        )
    return float(match["number"]) * _UNITS[match["unit"]] or None


def is_late(result: CommandResult) -> bool:
    """Return whether the package takes a command for one that took too long."""
    return result.outcome is Outcome.TIMED_OUT or result.exit_code == _TIMED_OUT


def late(timeout: float | str) -> str:
    """Return what stands in the place of the output then."""
    return f"The command took too long to execute (>{timeout}s)"


def ended(result: CommandResult) -> str:
    """Return how a command ended, in the package's words."""
    return f"Error: Exit code {result.exit_code}" if result.exit_code else "0"


def plain(output: str) -> str:
    """Return an output without colours and carriage returns, as the package shows it."""
    return _COLOURS.sub("", output)


def encoded(text: str) -> bytes:
    """Return a command as it arrives: half a surrogate pair, which JSON may hold, is replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def refused(code: str, result: CommandResult | None = None) -> str | None:
    """Return what the kernel has against the text itself, before the start or behind it."""
    if "\0" in code:
        return "exec /usr/bin/bash: invalid argument\n"
    if result is not None and result.exit_code == 126 and result.stderr_bytes == _TOO_LONG:
        return "exec /usr/bin/bash: argument list too long\n"
    return None


REFUSED = "Error: Exit code 1"
