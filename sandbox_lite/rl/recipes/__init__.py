"""Settings of published trainings: a table, one file and one line each.

A recipe is data. `Recipe.trl` makes of it the configuration of TRL's `GRPOTrainer`, whose
`environment_factory` runs the episodes; the values that TRL cannot express as the script has them
stand with a comment in the file.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.bench.libraries import need
from sandbox_lite.errors import SpecError, TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RECIPES: tuple[str, ...] = ("llm-in-sandbox-rl",)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The optimizer's part."""

    algorithm: str
    learning_rate: float
    prompts: int
    """Of one step."""
    rollouts: int
    """Of one prompt."""
    kl: float
    clip_high: float
    temperature: float
    loss: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSettings:
    """The environment's part."""

    turns: int
    prompt_tokens: int
    response_tokens: int
    """Of all turns, and of what tools said."""
    seconds: float
    overlong_penalty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How validation samples."""

    temperature: float
    top_p: float
    top_k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training as it was published."""

    name: str
    title: str
    task: str
    """Of the benchmark, whose rows, prompts and graders it has."""
    models: Mapping[str, int]
    """Training steps by model."""
    training: Training
    episode: EpisodeSettings
    validation: Sampling
    trl_only: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of TRL's configuration that say nothing of the training as published."""

    def limits(self) -> AgentLimits:
        """Return the bounds of an episode; tokens are the trainer's to count."""
        return AgentLimits(steps=self.episode.turns, seconds=self.episode.seconds)

    def steps(self, model: str) -> int:
        """Return how many steps a model is trained.

        Raises:
            SpecError: It is none of the recipe's, which says nothing of others.
        """
        if model not in self.models:
            raise SpecError(
                f"{self.name} names no steps for {model}",
                hint=f"give a number of steps, or one of: {', '.join(self.models)}",
            )
        return self.models[model]

    def trl_arguments(
        self, model: str, *, processes: int, steps: int | None = None
    ) -> dict[str, Any]:
        """Return the arguments of TRL's `GRPOConfig`.

        Args:
            model: Which of the models, for its number of steps.
            processes: Of the training, one for each GPU: each step is one update of all rollouts.
            steps: Another number of steps.

        Raises:
            SpecError: The rollouts of a step cannot be shared out among so many processes.
        """
        batch = self.training.prompts * self.training.rollouts
        if processes < 1 or batch % processes:
            raise SpecError(
                f"{batch} rollouts cannot be shared out among {processes} processes",
                hint=f"a divisor of {batch}",
            )
        return {
            **self.trl_only,
            "max_steps": self.steps(model) if steps is None else steps,
            "learning_rate": self.training.learning_rate,
            "num_generations": self.training.rollouts,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": batch // processes,
            "steps_per_generation": batch // processes,
            "num_iterations": 1,
            "beta": self.training.kl,
            "epsilon_high": self.training.clip_high,
            "temperature": self.training.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "max_completion_length": self.episode.response_tokens,
            "max_tool_calling_iterations": self.episode.turns,
            "vllm_max_model_length": self.episode.prompt_tokens + self.episode.response_tokens,
        }

    def trl(
        self, model: str, out: Path, *, processes: int, steps: int | None = None, **more: Any
    ) -> Any:
        """Return TRL's `GRPOConfig`.

        Args:
            model: Which of the models.
            out: Where checkpoints go.
            processes: See `trl_arguments`.
            steps: See `trl_arguments`.
            more: Arguments of `GRPOConfig` that override the recipe's.

        Raises:
            HostError: TRL is not installed.
            SpecError: See `trl_arguments`.
        """
        trl = need("trl", f"the recipe {self.name}", install="pip install trl")
        arguments = self.trl_arguments(model, processes=processes, steps=steps)
        return trl.GRPOConfig(**{**arguments, "output_dir": str(out), **more})


def load(name: str) -> Recipe:
    """Return a recipe by its name in `RECIPES`.

    Raises:
        SpecError: There is none of that name.
        TaskError: Its file is broken.
    """
    if name not in RECIPES:
        raise SpecError(f"no recipe {name!r}", hint=f"one of: {', '.join(RECIPES)}")
    text = (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    try:
        return Recipe(
            name=name,
            title=data["title"],
            task=data["task"],
            models=data["models"],
            training=_of(Training, data["training"]),
            episode=_of(EpisodeSettings, data["episode"]),
            validation=_of(Sampling, data["validation"]),
            trl_only=data["trl"],
        )
    except (KeyError, TypeError) as error:
        raise TaskError(f"the recipe {name} is broken: {error}") from error


def _of(kind: type[_T], table: Mapping[str, Any]) -> _T:
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    if set(table) != names:
        raise TypeError(f"{kind.__name__} has {', '.join(sorted(set(table) ^ names))} in one alone")
    return kind(**table)
