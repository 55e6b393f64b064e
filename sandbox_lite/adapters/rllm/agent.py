"""The agent: a conversation in exactly the frames that the product's own agent sends."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any

from sandbox_lite.agent import tools
from sandbox_lite.agent.completion import message_of
from sandbox_lite.agent.tools import ToolCall
from sandbox_lite.errors import SpecError
from sandbox_lite.rl.env import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.agent.completion import Message


@dataclass
class Step:
    """One turn, as the engine fills and reads it."""

    observation: Any = None
    thought: str = ""
    action: Any = None
    model_response: str = ""
    model_output: Any = None
    chat_completions: list[Message] = field(default_factory=list)
    next_observation: Any = None
    info: dict[str, Any] = field(default_factory=dict)
    reward: float = 0.0
    done: bool = False
    mc_return: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        output = self.model_output
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **kept,
            "action": asdict(self.action) if is_dataclass(self.action) else self.action,  # type: ignore[arg-type]
            "model_output": output.to_dict() if hasattr(output, "to_dict") else None,
        }


@dataclass
class Trajectory:
    """All turns, as the engine fills and reads them."""

    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str = "agent"
    task: Any = None
    steps: list[Step] = field(default_factory=list)
    reward: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**kept, "steps": [step.to_dict() for step in self.steps]}


@dataclass(frozen=True)
class Wrapped:
    """An action as the engine unwraps it."""

    action: Action


class SandboxAgent:
    """The conversation, in exactly the frames that the product's own agent sends."""

    def __init__(self, without: Sequence[str] = (), **_: Any) -> None:
        """Take the names of tools that the policy is not told of."""
        self._without = tuple(without)
        self.reset()

    def reset(self) -> None:
        """Forget the trajectory."""
        self._messages: list[Message] = []
        self._trajectory = Trajectory()
        self._seen = Step()

    @property
    def chat_completions(self) -> list[Message]:
        """The conversation."""
        return self._messages

    @property
    def trajectory(self) -> Trajectory:
        """All turns."""
        return self._trajectory

    def get_tools(self) -> list[dict[str, object]]:
        """Return the tools as a chat completion request has them."""
        return tools.schemas(self._without)

    def get_current_state(self) -> Step | None:
        """Return the last turn, None before the first."""
        return self._trajectory.steps[-1] if self._trajectory.steps else None

    def update_from_env(
        self, observation: Any, reward: float, done: bool, info: Mapping[str, Any], **_: Any
    ) -> None:
        """Take what the environment said, after `reset` or `step`.

        Raises:
            SpecError: It is another environment than ours.
        """
        if "messages" not in info:
            raise SpecError(
                "this environment gives no messages",
                hint="use the environment of sandbox_lite.adapters.rllm",
            )
        last = self.get_current_state()
        if last is not None:
            last.next_observation, last.reward, last.done = observation, reward, done
            last.info = dict(info)
        self._messages += info["messages"]
        self._seen = Step(observation=observation)

    def update_from_model(self, response: Any, **_: Any) -> Wrapped:
        """Take what the model said; return its action.

        Args:
            response: The engine's `ModelOutput`, or a text.
        """
        output = None if isinstance(response, str) else response
        text = response if output is None else str(getattr(output, "content", None) or "")
        thought = next(
            (str(found) for name in ("reasoning", "reasoning_content", "thinking")
             if (found := getattr(output, name, None))),
            "",
        )  # fmt: skip
        action = Action(
            text=text,
            calls=tuple(map(call_of, getattr(output, "tool_calls", None) or ())),
            tokens=int(getattr(output, "completion_length", None) or 0),
            cut_off=getattr(output, "finish_reason", None) == "length",
        )
        message = message_of(text, "", action.calls)
        message["reasoning"] = thought  # so the fork's chat parser calls it
        self._messages.append(message)
        step = self._seen
        step.thought, step.action, step.model_output = thought, action, output
        step.model_response = str(getattr(output, "text", text))
        step.chat_completions = list(self._messages)
        self._trajectory.steps.append(step)
        return Wrapped(action)


def action_of(action: Any) -> Action:
    """Return what an environment is given as an action: ours, a text, or the fork's own.

    Raises:
        SpecError: It is none of these.
    """
    if isinstance(action, Action):
        return action
    if isinstance(action, str):
        return Action(text=action)
    name = getattr(action, "function_name", None)
    if not isinstance(name, str):
        raise SpecError(f"no action: {action!r}", hint="give what update_from_model returned")
    if not name:  # so the fork says that there was no call
        return Action()
    call = call_of({"name": name, "arguments": getattr(action, "parameters", None) or {}})
    return Action(calls=(call,))


def call_of(found: Any) -> ToolCall:
    """Return a call of a model's output: an object, or a mapping of either of two shapes."""
    if isinstance(found, Mapping):
        inner = found.get("function", found)
        read = {**inner, "id": found.get("id")} if isinstance(inner, Mapping) else {}
    else:
        read = {name: getattr(found, name, None) for name in ("id", "name", "arguments")}
    arguments = read.get("arguments")
    return ToolCall(
        id=str(read.get("id") or f"call_{uuid.uuid4().hex}"),
        name=str(read.get("name") or ""),
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
    )
