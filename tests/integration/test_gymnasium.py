"""The Gymnasium environment over real sandboxes."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import pytest
from gymnasium.utils.env_checker import check_env

from sandbox_lite.adapters.gymnasium import CHARACTERS, GymnasiumEnv, action_of, shown
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.bench.grading import Grading
from sandbox_lite.errors import SpecError
from sandbox_lite.rl.env import Action
from tests.rollouts import ROW, SUM, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


def call(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


@pytest.fixture
def env(home: Path) -> Iterator[GymnasiumEnv]:
    with Grading(timeout=15) as grading:
        made = GymnasiumEnv(settings(grading, limits=AgentLimits(steps=3)), [ROW])
        yield made
        made.close()


def test_gymnasium_finds_no_fault(env: GymnasiumEnv) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


def test_an_episode(env: GymnasiumEnv) -> None:
    text, info = env.reset(seed=1, options={"row": "1"})
    assert ROW.problem_statement in text
    assert info == {"row": "1"}
    text, reward, terminated, truncated, _ = env.step(call("execute_bash", command=SUM))
    assert "[2 steps remaining]" in text
    assert (reward, terminated, truncated) == (0.0, False, False)
    text, _, _, _, _ = env.step("I shall submit.")
    assert "called no tool" in text
    *_, reward, terminated, truncated, info = env.step(call("submit"))
    assert (reward, terminated, truncated, info["masked"]) == (1.0, True, False, False)
    with pytest.raises(SpecError, match="over"):
        env.step("again")
    with pytest.raises(SpecError, match="no row"):
        env.reset(options={"row": "none"})


def test_a_limit_truncates(env: GymnasiumEnv) -> None:
    env.reset(seed=1)
    say = call("execute_bash", command=f"{SUM}; printf '\\xff\\a\\u4e2d'")
    for _ in range(2):
        text, _, _, truncated, _ = env.step(say)
        assert env.observation_space.contains(text)
        assert not truncated
    _, reward, terminated, truncated, info = env.step(say)
    assert (reward, terminated, truncated, info["overlong"]) == (0.0, False, True, True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (call("submit"), ["submit"]),
        (f"[{call('a')}, {call('b')}]", ["a", "b"]),
        ('{"name": "x", "arguments": "{}"}', ["x"]),
        ('{"name": "x"}', ["x"]),
        ("hello", []),
        ("[]", []),
        ("7", []),
        ('{"arguments": {}}', []),
        ("[" * 100_000, []),
    ],
)
def test_what_a_text_asks_for(text: str, names: list[str]) -> None:
    found = action_of(text)
    assert [one.name for one in found.calls] == names
    assert found.text == ("" if names else text)
    if names:
        assert all(isinstance(json.loads(one.arguments), dict) for one in found.calls)
    else:
        assert found == Action(text=text)


def test_what_is_shown_fits_the_space() -> None:
    assert shown("caf\u00e9 \u4e2d\a\r", 100) == "caf\\xe9 \\u4e2d\\x07\\x0d"
    long = shown("a" * 500 + "\u00e9 end", 100)
    assert len(long) <= 100
    assert long.endswith(" end")
    assert set(long) <= CHARACTERS
    assert len(shown("a" * 99, 5)) == 5
