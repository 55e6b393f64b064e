"""The driver's side: leases episodes to nodes, and sees which nodes are there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench.engines import local
from sandbox_lite.bench.engines.ray.connection import line_of
from sandbox_lite.bench.engines.ray.node import Node, Orders, Ready, Refusal, Told, versions
from sandbox_lite.bench.episode import MACHINE_LOST, Fault
from sandbox_lite.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.bench.engines.work import Work
    from sandbox_lite.bench.task import Row, Task
    from sandbox_lite.bench.trial import Done, Todo

INSTALL = "pip install 'sandbox-lite[ray]'"

_LOOK_SECONDS = 2.0
_BEGIN_SECONDS = 180.0
"""For the start of a worker and the imports of graders, on a node that is busy."""
_END_SECONDS = 15.0
_PATIENCE_SECONDS = 60.0
"""Without any node."""
_MOST_LOSSES = 3
"""Of the actor of one node, with no episode in between; then something is wrong with the node."""
_COMPARED = ("upper", "network", "seccomp", "ids", "backend", "limits")

_WORKER = {
    # a worker of Ray's kills its children when it ends, and one of ours is the janitor, which then
    # is to remove the sandboxes
    "RAY_kill_child_processes_on_worker_exit": "false",
}


@dataclass(slots=True, kw_only=True)
class _Place:
    """The driver's view of a node."""

    node: str
    name: str
    actor: Any
    room: int
    running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Starting:
    name: str
    task: asyncio.Task[_Place | Refusal]


class Cluster:
    """See `Engine`; close it in the end."""

    def __init__(self, ray: Any, work: Work, note: Callable[[str], None]) -> None:
        self._ray = ray
        self._enforced = work.enforced
        self._note = note
        told = tuple(
            Told(
                name=one.name, version=one.task.version, texts=one.texts,
                samples=_samples(one.task, one.rows, work),
            )
            for one in work.plan
        )  # fmt: skip
        # once into the cluster's store, not once for each node
        self._orders = ray.put(Orders(work=replace(work, plan=()), tasks=told, versions=versions()))
        self._class = ray.remote(Node)
        self._places: dict[str, _Place] = {}
        self._starting: dict[str, _Starting] = {}
        self._losses: Counter[str] = Counter()
        self._refused: set[str] = set()
        self._looked = 0.0
        self._seen = time.monotonic()

    async def begin(self) -> None:
        """Wait for all nodes that are there.

        Raises:
            HostError: One of them cannot do what is asked for, or there is none.
        """
        self._start()
        for node, one in list(self._starting.items()):
            place = await one.task
            if isinstance(place, Refusal):
                raise HostError(f"node {one.name}: {place.message}", hint=place.hint)
            del self._starting[node]
            self._places[node] = place
        if not self._places:
            raise HostError(
                "the cluster has no node with a processor",
                hint="start one: ray start --address=ADDRESS",
            )
        nodes = ", ".join(f"{one.name}: {one.room}" for one in self._places.values())
        self._note(f"episodes at once on each node: {nodes}")

    def has_room(self, running: int) -> bool:
        """Return whether a node has room."""
        return running < sum(place.room for place in self._places.values())

    async def look(self) -> None:
        """Take in nodes that are new.

        Raises:
            HostError: There has been none for a minute.
        """
        now = time.monotonic()
        if now < self._looked + _LOOK_SECONDS:
            return
        self._looked = now
        self._start()
        for node, one in list(self._starting.items()):
            if not one.task.done():
                continue
            del self._starting[node]
            place = one.task.result()
            if isinstance(place, Refusal):
                self._refused.add(node)
                self._note(f"node {one.name} is left out: {place.message}")
            else:
                self._places[node] = place
                self._note(f"node {place.name} does up to {place.room} episodes at once")
        if self._places:
            self._seen = now
        elif now > self._seen + _PATIENCE_SECONDS:
            raise HostError(
                "no node of the cluster is left",
                hint="what is done is kept: the same command does the rest on another cluster",
            )

    async def episode(self, todo: Todo) -> Done | Fault:
        """Lease an episode to the node with the most room."""
        while not self._places:
            await asyncio.sleep(local.PRESSURE_SECONDS)
        place = min(self._places.values(), key=lambda one: one.running / one.room)
        place.running += 1
        lease = place.actor.episode.remote(todo.name, todo.row, todo.key, todo.lost)
        try:
            done: Done = await _ended(lease)
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of our own code
        except self._ray.exceptions.RayError as error:
            self._lose(place)
            return Fault(stop=MACHINE_LOST, message=f"node {place.name} was lost: {line_of(error)}")
        finally:
            place.running -= 1
        self._losses.pop(place.node, None)
        return done

    def _lose(self, place: _Place) -> None:
        if self._places.get(place.node) is not place:
            return  # another lease was told already
        del self._places[place.node]
        self._losses[place.node] += 1
        # one that cannot be reached may still run, and must not go on
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(place.actor)
        self._note(f"node {place.name} was lost; its episodes go back to the queue")

    def _start(self) -> None:
        for node in self._ray.nodes():
            name = str(node["NodeID"])
            known = name in self._places or name in self._starting or name in self._refused
            # a head without processors is there for the cluster's own work
            able = node["Alive"] and node["Resources"].get("CPU", 0) > 0
            if known or not able or self._losses[name] >= _MOST_LOSSES:
                continue
            shown = f"{node['NodeManagerAddress']} ({name[:8]})"
            task = asyncio.ensure_future(self._placed(name, shown))
            self._starting[name] = _Starting(name=shown, task=task)

    async def _placed(self, node: str, name: str) -> _Place | Refusal:
        where = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            node_id=node, soft=False
        )
        actor = self._class.options(
            # what is waited for is a model's answer; the local engine knows what a node bears
            num_cpus=0, max_concurrency=10_000, max_restarts=0, max_task_retries=0,
            scheduling_strategy=where, runtime_env={"env_vars": _WORKER},
        ).remote(self._orders)  # fmt: skip
        try:
            begun: Ready | Refusal = await asyncio.wait_for(
                _ended(actor.begin.remote()), _BEGIN_SECONDS
            )
        except (self._ray.exceptions.RayError, TimeoutError) as error:
            self._ray.kill(actor)
            return Refusal(
                message=f"no episode can begin there: {line_of(error)}",
                hint=f"on every node: {INSTALL}",
            )
        except asyncio.CancelledError:
            self._ray.kill(actor)
            raise
        if isinstance(begun, Ready):
            refusal = self._compared(name, begun)
            if refusal is None:
                return _Place(node=node, name=name, actor=actor, room=begun.concurrency)
            begun = refusal
        self._ray.kill(actor)
        return begun

    def _compared(self, name: str, begun: Ready) -> Refusal | None:
        ours, theirs = self._enforced, begun.enforced
        if ours is None or theirs is None:
            return None
        if ours.rootfs != theirs.rootfs:
            return Refusal(
                message=f"its root file system is {theirs.rootfs}, the driver's {ours.rootfs}",
                hint="copy it: sandbox-lite rootfs export and import, or build it there alike",
            )
        if ours != theirs:
            differing = [one for one in _COMPARED if getattr(ours, one) != getattr(theirs, one)]
            if differing:
                self._note(f"node {name} enforces otherwise than here: {', '.join(differing)}")
        return None

    async def close(self) -> None:
        """Break off what still runs on the nodes, and end the actors."""
        for one in self._starting.values():
            one.task.cancel()
        await asyncio.gather(*(one.task for one in self._starting.values()), return_exceptions=True)
        ends = [
            asyncio.ensure_future(_ended(place.actor.end.remote()))
            for place in self._places.values()
        ]
        if ends:
            _, late = await asyncio.wait(ends, timeout=_END_SECONDS)
            for end in late:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        for place in self._places.values():
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(place.actor)


async def _ended(lease: Any) -> Any:
    return await asyncio.wrap_future(lease.future())


def _samples(task: Task, rows: tuple[Row, ...], work: Work) -> tuple[Row, ...]:
    found = {task.grader(row, work.grading.scorer): row for row in rows}
    return tuple(replace(row, input_files={}) for row in found.values())
