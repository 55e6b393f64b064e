"""`python -m sandbox_lite.adapters.llm_in_sandbox` is `llm-in-sandbox` without Docker."""

from __future__ import annotations

import importlib
import sys

from sandbox_lite.adapters.llm_in_sandbox.replacing import install
from sandbox_lite.errors import SandboxLiteError


def main() -> int:
    """Run the package's command line on sandboxes; return the exit code."""
    try:
        install()
        importlib.import_module("llm_in_sandbox.cli").main()
    except SandboxLiteError as error:
        sys.stderr.write(f"sandbox-lite: error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
