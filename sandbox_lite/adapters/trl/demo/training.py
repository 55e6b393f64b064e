"""One training of the tiny policy: TRL's trainer, our sandboxes, and what became of it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_lite.adapters.trl.dataset import columns
from sandbox_lite.adapters.trl.demo import recipe as recipes
from sandbox_lite.adapters.trl.demo.journal import Journal
from sandbox_lite.adapters.trl.rollouts import Rollouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox_lite.adapters.trl.demo.journal import StepRecord
    from sandbox_lite.adapters.trl.demo.recipe import Algorithm, Frames, Recipe
    from sandbox_lite.adapters.trl.demo.warm_up import WarmUp
    from sandbox_lite.adapters.trl.rollouts import Episodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training came to."""

    records: tuple[StepRecord, ...]
    seconds: float
    """Of the trainer alone."""

    @property
    def rollouts(self) -> int:
        """Episodes in all."""
        return sum(one.rollouts for one in self.records)

    @property
    def rollouts_per_second(self) -> float:
        """Of the trainer's wall time."""
        return self.rollouts / self.seconds

    @property
    def environment_share(self) -> float:
        """Of the trainer's wall time, that it waited for environments."""
        return sum(one.waited_seconds for one in self.records) / self.seconds


class Policy:
    """The tiny model and its tokenizer.

    Args:
        recipe: Which demo.
        frames: What a real episode shows.
        seed: Of the weights.
        threads: Of torch.
    """

    def __init__(self, recipe: Recipe, frames: Frames, *, seed: int, threads: int) -> None:
        import torch

        from sandbox_lite.adapters.trl.demo import policy

        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        calls = [policy.bash(command) for command in recipe.calls]
        self.recipe = recipe
        self.frames = frames
        self.tokenizer = policy.tokenizer_of(
            frames.all(recipe.lookup, multi_turn=recipe.multi_turn),
            [*calls, policy.SUBMIT] if recipe.multi_turn else calls,
        )
        self.model = policy.model_of(self.tokenizer)

    def warm_up(self, *, seed: int) -> WarmUp:
        """Teach the format; see `warm_up`."""
        from sandbox_lite.adapters.trl.demo.warm_up import Lesson, warm_up

        lookup = self.recipe.lookup
        return warm_up(
            self.model,
            self.tokenizer,
            lambda drawn, right: Lesson(messages=tuple(self.frames.lesson(lookup, drawn, right))),
            seed=seed,
        )


def train(
    policy: Policy,
    make: Callable[[], Episodes],
    *,
    algorithm: Algorithm,
    seed: int,
    steps: int,
    directory: Path,
    workers: int,
    told: Callable[[StepRecord], None],
) -> Trained:
    """Train the policy where it stands.

    Args:
        policy: Changed in place.
        make: Makes an environment; see `Rollouts`.
        algorithm: GRPO calls tools while it samples; RLOO has the episode in its reward function.
        seed: Of sampling and of the rows.
        steps: Of training, at most those of the recipe.
        directory: Gets the journal, some trajectories, and TRL's own files.
        workers: Threads for sandboxes.
        told: Told of each step.

    Raises:
        SandboxLiteError: The journal cannot be written.
    """
    recipe = policy.recipe
    journal = Journal(directory, every=20)
    with Rollouts(
        make, one_step=not recipe.multi_turn, workers=workers, ahead=2 * workers,
        told=journal.ended,
    ) as rollouts:  # fmt: skip
        with _quiet():
            trainer = _trainer(policy, rollouts, algorithm, seed, steps, directory)
            _hush(trainer)
            trainer.add_callback(_callback(rollouts, journal, told))
            began = time.monotonic()
            trainer.train()
            seconds = time.monotonic() - began
    return Trained(records=tuple(journal.records), seconds=seconds)


def _callback(rollouts: Rollouts, journal: Journal, told: Callable[[StepRecord], None]) -> Any:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        """Closes a step of the journal when the trainer has done one."""

        def __init__(self) -> None:
            self._moment = time.monotonic()
            self._waited = 0.0

        def on_train_begin(self, *_: object, **__: object) -> None:
            self._moment = time.monotonic()

        def on_step_end(self, *_: object, **__: object) -> None:
            now, waited = time.monotonic(), rollouts.waited_seconds
            record = journal.close_step(
                seconds=now - self._moment, waited_seconds=waited - self._waited
            )
            self._moment, self._waited = now, waited
            told(record)

    return Steps()


def _trainer(
    policy: Policy,
    rollouts: Rollouts,
    algorithm: Algorithm,
    seed: int,
    steps: int,
    directory: Path,
) -> Any:
    from datasets import Dataset

    recipe = policy.recipe
    rows = recipes.training_rows(recipe, seed=seed)
    texts = recipes.texts()
    data = Dataset.from_list([columns(row, texts, steps=recipe.limits.steps) for row in rows])
    shared: dict[str, Any] = {
        "output_dir": str(directory / "trainer"), "seed": seed, "max_steps": steps,
        "per_device_train_batch_size": recipe.prompts * recipe.generations,
        "num_generations": recipe.generations, "gradient_accumulation_steps": 1,
        "learning_rate": recipe.learning_rate, "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": recipe.warm_up_steps, "adam_beta2": 0.99, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "beta": 0.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
        "max_completion_length": recipe.completion_tokens, "shuffle_dataset": False,
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
        "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }  # fmt: skip
    if algorithm == "rloo":
        from trl import RLOOConfig, RLOOTrainer

        from sandbox_lite.adapters.trl.reward import reward_function

        return RLOOTrainer(
            model=policy.model, args=RLOOConfig(**shared), train_dataset=data,
            reward_funcs=[reward_function(rollouts)], processing_class=policy.tokenizer,
        )  # fmt: skip
    from trl import GRPOConfig, GRPOTrainer

    from sandbox_lite.adapters.trl.environment import environment_factory

    return GRPOTrainer(
        model=policy.model,
        args=GRPOConfig(
            **shared, loss_type="dapo", scale_rewards="group",
            max_tool_calling_iterations=recipe.tool_rounds,
        ),
        train_dataset=data, processing_class=policy.tokenizer,
        environment_factory=environment_factory(rollouts),
    )  # fmt: skip


def _hush(trainer: Any) -> None:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep what the libraries say of themselves off the terminal."""
    import warnings

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    names = ("transformers", "trl", "accelerate", "datasets")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
