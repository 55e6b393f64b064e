"""Whole episodes of a benchmark: its own runner, real sandboxes, a model that takes no time."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmark import names
from benchmark.scripted import ScriptedModel
from sandbox_lite import AsyncSandbox
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.tools import ToolCall, ToolContext
from sandbox_lite.bench import plan as plans
from sandbox_lite.bench import prompt
from sandbox_lite.bench.data import DataOrigin
from sandbox_lite.bench.engines.local import Local, default_concurrency
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.ledger import Ledger
from sandbox_lite.bench.rollout import Computers
from sandbox_lite.bench.runner import Runner
from sandbox_lite.bench.task import DataTask, Row
from sandbox_lite.bench.trial import Pace, Trials

if TYPE_CHECKING:
    from benchmark.bench import Bench
    from sandbox_lite.agent.model import AsyncModel
    from sandbox_lite.bench.runner import Ended

_GUESS_A_SECOND = 60
"""How many episodes are planned for each second that may be taken."""


def episodes(bench: Bench) -> None:
    """Run episodes of five trivial steps, graded and written down as in any benchmark."""
    seconds = bench.amounts.rate_seconds
    concurrency = min(default_concurrency(), bench.room(default_concurrency()))
    count = max(2 * concurrency, int(seconds * _GUESS_A_SECOND))
    ended = asyncio.run(_run(bench.rootfs, count, concurrency))
    if ended.left or ended.episodes != count:
        raise AssertionError(f"{count} episodes were asked for, and {ended} was done")
    bench.notes.add(names.EPISODE_RATE, ended.episodes / ended.seconds, "/s")


async def _run(rootfs: str, count: int, concurrency: int) -> Ended:
    texts = prompt.load("chem")
    one = plans.Planned(
        name="chem",
        task=DataTask(name="chem", title="", graded_by="choice"),
        rows=tuple(
            Row(id=str(n), problem_statement=f"{n}", ground_truth="B", domain="chem")
            for n in range(count)
        ),
        origin=DataOrigin(name="none"),
        texts=texts,
        modes=("sandbox",),
    )
    commands = ("echo hi", "cd /tmp", "x=1", f"echo B > {texts.answer_path}")
    turns = [(_call("execute_bash", command=command),) for command in commands]
    turns.append((_call("submit"),))
    computers = Computers(
        make=lambda workdir: AsyncSandbox(rootfs, network="none", workdir=workdir),
        limits=AgentLimits(steps=10),
        context=ToolContext(),
        documents="files",
    )
    model = cast("AsyncModel", ScriptedModel(turns))
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-lite-bench-") as name,
        Ledger(Path(name), {}, {}) as ledger,
        Grading() as grading,
    ):
        # what a grader imports is no part of an episode
        grading.check(one.task, one.rows)
        todo = list(plans.keys((one,), 1))
        pace = Pace(concurrency=concurrency)
        with Trials(model, computers, grading, pace, threads=concurrency) as trials:
            ended = await Runner(todo, ledger, Local(trials, concurrency), pace).run()
        wrong = [done for done in ledger.done.values() if done.value != 1.0]
        if wrong:
            raise AssertionError(f"{len(wrong)} episodes went wrong, such as {wrong[0]}")
        return ended


def _call(tool: str, **arguments: object) -> ToolCall:
    return ToolCall(id="call", name=tool, arguments=json.dumps(arguments))
