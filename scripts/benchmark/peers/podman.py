"""Podman, used as docker is."""

from __future__ import annotations

from benchmark.peers import engine
from benchmark.peers.peer import Peer

# its default limits are above those that some hosts allow
_OPTIONS = ("--ulimit", "host")
# it waits for ten seconds otherwise, where docker does not
_REMOVE = ("rm", "-f", "-t", "0")

PODMAN = Peer(
    name="podman",
    isolates=True,
    ready=lambda place: engine.ready("podman", place, _OPTIONS, _REMOVE),
)
