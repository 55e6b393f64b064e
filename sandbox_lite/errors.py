"""Every error this package raises, in one tree.

SandboxLiteError              message, hint (the remedy), exit_code (for the command line)
├── SpecError                 the request makes no sense; raised before anything is created
├── HostError                 this machine cannot do it; the hint names the narrow remedy
├── RootfsError               a root file system is missing, broken or could not be built
├── LaunchError               the jail failed before the command ran (argv, stderr)
├── ShellDiedError            the persistent shell is gone; says whether a fresh one serves
├── SandboxClosedError        the sandbox was closed or killed, or belongs to another process
├── CommandFailedError        raised by CommandResult.check() alone
├── PolicyError               a denied host, path or operation, with the rule that denied it
├── FileAccessError           a path inside the sandbox could not be read or written
├── ModelError                the model's server failed; `retryable` says if another try may help
│   └── ContextLengthError    the conversation no longer fits the model
└── TaskError                 a task's own code or input is wrong

A command that fails, times out or hits a limit is no error: it is a `CommandResult`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.spec import CommandResult


class SandboxLiteError(Exception):
    """What could not be done, to what, and why; the remedy stands in `hint`."""

    exit_code = 125

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class SpecError(SandboxLiteError):
    """The request makes no sense; nothing was created."""

    exit_code = 2


class HostError(SandboxLiteError):
    """This machine cannot do what was asked; the hint names the layer's narrow remedy."""


class RootfsError(SandboxLiteError):
    """A root file system is missing, broken, or could not be built."""


class LaunchError(SandboxLiteError):
    """The jail failed before the command ran; `began`: what it started inside did not serve."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        argv: Sequence[str] = (),
        stderr: str = "",
        began: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.began = began
        self.argv = tuple(argv)
        self.stderr = stderr


class ShellDiedError(SandboxLiteError):
    """The persistent shell is gone; `restarted` says whether a fresh one serves the next call.

    `inside`: the sandbox is sound, and what runs or lies in it keeps a fresh one from starting.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        restarted: bool = False,
        inside: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.restarted = restarted
        self.inside = inside


class SandboxClosedError(SandboxLiteError):
    """The sandbox was closed, killed, or opened by another process; `expired`: its time is over."""

    def __init__(self, message: str, *, hint: str | None = None, expired: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.expired = expired


class CommandFailedError(SandboxLiteError):
    """A command ended otherwise than with exit code 0; only `CommandResult.check` raises it."""

    def __init__(self, message: str, *, result: CommandResult) -> None:
        super().__init__(message)
        self.result = result
        self.exit_code = result.exit_code or 1


class PolicyError(SandboxLiteError):
    """A host, path or operation is denied; the message names the rule that denied it."""


class FileAccessError(SandboxLiteError):
    """A path inside the sandbox could not be read or written; `errno` is the kernel's."""

    def __init__(self, message: str, *, errno: int, path: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
        self.path = path


class ModelError(SandboxLiteError):
    """The model's server failed; `retryable` says whether another try may help."""

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class ContextLengthError(ModelError):
    """The conversation no longer fits the model's context."""


class TaskError(SandboxLiteError):
    """A task's own code or input is wrong."""
