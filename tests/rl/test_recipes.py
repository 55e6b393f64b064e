"""The recipes in TRL's real configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite.rl import recipes

if TYPE_CHECKING:
    from pathlib import Path

trl = pytest.importorskip("trl")


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # TRL's
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_trl_accepts_a_recipe(name: str, tmp_path: Path) -> None:
    recipe = recipes.load(name)
    for model, steps in recipe.models.items():
        # this host has no GPU, of which the number formats are
        config = recipe.trl(model, tmp_path, processes=1, bf16=False, use_cpu=True)
        assert isinstance(config, trl.GRPOConfig)
        assert config.max_steps == steps
        assert config.generation_batch_size == recipe.training.prompts * recipe.training.rollouts
        assert config.num_generations == recipe.training.rollouts
        assert config.gradient_accumulation_steps == config.steps_per_generation
        assert config.max_completion_length == recipe.episode.response_tokens
        assert config.max_tool_calling_iterations == recipe.episode.turns
        assert (config.use_vllm, config.beta, config.scale_rewards) == (True, 0.0, "none")
