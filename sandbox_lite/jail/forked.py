"""Does a piece of work in a child of the janitor, which gives up its namespaces for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def succeeds(work: Callable[[], object]) -> bool:
    """Do it in a forked child and wait; return whether it raised nothing."""
    try:
        child = os.fork()
    except OSError:
        return False
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0
