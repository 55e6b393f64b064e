"""Other sandboxes take their turns in every round, as long as their share of time lasts."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark import names
from benchmark.crowds import available_bytes, note_memory
from benchmark.peers import PEERS
from benchmark.peers.peer import Missing, Place

if TYPE_CHECKING:
    from benchmark.bench import Bench
    from benchmark.peers.peer import Peer, Start
    from benchmark.samples import Notes

_ALIVE, _ALIVE_SECONDS = 64, 10.0
"""So many at once, or those that start in that time: of a few, the host's drift is more."""


@dataclass(slots=True)
class _Guest:
    peer: Peer
    start: Start
    seconds: float = 0.0


GUESTS: list[_Guest] = []


def invite(bench: Bench, python: str) -> None:
    """Make those ready that are here; the others are said to be skipped."""
    for peer in PEERS:
        if not bench.amounts.peer_seconds:
            bench.notes.skip(peer.name, "not in a quick run")
            continue
        try:
            start = bench.stack.enter_context(peer.ready(Place(tree=bench.tree, python=python)))
            guest = _Guest(peer, start)
            # the first start of all loads what later ones find loaded
            _turn(guest, None)
            GUESTS.append(guest)
        except Missing as missing:
            bench.notes.skip(peer.name, str(missing))


def _turn(guest: _Guest, notes: Notes | None) -> None:
    began = time.perf_counter()
    box = guest.start()
    try:
        said = box.run("echo hi")
        started = time.perf_counter()
        again = box.run("echo hi")
        ran = time.perf_counter()
    finally:
        box.close()
    closed = time.perf_counter()
    # a terminal adds line ends of its own
    if (said.strip(), again.strip()) != ("hi", "hi"):
        raise Missing(f"it printed {said!r}, then {again!r}")
    if notes is not None:
        times = (started - began, ran - started, closed - ran)
        kinds = (names.PEER_COLD, names.PEER_COMMAND, names.PEER_CLOSE)
        for kind, seconds in zip(kinds, times, strict=True):
            notes.add(kind.format(guest.peer.name), seconds * 1000)


def turns(bench: Bench) -> None:
    """Start each, use it and close it."""
    if bench.warming:
        return
    for guest in list(GUESTS):
        if guest.seconds > bench.amounts.peer_seconds:
            continue
        began = time.monotonic()
        try:
            _turn(guest, bench.notes)
        except Missing as missing:
            bench.notes.skip(guest.peer.name, str(missing))
            GUESTS.remove(guest)
        guest.seconds += time.monotonic() - began


def memory(bench: Bench) -> None:
    """Note what some idle ones of each take."""
    for guest in GUESTS:
        name = names.PEER_MEMORY.format(guest.peer.name)
        try:
            before = available_bytes()
            with contextlib.ExitStack() as stack:
                count, began = 0, time.monotonic()
                while count < _ALIVE and time.monotonic() < began + _ALIVE_SECONDS:
                    box = guest.start()
                    stack.callback(box.close)
                    box.run("echo hi")
                    count += 1
                during = available_bytes()
            each = ((before + available_bytes()) / 2 - during) / count / 1e6
        except Missing as missing:
            bench.notes.skip(name, str(missing))
            continue
        note_memory(bench, name, each)
