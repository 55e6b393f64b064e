"""`config`: the settings in force, where each came from, and changing them."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from sandbox_lite import config
from sandbox_lite.cli.terminal import console, emit, visible
from sandbox_lite.errors import SpecError
from sandbox_lite.jail import places

app = typer.Typer(
    no_args_is_help=True,
    help="Settings: which are in force, where each came from, and changing them.",
    rich_markup_mode="rich",
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="A setting; config show lists them.")]


@app.command()
def show(
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object.")
    ] = False,
) -> None:
    """Show every setting, and whether it is a default or came from the file or a variable.

    \b
    Examples:
      sandbox-lite config show
      sandbox-lite config show --json
    """
    settings = config.load()
    key_is_set = bool(os.environ.get(settings.api_key_env, "").strip())
    key = f"set (from {settings.api_key_env})" if key_is_set else "not set"
    if as_json:
        values = {
            name: {"value": settings.shown(name), "origin": settings.origins[name]}
            for name in config.OPTIONS
        }
        emit({"file": str(places.config_file()), "settings": values, "api_key": key})
        return
    from rich import box
    from rich.table import Table

    table = Table("setting", "value", "from", "what it is", box=box.SIMPLE_HEAD)
    for name, option in config.OPTIONS.items():
        origin = settings.origins[name]
        value = settings.shown(name)
        text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
        style = "dim" if origin == config.DEFAULT else None
        origin = "file" if origin == str(places.config_file()) else origin
        table.add_row(name, visible(text), visible(origin), option.help, style=style)
    table.add_row("(API key)", key, "environment", "never shown, never written")
    console().print(table)
    print(f"file: {places.config_file()}")


@app.command()
def path() -> None:
    """Print where the configuration file is, whether or not it is there.

    \b
    Examples:
      cat "$(sandbox-lite config path)"
    """
    print(places.config_file())


@app.command("set", context_settings={"ignore_unknown_options": True})
def set_(
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As behind the flag.")],
) -> None:
    """Write a setting into the configuration file.

    \b
    Examples:
      sandbox-lite config set model my-model
      sandbox-lite config set base_url http://127.0.0.1:8000/v1
      sandbox-lite config set extra_body '{"top_k": 20}'
    """
    name = key.replace("-", "_")
    file = config.store(name, value)
    shown = config.load(environ={}).shown(name)
    print(f"{name} = {visible(json.dumps(shown, ensure_ascii=False))} (in {file})")


@app.command()
def unset(key: Key) -> None:
    """Remove a setting from the configuration file.

    \b
    Examples:
      sandbox-lite config unset temperature
    """
    name = key.replace("-", "_")
    if name in config.OPTIONS and name not in config.read_file(places.config_file()):
        raise SpecError(
            f"{name} is not set in {places.config_file()}", hint="config show says more"
        )
    print(f"removed {name} (from {config.store(name, None)})")
