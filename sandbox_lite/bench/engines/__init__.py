"""Where episodes are done: one file each, one line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.bench.engines import local, ray
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from sandbox_lite.bench.engines.work import Work
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.trial import Engine

    Opened = Callable[
        [Work, Grading, str | None, Callable[[str], None]], AbstractAsyncContextManager[Engine]
    ]

ENGINES: dict[str, Opened] = {"local": local.opened, "ray": ray.opened}


def find(name: str, *, address: str | None = None) -> Opened:
    """Return what opens an engine.

    It is called with what every episode needs, with who grades on this machine, with the address
    of a cluster, and with what is told of things that people should know. What it returns is open
    in an `async with` block; entering that raises HostError where the engine cannot be had.

    Args:
        name: One of the table.
        address: Of a cluster, which is for `ray` alone.

    Raises:
        SpecError: There is none, or it has no cluster.
    """
    if name not in ENGINES:
        raise SpecError(f"no engine {name!r}", hint=f"one of: {', '.join(ENGINES)}")
    if address is not None and name != "ray":
        raise SpecError("--ray-address is for --engine ray", hint="give --engine ray as well")
    return ENGINES[name]
