"""The agent's tools: a table, and one function that answers a call.

One file, one line in `TOOLS`. A mistake of the model is an `Observation` with `is_error`; a fault
of the sandbox is an exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.agent.tools import bash, editor, submit
from sandbox_lite.agent.tools.tool import (
    AnyComputer,
    AsyncComputer,
    Computer,
    Observation,
    Refusal,
    Tool,
    ToolCall,
    ToolContext,
)
from sandbox_lite.agent.work import finish
from sandbox_lite.errors import FileAccessError, PolicyError, SpecError

if TYPE_CHECKING:
    from collections.abc import Collection

    from sandbox_lite.agent.work import Work

__all__ = [
    "TOOLS",
    "AnyComputer",
    "AsyncComputer",
    "Computer",
    "Observation",
    "Tool",
    "ToolCall",
    "ToolContext",
    "call",
    "call_work",
    "find",
    "schemas",
]

TOOLS: tuple[Tool, ...] = (bash.TOOL, editor.TOOL, submit.TOOL)

_BY_NAME = {name: tool for tool in TOOLS for name in (tool.name, *tool.aliases)}


def find(name: str) -> Tool | None:
    """Return the tool of that name or alias, None where there is none."""
    return _BY_NAME.get(name.strip())


def schemas(without: Collection[str] = ()) -> list[dict[str, object]]:
    """Return the `tools` list of a chat completion request, without those of these names."""
    return [tool.schema for tool in TOOLS if tool.name not in without]


def call(
    computer: Computer, tool_call: ToolCall, context: ToolContext | None = None
) -> Observation:
    """Answer one call of a model.

    Returns:
        What the model is shown; a mistake of the model sets `is_error` and says how to repair it.

    Raises:
        SandboxLiteError: The sandbox failed, not the call.
    """
    return finish(call_work(computer, tool_call, context))


def call_work(
    computer: AnyComputer, tool_call: ToolCall, context: ToolContext | None = None
) -> Work[Observation]:
    """Return the work of `call`, for whoever waits in another way."""
    context = context or ToolContext()
    tool = find(tool_call.name)
    if tool is None or tool.name in context.without:
        names = [tool.name for tool in TOOLS if tool.name not in context.without]
        return _refused(
            tool_call, f"There is no tool {tool_call.name!r}. The tools are: {', '.join(names)}."
        )
    try:
        arguments = tool.parse(tool_call.arguments)
        reply = yield from tool.function(computer, arguments, context)
    except Refusal as refusal:
        return _refused(tool_call, str(refusal))
    except (FileAccessError, PolicyError, SpecError) as error:
        hint = f" {error.hint}" if error.hint else ""
        return _refused(tool_call, f"{error.message}.{hint}")
    return Observation(
        call_id=tool_call.id,
        content=reply.content,
        final=reply.final,
        exit_code=reply.exit_code,
        usage=reply.usage,
    )


def _refused(tool_call: ToolCall, text: str) -> Observation:
    return Observation(call_id=tool_call.id, content=f"Error: {text}", is_error=True)
