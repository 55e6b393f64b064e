"""A model in the same process that answers from a list, at once or after a pause of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sandbox_lite.agent.completion import Completion, Usage, message_of
from sandbox_lite.agent.model import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_lite.agent.completion import Message
    from sandbox_lite.agent.tools import ToolCall


class ScriptedModel:
    """Gives the calls of one turn after the other, of whichever conversation it is asked.

    Args:
        turns: The calls of each turn.
        pauses: Seconds that each turn takes; none are no pauses.
    """

    def __init__(self, turns: Sequence[tuple[ToolCall, ...]], pauses: Sequence[float] = ()) -> None:
        self.settings = ModelSettings(model="scripted")
        self._turns = turns
        self._pauses = pauses

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        *,
        max_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Completion:
        """Return the turn that is next in this conversation."""
        del tools, max_tokens, timeout
        turn = sum(message["role"] == "assistant" for message in messages)
        seconds = self._pauses[turn] if self._pauses else 0.0
        if seconds:
            await asyncio.sleep(seconds)
        calls = self._turns[turn]
        return Completion(
            text="", reasoning="", calls=calls, finish_reason="tool_calls",
            usage=Usage(prompt_tokens=100 * (turn + 1), completion_tokens=10),
            # what a timer or a busy loop adds is no time of the model
            seconds=seconds,
            message=message_of("", "", calls),
        )  # fmt: skip
