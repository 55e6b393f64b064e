"""The environment class of `GRPOTrainer(environment_factory=...)`.

What TRL does with one: it builds a probe, and as many more as a batch needs, when it likes; it
resets them again and again, calls the tools one after the other, never calls `close`, and takes
every public function of the class for a tool.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sandbox_lite.adapters.trl.rollouts import Rollout, Rollouts, rewarded, row_of
from sandbox_lite.agent.tools import TOOLS
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_OVER = "Error: not executed: the episode is over."


class SandboxEnvironment:
    """One place of TRL's pool: a sandbox for each rollout that is reset into it."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts
        self._rollout: Rollout | None = None

    def reset(self, **columns: Any) -> None:
        """Begin a rollout on a row of the dataset; its sandbox opens while the model thinks.

        Raises:
            SpecError: The dataset lacks a column.
        """
        if self._rollout is not None:
            self._rollout.close()  # TRL never asked for its reward
        self._rollout = self._rollouts.begin(row_of(columns))

    def get_reward(self) -> float | None:
        """Return the reward, None where the sandbox failed; the sandbox is released."""
        began = time.monotonic()
        rollout, self._rollout = self._begun(), None
        reward = rewarded(rollout)
        self._rollouts.waited_seconds += time.monotonic() - began
        return reward

    def execute_bash(self, command: str, timeout: float | None = None) -> str:  # noqa: D102
        return self._call("execute_bash", {"command": command, "timeout": timeout})

    def str_replace_editor(  # noqa: D102
        self,
        command: str,
        path: str,
        file_text: str | None = None,
        old_str: str | None = None,
        new_str: str | None = None,
        insert_line: int | None = None,
        view_range: list[int] | None = None,
    ) -> str:
        return self._call(
            "str_replace_editor",
            {
                "command": command, "path": path, "file_text": file_text, "old_str": old_str,
                "new_str": new_str, "insert_line": insert_line, "view_range": view_range,
            },
        )  # fmt: skip

    def submit(self) -> str:  # noqa: D102
        return self._call("submit", {})

    def _begun(self) -> Rollout:
        if self._rollout is None:
            raise SpecError("no episode was begun", hint="call reset first")
        return self._rollout

    def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        rollout = self._begun()
        if rollout.done:
            return _OVER
        began = time.monotonic()
        given = {key: value for key, value in arguments.items() if value is not None}
        try:
            return rollout.say(calls=((name, given),))
        finally:
            self._rollouts.waited_seconds += time.monotonic() - began


for _tool in TOOLS:
    # TRL makes the schema of a tool from its docstring; ours stands in the table
    _described = "".join(
        f"\n    {name}: {' '.join(str(rule['description']).split())}"
        for name, rule in _tool.parameters.items()
    )
    getattr(SandboxEnvironment, _tool.name).__doc__ = (
        f"{' '.join(_tool.description.split())}\n\n"
        + (f"Args:{_described}\n" if _described else "")
    )


def environment_factory(rollouts: Rollouts) -> Callable[[], SandboxEnvironment]:
    """Return what `GRPOTrainer` takes as `environment_factory`; building one starts nothing."""
    return lambda: SandboxEnvironment(rollouts)
