"""`replay`: execute a recorded run's actions again and show what agreed and what drifted."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite import config
from sandbox_lite.cli import transfer
from sandbox_lite.cli.execute import Network
from sandbox_lite.cli.terminal import (
    clip_lines,
    console,
    emit,
    one_line,
    say_in_force,
    status,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.agent.replay import Replayed, ReplayReport
    from sandbox_lite.agent.trajectory import Trajectory

_STYLES = {"same": "green", "expected": "yellow", "drift": "bold red"}
_PUBLISHED_ROOTFS = "paper"


def replay(
    trajectory: Annotated[
        Path, typer.Argument(metavar="TRAJECTORY", help="trajectory.jsonl, or a published one.")
    ],
    expect: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Known differences and causes (TOML).")
    ] = None,
    input_dir: Annotated[
        Path | None, typer.Option("--input", metavar="DIR", help="The input files of the record.")
    ] = None,
    rootfs: Annotated[
        str | None,
        typer.Option("--rootfs", "-r", metavar="NAME", help="Else that of the record."),
    ] = None,
    network: Network = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, metavar="S", help="Seconds for one command.")
    ] = 900.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", metavar="", help="Show differences in full.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="One JSON object per action, one at the end.")
    ] = False,
) -> int:
    """Execute a recorded run's actions again in a fresh sandbox and compare.

    Exit code 0 if all agreed but for the differences in --expect, 1 if anything else differed.

    \b
    Examples:
      sandbox-lite replay runs/20260101-120000-task/trajectory.jsonl --input data
      sandbox-lite replay published.json --rootfs paper --network host --expect known.toml
    """
    from sandbox_lite.agent import replay as replays
    from sandbox_lite.agent import trajectory as records
    from sandbox_lite.agent.tools import ToolContext
    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.spec import Limits

    source = transfer.checked_input(input_dir)
    record = records.load(trajectory)
    expectations = replays.load_expectations(expect) if expect is not None else ()
    chosen = config.load({"rootfs": rootfs or _rootfs_of(record), "network": network})
    working_dir, inside, _ = record.directories
    sandbox = Sandbox(
        chosen.rootfs,
        network=chosen.network_or("none"),
        allow=chosen.allow,
        allow_private=chosen.allow_private,
        workdir=working_dir,
        limits=Limits(timeout_seconds=timeout),
    )
    with sandbox:
        say_in_force(sandbox.enforcement)
        has = sandbox.enforcement.network
        had = record.enforcement.network if record.enforcement else has
        if had != has:
            # never taken from the record: whoever wrote it does not decide what it may reach
            status(f"note: the record had the network {had}; --network {had} gives it again")
        status(f"task: {record.task[:100]}")
        transfer.send(sandbox, source, inside)
        report = replays.replay(
            record, sandbox, expectations,
            context=ToolContext(timeout_seconds=timeout, max_timeout_seconds=max(timeout, 3600.0)),
            on_step=_emit if as_json else _say,
        )  # fmt: skip
    if as_json:
        emit({"kind": "end", "ok": report.ok, **_counts(report), "notes": list(report.notes)})
    else:
        _table(report, verbose=verbose)
    return 0 if report.ok else 1


def _rootfs_of(record: Trajectory) -> str | None:
    if record.source == "published":
        return _PUBLISHED_ROOTFS
    return record.enforcement.rootfs.partition(" ")[0] if record.enforcement else None


def _counts(report: ReplayReport) -> dict[str, int]:
    from sandbox_lite.agent.replay import Verdict

    counts = {verdict.value: report.count(verdict) for verdict in Verdict}
    return {**counts, "stale": sum(step.stale for step in report.steps)}


def _emit(step: Replayed) -> None:
    emit({"kind": "step", **dataclasses.asdict(step)})


def _say(step: Replayed) -> None:
    """Tell the person, who may wait for minutes, how far it is."""
    if sys.stderr.isatty():
        status(f"step {step.step}: {step.verdict} ({step.seconds:.1f} s)")


def _codes(step: Replayed) -> str:
    if step.recorded_exit_code is None and step.exit_code is None:
        return ""
    if step.recorded_exit_code == step.exit_code:
        return str(step.exit_code)
    return f"{step.recorded_exit_code} -> {step.exit_code}"


def _table(report: ReplayReport, *, verbose: bool) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    screen = console()
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("step", justify="right", min_width=4)
    table.add_column("action, and why it differs", ratio=1)
    table.add_column("exit", min_width=4, no_wrap=True)
    table.add_column("verdict", min_width=8, no_wrap=True)
    width = max(20, screen.width - 32)
    for step in report.steps:
        action = one_line(f"{step.tool}: {step.action}")
        text = Text(action if len(action) <= width else action[: width - 3] + "...")
        what = step.cause or ", ".join(step.fields).replace("_", " ")
        if step.stale:
            what = "expected to differ, and agrees"
        if what:
            text.append(f"\n{visible(what)}", style="dim")
        verdict = Text(step.verdict.value, style=_STYLES[step.verdict.value])
        table.add_row(str(step.step), text, _codes(step), verdict)
    screen.print(table)
    _differences(report.steps, verbose=verbose)
    for note in report.notes:
        screen.print(f"note: {one_line(note)}", soft_wrap=True)
    for one in report.unused:
        screen.print(f"note: the record has no step {one.step}, which --expect names")
    counts = ", ".join(f"{count} {name}" for name, count in _counts(report).items() if count)
    screen.print(f"{counts or 'no actions'}: {'agreed' if report.ok else 'DRIFTED'}")


def _differences(steps: Sequence[Replayed], *, verbose: bool) -> None:
    from rich.text import Text

    from sandbox_lite.agent.replay import Verdict

    screen = console()
    for step in steps:
        if step.difference and (verbose or step.verdict is Verdict.DRIFT):
            screen.print(Text(f"step {step.step} ({step.verdict})", style="bold"))
            text = visible(step.difference)
            screen.print(Text(text if verbose else clip_lines(text, 20)), soft_wrap=True)
            screen.print()
