"""Where things are kept on the host: the store, caches, directories of running sandboxes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from sandbox_lite.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

HOME_VARIABLE = "SANDBOX_LITE_HOME"


def _place(kind: str, default: Callable[[str], Path]) -> Path:
    home = os.environ.get(HOME_VARIABLE)
    try:
        return Path(home).absolute() / kind if home else default("sandbox-lite")
    except (RuntimeError, FileNotFoundError) as error:
        # a user of whom the host knows no home, as in some containers; a relative path from a
        # directory that was removed
        raise HostError(
            f"nowhere to keep things: {error}",
            hint=f"set {HOME_VARIABLE} to the absolute path of a directory of yours",
        ) from error


def data_dir() -> Path:
    """Return the directory that holds the rootfs store; it may not exist yet."""
    return _place("data", platformdirs.user_data_path)


def cache_dir() -> Path:
    """Return the directory of downloads and probe results, which may be deleted at any time."""
    return _place("cache", platformdirs.user_cache_path)


def run_dir() -> Path:
    """Return the directory below which running sandboxes keep what they must have on disk."""
    return _place("run", lambda name: platformdirs.user_cache_path(name) / "run")


def kept_dir() -> Path:
    """Return the directory of the sandboxes that are kept, which outlive programs."""
    return _place("kept", lambda name: platformdirs.user_state_path(name) / "kept")


def config_file() -> Path:
    """Return the path of the user's configuration file; it may not exist."""
    return _place("config", platformdirs.user_config_path) / "config.toml"
