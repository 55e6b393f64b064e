"""What a server answered, as data: its text, its calls, and the message that goes into history.

Servers differ in nearly every member, and none of them is certain.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sandbox_lite.agent.tools.tool import ToolCall
from sandbox_lite.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

Message = dict[str, Any]
"""A chat message as JSON has it; it goes to the server as it stands."""

REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""Members in which servers give and take a model's thoughts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one completion."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """The server gave no counts; these are a quarter of the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the model answered."""

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Usage
    seconds: float
    """Until the answer was there, retries included."""
    message: Message
    """To be appended to the conversation."""


def one_line(text: str) -> str:
    """Return text without markup and line breaks, and not too long for a message."""
    text = re.sub(r"<[^>]{0,500}>", " ", text) if "<html" in text.lower() else text
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:400] + " ..."


def completion_of(answer: object, messages: Sequence[Message], seconds: float) -> Completion:
    """Return the parts of a server's answer, of which no member is certain.

    Raises:
        ModelError: It is no chat completion.
    """
    choices = getattr(answer, "choices", None)
    if isinstance(answer, str) or not isinstance(choices, list) or not choices:
        extra = getattr(answer, "model_extra", None)
        text = answer if isinstance(answer, str) else json.dumps(extra or None, default=str)
        raise ModelError(
            f"the server answered 200 without a completion: {one_line(text) or 'nothing'}",
            hint="is this an OpenAI-compatible server? Its base URL usually ends in /v1",
            retryable=True,
        )
    raw = getattr(choices[0], "message", None)
    if raw is None or not hasattr(raw, "model_dump"):
        raise ModelError(
            "the server's completion holds no message",
            hint="is this an OpenAI-compatible server?",
            retryable=True,
        )
    data = cast("Message", raw.model_dump(exclude_none=True, mode="json", warnings=False))
    text = _plain(data.get("content"))
    reasoning = next((_plain(data[key]) for key in REASONING[:2] if data.get(key)), "")
    wire_calls = [item for item in data.get("tool_calls") or () if isinstance(item, dict)]
    calls = tuple(_call(item, number) for number, item in enumerate(wire_calls))
    # "" rather than null: local servers' chat templates print a null as "None"
    message: Message = {"role": "assistant", "content": text}
    if wire_calls:
        message["tool_calls"] = [
            _echo(item, call) for item, call in zip(wire_calls, calls, strict=True)
        ]
    message |= {key: data[key] for key in REASONING if data.get(key)}
    return Completion(
        text=text or _plain(data.get("refusal")),
        reasoning=reasoning,
        calls=calls,
        finish_reason=str(getattr(choices[0], "finish_reason", None) or ""),
        usage=_usage(getattr(answer, "usage", None), messages, message),
        seconds=seconds,
        message=message,
    )


def _plain(content: object) -> str:
    """Return content as text that can be sent again; some servers give a list of parts."""
    if isinstance(content, list):
        parts = (part.get("text") or "" for part in content if isinstance(part, dict))
        return "".join(map(_plain, parts))
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def _call(item: Message, number: int) -> ToolCall:
    function = item.get("function") or item.get("custom") or {}
    arguments = function.get("arguments", function.get("input"))
    if not isinstance(arguments, str):  # some servers send the object itself
        arguments = "" if arguments is None else json.dumps(arguments)
    return ToolCall(
        id=str(item.get("id") or f"call_{number}_{time.monotonic_ns()}"),
        name=str(function.get("name") or ""),
        arguments=arguments,
    )


def _echo(item: Message, call: ToolCall) -> Message:
    """Return a call as history holds it: servers' chat templates parse its arguments, so they
    are always a JSON object, whatever the model wrote.
    """
    try:
        good = isinstance(json.loads(call.arguments), dict)
    except (ValueError, RecursionError):
        good = False
    arguments = call.arguments if good else "{}"
    if not good and call.arguments.strip():
        arguments = json.dumps({"malformed": call.arguments[:2000]})
    rest = {k: v for k, v in item.items() if k not in ("index", "function", "custom")}
    return {
        **rest,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name or "unknown", "arguments": arguments},
    }


def _usage(usage: object, messages: Sequence[Message], message: Message) -> Usage:
    prompt = getattr(usage, "prompt_tokens", None)
    completion = getattr(usage, "completion_tokens", None)
    if isinstance(prompt, int) and isinstance(completion, int):
        return Usage(prompt_tokens=prompt, completion_tokens=completion)
    return Usage(
        prompt_tokens=len(json.dumps(list(messages), default=str)) // 4,
        completion_tokens=len(json.dumps(message, default=str)) // 4,
        estimated=True,
    )


def message_of(text: str, reasoning: str, calls: Sequence[ToolCall]) -> Message:
    """Return the message of a step that is on record, as history holds it."""
    message: Message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [_echo({}, call) for call in calls]
    if reasoning:
        message[REASONING[0]] = reasoning
    return message
