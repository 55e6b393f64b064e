"""`python -m sandbox_lite` is the same as `sandbox-lite`."""

from __future__ import annotations

import sys

from sandbox_lite.cli import main

if __name__ == "__main__":
    sys.exit(main())
