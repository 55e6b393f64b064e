"""One benchmark from its first check to its `results.json`, for `bench` and `bench regrade`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.agent.tools import ToolContext
from sandbox_lite.agent.trajectory import now
from sandbox_lite.bench import engines
from sandbox_lite.bench import plan as plans
from sandbox_lite.bench import prices as pricing
from sandbox_lite.bench import regrade as regrading
from sandbox_lite.bench import report as pages
from sandbox_lite.bench import results as reporting
from sandbox_lite.bench.engines.work import Work
from sandbox_lite.bench.grading import GradingSettings
from sandbox_lite.bench.ledger import RESULTS, Ledger, load_header, load_results, write_json
from sandbox_lite.bench.rollout import Computers, SandboxOptions, computer
from sandbox_lite.bench.runner import Runner
from sandbox_lite.bench.trial import Pace
from sandbox_lite.cli import signals
from sandbox_lite.cli.bench_view import progress, show
from sandbox_lite.cli.job import model_settings
from sandbox_lite.cli.terminal import emit, say_in_force, status
from sandbox_lite.errors import SandboxLiteError, SpecError, TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from sandbox_lite.agent.model import ModelSettings
    from sandbox_lite.bench.engines import Opened
    from sandbox_lite.bench.episode import Episode, Json
    from sandbox_lite.bench.grading import Grading
    from sandbox_lite.bench.plan import Planned, Selection
    from sandbox_lite.bench.prices import Price
    from sandbox_lite.bench.prompt import Documents
    from sandbox_lite.bench.runner import Ended
    from sandbox_lite.bench.task import Mode, Scorer
    from sandbox_lite.config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """Who tells what an answer is worth."""

    scorer: Scorer = "default"
    model: str | None = None
    base_url: str | None = None
    repeats: int | None = None

    @contextlib.contextmanager
    def opened(self, settings: Settings) -> Iterator[tuple[Grading, Json | None]]:
        """Yield who grades, and how a judge is asked, for the record."""
        asked = self.graded_by(settings)
        about: Json | None = None
        with asked.opened() as grading:
            if asked.judge is not None and grading.judge is not None:
                about = plans.described_model(asked.judge)
                about |= {"prompt": grading.judge.prompt_source, "repeats": self.repeats}
            yield grading, about

    def graded_by(self, settings: Settings) -> GradingSettings:
        """Return it as data.

        Raises:
            SpecError: What a judge is asked is named, and none is.
        """
        if self.model is None and (self.base_url is not None or self.repeats is not None):
            raise SpecError("no judge is named", hint="give --judge-model NAME as well")
        judge = None if self.model is None else self._settings(settings)
        return GradingSettings(scorer=self.scorer, judge=judge, repeats=self.repeats)

    def _settings(self, settings: Settings) -> ModelSettings:
        named = dataclasses.replace(settings, model=self.model)
        asked = model_settings(named)
        # what shapes the answers of the model under test is none of its judge's
        return dataclasses.replace(
            asked, base_url=self.base_url or settings.base_url, temperature=None, max_tokens=None,
            extra_body={},
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be tried, and how."""

    tasks: tuple[str, ...]
    modes: tuple[Mode, ...]
    settings: Settings
    selection: Selection
    data: Path | None = None
    offline: bool = False
    repeats: int = 1
    concurrency: int | None = None
    retries: int = 2
    prompts: Literal["ours", "paper"] | Path = "ours"
    documents: Documents = "files"
    files: bool = True
    """False: nothing but the answer can be written in a sandbox."""
    programs: bool = True
    """False: nothing runs in a sandbox."""
    judging: Judging = dataclasses.field(default_factory=Judging)
    max_tokens_total: int | None = None
    prices: Path | None = None
    max_cost: float | None = None
    fail_under: float | None = None
    out: Path | None = None
    engine: str = "local"
    ray_address: str | None = None

    @property
    def network(self) -> str:
        """The mode of its sandboxes; `web` is what the paper's experiment is nearest to."""
        return self.settings.network_or("web")

    @property
    def sandbox(self) -> SandboxOptions:
        """How its sandboxes are made."""
        settings = self.settings
        return SandboxOptions(
            rootfs=settings.rootfs, network=self.network, allow=settings.allow,
            allow_private=settings.allow_private, limits=settings.limits(settings.timeout),
            files=self.files, programs=self.programs,
        )  # fmt: skip

    @property
    def without(self) -> frozenset[str]:
        """Tools that a sandbox's model does not have."""
        return frozenset() if self.programs else frozenset({"execute_bash"})

    def directory(self) -> Path:
        """Return where results are kept."""
        if self.out is not None:
            return self.out
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return Path(self.settings.runs_dir) / f"bench-{moment}-{os.getpid()}"


def perform(request: Request, *, as_json: bool) -> int:
    """Do what is left of a benchmark; return the exit code.

    Raises:
        SpecError: The request makes no sense, or the directory holds another experiment.
        SandboxLiteError: It cannot be begun, or its results not be written.
    """
    asked = model_settings(request.settings)
    price = None if request.prices is None else pricing.load(request.prices, asked.model)
    pace = Pace(
        concurrency=request.concurrency, retries=request.retries,
        seconds=request.settings.max_seconds, max_tokens_total=request.max_tokens_total,
        max_cost=request.max_cost, price=price,
    )  # fmt: skip
    open_engine = engines.find(request.engine, address=request.ray_address)
    plan = plans.planned(
        request.tasks, modes=request.modes, selection=request.selection, file=request.data,
        prompts=request.prompts, offline=request.offline,
    )  # fmt: skip
    _check_files(request, plan)
    with request.judging.opened(request.settings) as (grading, judge):
        for one in plan:
            for note in grading.check(one.task, one.rows):
                _note(note)
        return asyncio.run(
            _perform(request, asked, plan, pace, open_engine, grading, judge, as_json=as_json)
        )


def _check_files(request: Request, plan: Sequence[Planned]) -> None:
    wanting = [
        row.id for one in plan for row in one.rows if row.artefact and "sandbox" in one.modes
    ]
    if wanting and not (request.files and request.programs):
        raise SpecError(
            f"problems such as {wanting[0]!r} ask for a file, which no model can make here",
            hint="leave --no-files and --no-exec out, or name other problems with --ids",
        )


async def _perform(
    request: Request,
    asked: ModelSettings,
    plan: Sequence[Planned],
    pace: Pace,
    open_engine: Opened,
    grading: Grading,
    judge: Json | None,
    *,
    as_json: bool,
) -> int:
    settings = request.settings
    limits = AgentLimits(
        steps=settings.max_steps, tokens=settings.max_tokens, seconds=settings.max_seconds
    )
    computers, enforced, enforcement = None, None, None
    if any("sandbox" in one.modes for one in plan):
        computers = Computers(
            make=request.sandbox.make,
            limits=limits,
            context=ToolContext(timeout_seconds=settings.timeout, without=request.without),
            documents=request.documents,
        )
        # what this machine cannot do is told before the first episode, not in each
        async with computer(computers, plan[0].texts) as probe:
            enforcement = probe.enforcement
            enforced = dataclasses.asdict(enforcement)
            say_in_force(enforcement)
    experiment = plans.experiment(
        plan, repeats=request.repeats, documents=request.documents, without=request.without,
        model=asked, limits=limits,
        command_seconds=settings.timeout, sandbox=_sandbox_record(request, enforced),
        scorer=request.judging.scorer, judge=judge,
    )  # fmt: skip
    about: Json = {
        "tasks": plans.described_tasks(plan), "enforcement": enforced, "started": now(),
        "seed": request.selection.seed, "versions_at_start": reporting.versions(),
    }  # fmt: skip
    todo = list(plans.keys(plan, request.repeats))
    work = Work(
        model=asked, computers=computers, enforced=enforcement,
        grading=request.judging.graded_by(settings), pace=pace, plan=tuple(plan),
    )  # fmt: skip
    directory = request.directory()
    loop = asyncio.get_running_loop()
    with Ledger(directory, experiment, about) as ledger:
        async with open_engine(work, grading, request.ray_address, _note) as engine:
            with progress(len(todo), ledger.done.values()) as told:
                runner = Runner(todo, ledger, engine, pace, told=told)
                status(f"bench: {runner.left} of {len(todo)} episodes to do, in {directory}")
                with signals.told(loop, runner.stop):
                    ended = await runner.run()
        return _finish(request, directory, ledger.done.values(), pace, ended, as_json=as_json)


def _note(text: str) -> None:
    status(f"note: {text}")


def _sandbox_record(request: Request, enforced: Json | None) -> Json | None:
    """Return what must be the same of two sandboxes; how firmly it is held stands elsewhere."""
    if enforced is None:
        return None
    settings = request.settings
    return {
        "rootfs": enforced["rootfs"],
        "network": request.network,
        "allow": list(settings.allow),
        "allow_private": list(settings.allow_private),
        "files": "all" if request.files else "the answer alone",
        "programs": request.programs,
        **{name: getattr(settings, name) for name in ("memory", "cpus", "pids", "disk")},
    }


def _finish(
    request: Request,
    directory: Path,
    episodes: Iterable[Episode],
    pace: Pace,
    ended: Ended,
    *,
    as_json: bool,
) -> int:
    found = reporting.results(
        load_header(directory), episodes, left=ended.left, seed=request.selection.seed,
        price=pace.price, throughput=_throughput(directory, ended),
    )  # fmt: skip
    write_json(directory / RESULTS, found)
    _print(found, directory, as_json=as_json)
    if ended.interrupted:
        return signals.exit_code()
    if ended.out_of_tokens:
        status(f"note: --max-tokens-total is reached, and {ended.left} episodes were not begun")
    if ended.out_of_money:
        status(f"note: --max-cost is reached, and {ended.left} episodes were not begun")
    return _code(found, request.fail_under)


def _throughput(directory: Path, ended: Ended) -> Json | None:
    """Return that of the last start that finished an episode."""
    if ended.episodes:
        return reporting.throughput(ended.episodes, ended.seconds)
    with contextlib.suppress(TaskError):
        before: Json | None = load_results(directory).get("throughput")
        return before
    return None


def _price(directory: Path) -> Price | None:
    """Return by which prices the results of a directory were counted."""
    with contextlib.suppress(TaskError):
        found = load_results(directory).get("price")
        return None if found is None else pricing.Price(**found)
    return None


def _print(found: Json, directory: Path, *, as_json: bool) -> None:
    if as_json:
        emit(found)
    else:
        show(found)
    status(f"results: {directory / RESULTS}")
    try:
        status(f"report: {pages.write(directory)}")
    except SandboxLiteError as error:
        # the results are there, and `bench report` makes it of them at any time
        status(f"note: no report: {error.message}")


def _code(found: Json, fail_under: float | None) -> int:
    share = found["counts"]["fault_share"]
    if share > reporting.MOST_FAULTS:
        status(f"{share:.1%} of the episodes ended in faults: the scores say little")
        return 1
    if fail_under is not None:
        score = found["score"].get("sandbox", found["score"].get("plain"))
        if score is None or score < fail_under:
            shown = "none" if score is None else f"{score:.3f}"
            status(f"the score is {shown}, below {fail_under:g}")
            return 1
    return 0


def regraded(
    directory: Path,
    judging: Judging,
    *,
    settings: Settings,
    data: Path | None,
    out: Path | None,
    fail_under: float | None,
    seed: int,
    as_json: bool,
) -> int:
    """Score the answers of a directory again; return the exit code."""
    load_header(directory)
    name = judging.scorer if judging.model is None else f"{judging.scorer}-{judging.model}"
    target = out or directory / "regraded" / "".join(c if c.isalnum() else "-" for c in name)
    if target.resolve() == directory.resolve():
        raise SpecError("the answers stay where they are", hint="name another directory with --out")
    with judging.opened(settings) as (grading, judge):
        header, episodes = regrading.regrade(directory, target, grading, judge=judge, file=data)
    # the tries are the same, and so is what they cost
    found = reporting.results(header, episodes, seed=seed, price=_price(directory))
    write_json(target / RESULTS, found)
    _print(found, target, as_json=as_json)
    return _code(found, fail_under)
