"""Episodes on the nodes of a Ray cluster: one actor per node, which runs the local engine there.

The driver leases one episode at a time to a node that has room, and alone writes. Ray repeats
nothing by itself: what is lost with a node goes back to the driver's queue, and no answer of that
lease can come any more, so each episode counts once.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sandbox_lite.bench.engines.ray.cluster import INSTALL, Cluster
from sandbox_lite.bench.engines.ray.connection import connected, environment
from sandbox_lite.bench.libraries import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandbox_lite.bench.engines.work import Work
    from sandbox_lite.bench.grading import Grading


@contextlib.asynccontextmanager
async def opened(
    work: Work, grading: Grading, address: str | None, note: Callable[[str], None]
) -> AsyncIterator[Cluster]:
    """Yield a cluster; in the end our actors are gone, and the cluster too if it was ours."""
    del grading
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with environment(address):
        ray = need("ray", "--engine ray", install=INSTALL)
        need("ray.util.scheduling_strategies", "--engine ray", install=INSTALL)
        # on this thread: the processes of a cluster of ours die with the thread that starts them
        with connected(ray, address):
            cluster = Cluster(ray, work, note)
            try:
                await cluster.begin()
                yield cluster
            finally:
                await cluster.close()
