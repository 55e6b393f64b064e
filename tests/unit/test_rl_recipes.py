"""Recipes as data; TRL's real configuration is made of them in tests/rl."""

from __future__ import annotations

from importlib import resources

import pytest

from sandbox_lite.bench import tasks
from sandbox_lite.errors import SpecError
from sandbox_lite.rl import recipes


def test_the_table_is_the_files() -> None:
    folder = resources.files("sandbox_lite.rl.recipes")
    files = {path.name for path in folder.iterdir() if path.name.endswith(".toml")}
    assert files == {f"{name}.toml" for name in recipes.RECIPES}
    for name in recipes.RECIPES:
        assert tasks.find(recipes.load(name).task).name == "context"


def test_the_papers_recipe() -> None:
    recipe = recipes.load("llm-in-sandbox-rl")
    assert sorted(recipe.models.values()) == [50, 150]
    assert (recipe.training.prompts, recipe.training.rollouts) == (8, 8)
    assert recipe.limits().steps == 100
    arguments = recipe.trl_arguments("mine", processes=2, steps=1)
    for processes in (1, 8, 64):
        arguments = recipe.trl_arguments(next(iter(recipe.models)), processes=processes)
        per_step = processes * arguments["gradient_accumulation_steps"]
        assert per_step * arguments["per_device_train_batch_size"] == 64
        assert arguments["steps_per_generation"] == arguments["gradient_accumulation_steps"]
    assert arguments["learning_rate"] == 1e-6
    assert arguments["beta"] == 0
    assert arguments["scale_rewards"] == "none"
    assert arguments["max_completion_length"] == 65_536
    assert arguments["vllm_max_model_length"] == 81_920


def test_what_no_recipe_says_is_refused() -> None:
    recipe = recipes.load("llm-in-sandbox-rl")
    with pytest.raises(SpecError, match="no recipe 'x'"):
        recipes.load("x")
    with pytest.raises(SpecError, match="names no steps for mine"):
        recipe.trl_arguments("mine", processes=8)
    assert recipe.trl_arguments("mine", processes=8, steps=5)["max_steps"] == 5
    with pytest.raises(SpecError, match="cannot be shared out among 7"):
        recipe.trl_arguments("mine", processes=7, steps=5)
