"""scripts/efficiency: the numbers of replays whose times are made up, and what it reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from efficiency_analysis import recorded
from efficiency_analysis.memory import Held, MemoryLooks
from efficiency_analysis.replays import Asked, Measured, Replayed, Stepped
from efficiency_analysis.report import PUBLISHED, Report, lines, report, size_bytes

from sandbox_lite.errors import TaskError
from tests.unit.test_bench import HOST

if TYPE_CHECKING:
    from pathlib import Path

STEPS = (
    Stepped(model=10.0, environment=0.5, trip=0.001, around=0.002),
    Stepped(model=30.0, environment=1.5, trip=0.003, around=0.004),
    Stepped(model=5.0, environment=3.0, trip=0.001, around=0.0),
)
ASKED = Asked(rootfs="paper", count=2, speed=4, seconds=20)


def made(**members: object) -> Report:
    """Two replays: the first of two steps, the second of one."""
    given = {
        "startup_seconds": 0.02, "seconds": 1.0, "unlike": 1, "whole": True,
        "limit_peak_bytes": 7_000_000,
    }  # fmt: skip
    replays = (
        Replayed(name="a", steps=STEPS[:2], disk_bytes=4_000_000, **given),  # type: ignore[arg-type]
        Replayed(name="b", steps=STEPS[2:], disk_bytes=None, **given),  # type: ignore[arg-type]
    )
    held = [
        Held(first=1, own=frozenset(), idle=1_000_000, own_peak=1_200_000, peak=9_000_000),
        Held(first=2, own=frozenset(), idle=1_100_000, own_peak=1_100_000, peak=3_000_000),
    ]
    memory = MemoryLooks(
        interval=1, held=held, program_before=50_000_000, program_peak=52_000_000, looks=3
    )
    values = {"idle_bytes": 2_000_000.0, "seconds": 5.0, "busy_share": 0.5} | members
    measured = Measured(replays=replays, memory=memory, **values)  # type: ignore[arg-type]
    return report(measured, ASKED, HOST, rootfs_bytes=300_000_000)


def test_the_numbers_are_those_of_a_hand_calculation() -> None:
    found = made()
    assert found.overhead_ms == pytest.approx((3.0, 11 / 3, 7.0))
    assert found.trip_ms == pytest.approx((1.0, 5 / 3, 3.0))
    # of the recorded time of the model, however fast it was here
    assert found.environment_share == pytest.approx(5 / 50)
    assert found.environment_shares == pytest.approx({"a": 2 / 42, "b": 3 / 8})
    # the program has grown by 2 MB, for two sandboxes
    memory = (found.own_idle_mb, found.own_peak_mb, found.peak_mb, found.peaks_mb, found.idle_mb)
    assert memory == (2.1, 2.2, 10.0, (10.0, 4.0), 2.0)
    assert (found.disk_mb, found.rootfs_mb, found.limit_peak_mb) == (4.0, 300.0, 7.0)
    assert (found.steps, found.whole, found.commands_unlike) == (3, 2, 2)
    assert (found.runs, found.met) == ({"a": 1, "b": 1}, True)


def test_what_is_told_says_how_it_was_measured() -> None:
    text = "\n".join(lines(made()))
    for part in ("4 times as fast", "20 s of each", "10.0%", "2 commands ended otherwise", "50%"):
        assert part in text
    assert "50.0 MB" in text
    assert "met: our overhead" in text
    assert json.loads(json.dumps(made().to_json()))["published"] == PUBLISHED
    hidden = "\n".join(lines(made(idle_bytes=-5.0, busy_share=None)))
    assert "all told" in hidden
    assert hidden.count("unknown") == 2


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    from efficiency_analysis.plot import draw

    paths = [tmp_path / "a.png", tmp_path / "a.svg"]
    draw(made(), paths)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in paths[1].read_bytes()


def published(folder: Path, name: str, seconds: float) -> None:
    step = {
        "thought": "", "observation": "", "metadata": {"exec_time": seconds},
        "action": {"function": "submit", "parameters": {}},
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps({"problem_statement": "p", "steps": [step]}))


def test_runs_are_read_with_their_inputs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        published(tmp_path, name, 2.5)
    (tmp_path / "b_input" / "sub").mkdir(parents=True)
    (tmp_path / "b_input" / "sub" / "x.txt").write_bytes(b"\0x")
    found = recorded.load(tmp_path)
    assert [(one.name, dict(one.inputs)) for one in found] == [
        ("a", {}), ("b", {"sub/x.txt": b"\0x"}),
    ]  # fmt: skip
    assert found[0].trajectory.seconds.model == 2.5
    assert [one.name for one in recorded.load(tmp_path, ("b",))] == ["b"]
    with pytest.raises(TaskError, match="no run 'c'"):
        recorded.load(tmp_path, ("a", "c"))
    published(tmp_path, "c", 0)
    with pytest.raises(TaskError, match="how long the model took"):
        recorded.load(tmp_path)
    with pytest.raises(TaskError, match="no recorded run"):
        recorded.load(tmp_path / "b_input")


def test_a_tree_has_the_size_of_its_blocks(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert 100_000 <= size_bytes(tmp_path) < 200_000
