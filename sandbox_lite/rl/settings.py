"""What the episodes of one training have in common, and the model that a trainer speaks for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox_lite.agent.completion import Completion, Usage, message_of
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.tools import ToolContext
from sandbox_lite.bench import graders
from sandbox_lite.errors import SpecError
from sandbox_lite.rl.source import Start

if TYPE_CHECKING:
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.prompt import Documents, TaskPrompts
    from sandbox_lite.bench.task import Row, Task
    from sandbox_lite.rl.turn import Action
    from sandbox_lite.spec import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvSettings:
    """What the episodes of one training have in common."""

    task: Task
    prompts: TaskPrompts
    sandbox: SandboxSpec
    """Of every sandbox; commands start in the directory that the prompts name."""
    grading: Grading
    """Who tells what an answer is worth; it stays its owner's, and may be shared."""
    limits: AgentLimits = field(default_factory=AgentLimits)
    """The model is told how many steps it has left; seconds include the policy's."""
    documents: Documents = "files"
    context: ToolContext = field(default_factory=ToolContext)
    overlong_penalty: bool = True
    """Reward 0 for episodes that end in `OVERLONG`, as the paper's script does."""
    policy: str = "policy"
    """Its name, for the record."""

    @property
    def spec(self) -> SandboxSpec:
        """What is asked of every sandbox; a warm pool is made for this."""
        prompt = self.prompts.sandbox
        # made with the sandbox, which costs less than a command that makes them afterwards
        return dataclasses.replace(
            self.sandbox, workdir=prompt.working_dir, directories=prompt.directories
        )

    def start(self, row: Row) -> Start:
        """Return what the sandbox of a row begins as; the ground truth is no part of it."""
        files = row.input_files if self.documents == "files" else {}
        place = self.prompts.sandbox.input_dir
        return Start(
            spec=self.spec,
            directories=self.prompts.sandbox.directories,
            files={f"{place}/{name}": text for name, text in files.items()},
            key=row.digest,
        )

    def check(self, row: Row) -> None:
        """Refuse a row that nobody could reward.

        Raises:
            SpecError: Its task needs a judge, and none is named; or it asks for a file.
        """
        if row.artefact:
            raise SpecError(
                f"the problem {row.id!r} asks for a file, and a reward looks at the answer alone",
                hint="leave such rows out",
            )
        name = self.task.grader(row, self.grading.scorer)
        if self.grading.judge is None and graders.find(name).score is None:
            raise SpecError(
                f"{self.task.name} needs a judge: without one no episode has a reward",
                hint="open one with bench.grading.opened_judge, and give it to Grading",
            )


class Policy:
    """The model of an `Episode`: it says what it was told to say."""

    def __init__(self) -> None:
        self._next: Completion | None = None

    def told(self, action: Action, seconds: float) -> None:
        """Take what it says next, and how long that took."""
        self._next = Completion(
            text=action.text,
            reasoning="",
            calls=action.calls,
            finish_reason="length" if action.cut_off else "tool_calls" if action.calls else "stop",
            usage=Usage(prompt_tokens=0, completion_tokens=action.tokens),
            seconds=seconds,
            message=message_of(action.text, "", action.calls),
        )

    def said(self) -> Completion:
        """Return it."""
        assert self._next is not None
        said, self._next = self._next, None
        return said
