"""Where things are kept on the host: the store, caches, directories of running sandboxes."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

HOME_VARIABLE = "SANDBOX_LITE_HOME"


def _place(kind: str, default: Path) -> Path:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).absolute() / kind if home else default


def data_dir() -> Path:
    """Return the directory that holds the rootfs store; it may not exist yet."""
    return _place("data", platformdirs.user_data_path("sandbox-lite"))


def cache_dir() -> Path:
    """Return the directory of downloads and probe results, which may be deleted at any time."""
    return _place("cache", platformdirs.user_cache_path("sandbox-lite"))


def run_dir() -> Path:
    """Return the directory below which running sandboxes keep what they must have on disk."""
    return _place("run", platformdirs.user_cache_path("sandbox-lite") / "run")


def config_file() -> Path:
    """Return the path of the user's configuration file; it may not exist."""
    return _place("config", platformdirs.user_config_path("sandbox-lite")) / "config.toml"
