"""What a trainer and an environment tell each other, turn by turn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sandbox_lite.agent.trajectory import StopReason

if TYPE_CHECKING:
    from sandbox_lite.agent.completion import Message
    from sandbox_lite.agent.tools import ToolCall
    from sandbox_lite.agent.trajectory import Trajectory
    from sandbox_lite.bench.episode import Fault
    from sandbox_lite.bench.task import Answer, NoAnswer, Score, Ungraded

OVERLONG = frozenset({StopReason.STEP_LIMIT, StopReason.TOKEN_LIMIT, StopReason.CONTEXT_FULL})
"""Ends that the paper's training script rewards with 0, whatever the answer (its
`overlong_step_penalty`): too many steps, or too long a response."""

_FAULTS = frozenset({StopReason.SANDBOX_ERROR, StopReason.MODEL_ERROR, StopReason.INTERRUPTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What the policy did in one turn."""

    text: str = ""
    """What it said."""
    calls: tuple[ToolCall, ...] = ()
    """None: it spoke, and called no tool."""
    tokens: int = 0
    """Of the policy, where the caller knows them; `AgentLimits.tokens` counts them."""
    cut_off: bool = False
    """The message ended at its length limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the policy is told."""

    messages: tuple[Message, ...]
    """To be appended to the conversation: the first ones, or those that follow an action's."""
    text: str
    """The same as one text."""


class Cause(StrEnum):
    """Who ended an episode that was not submitted with an answer."""

    MODEL = "model"
    LIMIT = "limit"
    FAULT = "fault"
    """The machine, which says nothing of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """How an episode stands."""

    stop: StopReason | None = None
    """None: it goes on."""
    cause: Cause | None = None
    """None: it goes on, or was submitted with an answer."""
    masked: bool = False
    """It has no reward, and must not be learned from."""
    overlong: bool = False
    steps: int = 0
    steps_left: int = 0
    environment_seconds: float = 0.0
    """Of all steps; the policy's time is left out."""
    replays: int = 0
    """Times that the recorded actions were done again in a fresh sandbox, after a fault."""
    fault: Fault | None = None
    """The last one, also where the replay went well."""
    answer: Answer | NoAnswer | None = None
    """None before the end, and after a fault."""
    score: Score | Ungraded | None = None
    """None before `compute_final_reward`; what the answer is worth without any penalty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one step came to."""

    observation: Observation
    reward: float = 0.0
    """Always 0: the outcome alone is rewarded, see `compute_final_reward`."""
    done: bool
    info: Info


def observation_of(messages: tuple[Message, ...]) -> Observation:
    """Return messages as what the policy is told."""
    text = "\n\n".join(str(message["content"]) for message in messages)
    return Observation(messages=messages, text=text)


def cause_of(stop: StopReason | None, answered: bool) -> Cause | None:
    """Return who is to blame for an end."""
    if stop is None:
        return None
    if stop in _FAULTS:
        return Cause.FAULT
    if stop in OVERLONG or stop is StopReason.TIME_LIMIT:
        return Cause.LIMIT
    return None if answered and stop is StopReason.SUBMITTED else Cause.MODEL


def actions_of(trajectory: Trajectory) -> tuple[Action, ...]:
    """Return the recorded actions of an episode, as `SandboxEnv.replay` does them again."""
    return tuple(
        Action(
            text=step.thought,
            calls=step.calls,
            tokens=step.tokens.completion,
            cut_off=step.finish_reason == "length",
        )
        for step in trajectory.steps
    )
