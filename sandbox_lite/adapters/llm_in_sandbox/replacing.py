"""Put our runtime in the place of the package's, everywhere somebody holds it already."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_lite.adapters.llm_in_sandbox.choice import Choice
from sandbox_lite.adapters.llm_in_sandbox.runtime import DockerRuntime
from sandbox_lite.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

_PACKAGE = "llm_in_sandbox"
_run_single_problem: list[Callable[[dict[str, Any]], Any]] = []
"""The package's own, which the one that stands in its place calls."""


def install(
    *,
    rootfs: str | None = None,
    network: str | None = None,
    allow: Sequence[str] | None = None,
    allow_private: Sequence[str] | None = None,
    images: Mapping[str, str] | None = None,
) -> type[DockerRuntime]:
    """Let the package `llm-in-sandbox` make sandboxes, from here on and in this process.

    It replaces the package's runtime in every module that holds it, as a base of classes too, the
    check for a Docker image (by one for the rootfs) and the removal of containers at Ctrl-C. A
    further call changes what is asked of sandboxes that start later.

    Args:
        rootfs: For every image that `images` does not name; see `Choice` for what is not given.
        network: A mode of `Sandbox`.
        allow: What may be reached beside the mode's own list.
        allow_private: Hosts that may have an address which is not public.
        images: Rootfs by the name of an image.

    Returns:
        The class that stands in the place of the package's.

    Raises:
        HostError: The package is not installed, cannot be imported, or is of another kind.
    """
    return put(
        Choice(
            rootfs=rootfs,
            network=network,
            allow=None if allow is None else tuple(allow),
            allow_private=None if allow_private is None else tuple(allow_private),
            images=dict(images or {}),
        )
    )


def put(choice: Choice) -> type[DockerRuntime]:
    """Do what `install` does, with the whole choice."""
    holder = _imported("docker_runtime")
    current: type = holder.DockerRuntime
    if issubclass(current, DockerRuntime):
        if current.choice != choice:
            current.choice = choice
            _replace(_imported("benchmark.runner").run_single_problem, _SingleProblem(choice))
        return current
    missing = sorted(_methods(current) - _methods(DockerRuntime))
    if missing:
        raise HostError(
            f"this release of llm-in-sandbox wants of its runtime: {', '.join(missing)}",
            hint="the adapter knows release 0.2.0",
        )
    cli, runner = _imported("cli"), _imported("benchmark.runner")
    ours = type("DockerRuntime", (DockerRuntime,), {"choice": choice, "__doc__": current.__doc__})
    assert issubclass(ours, DockerRuntime)
    _rebase(current, ours)
    _replace(current, ours)
    _replace(cli.ensure_docker_image, _Ready(ours))
    _replace(runner._cleanup_docker_containers, _nothing_to_remove)
    _run_single_problem[:] = [runner.run_single_problem]
    _replace(runner.run_single_problem, _SingleProblem(choice))
    return ours


@dataclass(frozen=True, slots=True)
class _Ready:
    """Stands for the check that an image is there."""

    runtime: type[DockerRuntime]

    def __call__(self, image_name: str, logger: object = None) -> bool:
        """Return True where the rootfs of the image is there; else RootfsError has the remedy."""
        del logger
        self.runtime.choice.check(image_name)
        return True


def _nothing_to_remove(docker_image: str) -> None:
    """Leave Docker alone: sandboxes end with the process that made them."""
    del docker_image


@dataclass(frozen=True, slots=True)
class _SingleProblem:
    """Stands for the package's work on one problem; pickled by value, and so takes `install` along.

    Worker processes that are not forked import the package afresh.
    """

    choice: Choice

    def __call__(self, args: dict[str, Any]) -> Any:
        """Return the package's result; a fault of the sandbox that it swallowed is its `error`."""
        ours = put(self.choice)
        ours.faults.clear()
        result = _run_single_problem[0](args)
        if ours.faults and not result.error:
            result.error = str(ours.faults[0])
        return result


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ImportError as error:
        raise HostError(
            f"cannot import {_PACKAGE}.{name}: {error}",
            hint="pip install 'sandbox-lite[llm-in-sandbox]', into an environment of its own",
        ) from error


def _methods(one: type) -> set[str]:
    return {name for name, value in vars(one).items() if callable(value) and name[0] != "_"}


def _rebase(old: type, new: type) -> None:
    one: type
    for one in old.__subclasses__():
        one.__bases__ = tuple(new if base is old else base for base in one.__bases__)


def _replace(old: object, new: object) -> None:
    """Give every module that holds the one the other, under whatever name."""
    for module in list(sys.modules.values()):
        held = getattr(module, "__dict__", None)
        # a module may be anything that somebody put there
        if not isinstance(held, dict):
            continue
        for name in [name for name, value in list(held.items()) if value is old]:
            setattr(module, name, new)
