"""`rl demo`: a tiny model learns to use its computer, on this machine."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite.cli.terminal import emit, status
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from sandbox_lite.adapters.trl.demo.journal import StepRecord
    from sandbox_lite.adapters.trl.demo.run import Outcome, Request

_ABOUT = """\
a toy, and what is real in it: every rollout has a sandbox of its own, with the product's tools,
  environment and grader, and TRL trains. What is the toy's: a model of half a million random
  weights, made here; its own prompt file; a vocabulary of the words in prompts and in the
  sandbox's real observations, in which a whole tool call is one token."""
_ONE_STEP = """\
  single-turn: a rollout is one message, and then counts as submitted. No warm start."""
_MULTI_TURN = """\
  multi-turn: read a document, write what it said, submit. A short supervised warm start teaches
  the form of the calls, and to write what was read; which document it reads, the reward teaches."""


def demo(
    algorithm: Annotated[
        str, typer.Option("--algorithm", "-a", metavar="NAME", help="grpo or rloo.")
    ] = "grpo",
    multi_turn: Annotated[
        bool, typer.Option("--multi-turn", metavar="", help="Read, then write, then submit.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of weights, rows and sampling.")] = 0,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Of training, instead of 80, multi-turn 160.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Takes all that is made.")
    ] = None,
    rootfs: Annotated[
        str, typer.Option("--rootfs", "-r", metavar="NAME", help="Of every rollout.")
    ] = "standard",
    workers: Annotated[
        int, typer.Option(metavar="N", help="Threads for sandboxes; 0: two for each processor.")
    ] = 0,
    evaluate: Annotated[
        int, typer.Option(metavar="N", help="Problems before and after; 0 for none.")
    ] = 64,
    stub: Annotated[
        bool,
        typer.Option("--stub", metavar="", help="No sandboxes: to compare curves, no more."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="The summary as JSON on stdout.")
    ] = False,
) -> int:
    """Watch a tiny model learn to use its computer: trained by TRL on the CPU, no download.

    Needs the extra `trl`. Writes the curve, the checkpoint, sampled rollouts (open them with
    `sandbox-lite view`), and a benchmark before and after.

    \b
    Examples:
      sandbox-lite rl demo                     one call per rollout: minutes
      sandbox-lite rl demo --algorithm rloo
      sandbox-lite rl demo --multi-turn        read, write, submit: longer
    """
    from sandbox_lite.adapters.trl.demo.run import SUMMARY, Request, check, run

    if algorithm not in ("grpo", "rloo"):
        raise SpecError(f"no algorithm {algorithm!r}", hint="one of: grpo, rloo")
    chosen: Literal["grpo", "rloo"] = "rloo" if algorithm == "rloo" else "grpo"
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")  # noqa: DTZ005  # a name for people
    request = Request(
        directory=output or Path("runs") / f"rl-{moment}-{os.getpid()}",
        algorithm=chosen, multi_turn=multi_turn, seed=seed, steps=steps, rootfs=rootfs,
        stub=stub, evaluated=evaluate, workers=workers,
    )  # fmt: skip
    check(request)
    for line in (*_ABOUT.splitlines(), *(_MULTI_TURN if multi_turn else _ONE_STEP).splitlines()):
        status(line)
    if stub:
        status("note: --stub: no sandbox is started, and this run shows nothing of one")
    outcome = run(request, said=status, told=_progress(request.recipe.steps))
    _report(request, outcome)
    if as_json:
        emit(json.loads((request.directory / SUMMARY).read_text(encoding="utf-8")))
    return 0


def _progress(steps: int) -> Callable[[StepRecord], None]:
    began = time.monotonic()

    def told(record: StepRecord) -> None:
        if record.step in (1, steps) or record.step % 5 == 0:
            odd = "".join(
                f", {count} {name}"
                for count, name in (
                    (record.flat_groups, f"of {record.groups} groups without variance"),
                    (record.masked, "masked"),
                    (record.overlong, "overlong"),
                )
                if count
            )
            bar = "#" * round(20 * record.reward)
            status(
                f"step {record.step:>3} of {steps}  reward {record.reward:.3f} {bar:<20}  "
                f"{time.monotonic() - began:5.0f} s{odd}"
            )

    return told


def _report(request: Request, outcome: Outcome) -> None:
    trained = outcome.trained
    status(
        f"{trained.rollouts} rollouts in {trained.seconds:.0f} s, "
        f"{trained.rollouts_per_second:.0f} per second; {trained.environment_share:.0%} of it the "
        "trainer waited for environments, the rest is the model's"
    )
    for mode in outcome.before:
        status(
            f"benchmark, {mode} mode: {outcome.before[mode]:.3f} before, "
            f"{outcome.after[mode]:.3f} after"
            + (" (without a computer it can say nothing but calls)" if mode == "plain" else "")
        )
    status(f"curve, checkpoint, rollouts and both benchmarks: {request.directory}")


def register(app: typer.Typer) -> None:
    """Add this command to the group `rl`."""
    app.command("demo")(demo)
