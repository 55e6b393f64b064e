"""`rl`: reinforcement learning with the outcome as reward."""

from __future__ import annotations

import typer

from sandbox_lite.cli import rl_data, rl_demo

app = typer.Typer(
    no_args_is_help=True,
    help="Train a model to use its computer: rows, and a small proof that it learns.",
)

rl_data.register(app)
rl_demo.register(app)
