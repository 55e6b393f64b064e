"""The way to a cluster: one that runs already, or one of this machine alone, which ends with us."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail import janitor
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

_STORE_BYTES = 256 * MIB
"""Of shared memory, for what is on its way."""


@contextlib.contextmanager
def connected(ray: Any, address: str) -> Iterator[None]:
    """Be connected to a cluster; one that is connected already is taken as it is.

    Args:
        ray: The library.
        address: `local` starts a cluster of this machine, which ends with the block.

    Raises:
        HostError: There is none.
        SpecError: It is an address of Ray's client, which is no member of the cluster.
    """
    if ray.is_initialized():
        yield  # by whoever called us, who also ends it
        return
    if address.startswith("ray://"):
        raise SpecError(
            "the driver must run on a node of the cluster",
            hint="start it there, or with: ray job submit -- sandbox-lite bench ...",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.ExitStack() as stack:
        own: dict[str, Any] = {}
        if address == "local":
            own = {
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_temp_dir": str(stack.enter_context(_session_directory())),
            }
        stack.callback(ray.shutdown)
        stack.enter_context(_signals_kept())
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise HostError(
                f"no Ray cluster at {address}: {line_of(error)}",
                hint="start one: ray start --head; or leave --ray-address out",
            ) from error
        yield


@contextlib.contextmanager
def _session_directory() -> Iterator[Path]:
    """Yield a directory for the logs and sockets of a cluster of ours, and remove it."""
    # below TMPDIR, which may be long, Ray's sockets would not fit sun_path, unix(7)
    path = Path(tempfile.mkdtemp(prefix="sandbox-lite-ray-", dir="/tmp"))
    janitor.SHARED.watch(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        janitor.SHARED.forget(path)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Have SIGTERM mean afterwards what it means now: ray.init takes it for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def line_of(error: BaseException) -> str:
    """Return the first line of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
