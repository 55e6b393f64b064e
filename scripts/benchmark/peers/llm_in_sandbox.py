"""The DockerRuntime of llm-in-sandbox: a container, and an `exec` of a fresh bash per command."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from benchmark.peers import engine
from benchmark.peers.package import served
from benchmark.peers.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.peers.peer import Place, Start

_PROGRAM = """
from llm_in_sandbox import DockerRuntime
def start(): return DockerRuntime(IMAGE, logger=False, network_mode="none")
def run(box, command): return box.run(command)[0]
def close(box): box.close()
"""


@contextlib.contextmanager
def _ready(place: Place) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:
        # first, for an image takes seconds to make
        stack.enter_context(served(place.python, "import llm_in_sandbox"))
        image = stack.enter_context(engine.imported("docker", place.tree))
        yield stack.enter_context(served(place.python, _PROGRAM, image))


LLM_IN_SANDBOX = Peer(name="llm-in-sandbox", isolates=True, ready=_ready)
