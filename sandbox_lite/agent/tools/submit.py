"""`submit`: the model says that it has finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.agent.tools.tool import Reply, Tool

if TYPE_CHECKING:
    from sandbox_lite.agent.tools.tool import Arguments, Computer, ToolContext


def _submit(computer: Computer, arguments: Arguments, context: ToolContext) -> Reply:
    del computer, arguments, context
    return Reply(content="Submitted.", final=True)


TOOL = Tool(
    name="submit",
    aliases=("finish",),
    description="Finish the task. Call it once, when every result is in the output directory.",
    parameters={},
    required=(),
    function=_submit,
    any_parameters=True,  # models trained on a `finish` tool add a message
)
