"""`run`: a model solves a task in a sandbox of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite import config
from sandbox_lite.cli import workspace as workspaces
from sandbox_lite.cli.execute import (
    Allow,
    AllowPrivate,
    Cpus,
    Disk,
    IdsOption,
    Memory,
    Network,
    Pids,
    Ports,
    Rootfs,
    Wall,
    Weaker,
    ports,
    weaker,
)
from sandbox_lite.cli.terminal import fail
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from sandbox_lite.cli.checkpoints import Resume

Model = Annotated[str | None, typer.Option("--model", "-m", metavar="NAME", help="The model.")]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help="OpenAI-compatible server.")
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="Print a JSON object for each step, and one for the end."
    ),
]


def run(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="What to do; - reads it from stdin.")
    ] = None,
    input_dir: Annotated[
        Path | None, typer.Option("--input", metavar="DIR", help="Copied in before.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Takes what comes out.")
    ] = None,
    workspace: workspaces.Workspace = None,
    workspace_git: workspaces.Git = False,
    model: Model = None,
    base_url: BaseUrl = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable that holds the API key.")
    ] = None,
    rootfs: Rootfs = None,
    network: Network = None,
    allow: Allow = None,
    allow_private: AllowPrivate = None,
    publish: Ports = None,
    ids: IdsOption = None,
    memory: Memory = None,
    cpus: Cpus = None,
    pids: Pids = None,
    disk: Disk = None,
    wall: Wall = None,
    allow_weaker: Weaker = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="FILE", help="What the model is told (TOML).")
    ] = None,
    max_steps: Annotated[
        str | None, typer.Option(metavar="N", help="Messages of the model.")
    ] = None,
    max_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens of the whole run.")
    ] = None,
    max_seconds: Annotated[
        str | None, typer.Option(metavar="S", help="Seconds of the whole run.")
    ] = None,
    completion_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens of one answer of the model.")
    ] = None,
    temperature: Annotated[
        str | None, typer.Option(metavar="T", help="Else the server decides.")
    ] = None,
    extra_body: Annotated[
        str | None, typer.Option(metavar="JSON", help="Further members of every request.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="S", help="Seconds for one command inside.")
    ] = None,
    model_timeout: Annotated[
        str | None, typer.Option(metavar="S", help="Seconds for one request to the server.")
    ] = None,
    model_retries: Annotated[
        str | None, typer.Option(metavar="N", help="Further tries of a failed request.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run is kept; else ./runs/...")
    ] = None,
    runs_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where runs get directories of their own.")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(metavar="KIND", help="Keep the state after steps: none, dirty or all.")
    ] = "none",
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that kept its states.")
    ] = None,
    at: Annotated[
        int | None, typer.Option(metavar="K", help="After its step K; else after the last.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Let a model solve a task in a sandbox of its own.

    Every run leaves trajectory.jsonl, files/ and run.json in its directory, also when it fails or
    Ctrl-C ends it. Exit codes: 0 submitted, 1 stopped without an answer, 2 a wrong request, 125 a
    fault of ours or of the server, 130 Ctrl-C. Defaults: sandbox-lite config show.
    The model may reach every public host (network web), unless --network says otherwise.

    \b
    Examples:
      sandbox-lite run "Which month had the highest sales?" --input data --model NAME
      sandbox-lite run "..." --base-url http://127.0.0.1:8000/v1 --model NAME
      sandbox-lite run - --network none --max-steps 30 < task.txt
      sandbox-lite run "..." --json | jq .answer
      sandbox-lite run "..." --checkpoint dirty --run-dir first
      sandbox-lite run --resume first --at 7
      sandbox-lite run "Fix the failing test" --workspace .   then: sandbox-lite diff RUN
    """
    # all that follows is slow to import, and --help needs none of it
    from sandbox_lite.agent import prompt as prompts
    from sandbox_lite.cli import checkpoints, view
    from sandbox_lite.cli.job import Job, perform

    resumed = _resumed(task, input_dir, resume, at)
    before = {} if resume is None else checkpoints.given_before(resume)
    named = {
        "model": model, "base_url": base_url, "api_key_env": api_key_env, "rootfs": rootfs,
        "network": network, "allow": allow, "allow_private": allow_private,
        "prompt": prompt, "max_steps": max_steps, "max_tokens": max_tokens,
        "max_seconds": max_seconds, "completion_tokens": completion_tokens,
        "temperature": temperature, "extra_body": extra_body, "timeout": timeout,
        "ids": ids, "memory": memory, "cpus": cpus, "pids": pids, "disk": disk, "wall": wall,
        "model_timeout": model_timeout, "model_retries": model_retries, "runs_dir": runs_dir,
    }  # fmt: skip
    given = {name: value for name, value in named.items() if value is not None}
    settings = config.load({**before, **given})
    prompt_data = prompts.load(Path(settings.prompt) if settings.prompt else None)
    job = Job(
        task=_read(task) if resumed is None else resumed.trajectory.task,
        settings=settings,
        prompt=prompt_data if resumed is None else resumed.prompt(prompt_data),
        input_dir=input_dir,
        output_dir=output_dir,
        workspace=workspace,
        workspace_git=workspace_git,
        run_dir=run_dir,
        publish=ports(publish),
        allow_weaker=weaker(allow_weaker),
        checkpoint=checkpoints.kind(checkpoint),
        resume=resumed,
    )
    result = perform(job, view.choose(as_json=as_json))
    if result.error is not None:
        fail(result.error)
    return result.exit_code


def _resumed(
    task: str | None, input_dir: Path | None, run: Path | None, at: int | None
) -> Resume | None:
    from sandbox_lite.cli import checkpoints

    if run is None:
        if at is not None:
            raise SpecError("--at names a step of a run", hint="--resume RUN --at K")
        return None
    if task is not None or input_dir is not None:
        raise SpecError(
            "a run that is gone on with has its task and its input already",
            hint="leave out TASK and --input",
        )
    return checkpoints.resume(run, at)


def _read(task: str | None) -> str:
    if task is None:
        raise SpecError("no task is given", hint='sandbox-lite run "What is to be done"')
    if task == "-":
        task = sys.stdin.buffer.read().decode(errors="replace")
    if not task.strip():
        raise SpecError("the task is empty", hint='sandbox-lite run "What is to be done"')
    return task.strip()
