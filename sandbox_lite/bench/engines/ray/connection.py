"""The way to a cluster: one that runs already, or one of this machine alone, which ends with us."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail import janitor
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONNECT_SECONDS = 10.0
_STORE_BYTES = 256 * MIB
"""Of shared memory, for what is on its way."""


@contextlib.contextmanager
def environment(address: str) -> Iterator[None]:
    """Have Ray's variables set as it must find them when it is imported.

    It listens on every address of the machine: who asks a cluster of ours must know a token, which
    Ray itself would write into the home directory. The owner of another cluster has chosen.
    """
    values = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address == "local":
        values |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


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
    _check_reachable(address)
    with contextlib.ExitStack() as stack:
        own: dict[str, Any] = {}
        if address == "local":
            own = {
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_temp_dir": str(stack.enter_context(_session_directory())),
            }
        stack.callback(ray.shutdown)  # also of what has begun when Ctrl-C comes
        try:
            with _signals_kept():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _absent(address, error) from error
        yield


def _check_reachable(address: str) -> None:
    """Look whether anybody listens: Ray itself tries for minutes, and Ctrl-C does not end that."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # `local`, or `auto`, which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _absent(address, error) from error


def _absent(address: str, error: BaseException) -> HostError:
    return HostError(
        f"no Ray cluster at {address}: {line_of(error)}",
        hint="start one: ray start --head; or leave --ray-address out",
    )


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
