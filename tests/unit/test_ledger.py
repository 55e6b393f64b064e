"""The directory of a benchmark: torn and damaged lines, one writer, one experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite.bench.episode import Episode, Fault, Key, Spent
from sandbox_lite.bench.ledger import Ledger, load_episodes
from sandbox_lite.bench.task import Answer, NoAnswer, Score, Ungraded
from sandbox_lite.errors import HostError, SpecError, TaskError

if TYPE_CHECKING:
    from pathlib import Path

EXPERIMENT = {"model": {"model": "m", "temperature": None}, "ids": ("a", "b")}
FAULT = Fault(stop="model_error", message="500", hint="later", spent=Spent(prompt_tokens=3))


def episode(row: str, **members: object) -> Episode:
    given: dict[str, object] = {
        "key": Key(task="math", row=row, mode="plain", repeat=1),
        "problem": "p", "row_digest": "d", "domain": "math", "stop": "answered",
        "answer": Answer(text="\ud800 \u2028 \n4", size_bytes=9),
        "score": Score(value=0.5, verdict="v", grader="g", scorer="paper", details={"a": [1]}),
    }  # fmt: skip
    return Episode(**{**given, **members})  # type: ignore[arg-type]


EPISODES = (
    episode("a"),
    episode("b", answer=NoAnswer(reason="huge", text="t"), score=Ungraded(reason="r", grader="g")),
    episode("c", answer=None, score=None, fault=FAULT, faults=(FAULT, FAULT)),
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with Ledger(tmp_path, EXPERIMENT, {}) as ledger:
        for one in EPISODES:
            ledger.append(one)
    return tmp_path


def test_what_is_written_comes_back(written: Path) -> None:
    with Ledger(written, EXPERIMENT, {}) as ledger:
        assert tuple(ledger.done.values()) == EPISODES
    assert EPISODES[2].tokens == 6
    # the try that is told of is the last of the spoiled ones
    assert episode("d", fault=FAULT, faults=(FAULT, FAULT), spent=FAULT.spent).tokens == 6
    assert episode("e", faults=(FAULT,), spent=FAULT.spent).tokens == 6
    assert tuple(load_episodes(written).values()) == EPISODES


def test_a_later_line_takes_the_place_of_a_fault(written: Path) -> None:
    with Ledger(written, EXPERIMENT, {}) as ledger:
        ledger.append(episode("c"))
    assert load_episodes(written)[EPISODES[2].key] == episode("c")


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_line_is_dropped(written: Path, cut: int) -> None:
    path = written / "episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with Ledger(written, EXPERIMENT, {}) as ledger:
        assert tuple(ledger.done.values()) == EPISODES[:2]
        ledger.append(EPISODES[2])
    assert tuple(load_episodes(written).values()) == EPISODES


def test_a_damaged_line_is_told(written: Path) -> None:
    path = written / "episodes.jsonl"
    path.write_bytes(b'{"task": "math"}\n' + path.read_bytes())
    with pytest.raises(TaskError, match="line 1 is no episode"):
        Ledger(written, EXPERIMENT, {})


def test_there_is_one_writer(written: Path) -> None:
    with Ledger(written, EXPERIMENT, {}), pytest.raises(HostError, match="another process"):
        Ledger(written, EXPERIMENT, {})
    Ledger(written, EXPERIMENT, {}).close()


def test_another_experiment_is_refused(written: Path) -> None:
    other = {**EXPERIMENT, "model": {"model": "m", "temperature": 1.0}}
    with pytest.raises(SpecError, match=r"model\.temperature was None, and is 1\.0"):
        Ledger(written, other, {})


def test_episodes_of_nobody_knows_what_are_refused(written: Path) -> None:
    (written / "run.json").unlink()
    with pytest.raises(SpecError, match=r"no run\.json"):
        Ledger(written, EXPERIMENT, {})
