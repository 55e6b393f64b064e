"""The whole episode inside a reward function: for `RLOOTrainer`, which knows no tools.

A completion is then one message with its calls, and nothing that a sandbox says comes back to the
model. In return the episodes of a batch run at once.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sandbox_lite.adapters.trl.rollouts import rewarded, row_of
from sandbox_lite.errors import SandboxLiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_lite.adapters.trl.rollouts import Calls, Rollout, Rollouts

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def hermes_calls(text: str) -> Calls:
    """Return the calls in a completion, written as `<tool_call>{"name": ..., "arguments": ...}`.

    What is no JSON is no call; many chat templates write calls so.
    """
    found = []
    for match in _CALL.finditer(text):
        try:
            call = json.loads(match[1])
        except ValueError:
            continue
        if isinstance(call, dict) and isinstance(call.get("arguments"), dict):
            found.append((str(call.get("name")), call["arguments"]))
    return tuple(found)


def reward_function(
    rollouts: Rollouts, calls: Callable[[str], Calls] = hermes_calls
) -> Callable[..., list[float | None]]:
    """Return what TRL takes in `reward_funcs`: it runs each completion as one episode.

    Args:
        rollouts: Who owns them; `workers` of them run at once.
        calls: Reads the calls out of a completion's text.
    """

    def sandbox_reward(
        prompts: Sequence[object], completions: Sequence[object], **columns: Any
    ) -> list[float | None]:
        began = time.monotonic()
        rows = [
            row_of({k: v[index] for k, v in columns.items() if _is_column(v, len(prompts))})
            for index in range(len(prompts))
        ]
        begun = [rollouts.begin(row) for row in rows]

        def played(pair: tuple[Rollout, object]) -> float | None:
            rollout, completion = pair
            text = _text(completion)
            with contextlib.suppress(SandboxLiteError):  # it is told with the reward
                rollout.say(text, calls(text))
            return rewarded(rollout)

        if rollouts.one_step:
            # each goes on by itself once it is told what was said
            for rollout, completion in zip(begun, completions, strict=True):
                text = _text(completion)
                rollout.say(text, calls(text))
            rewards = [rewarded(rollout) for rollout in begun]
        else:
            with ThreadPoolExecutor(rollouts.workers) as threads:
                rewards = list(threads.map(played, zip(begun, completions, strict=True)))
        rollouts.waited_seconds += time.monotonic() - began
        return rewards

    return sandbox_reward


def _is_column(value: object, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _text(completion: object) -> str:
    """Return what was said; TRL gives messages where the prompt was made of them."""
    if isinstance(completion, str):
        return completion
    assert isinstance(completion, list)
    return "".join(str(message.get("content") or "") for message in completion)
