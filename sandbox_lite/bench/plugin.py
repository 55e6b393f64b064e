"""Code of a third party: a module by its dotted name, or a Python file by its path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from types import ModuleType


def module(name: str) -> ModuleType:
    """Return the module of a dotted name, or of a path that ends in `.py`.

    Raises:
        TaskError: It cannot be imported.
    """
    try:
        return _of_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:
        raise TaskError(
            f"{name} cannot be imported: {type(error).__name__}: {error}",
            hint="is its package installed, or its path right?",
        ) from error


def _of_file(path: Path) -> ModuleType:
    path = path.absolute()
    name = f"sandbox_lite_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # dataclasses look their module up there
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[name]
        raise
    return made
