"""A Gymnasium environment: text in, text out. Needs the extra `gymnasium`.

An action is what a model writes. Where it is one JSON object, or a list of them, each with a `name`
and perhaps `arguments`, it calls those tools:

    {"name": "execute_bash", "arguments": {"command": "ls"}}

Anything else is a message that calls none. Texts of a `spaces.Text` are of a declared set of
characters: an observation's others are written as escapes, `\\xe9` or `\\u4e2d`, and an action can
have them as JSON's.
"""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium import spaces

from sandbox_lite.agent.tools import ToolCall
from sandbox_lite.errors import SpecError
from sandbox_lite.rl.env import Action, Cause, SandboxEnv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.bench.task import Row
    from sandbox_lite.rl.env import EnvSettings, Info, Source

__all__ = ["CHARACTERS", "GymnasiumEnv", "action_of", "shown"]

CHARACTERS = frozenset(string.ascii_letters + string.digits + string.punctuation + " \n\t")


class GymnasiumEnv(gymnasium.Env[str, str]):
    """Episodes of `SandboxEnv`; `step` ends the last one with its reward.

    An episode is `terminated` where the model ended it and `truncated` at a limit or after a
    fault. A fault has reward 0, for Gymnasium knows no other, and `info["masked"]`: leave it out.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as the base class has it

    def __init__(
        self,
        settings: EnvSettings,
        rows: Sequence[Row],
        *,
        source: Source | None = None,
        max_length: int = 65_536,
    ) -> None:
        """Take the parts; nothing is started.

        Args:
            settings: See `EnvSettings`.
            rows: Of which each episode has one, by chance.
            source: Where sandboxes come from.
            max_length: Characters of an action or an observation; a longer observation is cut.

        Raises:
            SpecError: There are no rows.
        """
        if not rows:
            raise SpecError("an environment needs at least one row")
        self.observation_space = spaces.Text(max_length, min_length=0, charset=CHARACTERS)
        self.action_space = spaces.Text(max_length, min_length=0, charset=CHARACTERS)
        self._rows = tuple(rows)
        self._max_length = max_length
        self._env = SandboxEnv(settings, source=source)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Of the choice of rows, and of what differs by chance in sandboxes.
            options: `row`, the id of one, chooses it.

        Raises:
            SpecError: There is no such row.
            SandboxLiteError: See `SandboxEnv.reset`.
        """
        super().reset(seed=seed)
        number = int(self.np_random.integers(len(self._rows)))
        row = self._rows[number]
        wanted = (options or {}).get("row")
        if wanted is not None:
            found = [one for one in self._rows if one.id == wanted]
            if not found:
                raise SpecError(f"there is no row {wanted!r}")
            row = found[0]
        said = self._env.reset(row, seed=int(self.np_random.integers(2**32)))
        self._steps = 0
        return shown(said.text, self._max_length), {"row": row.id}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do what the model wrote.

        Raises:
            SpecError: There is no episode, or it is over.
        """
        self._steps += 1
        result = self._env.step(action_of(action, self._steps))
        reward, info = 0.0, result.info
        if result.done:
            reward = self._env.compute_final_reward() or 0.0
            info = self._env.info
        truncated = result.done and info.cause in (Cause.LIMIT, Cause.FAULT)
        text = shown(result.observation.text, self._max_length)
        return text, reward, result.done and not truncated, truncated, _info(info)

    def close(self) -> None:
        """Release the sandbox; a second call does nothing."""
        self._env.close()


def action_of(text: str, number: int = 1) -> Action:
    """Return what a text asks for.

    Args:
        text: What the model wrote.
        number: Of the step, which makes the ids of its calls.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return Action(text=text)
    items = data if isinstance(data, list) else [data]
    if not items or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in items
    ):
        return Action(text=text)
    calls = []
    for place, item in enumerate(items, 1):
        given = item.get("arguments", {})
        arguments = given if isinstance(given, str) else json.dumps(given)
        calls.append(ToolCall(id=f"call_{number}_{place}", name=item["name"], arguments=arguments))
    return Action(calls=tuple(calls))


def shown(text: str, max_length: int) -> str:
    """Return text in the characters of the observation space, and not too long for it."""
    plain = text.encode("ascii", errors="backslashreplace").decode()
    found = "".join(c if c in CHARACTERS else f"\\x{ord(c):02x}" for c in plain)
    if len(found) <= max_length:
        return found
    mark = "\n[... cut ...]\n"
    half = (max_length - len(mark)) // 2
    # what stands at the end, such as the steps that are left, matters most
    return found[:half] + mark + found[-half:] if half > 0 else found[-max_length:]


def _info(info: Info) -> dict[str, Any]:
    # no seconds: an episode that is done again has the same
    return {
        "stop": None if info.stop is None else str(info.stop),
        "cause": None if info.cause is None else str(info.cause),
        "masked": info.masked,
        "overlong": info.overlong,
        "steps_left": info.steps_left,
    }
