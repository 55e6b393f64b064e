"""The benchmark's own runner on the tiny policy, with a computer and without one."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import torch

from sandbox_lite.adapters.trl.demo import policy
from sandbox_lite.adapters.trl.demo.tasks import TASK
from sandbox_lite.agent.completion import Completion, Usage, message_of
from sandbox_lite.agent.model import ModelSettings
from sandbox_lite.agent.tools import ToolCall, ToolContext
from sandbox_lite.agent.trajectory import now
from sandbox_lite.bench import plan as plans
from sandbox_lite.bench import results as reporting
from sandbox_lite.bench.data import DataOrigin
from sandbox_lite.bench.engines.local import Local
from sandbox_lite.bench.ledger import RESULTS, Ledger, load_header, write_json
from sandbox_lite.bench.plan import Planned
from sandbox_lite.bench.rollout import Computers
from sandbox_lite.bench.runner import Runner
from sandbox_lite.bench.trial import Pace, Trials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.agent.completion import Message
    from sandbox_lite.agent.episode import AgentLimits
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.prompt import TaskPrompts
    from sandbox_lite.bench.task import Row
    from sandbox_lite.jail.aio import AsyncSandbox

_TOKENS = 2
"""Of one message: a call and its end."""
_AT_ONCE = 4


class LocalModel:
    """The policy as the benchmark sees a model: greedy, in this process, one message at a time."""

    def __init__(self, model: Any, tokenizer: Any, *, one_step: bool) -> None:
        self.settings = ModelSettings(model="tiny policy", temperature=0.0, max_tokens=_TOKENS)
        self._model = model
        self._tokenizer = tokenizer
        self._one_step = one_step

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        *,
        max_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Completion:
        """Return the next message; see `Model.complete`."""
        del max_tokens, timeout
        began = time.monotonic()
        prompt = policy.prompt_ids(self._tokenizer, _parsed(messages))
        given = torch.tensor([prompt])
        self._model.eval()
        with torch.no_grad():
            said = self._model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=_TOKENS,
                do_sample=False,
            )[0, len(prompt) :].tolist()  # fmt: skip
        answer = policy.parsed(self._tokenizer, said, prompt)
        text = str(answer.get("content") or "")
        calls = [
            ToolCall(
                id=f"call_{len(messages)}_{number}",
                name=str(call["function"]["name"]),
                arguments=json.dumps(call["function"]["arguments"]),
            )
            for number, call in enumerate(answer.get("tool_calls") or ())
        ]
        if tools and self._one_step:
            calls.append(ToolCall(id=f"call_{len(messages)}", name="submit", arguments="{}"))
        if not tools:
            text = self._tokenizer.decode(said, skip_special_tokens=True)
            calls = []
        return Completion(
            text=text,
            reasoning="",
            calls=tuple(calls),
            finish_reason="tool_calls" if calls else "stop",
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(said)),
            seconds=time.monotonic() - began,
            message=message_of(text, "", calls),
        )


def _parsed(messages: Sequence[Message]) -> list[Message]:
    """Return messages as a chat template wants them: arguments as objects."""
    copied: list[Message] = json.loads(json.dumps(list(messages)))
    for message in copied:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return copied


def evaluate(
    model: LocalModel,
    rows: Sequence[Row],
    texts: TaskPrompts,
    grading: Grading,
    directory: Path,
    *,
    make: Callable[[str], AsyncSandbox],
    limits: AgentLimits,
) -> dict[str, float]:
    """Return the score of each mode; the directory is a benchmark's, and `view` reads it.

    Raises:
        SandboxLiteError: The results cannot be written.
    """
    planned = Planned(
        name=TASK.name, task=TASK, rows=tuple(rows),
        origin=DataOrigin(name="made by the demo"), texts=texts, modes=("sandbox", "plain"),
    )  # fmt: skip
    context = ToolContext()
    experiment = plans.experiment(
        [planned], repeats=1, documents="files", without=(), model=model.settings, limits=limits,
        command_seconds=context.timeout_seconds, sandbox={"rootfs": make("/").spec.rootfs},
        scorer=grading.scorer, judge=None,
    )  # fmt: skip
    about = {
        "tasks": plans.described_tasks([planned]), "enforcement": None, "started": now(),
        "seed": 0, "versions_at_start": reporting.versions(),
    }  # fmt: skip
    computers = Computers(make=make, limits=limits, context=context, documents="files")
    pace = Pace(concurrency=_AT_ONCE)
    with (
        Ledger(directory, experiment, about) as ledger,
        Trials(model, computers, grading, pace, threads=_AT_ONCE) as trials,  # type: ignore[arg-type]
    ):
        engine = Local(trials, _AT_ONCE)
        asyncio.run(Runner(plans.keys([planned], 1), ledger, engine, pace).run())
        episodes = list(ledger.done.values())
    write_json(directory / RESULTS, reporting.results(load_header(directory), episodes))
    return {
        mode: sum(one.value or 0.0 for one in found) / len(found)
        for mode in ("sandbox", "plain")
        if (found := [one for one in episodes if one.key.mode == mode])
    }
