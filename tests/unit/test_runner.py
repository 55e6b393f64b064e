"""The queue of a benchmark over an engine that loses machines: each episode is written once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent.model import ModelSettings
from sandbox_lite.bench import engines, plan
from sandbox_lite.bench.engines.work import Work
from sandbox_lite.bench.episode import MACHINE_LOST, Episode, Fault, Spent
from sandbox_lite.bench.grading import Grading, GradingSettings
from sandbox_lite.bench.ledger import Ledger, load_episodes
from sandbox_lite.bench.plan import Selection
from sandbox_lite.bench.runner import Ended, Runner
from sandbox_lite.bench.trial import Done, Pace
from sandbox_lite.errors import HostError, SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite.bench.plan import Planned
    from sandbox_lite.bench.trial import Todo

COUNT = 20


class Losing:
    """Two machines' worth of room; loses an episode as often as it is told to."""

    def __init__(self, losses: dict[str, int]) -> None:
        self.losses = losses
        self.begun: Counter[str] = Counter()
        self.most = 0
        self.room = 4
        self.failing: HostError | None = None

    def has_room(self, running: int) -> bool:
        self.most = max(self.most, running)
        return running < self.room

    async def look(self) -> None:
        if self.failing is not None:
            raise self.failing

    async def episode(self, todo: Todo) -> Done | Fault:
        self.begun[todo.row.id] += 1
        await asyncio.sleep(0)
        if self.losses.get(todo.row.id, 0) >= self.begun[todo.row.id]:
            return Fault(stop=MACHINE_LOST, message="gone")
        episode = Episode(
            key=todo.key, problem=todo.row.problem, row_digest=todo.row.digest,
            domain=todo.row.domain, stop="answered", answer=None, score=None, faults=todo.lost,
            spent=Spent(prompt_tokens=10),
        )  # fmt: skip
        return Done(episode=episode, trajectory=None)


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Planned, ...]:
    rows = (
        {"id": f"p{n}", "problem_statement": f"{n}?", "ground_truth": str(n)} for n in range(COUNT)
    )
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return plan.planned(("math",), modes=("plain",), selection=Selection(), file=path)


def ran(
    planned: tuple[Planned, ...], engine: Losing, path: Path, pace: Pace | None = None
) -> Ended:
    with Ledger(path, {}, {}) as ledger:
        runner = Runner(plan.keys(planned, 1), ledger, engine, pace or Pace())
        return asyncio.run(asyncio.wait_for(runner.run(), 15))


def test_what_is_lost_is_done_again_and_written_once(
    planned: tuple[Planned, ...], tmp_path: Path
) -> None:
    engine = Losing({"p3": 1, "p7": 2})
    ended = ran(planned, engine, tmp_path / "out")
    assert (ended.left, ended.interrupted, engine.most) == (0, False, 4)
    text = (tmp_path / "out" / "episodes.jsonl").read_text()
    assert len(text.splitlines()) == COUNT
    faults = {key.row: len(one.faults) for key, one in load_episodes(tmp_path / "out").items()}
    assert faults == {f"p{n}": {3: 1, 7: 2}.get(n, 0) for n in range(COUNT)}
    assert engine.begun["p7"] == 3


def test_what_ends_its_machine_each_time_is_given_up_and_tried_by_the_next_start(
    planned: tuple[Planned, ...], tmp_path: Path
) -> None:
    engine = Losing({"p3": 99})
    assert ran(planned, engine, tmp_path / "out").left == 0
    assert engine.begun["p3"] == 3
    given_up = next(one for one in load_episodes(tmp_path / "out").values() if one.fault)
    assert (given_up.key.row, given_up.stop, len(given_up.faults)) == ("p3", MACHINE_LOST, 3)
    again = Losing({})
    assert ran(planned, again, tmp_path / "out").left == 0
    assert again.begun == {"p3": 1}
    assert not any(one.fault for one in load_episodes(tmp_path / "out").values())


def test_no_machine_left_keeps_what_is_done(planned: tuple[Planned, ...], tmp_path: Path) -> None:
    engine = Losing({})
    engine.room = 0
    engine.failing = HostError("no node of the cluster is left")
    with pytest.raises(HostError, match="no node"):
        ran(planned, engine, tmp_path / "out")
    engine.room, engine.failing = 4, None
    ended = ran(planned, engine, tmp_path / "out", Pace(max_tokens_total=50))
    assert ended.out_of_tokens
    # those that had begun when the bound was met
    assert COUNT - ended.left in range(5, 9)


@pytest.mark.parametrize(
    ("name", "address", "what"),
    [("spark", None, "no engine 'spark'"), ("local", "127.0.0.1:1", "--ray-address")],
)
def test_an_engine_that_there_is_not(name: str, address: str | None, what: str) -> None:
    with pytest.raises(SpecError, match=what):
        engines.find(name, address=address)


def test_without_ray_the_remedy_is_named(
    planned: tuple[Planned, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    settings = GradingSettings()
    work = Work(
        model=ModelSettings(model="m"), computers=None, enforced=None, grading=settings,
        pace=Pace(), plan=planned,
    )  # fmt: skip

    async def open_it(grading: Grading) -> None:
        async with engines.find("ray")(work, grading, None, print):
            pass

    with settings.opened() as grading:
        with pytest.raises(HostError) as caught:
            asyncio.run(open_it(grading))
    assert caught.value.hint == "pip install 'sandbox-lite[ray]'"


def test_what_travels_to_a_node_is_data(planned: tuple[Planned, ...]) -> None:
    """Frozen, and a key is in no text that is made of it."""
    import pickle

    from sandbox_lite.agent.episode import AgentLimits
    from sandbox_lite.agent.tools import ToolContext
    from sandbox_lite.bench.rollout import Computers, SandboxOptions
    from sandbox_lite.spec import Limits

    options = SandboxOptions(rootfs="minimal", network="none", limits=Limits.of(timeout=5))
    work = Work(
        model=ModelSettings(model="m", api_key="sk-secret", base_url="http://127.0.0.1:1/v1"),
        computers=Computers(
            make=options.make, limits=AgentLimits(steps=3), context=ToolContext(),
            documents="files",
        ),
        enforced=None,
        grading=GradingSettings(judge=ModelSettings(model="j", api_key="sk-secret")),
        pace=Pace(concurrency=3),
        plan=planned,
    )  # fmt: skip
    assert "sk-secret" not in repr(work)
    back = pickle.loads(pickle.dumps(work))
    # a bound method is equal to that of the same object alone
    assert back.computers.make("/testbed").spec == options.make("/testbed").spec
    assert dataclasses.replace(back, computers=None) == dataclasses.replace(work, computers=None)
    assert back.model.api_key == "sk-secret"
    with pytest.raises(dataclasses.FrozenInstanceError):
        back.pace = Pace()
