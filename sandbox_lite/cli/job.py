"""One run from its first check to its `run.json`, for `run` and `demo`; a `View` shows it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sandbox_lite
from sandbox_lite.agent.loop import Agent, AgentLimits
from sandbox_lite.agent.model import Model, ModelSettings
from sandbox_lite.agent.tools import ToolContext
from sandbox_lite.agent.trajectory import StopReason, TrajectoryWriter
from sandbox_lite.cli import signals, transfer
from sandbox_lite.cli import workspace as workspaces
from sandbox_lite.cli.checkpoints import Checkpoints
from sandbox_lite.cli.terminal import status
from sandbox_lite.config import OPTIONS
from sandbox_lite.errors import FileAccessError, HostError, SandboxLiteError, SpecError
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.jail.snapshots import Snapshot

if TYPE_CHECKING:
    from sandbox_lite.agent.prompt import Prompt
    from sandbox_lite.agent.trajectory import Step, Trajectory
    from sandbox_lite.cli.checkpoints import Kind, Resume
    from sandbox_lite.cli.view import View
    from sandbox_lite.config import Settings
    from sandbox_lite.jail.transfer import TransferReport
    from sandbox_lite.spec import Publish, WeakerName

FORMAT = 1
"""Of `run.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a model is to do, with what."""

    task: str
    settings: Settings
    prompt: Prompt
    input_dir: Path | None = None
    """Copied in before."""
    output_dir: Path | None = None
    """Takes what came out, beside `files` of the run."""
    workspace: Path | None = None
    """Worked on by way of an overlay; what changes is kept in the run's directory."""
    workspace_git: bool = False
    """Its `.git` as well."""
    run_dir: Path | None = None
    """Where the run is kept; None is a fresh one below `settings.runs_dir`."""
    publish: tuple[Publish, ...] = ()
    allow_weaker: tuple[WeakerName, ...] = ()
    checkpoint: Kind = "none"
    """Of which steps the state is kept."""
    resume: Resume | None = None
    """Where another run is gone on with, instead of beginning."""
    default_network: str = "web"
    """Where the settings name none: the outside is half of what a computer is good for."""
    api_key: str | None = dataclasses.field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What became of it."""

    directory: Path
    """Holds `trajectory.jsonl`, `files/` and `run.json`."""
    trajectory: Trajectory
    exit_code: int
    files: TransferReport | None
    """None: nothing could be copied out."""
    error: SandboxLiteError | None = None
    """What failed, where something did."""


def perform(job: Job, view: View) -> JobResult:
    """Let a model work on a task; return what became of it, also when it was interrupted.

    Raises:
        SpecError: The request makes no sense; nothing was started.
        SandboxLiteError: Model or sandbox could not be started; no run was begun.
    """
    settings, prompt = job.settings, job.prompt
    transfer.checked_input(job.input_dir)
    transfer.checked_output(job.output_dir)
    _checked_run_dir(job)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(Model(model_settings(settings, job.api_key)))
        sandbox = stack.enter_context(_sandbox(job, stack))
        transfer.send(sandbox, job.input_dir, prompt.input_dir)
        directory = _make_run_dir(job)
        record = _Record(directory, job, sandbox)
        view.begin(job, sandbox.enforcement, directory)
        with (
            TrajectoryWriter(directory / "trajectory.jsonl") as writer,
            Checkpoints(sandbox, directory, job.checkpoint) as checkpoints,
        ):

            def told(step: Step) -> None:
                view.step(step)
                checkpoints.step(step)

            agent = Agent(
                sandbox, model, prompt,
                AgentLimits(
                    steps=settings.max_steps, tokens=settings.max_tokens,
                    seconds=settings.max_seconds,
                ),
                context=ToolContext(timeout_seconds=settings.timeout, on_output=view.output),
                writer=writer,
                on_call=lambda call: view.call(call, _said(agent)),
                on_step=told,
            )  # fmt: skip
            return _work(agent, job, record, view)


def _sandbox(job: Job, stack: contextlib.ExitStack) -> Sandbox:
    settings = job.settings
    sandbox = Sandbox(
        settings.rootfs, network=settings.network_or(job.default_network), ids=settings.ids,
        allow=settings.allow, allow_private=settings.allow_private, publish=job.publish,
        workdir=job.prompt.working_dir,
        mounts=workspaces.mounts(job.workspace, job.prompt.working_dir, git=job.workspace_git),
        limits=settings.limits(settings.timeout), allow_weaker=job.allow_weaker,
    )  # fmt: skip
    if job.resume is None:
        return sandbox
    snapshot = stack.enter_context(Snapshot.load(job.resume.snapshot, sandbox.spec))
    return Sandbox(snapshot)


def _said(agent: Agent) -> str:
    """Return what the model said with the calls that are being executed."""
    message = agent.messages[-1]
    return str(message.get("content") or message.get("reasoning_content") or "")


def _work(agent: Agent, job: Job, record: _Record, view: View) -> JobResult:
    stop: StopReason | None = None
    finished: Trajectory | None = None
    try:
        with view:
            after = None if job.resume is None else job.resume.trajectory
            finished = agent.run(job.task, after=after)
    except KeyboardInterrupt:
        stop = StopReason.INTERRUPTED  # it came between two steps; they are on record
    finally:
        # whatever went wrong, what was produced comes out
        done = finished or dataclasses.replace(agent.trajectory, stop=stop)
        result = _save(done, job, record)
    view.end(result)
    return result


def _save(done: Trajectory, job: Job, record: _Record) -> JobResult:
    record.write(done, _exit_code(done), None)
    files, error = None, None
    try:
        files, error = _copied(record.sandbox, job, record.directory)
        error = _kept_changes(record.sandbox, job, record.directory) or error
    except KeyboardInterrupt:
        done = dataclasses.replace(done, stop=StopReason.INTERRUPTED)
    code = _exit_code(done) if error is None else error.exit_code
    record.write(done, code, files, error)
    failed = error
    if done.error is not None:
        failed = SandboxLiteError(done.error, hint=done.hint)
    return JobResult(
        directory=record.directory, trajectory=done, exit_code=code, files=files, error=failed
    )


def _exit_code(trajectory: Trajectory) -> int:
    if trajectory.stop is StopReason.INTERRUPTED:
        return signals.exit_code()
    return 125 if trajectory.stop is None else trajectory.stop.exit_code


def _copied(
    sandbox: Sandbox, job: Job, directory: Path
) -> tuple[TransferReport | None, SandboxLiteError | None]:
    """Copy the output to the run's own directory and to the user's; both are tried."""
    found, failed = None, None
    for target in (directory / "files", job.output_dir):
        if target is None:
            continue
        try:
            found = transfer.fetch(sandbox, job.prompt.output_dir, target)
        except SandboxLiteError as error:
            if isinstance(error, FileAccessError) and error.errno == errno.ENOENT:
                status(f"note: nothing came out: there is no {job.prompt.output_dir}")
                return None, None
            failed = SandboxLiteError(
                f"the output could not be copied to {target}: {error.message}", hint=error.hint
            )
    if found is not None:
        transfer.say_skipped(found, "copied out")
    return found, failed


def _kept_changes(sandbox: Sandbox, job: Job, directory: Path) -> SandboxLiteError | None:
    if job.workspace is None:
        return None
    own = [job.prompt.output_dir]
    if job.input_dir is not None:
        own.append(job.prompt.input_dir)
    try:
        workspaces.keep(sandbox, directory, own)
    except SandboxLiteError as error:
        return SandboxLiteError(
            f"the changes of the workspace could not be kept: {error.message}", hint=error.hint
        )
    return None


def model_settings(settings: Settings, api_key: str | None = None) -> ModelSettings:
    """Return how the model is asked.

    Args:
        settings: What is in force.
        api_key: None is the one that they name.

    Raises:
        SpecError: No model is named.
    """
    if settings.model is None:
        raise SpecError(
            "no model is named",
            hint="give --model NAME, or: sandbox-lite config set model NAME; "
            "without any model: sandbox-lite demo",
        )
    return ModelSettings(
        model=settings.model,
        base_url=settings.base_url,
        api_key=api_key or settings.api_key(),
        temperature=settings.temperature,
        max_tokens=settings.completion_tokens,
        timeout=settings.model_timeout,
        max_retries=settings.model_retries,
        extra_body=dict(settings.extra_body or {}),
    )


def _checked_run_dir(job: Job) -> None:
    if job.run_dir is None:
        transfer.checked_output(Path(job.settings.runs_dir), "--runs-dir")
        return
    transfer.checked_output(job.run_dir, "--run-dir")
    if job.run_dir.exists() and any(job.run_dir.iterdir()):
        raise SpecError(
            f"--run-dir: {job.run_dir} is not empty, and no run is overwritten",
            hint="name a new directory",
        )


def _make_run_dir(job: Job) -> Path:
    try:
        if job.run_dir is not None:
            job.run_dir.mkdir(parents=True, exist_ok=True)
            return job.run_dir
        words = re.findall(r"[a-z0-9]+", job.task.lower())
        slug = "-".join(words)[:40].strip("-") or "run"
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        above = Path(job.settings.runs_dir)
        above.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            directory = above / (f"{stamp}-{slug}" + (f"-{number}" if number > 1 else ""))
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                return directory
    except OSError as error:
        raise HostError(
            f"cannot make a directory for the run: {error.strerror} ({error.filename})",
            hint="name another one with --run-dir",
        ) from error
    raise HostError(f"{above} is full of runs of this second", hint="name one with --run-dir")


class _Record:
    """`run.json`: written when the run begins, so that a killed one has it, and at its end."""

    def __init__(self, directory: Path, job: Job, sandbox: Sandbox) -> None:
        self.directory = directory
        self.sandbox = sandbox
        settings = job.settings
        self._data: dict[str, Any] = {
            "format": FORMAT,
            "version": sandbox_lite.__version__,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "task": job.task,
            "model": settings.model,
            "settings": {
                name: {"value": settings.shown(name), "origin": settings.origins.get(name)}
                for name in OPTIONS
            },
            "api_key": "set" if job.api_key or settings.api_key() else "not set",
            "input_dir": job.input_dir and str(job.input_dir),
            "output_dir": job.output_dir and str(job.output_dir),
            "checkpoint": job.checkpoint,
            "resumed": job.resume and {"run": str(job.resume.run), "at": job.resume.at},
            "workspace": job.workspace and str(job.workspace.absolute()),
            "enforcement": dataclasses.asdict(sandbox.enforcement),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "stop": None,
        }
        self._write()

    def write(
        self,
        trajectory: Trajectory,
        exit_code: int,
        files: TransferReport | None,
        error: SandboxLiteError | None = None,
    ) -> None:
        """Say how it ended."""
        self._data |= {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "stop": trajectory.stop,
            "exit_code": exit_code,
            "steps": len(trajectory.steps),
            "tokens": dataclasses.asdict(trajectory.tokens),
            "seconds": dataclasses.asdict(trajectory.seconds),
            "answer": trajectory.answer,
            "error": trajectory.error or (error and error.message),
            "hint": trajectory.hint or (error and error.hint),
            "files": files and dataclasses.asdict(files),
        }
        with contextlib.suppress(HostError):  # a full disk is told of by the copying
            self._write()

    def _write(self) -> None:
        target = self.directory / "run.json"
        stage = self.directory / f".run.json.{os.getpid()}"
        text = json.dumps(self._data, indent=1, ensure_ascii=False, default=str)
        try:
            stage.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            stage.replace(target)
        except OSError as error:
            stage.unlink(missing_ok=True)
            raise HostError(
                f"cannot write {target}: {error.strerror}",
                hint="free some space, or name another directory with --run-dir",
            ) from error
