"""The command line: the only place that prints. One file for each group of commands."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the program `sandbox-lite`; return its exit code."""
    try:
        from sandbox_lite.cli.app import start
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        print(f"sandbox-lite: error: the package {error.name} is not installed", file=sys.stderr)
        print("hint: pip install 'sandbox-lite[all]'", file=sys.stderr)
        return 125
    return start(sys.argv[1:])
