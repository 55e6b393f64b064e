"""`submit`: the model says that it has finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.agent.tools.tool import Reply, Tool

if TYPE_CHECKING:
    from sandbox_lite.agent.tools.tool import AnyComputer, Arguments, ToolContext
    from sandbox_lite.agent.work import Work


def _submit(computer: AnyComputer, arguments: Arguments, context: ToolContext) -> Work[Reply]:
    del computer, arguments, context
    yield from ()
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
