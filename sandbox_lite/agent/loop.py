"""The agent: a model at work in a sandbox, for a caller who waits in his own thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.agent.episode import AgentLimits, Episode
from sandbox_lite.agent.model import Chat
from sandbox_lite.agent.tools import Computer
from sandbox_lite.agent.work import finish

if TYPE_CHECKING:
    from sandbox_lite.agent.trajectory import Step, Trajectory

__all__ = ["Agent", "AgentLimits"]


class Agent(Episode[Computer, Chat]):
    """A model at work in one sandbox, on one task."""

    def run(self, task: str, *, after: Trajectory | None = None) -> Trajectory:
        """Work on a task until it is submitted or a limit is reached.

        Args:
            task: What is to be done.
            after: A record to go on with; the sandbox must be as its last step left it.

        Returns:
            All that happened, also when the model's server, the sandbox or the writing of the
            record failed (`error` and `hint` say how) or Ctrl-C was pressed (`INTERRUPTED`).
        """
        return finish(self.run_work(task, after))

    def begin(self, task: str) -> None:
        """Make the task's directories; start the conversation and the record.

        Raises:
            SandboxLiteError: The sandbox failed, or the record could not be written.
        """
        finish(self.begin_work(task))

    def step(self) -> Step:
        """Ask the model once and execute what it calls.

        Raises:
            ModelError: The model's server failed; nothing was appended.
            SandboxLiteError: The sandbox failed; what was done before it is recorded.
        """
        return finish(self.step_work())
