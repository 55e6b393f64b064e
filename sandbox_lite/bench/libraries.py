"""Libraries of the extra `bench`, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sandbox_lite.errors import HostError

if TYPE_CHECKING:
    from types import ModuleType

INSTALL = "pip install 'sandbox-lite[bench]'"


def need(name: str, purpose: str, *, install: str = INSTALL) -> ModuleType | Any:
    """Return a module of an optional library.

    Args:
        name: The module's dotted name.
        purpose: What it is needed for, for the message.
        install: The command that installs it.

    Raises:
        HostError: It is not installed, or cannot be imported; the hint is the command.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top = name.partition(".")[0]
        lacks = isinstance(error, ModuleNotFoundError) and error.name in (name, top)
        why = "is not installed" if lacks else f"cannot be imported ({error})"
        raise HostError(f"{purpose} needs {top}, which {why}", hint=install) from error
