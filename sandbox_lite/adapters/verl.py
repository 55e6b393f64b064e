"""The agent loop of verl: a rollout is an episode in a sandbox, its reward the graded answer.

Name this file's loop in the YAML of `actor_rollout_ref.rollout.agent.agent_loop_config_path`, and
give rows that `sandbox-lite rl data --format verl` wrote, which ask for it by `agent_name`:

    - name: sandbox_lite
      _target_: sandbox_lite.adapters.verl.SandboxAgentLoop
      rootfs: standard
      turns: 100

verl's own tool loop makes, runs and releases a tool around every single call, which a computer
that stays cannot be; and it cuts what a tool says to 256 characters. Neither happens here.
"""

from __future__ import annotations

import atexit
import functools
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandbox_lite.agent import tools as product
from sandbox_lite.agent.completion import message_of
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.tools import ToolCall
from sandbox_lite.agent.trajectory import StopReason
from sandbox_lite.bench import data, prompt, tasks
from sandbox_lite.bench.answer import answer_of_text
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.libraries import need
from sandbox_lite.bench.task import Score
from sandbox_lite.errors import HostError, SandboxLiteError, SpecError, TaskError
from sandbox_lite.rl.env import Action, AsyncSandboxEnv, EnvSettings
from sandbox_lite.rl.formats import AGENT
from sandbox_lite.spec import SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_lite.agent.completion import Message
    from sandbox_lite.bench.task import Row
    from sandbox_lite.rl.env import Source

_INSTALL = "pip install verl"
_LOOPS = need("verl.experimental.agent_loop.agent_loop", "this agent loop", install=_INSTALL)
_PARSERS = need("verl.experimental.agent_loop.tool_parser", "this agent loop", install=_INSTALL)
_SCHEMAS = need("verl.tools.schemas", "this agent loop", install=_INSTALL)

TRIES = 2
"""Rollouts for one place in a batch, where the machine fails and not the policy."""

_WRITTEN = ("baseline", "split", "index")
"""Of `extra_info`, what is no field of a row."""


@dataclass(slots=True)
class _Rollout:
    """Tokens of one episode: prompt and response in one list, the response's mask beside it."""

    ids: list[int]
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    messages: list[Message] = field(default_factory=list)
    turns: int = 1
    """Messages of policy and environment."""
    generating: float = 0.0
    scoring: float = 0.0
    preempted: int = -1
    extra: dict[str, Any] = field(default_factory=dict)


@_LOOPS.register(AGENT)
class SandboxAgentLoop(_LOOPS.AgentLoopBase):  # type: ignore[misc,name-defined]
    """An episode per rollout, each in a sandbox of its own; verl makes one loop for each.

    A rollout whose sandbox failed is begun anew. Where that fails too it has a mask of zeros, so
    that nothing is learned from its tokens, and the reward 0, which its group's mean holds: a
    reward of None would take those of the whole batch with it (verl 0.9).
    """

    settings: EnvSettings | None = None
    """Of a subclass; else they are made of the loop's configuration."""
    source: Source | None = None

    def __init__(
        self,
        *args: Any,
        tools: Any = None,
        rootfs: str = "standard",
        network: str = "none",
        task: str = "context",
        turns: int = 100,
        seconds: float = 5400.0,
        overlong_penalty: bool = True,
        **kwargs: Any,
    ) -> None:
        """Take verl's parts, and the settings that stand beside `_target_`.

        Args:
            args: verl's.
            tools: verl's; the product's own are used.
            rootfs: Of every sandbox.
            network: Of every sandbox.
            task: Whose prompts and graders there are.
            turns: Messages of the policy.
            seconds: Of an episode, the policy's own time included.
            overlong_penalty: Reward 0 where turns or tokens ended it.
            kwargs: verl's.
        """
        del tools
        super().__init__(*args, **kwargs)
        if self.settings is None:
            self.settings = _settings(rootfs, network, task, turns, seconds, overlong_penalty)
        self._tools = product.schemas(self.settings.context.without)
        self._known = [
            _SCHEMAS.OpenAIFunctionToolSchema.model_validate(schema) for schema in self._tools
        ]
        form = self.rollout_config.multi_turn.format
        self._parser = _PARSERS.ToolParser.get_tool_parser(form, self.tokenizer)
        self._length = int(self.rollout_config.response_length)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Run one rollout.

        Args:
            sampling_params: Of the policy.
            row: verl's fields; `extra_info` holds ours.

        Returns:
            verl's `AgentLoopOutput`.

        Raises:
            HostError: A library of the grader lacks.
            SpecError: Nobody could reward this row.
            TaskError: The row lacks a field.
        """
        extra = row.get("extra_info") or {}
        fields = {name: value for name, value in extra.items() if name not in _WRITTEN}
        assert self.settings is not None
        asked = data.row_of(fields, self.settings.task.name, "extra_info")
        rollout: _Rollout | None = None
        for _ in range(TRIES):
            env = AsyncSandboxEnv(self.settings, source=self.source)
            try:
                await env.reset(asked)
                rollout = await self._begun(env)
                stop = await self._played(env, rollout, dict(sampling_params))
                began = time.monotonic()
                reward = await env.compute_final_reward(stop=stop)
                rollout.scoring = time.monotonic() - began
                if reward is not None:
                    return self._output(rollout, env, reward)
            except (SpecError, TaskError, HostError):
                raise
            except SandboxLiteError:
                continue  # no sandbox could be had
            finally:
                await env.close()
        if rollout is None or not rollout.mask:
            messages = list(row["raw_prompt"])
            ids = await self.ct_build_initial_tokens(messages, tools=self._tools)
            end = self.tokenizer.eos_token_id or 0
            rollout = _Rollout(ids=[*ids, end], mask=[0], messages=messages)
        return self._output(rollout, None, 0.0)

    async def _begun(self, env: AsyncSandboxEnv) -> _Rollout:
        messages = list(env.messages)
        ids = await self.ct_build_initial_tokens(messages, tools=self._tools)
        return _Rollout(ids=ids, messages=messages)

    async def _played(
        self, env: AsyncSandboxEnv, rollout: _Rollout, sampling_params: dict[str, Any]
    ) -> StopReason:
        """Let the policy speak until the episode ends; return why, where it has not by itself."""
        ends = self._parser.stop_token_ids
        if ends:
            asked = sampling_params.get("stop_token_ids") or []
            sampling_params["stop_token_ids"] = [*{*asked, *ends}]
        name = uuid.uuid4().hex  # keeps all turns at one server, for its prefix cache
        while True:
            began = time.monotonic()
            said = await self.server_manager.generate(
                request_id=name, prompt_ids=rollout.ids, sampling_params=sampling_params
            )
            rollout.generating += time.monotonic() - began
            if said.num_preempted is not None:
                rollout.preempted = max(rollout.preempted, 0) + said.num_preempted
            rollout.extra |= said.extra_fields if not rollout.extra else _newer(said.extra_fields)
            known = said.log_probs or None
            if rollout.logprobs is None and known and not rollout.mask:
                rollout.logprobs = []
            merged, rollout.mask, rollout.logprobs = await self.ct_merge_assistant_token(
                rollout.ids, said.token_ids, rollout.mask, rollout.logprobs,
                assistant_logprobs=known if rollout.logprobs is not None else None,
            )  # fmt: skip
            rollout.ids = merged.token_ids
            rollout.turns += 1
            if len(rollout.mask) >= self._length:
                return StopReason.TOKEN_LIMIT
            action = await self._action(said.token_ids)
            result = await env.step(action)
            if result.done:
                return StopReason.SUBMITTED  # it is over already, for a reason of its own
            before = [*rollout.messages, message_of(action.text, "", action.calls)]
            after = [*before, *result.observation.messages]
            merged, mask, logprobs = await self.ct_merge_context_msg(
                before, after, rollout.ids, rollout.mask, rollout.logprobs, tools=self._tools
            )
            if len(mask) >= self._length:
                return StopReason.TOKEN_LIMIT
            rollout.ids, rollout.mask, rollout.logprobs = merged.token_ids, mask, logprobs
            rollout.messages = after
            rollout.turns += 1

    async def _action(self, ids: list[int]) -> Action:
        """Return what tokens of the policy say, as the parser of its family reads them."""
        text, calls = await self._parser.extract_tool_calls(ids, self._known)
        for special in self.tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return Action(
            text=text.strip(),
            calls=tuple(
                ToolCall(
                    id=call.tool_call_id or f"call_{uuid.uuid4().hex}",
                    name=call.name,
                    arguments=call.arguments,
                )
                for call in calls
            ),
            tokens=len(ids),
        )

    def _output(self, rollout: _Rollout, env: AsyncSandboxEnv | None, reward: float) -> Any:
        """Return verl's output; without an environment it is masked."""
        start = len(rollout.ids) - len(rollout.mask)
        mask = rollout.mask if env is not None else [0] * len(rollout.mask)
        info = env.info if env is not None else None
        score = info.score.value if info is not None and isinstance(info.score, Score) else 0.0
        return _LOOPS.AgentLoopOutput(
            prompt_ids=rollout.ids[:start],
            response_ids=rollout.ids[start:][: self._length],
            response_mask=mask[: self._length],
            response_logprobs=rollout.logprobs and rollout.logprobs[: self._length],
            reward_score=reward,
            num_turns=rollout.turns,
            metrics=_LOOPS.AgentLoopMetrics(
                generate_sequences=rollout.generating,
                tool_calls=info.environment_seconds if info is not None else 0.0,
                compute_score=rollout.scoring,
                num_preempted=rollout.preempted,
            ),
            extra_fields={
                **rollout.extra,
                "turn_scores": [],
                "tool_rewards": [],
                "stop": str(info.stop) if info is not None else str(StopReason.SANDBOX_ERROR),
                "reward_extra_info": {
                    "score": score,
                    "masked": float(info is None),
                    "overlong": float(info is not None and info.overlong),
                },
            },
        )


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> float:
    """Return the reward of an answer without a computer: verl's `custom_reward_function`.

    It is for the rows of `--baseline text-only`, which verl's own loop for one turn runs.

    Raises:
        SpecError: The row needs a judge.
        TaskError: It lacks a field.
    """
    settings = _settings()
    fields = {"problem_statement": "", "id": "0", **(extra_info or {})}
    row: Row = data.row_of(
        fields | {"ground_truth": ground_truth, "domain": data_source},
        settings.task.name,
        "extra_info",
    )
    settings.check(row)
    found = settings.grading.grade(settings.task, row, answer_of_text(solution_str))
    if not isinstance(found, Score):
        raise SpecError(f"row {row.id!r} is not graded: {found.reason}")
    return found.value


def _newer(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a later turn changes: the weights that it was said with."""
    return {name: fields[name] for name in ("max_global_steps",) if fields.get(name)}


@functools.cache
def _settings(
    rootfs: str = "standard",
    network: str = "none",
    task: str = "context",
    turns: int = 100,
    seconds: float = 5400.0,
    overlong_penalty: bool = True,
) -> EnvSettings:
    """Return settings that all loops of a worker share, grading processes included."""
    grading = Grading()
    atexit.register(grading.close)
    return EnvSettings(
        task=tasks.find(task),
        prompts=prompt.load(task),
        sandbox=SandboxSpec(rootfs=rootfs, network=network),
        grading=grading,
        limits=AgentLimits(steps=turns, seconds=seconds),
        overlong_penalty=overlong_penalty,
    )
