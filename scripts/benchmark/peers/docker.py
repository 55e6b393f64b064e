"""Docker: `docker run`, `docker exec`, `docker rm -f`."""

from __future__ import annotations

from benchmark.peers import engine
from benchmark.peers.peer import Peer

DOCKER = Peer(name="docker", isolates=True, ready=lambda place: engine.ready("docker", place))
