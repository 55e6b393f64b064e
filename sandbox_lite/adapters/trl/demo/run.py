"""`sandbox-lite rl demo` without its printing: a policy, before and after its training."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import resource
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sandbox_lite.adapters.trl.demo import plot
from sandbox_lite.adapters.trl.demo import recipe as recipes
from sandbox_lite.adapters.trl.demo.stub import StubSource
from sandbox_lite.adapters.trl.demo.tasks import TASK
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.ledger import write_json
from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail.aio import AsyncSandbox
from sandbox_lite.rl.env import Cold, EnvSettings, SandboxEnv
from sandbox_lite.spec import SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox_lite.adapters.trl.demo.journal import StepRecord
    from sandbox_lite.adapters.trl.demo.recipe import Algorithm, Recipe
    from sandbox_lite.adapters.trl.demo.training import Policy, Trained
    from sandbox_lite.adapters.trl.demo.warm_up import WarmUp

_DESCRIPTORS = 32
"""Of ours, for one open sandbox."""
CHECKPOINT, PLOT, SUMMARY = "checkpoint", "reward.svg", "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be trained, and where it is written down."""

    directory: Path
    algorithm: Algorithm = "grpo"
    multi_turn: bool = False
    seed: int = 0
    steps: int | None = None
    """None: those of the recipe."""
    rootfs: str = "standard"
    stub: bool = False
    """No sandboxes at all; for the proof alone."""
    evaluated: int = 64
    """Problems before and after, none of which is trained on; 0 for none."""
    workers: int = 0
    """Threads for sandboxes; 0 for twice as many as there are processors: half of a start is
    waiting for the kernel."""

    @property
    def recipe(self) -> Recipe:
        """Which demo, with so many steps as are asked for."""
        found = recipes.MULTI if self.multi_turn else recipes.SINGLE
        return found if self.steps is None else dataclasses.replace(found, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of it."""

    trained: Trained
    warm_up: WarmUp | None
    before: dict[str, float]
    """Score by mode."""
    after: dict[str, float]
    parameters: int
    tokens: int
    """Of the vocabulary."""


def check(request: Request) -> None:
    """Look before anything slow whether this can be done here.

    Raises:
        HostError: A library lacks, or the limit of open files is too low.
        SpecError: The request makes no sense.
    """
    if request.multi_turn and request.algorithm == "rloo":
        raise SpecError(
            "TRL's RLOOTrainer calls no tools: a rollout there is one message",
            hint="--multi-turn goes with --algorithm grpo",
        )
    if request.steps is not None and request.steps < 1:
        raise SpecError(f"steps of training must be positive, not {request.steps}")
    for name in ("torch", "trl"):
        if importlib.util.find_spec(name) is None:
            raise HostError(
                f"training needs {name}, which is not installed",
                hint="pip install torch, then: pip install 'sandbox-lite[trl]'",
            )
    if request.multi_turn and not request.stub:
        recipe = request.recipe
        wanted = recipe.prompts * recipe.generations * _DESCRIPTORS + 256
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise HostError(
                f"the rollouts of a batch are open at once and need {wanted} files; {hard} may be",
                hint=f"ulimit -n {wanted}, as root, before",
            )
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(
    request: Request,
    *,
    said: Callable[[str], None] = lambda _: None,
    told: Callable[[StepRecord], None] = lambda _: None,
) -> Outcome:
    """Build a policy, evaluate it, train it, evaluate it again, and save all that.

    Args:
        request: See there.
        said: Told in a sentence what happens.
        told: Told of each step of training.

    Raises:
        HostError: See `check`; or the results cannot be written.
        SpecError: See `check`.
        SandboxLiteError: Not even the first sandbox could be had.
    """
    check(request)
    # nothing is downloaded; the libraries must not try either
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    recipe, directory = request.recipe, request.directory
    if (directory / SUMMARY).exists():
        raise SpecError(f"{directory} holds a training", hint="name another directory")
    cpus = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        grading = stack.enter_context(Grading(processes=cpus))
        settings = EnvSettings(
            task=TASK, prompts=recipes.texts(), limits=recipe.limits, grading=grading,
            sandbox=SandboxSpec(rootfs=request.rootfs, network="none"), policy="tiny policy",
        )  # fmt: skip
        source = StubSource() if request.stub else Cold()
        make = partial(SandboxEnv, settings, source=source)
        said("one episode is played first: its texts make the vocabulary")
        frames = recipes.recorded(
            make(), recipe, recipes.held_out_rows(recipe, 1, seed=request.seed)[0]
        )

        # slow to import, and of no use where the first sandbox fails
        from sandbox_lite.adapters.trl.demo.training import Policy, train

        policy = Policy(recipe, frames, seed=request.seed, threads=cpus)
        parameters, tokens = policy.model.num_parameters(), len(policy.tokenizer)
        said(f"the policy: {parameters} parameters, {tokens} tokens, random weights")
        warm_up = None
        if recipe.multi_turn:
            warm_up = policy.warm_up(seed=request.seed)
            said(
                f"format warm start: {warm_up.steps} supervised steps; the right document "
                f"{warm_up.right:.2f}, what was read is written {warm_up.copied:.2f}"
            )
        before = _evaluated(request, policy, settings, "before")
        trained = train(
            policy, make, algorithm=request.algorithm, seed=request.seed, steps=recipe.steps,
            directory=directory, workers=request.workers or 2 * cpus, told=told,
        )  # fmt: skip
        after = _evaluated(request, policy, settings, "after")
        policy.model.save_pretrained(directory / CHECKPOINT)
        policy.tokenizer.save_pretrained(directory / CHECKPOINT)
    outcome = Outcome(
        trained=trained, warm_up=warm_up, before=before, after=after,
        parameters=parameters, tokens=tokens,
    )  # fmt: skip
    rewards = [one.reward for one in trained.records]
    kind = "multi-turn" if recipe.multi_turn else "single-turn"
    plot.draw(
        directory / PLOT,
        rewards,
        title=f"rl demo: {request.algorithm}, {kind}, seed {request.seed}",
    )
    write_json(directory / SUMMARY, _summary(request, outcome, rewards))
    return outcome


def _evaluated(
    request: Request, policy: Policy, settings: EnvSettings, name: str
) -> dict[str, float]:
    if not request.evaluated or request.stub:
        return {}
    from sandbox_lite.adapters.trl.demo.evaluation import LocalModel, evaluate

    recipe = request.recipe
    return evaluate(
        LocalModel(policy.model, policy.tokenizer, one_step=not recipe.multi_turn),
        recipes.held_out_rows(recipe, request.evaluated, seed=request.seed),
        settings.prompts,
        settings.grading,
        request.directory / f"bench-{name}",
        make=lambda workdir: AsyncSandbox(request.rootfs, network="none", workdir=workdir),
        limits=recipe.limits,
    )


def _summary(request: Request, outcome: Outcome, rewards: list[float]) -> dict[str, object]:
    trained = outcome.trained
    return {
        "algorithm": request.algorithm,
        "multi_turn": request.multi_turn,
        "seed": request.seed,
        "stub": request.stub,
        "rewards": rewards,
        "warm_up": None if outcome.warm_up is None else dataclasses.asdict(outcome.warm_up),
        "rollouts": trained.rollouts,
        "seconds": trained.seconds,
        "rollouts_per_second": trained.rollouts_per_second,
        "environment_share": trained.environment_share,
        "flat_groups": sum(one.flat_groups for one in trained.records),
        "masked": sum(one.masked for one in trained.records),
        "overlong": sum(one.overlong for one in trained.records),
        "before": outcome.before,
        "after": outcome.after,
        "load": os.getloadavg()[0],
    }
