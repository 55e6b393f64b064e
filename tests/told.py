"""The program as a module, from wherever it is imported, and what its `doctor` must say inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_lite.jail import bwrap

if TYPE_CHECKING:
    from pathlib import Path

INSIDE = [
    {
        "user": "root", "filters": ["deny", "fakeroot"], "filters_in_force": 2,
        "capabilities": list(bwrap.CAPABILITIES), "bounding": list(bwrap.CAPABILITIES),
        "no_new_privileges": True,
    },
    {
        "user": "user", "filters": ["deny"], "filters_in_force": 1, "capabilities": [],
        "bounding": [], "no_new_privileges": True,
    },
]  # fmt: skip
"""What holds a sandbox, on whatever rung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a program said."""

    code: int
    text: str
    errors: str

    @property
    def data(self) -> Any:
        return json.loads(self.text)

    def jail(self) -> Any:
        return next(check for check in self.data["checks"] if check["name"] == "jail")


def sandbox_lite(home: Path, prefix: list[str], *words: str) -> Told:
    """Run it to its end, behind the words of a prefix."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "sandbox_lite", *words],
        capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL,
        env={**os.environ, "SANDBOX_LITE_HOME": str(home)},
    )  # fmt: skip
    return Told(code=done.returncode, text=done.stdout, errors=done.stderr)
