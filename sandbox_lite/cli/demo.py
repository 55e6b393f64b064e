"""`demo`: the main job on a task of our own, with a scripted model or a real one, and checked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite import config
from sandbox_lite.cli.run import AsJson, BaseUrl, Model
from sandbox_lite.cli.terminal import console, emit, fail, status, visible
from sandbox_lite.errors import HostError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.agent.prompt import Prompt
    from sandbox_lite.cli.job import Job, JobResult
    from sandbox_lite.config import Settings
    from sandbox_lite.demo.check import Check

RESULTS = ("answer.txt", "plot.png", "report.html")

_SCRIPTED = (
    "scripted model: the words are a script's; agent, HTTP, sandbox, files and computing are real"
)


def demo(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Takes inputs, runs, answer, plot and report.")
    ] = Path("demo-output"),
    rootfs: Annotated[
        str, typer.Option("--rootfs", "-r", metavar="NAME", help="One that has NumPy.")
    ] = "standard",
    model: Model = None,
    base_url: BaseUrl = None,
    scripted: Annotated[
        bool, typer.Option("--scripted", help="The script, also where a key is set.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, another answer.")] = 1,
    input_dir: Annotated[
        Path | None,
        typer.Option("--input", metavar="DIR", help="Inputs of your own: edit those of a demo."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """See the main job work, with no model and no key: files in, a checked answer out.

    A script plays the model behind an OpenAI-compatible server on this machine; it reads its values
    from what the tools answer. With OPENAI_API_KEY, --base-url or --model the same task goes to a
    real model. The answer is computed again from the inputs: exit code 0 where it agrees, else 1.

    \b
    Examples:
      sandbox-lite demo
      sandbox-lite demo --seed 2
      sandbox-lite demo --input demo-output/input          after you changed a number in there
      sandbox-lite demo --base-url http://127.0.0.1:8000/v1 --model NAME
    """
    settings = config.load({"model": model, "base_url": base_url, "rootfs": rootfs})
    named = bool(model or base_url)
    if scripted and named:
        raise SpecError("--scripted is a model of its own", hint="leave out --model and --base-url")
    real = named or bool(settings.base_url) or bool(settings.api_key())
    if real and not scripted and settings.model is None:
        raise SpecError(
            "a key or a server is set, but no model is named",
            hint="give --model NAME, or --scripted for the demo without a model",
        )
    # all that follows is slow to import, and --help needs none of it
    from sandbox_lite.agent import prompt as prompts
    from sandbox_lite.cli import transfer, view
    from sandbox_lite.cli.job import perform

    transfer.checked_output(output)
    inputs = _inputs(transfer.checked_input(input_dir), output, seed)
    if real and not scripted:
        told = prompts.load(Path(settings.prompt) if settings.prompt else None)
        job = _job(settings, told, inputs, output)
        result = perform(job, view.choose(as_json=as_json))
    else:
        if as_json:
            status(_SCRIPTED)
        else:
            print(_SCRIPTED, flush=True)
        with _script(prompts.load(), rootfs, inputs, output) as job:
            result = perform(job, view.choose(as_json=as_json))
    return _finish(result, inputs, output, as_json=as_json)


def _inputs(given: Path | None, output: Path, seed: int) -> Path:
    """Return the directory of the inputs, which are made unless they were given."""
    from sandbox_lite.demo import inputs
    from sandbox_lite.demo.check import compute

    if given is None:
        inputs.write(output / "input", seed)
        return output / "input"
    compute(given)  # what cannot be checked afterwards is not worth a run
    return given


def _job(settings: Settings, prompt: Prompt, inputs: Path, output: Path) -> Job:
    from sandbox_lite.cli.job import Job
    from sandbox_lite.demo.task import TASK

    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    runs = output / "runs"
    free = (runs / (stamp + (f"-{n}" if n > 1 else "")) for n in range(1, 1000))
    run_dir = next((path for path in free if not path.exists()), runs / stamp)
    return Job(
        task=TASK, settings=settings, prompt=prompt, input_dir=inputs, run_dir=run_dir,
        api_key="none" if settings.origins.get("model") == "script" else None,
        default_network="none",
    )  # fmt: skip


@contextlib.contextmanager
def _script(prompt: Prompt, rootfs: str, inputs: Path, output: Path) -> Iterator[Job]:
    """Yield the job for the script, whose server runs as long as the block."""
    from sandbox_lite.demo.script import Places
    from sandbox_lite.demo.server import MODEL, ScriptServer

    places = Places(
        working_dir=prompt.working_dir, input_dir=prompt.input_dir, output_dir=prompt.output_dir
    )
    with ScriptServer(places) as server:
        # none of the user's settings: they are meant for a model
        settings = config.Settings(
            model=MODEL, base_url=server.base_url, rootfs=rootfs,
            origins={"model": "script", "base_url": "script", "rootfs": "--rootfs"},
        )  # fmt: skip
        yield _job(settings, prompt, inputs, output)


def _finish(result: JobResult, inputs: Path, output: Path, *, as_json: bool) -> int:
    """Check what came out, and say where it is."""
    from sandbox_lite.agent.trajectory import StopReason
    from sandbox_lite.demo.check import check

    if result.error is not None:
        fail(result.error)
    if result.trajectory.stop is StopReason.INTERRUPTED:
        return result.exit_code
    files = result.directory / "files"
    found = check(inputs, files)
    _copy(files, output)
    if as_json:
        results = {name: str(output / name) for name in RESULTS if (output / name).exists()}
        emit({"kind": "check", "ok": found.ok, "expected": str(found.expected),
              "findings": [dataclasses.asdict(one) for one in found.findings],
              "input": str(inputs), "results": results})  # fmt: skip
    else:
        _show(found, inputs, output)
    return result.exit_code or (0 if found.ok else 1)


def _copy(files: Path, output: Path) -> None:
    """Put the results of this run where they are easily found, in place of those of the last."""
    for name in RESULTS:
        source, target = files / name, output / name
        stage = output / f".{name}.{os.getpid()}"
        try:
            if source.is_file() and not source.is_symlink():
                shutil.copyfile(source, stage)
                stage.replace(target)
            else:
                target.unlink(missing_ok=True)
        except OSError as error:
            stage.unlink(missing_ok=True)
            raise HostError(
                f"cannot write {target}: {error.strerror}", hint=f"what came out is in {files}"
            ) from error


def _show(found: Check, inputs: Path, output: Path) -> None:
    from rich.text import Text

    screen = console()
    screen.print(f"\ncheck: computed again from {inputs}, outside the sandbox", soft_wrap=True)
    for one in found.findings:
        word, style = ("ok", "green") if one.ok else ("WRONG", "bold red")
        line = Text.assemble((f"  {word:<6}", style), f"{one.name:<12}", visible(one.detail))
        screen.print(line, soft_wrap=True)
    for name in RESULTS:
        if (output / name).exists():
            screen.print(f"  {output / name}", soft_wrap=True)
    verdict = ("The answer is right.", "bold green") if found.ok else ("Not right.", "bold red")
    screen.print(Text(*verdict))
