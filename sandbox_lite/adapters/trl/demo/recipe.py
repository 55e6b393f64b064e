"""What the two demos are: tasks, calls, limits, and the settings that were found to learn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sandbox_lite.adapters.trl.demo import tasks
from sandbox_lite.adapters.trl.demo.tasks import Lookup
from sandbox_lite.agent.episode import AgentLimits

if TYPE_CHECKING:
    import random

    from sandbox_lite.agent.completion import Message
    from sandbox_lite.bench.task import Row

Algorithm = Literal["grpo", "rloo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One demo; one setting for all seeds."""

    lookup: Lookup
    multi_turn: bool
    steps: int
    """Of training."""
    learning_rate: float
    warm_up_steps: int
    completion_tokens: int
    """Of a whole episode; in it, what the sandbox says counts too."""
    tool_rounds: int
    prompts: int = 8
    generations: int = 16

    @property
    def limits(self) -> AgentLimits:
        """Of each episode."""
        return AgentLimits(steps=3 if self.multi_turn else 1, seconds=120.0)

    @property
    def calls(self) -> tuple[str, ...]:
        """Commands that are one token each."""
        if not self.multi_turn:
            return tuple(f"cp documents/{name}.txt answer.txt" for name in self.lookup.names)
        return (
            *(f"cat documents/{name}.txt" for name in self.lookup.names),
            *(f"echo {word} > answer.txt" for word in self.lookup.words),
        )


SINGLE = Recipe(
    lookup=Lookup(keys=8, values=64), multi_turn=False, steps=80, learning_rate=1e-3,
    warm_up_steps=0, completion_tokens=1, tool_rounds=1,
)  # fmt: skip
MULTI = Recipe(
    lookup=Lookup(keys=16, values=16), multi_turn=True, steps=160, learning_rate=5e-4,
    warm_up_steps=10, completion_tokens=64, tool_rounds=3,
)  # fmt: skip


def call(name: str, arguments: dict[str, str]) -> Message:
    """Return a message of the policy that calls one tool."""
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant", "content": "",
        "tool_calls": [{"id": "call", "type": "function", "function": function}],
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """What a real episode showed: its first message, and what a read and a write were answered."""

    first: str
    read: str
    written: str
    asked: str
    """The document of the first message."""
    said: str
    """The word in what was read."""

    def all(self, lookup: Lookup, *, multi_turn: bool) -> list[str]:
        """Return every text that a policy can be shown, by exchanging the words.

        After one message it is shown nothing more: then no word needs a token of its own.
        """
        words = lookup.words if multi_turn else ()
        return [
            *(self.first.replace(self.asked, name) for name in lookup.names),
            *(self.read.replace(self.said, word) for word in words),
            self.written,
        ]

    def lesson(self, lookup: Lookup, drawn: random.Random, right: float) -> list[Message]:
        """Return a conversation that reads a document, the right one so often, and writes it."""
        asked, word = drawn.choice(lookup.names), drawn.choice(lookup.words)
        name = asked if drawn.random() < right else drawn.choice(lookup.names)
        return [
            {"role": "user", "content": self.first.replace(self.asked, asked)},
            call("execute_bash", {"command": f"cat documents/{name}.txt"}),
            {"role": "tool", "content": self.read.replace(self.said, word)},
            call("execute_bash", {"command": f"echo {word} > answer.txt"}),
            {"role": "tool", "content": self.written},
            call("submit", {}),
        ]


def recorded(episode: Any, recipe: Recipe, row: Row) -> Frames:
    """Return what an episode shows, which is played here once.

    Raises:
        SandboxLiteError: The sandbox failed.
    """
    from sandbox_lite.agent.tools import ToolCall
    from sandbox_lite.rl.turn import Action

    def said(command: str) -> str:
        made = ToolCall(id="call", name="execute_bash", arguments=json.dumps({"command": command}))
        return str(episode.step(Action(calls=(made,))).observation.text)

    asked = row.problem_statement.split()[3]
    word = row.ground_truth
    try:
        first = episode.reset(row).messages[-1]["content"]
        read = said(f"cat documents/{asked}.txt")
        written = said(f"echo {word} > answer.txt") if recipe.multi_turn else ""
    finally:
        episode.close()
    return Frames(first=first, read=read, written=written, asked=asked, said=word)


def training_rows(recipe: Recipe, *, seed: int) -> tuple[Row, ...]:
    """Return one row for each group of the whole training."""
    return recipe.lookup.rows(recipe.prompts * recipe.steps, seed=seed)


def held_out_rows(recipe: Recipe, count: int, *, seed: int) -> tuple[Row, ...]:
    """Return rows that are not trained on."""
    return recipe.lookup.rows(count, seed=seed + 1_000_000)


texts = tasks.texts
