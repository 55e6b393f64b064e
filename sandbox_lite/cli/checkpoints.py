"""Snapshots of a run's steps, and going on from one of them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

from sandbox_lite.agent import trajectory
from sandbox_lite.errors import HostError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_lite.agent.prompt import Prompt
    from sandbox_lite.agent.trajectory import Step, Trajectory
    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.jail.snapshots import Snapshot

Kind = Literal["none", "dirty", "all"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_DIRECTORY = "checkpoints"
_SUFFIX = ".tar.zst"


def kind(text: str) -> Kind:
    """Return the kind of that name.

    Raises:
        SpecError: There is none.
    """
    for one in KINDS:
        if text == one:
            return one
    raise SpecError(f"--checkpoint: not {text!r}", hint=f"one of {', '.join(KINDS)}")


class Checkpoints:
    """Keeps a snapshot of the sandbox after each step, in the directory of its run.

    With `dirty` only where files or shells have changed: the one before serves all steps since.
    """

    def __init__(self, sandbox: Sandbox, run: Path, kind: Kind) -> None:
        self._sandbox = sandbox
        self._directory = run / _DIRECTORY
        self._kind = kind
        self._last: Snapshot | None = None

    def __enter__(self) -> Self:
        """Keep the state before the first step."""
        if self._kind != "none":
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise HostError(f"cannot make {self._directory}: {error.strerror}") from error
            self._keep(0)
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the last one."""
        if self._last is not None:
            self._last.close()

    def step(self, step: Step) -> None:
        """Keep the state after a step.

        Raises:
            SandboxLiteError: It cannot be had, or not be written.
        """
        if self._kind != "none":
            self._keep(step.index)

    def _keep(self, index: int) -> None:
        snapshot, last = self._sandbox.snapshot(), self._last
        self._last = snapshot
        same = last is not None and snapshot.same_as(last)
        if last is not None:
            last.close()
        if not same or self._kind == "all":
            snapshot.export(self._directory / f"{index:04}{_SUFFIX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where a run goes on."""

    run: Path
    """The directory of the run that was."""
    at: int
    """The step after which; 0 is before the first."""
    snapshot: Path
    trajectory: Trajectory
    """Up to there."""

    def prompt(self, prompt: Prompt) -> Prompt:
        """Return a prompt with the directories of that run."""
        work, inputs, outputs = self.trajectory.directories
        return dataclasses.replace(prompt, working_dir=work, input_dir=inputs, output_dir=outputs)


def resume(run: Path, at: int | None) -> Resume:
    """Return where to go on in a run that kept checkpoints.

    Args:
        run: Its directory.
        at: After which step; None is the last of which there is a state.

    Raises:
        TaskError: It is no run.
        SpecError: It kept no state for that step.
    """
    record = trajectory.load(run / "trajectory.jsonl")
    kept = {
        int(path.name.removesuffix(_SUFFIX)): path
        for path in (run / _DIRECTORY).glob(f"[0-9]*{_SUFFIX}")
    }
    steps = len(record.steps)
    wanted = steps if at is None else at
    if not 0 <= wanted <= steps:
        raise SpecError(f"--at: the run has steps 1 to {steps}, and 0 is before the first")
    before = [index for index in kept if index <= wanted]
    if not before:
        raise SpecError(
            f"{run} kept no state of step {wanted}",
            hint="runs keep them with --checkpoint dirty",
        )
    cut = dataclasses.replace(
        record, steps=record.steps[:wanted], stop=None, answer=None, error=None, hint=None
    )
    return Resume(run=run, at=wanted, snapshot=kept[max(before)], trajectory=cut)


def given_before(run: Path) -> Mapping[str, object]:
    """Return what a run was given on its command line, as far as its record tells.

    Whoever goes on with it need not repeat the model, the rootfs and the limits.
    """
    try:
        settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
        return {
            name: one["value"]
            for name, one in settings.items()
            if str(one["origin"]).startswith("--") and "***" not in json.dumps(one["value"])
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
