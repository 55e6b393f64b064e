"""What scripts/efficiency and scripts/bench measure, in a few real sandboxes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from benchmark import episodes, names
from benchmark.bench import QUICK, Bench
from benchmark.samples import Notes
from efficiency_analysis import replays
from efficiency_analysis.recorded import Recorded

from sandbox_lite.agent.tools import Observation, ToolCall
from sandbox_lite.agent.trajectory import Seconds, Step, Trajectory

if TYPE_CHECKING:
    from pathlib import Path

MEBIBYTE = 2**20
SECONDS = 1.5
"""Of a program that must be seen by looks that are taken meanwhile."""


def step(index: int, tool: str, said: str, seconds: float, **arguments: str) -> Step:
    call = ToolCall(id="c", name=tool, arguments=json.dumps(arguments))
    return Step(
        index=index, thought="", calls=(call,), seconds=Seconds(model=seconds),
        observations=(Observation(call_id="c", content=said),),
    )  # fmt: skip


@pytest.mark.timeout(60)
def test_replays_are_measured(home: Path) -> None:
    """A megabyte is written, a program holds thirty, and one exit code is another one."""
    python = f"import time; x = bytearray({30 * MEBIBYTE}); time.sleep({SECONDS})"
    command = f"cat input/given; head -c {MEBIBYTE} /dev/zero > zeros; python3 -c '{python}'"
    run = Recorded(
        name="run",
        inputs={"given": b"here\n"},
        trajectory=Trajectory(
            task="t",
            source="published",
            steps=(
                step(1, "execute_bash", "Exit code: 0\n[STDOUT]\nhere", 2.0, command=command),
                step(2, "execute_bash", "Exit code: 0\n[STDOUT]\n", 4.0, command="false"),
                step(3, "submit", "", 2.0),
            ),
        ),
    )
    asked = replays.Asked(rootfs="minimal", count=3, speed=100, interval=0.02)
    found = asyncio.run(replays.measure([run], asked))
    assert len(found.replays) == len(found.memory.held) == 3
    for one in found.replays:
        assert (one.name, one.whole, one.unlike, len(one.steps)) == ("run", True, 1, 3)
        assert [step.model for step in one.steps] == [2.0, 4.0, 2.0]
        assert one.steps[0].environment >= SECONDS
        assert all(step.trip > 0 for step in one.steps)
        assert one.seconds >= 0.08 + SECONDS
        assert one.disk_bytes is not None
        assert MEBIBYTE <= one.disk_bytes < 2 * MEBIBYTE
    for held in found.memory.held:
        assert 0 < held.idle <= held.own_peak < 10 * MEBIBYTE
        # the memory of Python is its own
        assert held.peak > held.own_peak + 30 * MEBIBYTE
    assert found.memory.looks > 1


@pytest.mark.timeout(60)
def test_only_so_many_seconds_of_a_replay(home: Path) -> None:
    run = Recorded(
        name="long",
        inputs={},
        trajectory=Trajectory(
            task="t",
            steps=(
                step(1, "execute_bash", "Exit code: 0", 0.01, command="true"),
                step(2, "execute_bash", "Exit code: 0", 1.5, command="true"),
                step(3, "submit", "", 1000.0),
            ),
        ),
    )
    asked = replays.Asked(rootfs="minimal", count=1, seconds=1.0)
    (one,) = asyncio.run(replays.measure([run], asked)).replays
    assert (one.whole, len(one.steps)) == (False, 2)


@pytest.mark.timeout(120)
def test_episodes_are_counted(home: Path) -> None:
    """The measure itself fails where an episode is not graded as right."""
    bench = Bench(rootfs="minimal", tree=home, amounts=QUICK, notes=Notes())
    episodes.episodes(bench)
    assert bench.notes.values[names.EPISODE_RATE][0] > 0
