"""What tokens cost, by a file of the user's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.bench import prices
from sandbox_lite.bench.episode import Episode, Fault, Key, Spent
from sandbox_lite.bench.prices import Price
from sandbox_lite.bench.results import results
from sandbox_lite.bench.task import Answer, Score
from sandbox_lite.bench.tool_use import ToolUse
from sandbox_lite.bench.trial import Pace
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

PRICE = Price(prompt=1.25, completion=10, currency="USD")
SPENT = Spent(prompt_tokens=2_000_000, completion_tokens=100_000)
"""For 3.50."""


def episode(row: str, **members: object) -> Episode:
    given: dict[str, object] = {
        "key": Key(task="math", row=row, mode="sandbox", repeat=1), "problem": row,
        "row_digest": "d", "domain": "math", "stop": "submitted", "spent": SPENT,
        "answer": Answer(text="4", size_bytes=1), "tool_use": ToolUse(calls=2, files=2),
        "score": Score(value=1.0, verdict="v", grader="g", scorer="default"),
    }  # fmt: skip
    return Episode(**{**given, **members})  # type: ignore[arg-type]


def test_a_million_tokens_cost_what_the_file_says(tmp_path: Path) -> None:
    toml = tmp_path / "prices.toml"
    toml.write_text('currency = "USD"\n[models."a/b"]\nprompt = 1.25\ncompletion = 10\n')
    assert prices.load(toml, "a/b") == PRICE
    models = {"a/b": {"prompt": 1.25, "completion": 10, "currency": "USD"}}
    (tmp_path / "prices.json").write_text(json.dumps({"currency": "EUR", "models": models}))
    assert prices.load(tmp_path / "prices.json", "a/b") == PRICE
    assert PRICE.of(SPENT) == pytest.approx(3.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models = 1",
        "[models]\nm = 1",
        "not toml",
        "[models.other]\nprompt = 1\ncompletion = 1",
        "[models.m]\nprompt = 1",
        "[models.m]\nprompt = -1\ncompletion = 1",
        "[models.m]\nprompt = nan\ncompletion = 1",
        '[models.m]\nprompt = "1"\ncompletion = 1',
        "[models.m]\nprompt = 1\ncompletion = 1\ninput = 1",
    ],
)
def test_what_is_no_price_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(SpecError):
        prices.load(tmp_path / "p.toml", "m")


def test_spoiled_tries_are_billed() -> None:
    fault = Fault(stop="model_error", message="500", spent=SPENT)
    assert PRICE.of_episode(episode("a", faults=(fault, fault))) == pytest.approx(10.5)
    # the last of the faults is the try itself
    lost = episode("a", answer=None, score=None, fault=fault, faults=(fault, fault))
    assert PRICE.of_episode(lost) == pytest.approx(7)


def test_a_bound_without_a_price_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        Pace(concurrency=1, max_cost=1.0)
    assert "--prices" in str(caught.value.hint)
    assert Pace(concurrency=1, max_cost=1.0, price=PRICE).price == PRICE


def test_results_tell_what_was_taken() -> None:
    some = (
        episode("a", spent=Spent(peak_memory_bytes=10, disk_bytes=4096)),
        episode("b", spent=Spent(peak_memory_bytes=30), tool_use=ToolUse(calls=3, network=3)),
        episode("c"),
    )
    found = results({}, some, price=PRICE)["spent"]["math"]["sandbox"]
    assert found["cost"] == pytest.approx(3.5)
    assert found["memory_bytes"] == {"mean": 20, "most": 30, "sandboxes": 2}
    assert found["disk_bytes"] == {"mean": 4096, "most": 4096, "sandboxes": 1}
    used = {"calls": 7, "network": 3, "files": 4, "computation": 0, "other": 0}
    assert found["tool_use"] == used
    # one line of a version that did not count: a sum without it would be wrong
    found = results({}, (*some, episode("d", tool_use=None)))["spent"]["math"]["sandbox"]
    assert (found["tool_use"], found["cost"]) == ("unknown", "unknown")
    lost = (episode("e", spent=Spent()),)
    assert results({}, lost)["spent"]["math"]["sandbox"]["memory_bytes"] == "unknown"


def test_an_episode_keeps_it_all() -> None:
    one = episode("a", spent=Spent(peak_memory_bytes=10, disk_bytes=4096))
    assert Episode.from_json(json.loads(json.dumps(one.to_json()))) == one
    old = one.to_json()
    del old["tool_use"], old["spent"]["peak_memory_bytes"], old["spent"]["disk_bytes"]
    assert Episode.from_json(old) == episode("a", spent=Spent(), tool_use=None)
