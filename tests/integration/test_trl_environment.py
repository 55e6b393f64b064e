"""What TRL's trainers are given, without TRL: who opens sandboxes, who closes them, and when."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import psutil
import pytest

from sandbox_lite import Limits, Sandbox, SandboxSpec
from sandbox_lite.adapters.trl import dataset
from sandbox_lite.adapters.trl.ahead import Ahead
from sandbox_lite.adapters.trl.demo import plot, run
from sandbox_lite.adapters.trl.demo import recipe as recipes
from sandbox_lite.adapters.trl.demo.journal import Journal
from sandbox_lite.adapters.trl.demo.stub import StubSource
from sandbox_lite.adapters.trl.demo.tasks import TASK
from sandbox_lite.adapters.trl.environment import SandboxEnvironment, environment_factory
from sandbox_lite.adapters.trl.reward import hermes_calls, reward_function
from sandbox_lite.adapters.trl.rollouts import Ended, Rollouts, row_of
from sandbox_lite.agent.tools import TOOLS
from sandbox_lite.bench.grading import Grading
from sandbox_lite.errors import LaunchError, SpecError
from sandbox_lite.rl.env import Cold, EnvSettings, SandboxEnv

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.rl.env import Source, Start

pytestmark = pytest.mark.timeout(60)

RECIPE = recipes.MULTI
ROW = RECIPE.lookup.rows(1, seed=3)[0]
COLUMNS = dataset.columns(ROW, recipes.texts(), steps=3)
ASKED = ROW.problem_statement.split()[3]
RIGHT = f"cp documents/{ASKED}.txt answer.txt"


@pytest.fixture(scope="module")
def grading() -> Iterator[Grading]:
    with Grading(timeout=15) as found:
        yield found


class Owned:
    """Rollouts whose ends are written down."""

    def __init__(self, grading: Grading, source: Source | None = None, **named: Any) -> None:
        settings = EnvSettings(
            task=TASK, prompts=recipes.texts(), limits=RECIPE.limits, grading=grading,
            sandbox=SandboxSpec(rootfs="minimal", network="none", limits=Limits.of(timeout=15)),
        )  # fmt: skip
        self.ended: list[Ended] = []
        self.source = source or Cold()
        self.rollouts = Rollouts(
            lambda: SandboxEnv(settings, source=self.source), told=self.ended.append, workers=2,
            **named,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def _nest(home: Path) -> None:
    """What all sandboxes share outlives each of them, and is not counted below."""
    del home
    with Sandbox("minimal"):
        pass


@pytest.fixture
def owned(grading: Grading) -> Iterator[Owned]:
    made = Owned(grading)
    with made.rollouts:
        yield made


def jails() -> set[int]:
    return {one.pid for one in psutil.Process().children(recursive=True) if "bwrap" in one.name()}


def test_a_probe_starts_nothing(owned: Owned) -> None:
    before = jails(), threading.active_count()
    environment_factory(owned.rollouts)()
    assert (jails(), threading.active_count()) == before


def test_a_rollout_reads_writes_and_is_rewarded(owned: Owned) -> None:
    before = jails()
    one = environment_factory(owned.rollouts)()
    one.reset(**COLUMNS)
    shown = one.execute_bash(f"cat documents/{ASKED}.txt")
    assert ROW.ground_truth in shown
    assert "[2 steps remaining]" in shown
    one.execute_bash(RIGHT, timeout=10)
    assert one.submit().startswith("Submitted.")
    assert "the episode is over" in one.execute_bash("true")
    assert one.get_reward() == 1.0
    assert jails() == before
    (ended,) = owned.ended
    assert (ended.reward, ended.row.id) == (1.0, ROW.id)
    assert ended.info is not None
    assert not ended.info.overlong
    assert ended.trajectory is not None
    assert len(ended.trajectory.steps) == 3


def test_the_same_place_is_used_again_with_a_sandbox_of_its_own(owned: Owned) -> None:
    one = environment_factory(owned.rollouts)()
    one.reset(**COLUMNS)
    one.execute_bash(RIGHT)
    # TRL closes nothing, and may never ask for a reward
    one.reset(**COLUMNS)
    assert "No such file" in one.execute_bash("cat answer.txt")
    assert one.get_reward() == 0.0
    assert [ended.reward for ended in owned.ended] == [0.0]


def test_what_calls_nothing_is_graded_in_a_sandbox(owned: Owned) -> None:
    one = environment_factory(owned.rollouts)()
    one.reset(**COLUMNS)
    assert one.get_reward() == 0.0
    assert owned.ended[0].trajectory is not None
    assert owned.ended[0].trajectory.spec is not None


def test_closing_leaves_no_sandbox(grading: Grading) -> None:
    before = jails()
    made = Owned(grading)
    with made.rollouts:
        places = [environment_factory(made.rollouts)() for _ in range(6)]
        for place in places:
            place.reset(**COLUMNS)
        places[0].execute_bash("sleep 300 &")
        assert jails() > before
    assert jails() == before


class Broken:
    """No sandbox is to be had."""

    def take(self, start: Start) -> contextlib.AbstractContextManager[Sandbox]:
        del start
        raise LaunchError("no")


def test_a_fault_is_no_reward(grading: Grading) -> None:
    made = Owned(grading, Broken())
    with made.rollouts:
        one = environment_factory(made.rollouts)()
        one.reset(**COLUMNS)
        with pytest.raises(LaunchError):
            one.execute_bash("true")
        assert one.get_reward() is None
    assert [ended.reward for ended in made.ended] == [None]


def test_one_step_ends_as_submitted(grading: Grading) -> None:
    made = Owned(grading, one_step=True)
    with made.rollouts:
        places = [environment_factory(made.rollouts)() for _ in range(5)]
        for place in places:
            place.reset(**COLUMNS)
        for place in places[:3]:
            assert place.execute_bash(RIGHT) == ""
        assert [place.get_reward() for place in places] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert {ended.info.stop for ended in made.ended if ended.info} == {"submitted"}


def test_episodes_inside_a_reward_function(grading: Grading) -> None:
    made = Owned(grading, one_step=True)
    call = '<tool_call>{"name": "execute_bash", "arguments": {"command": "%s"}}</tool_call>'
    texts = [call % RIGHT, "I think it is v3.", call % "echo no > answer.txt"]
    with made.rollouts:
        found = reward_function(made.rollouts)(
            prompts=[COLUMNS["prompt"]] * 3,
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            completion_ids=[[1]] * 3,
            trainer_state=object(),
            **{name: [value] * 3 for name, value in COLUMNS.items() if name != "prompt"},
        )
    assert found == [1.0, 0.0, 0.0]


def test_the_stub_does_what_a_sandbox_does(grading: Grading) -> None:
    shown = []
    for source in (Cold(), StubSource()):
        made = Owned(grading, source)
        with made.rollouts:
            one = environment_factory(made.rollouts)()
            one.reset(**COLUMNS)
            texts = [one.execute_bash(f"cat documents/{ASKED}.txt"), one.execute_bash(RIGHT)]
            shown.append([*texts, one.submit(), one.get_reward()])
    assert shown[0] == shown[1]
    assert shown[0][-1] == 1.0


def test_every_tool_has_a_method_that_says_what_the_table_says() -> None:
    for tool in TOOLS:
        method = getattr(SandboxEnvironment, tool.name)
        assert " ".join(tool.description.split()) in method.__doc__
        for name in tool.parameters:
            assert f"\n    {name}: " in method.__doc__
    public = {name for name in vars(SandboxEnvironment) if not name.startswith("_")}
    assert public == {tool.name for tool in TOOLS} | {"reset", "get_reward"}


def test_rows_come_back_from_columns() -> None:
    found = row_of(COLUMNS)
    assert (found.id, found.ground_truth) == (ROW.id, ROW.ground_truth)
    assert dict(found.input_files) == dict(ROW.input_files)
    assert found.problem == ROW.problem
    with pytest.raises(SpecError, match="ground_truth"):
        row_of({"id": "1", "problem_statement": "?"})


def test_what_is_no_call_is_none() -> None:
    assert hermes_calls("<tool_call>no</tool_call> <tool_call>[1]</tool_call>") == ()
    assert hermes_calls('<tool_call>{"name": "submit", "arguments": {}}</tool_call>') == (
        ("submit", {}),
    )


def test_work_ahead_is_bounded_and_never_waits_for_itself() -> None:
    done: list[int] = []
    ahead = Ahead(1, 2)
    announced = [ahead.announce(lambda n=n: done.append(n)) for n in range(6)]  # type: ignore[misc]

    def take_all() -> None:
        for one in announced:
            ahead.take(one)

    # the only thread asks for what may still wait behind it
    ahead.submit(take_all).result(timeout=10)
    assert sorted(done) == list(range(6))
    ahead.close()


def test_rloo_has_no_turns(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="calls no tools"):
        run.check(run.Request(directory=tmp_path, algorithm="rloo", multi_turn=True))


def test_the_journal_counts_what_teaches_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, every=2)
    rewards: tuple[tuple[str, float | None], ...] = (
        ("a", 1.0), ("a", 0.0), ("b", 0.0), ("b", 0.0), ("c", None), ("c", None),
    )  # fmt: skip
    for number, (name, reward) in enumerate(rewards):
        row = dataclasses.replace(ROW, id=name)
        journal.ended(
            Ended(number=number, row=row, reward=reward, info=None, trajectory=None, seconds=1.0)
        )
    record = journal.close_step(seconds=3.0, waited_seconds=2.0)
    assert (record.reward, record.rollouts, record.masked) == (0.25, 6, 2)
    assert (record.groups, record.flat_groups) == (3, 2)
    assert json.loads((tmp_path / "steps.jsonl").read_text())["flat_groups"] == 2


def test_a_plot_is_well_formed(tmp_path: Path) -> None:
    plot.draw(tmp_path / "one.svg", [0.0, 0.5, 1.0], title="a < b")
    (line,) = ElementTree.parse(tmp_path / "one.svg").iter("{http://www.w3.org/2000/svg}polyline")
    heights = [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
    assert heights == sorted(heights, reverse=True)
    assert len(heights) == 3
