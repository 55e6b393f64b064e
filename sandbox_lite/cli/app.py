"""The program: its commands, and how every end of one becomes an exit code."""

from __future__ import annotations

import inspect
import io
import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated

import typer

import sandbox_lite
from sandbox_lite.cli import (
    bench,
    branches,
    config,
    demo,
    doctor,
    execute,
    kept,
    replay,
    rl,
    rootfs,
    shell,
    signals,
    workspace,
)
from sandbox_lite.cli import run as running
from sandbox_lite.cli.terminal import debugging, fail
from sandbox_lite.errors import HostError, SandboxLiteError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer.models import CommandInfo

_BROKEN_PIPE = 141
"""What a shell says of a program that SIGPIPE ended."""

_DEBUG = "SANDBOX_LITE_DEBUG=1 shows where it happened"

# typer carries click inside itself since 0.28; the base of its errors is the same in both
_ClickError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    name="sandbox-lite",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sandbox-lite {sandbox_lite.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            callback=_show_version,
            is_eager=True,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """A language model's own computer: a rootless sandbox, and an agent that works in it.

    \b
    Examples:
      sandbox-lite doctor                        can this machine do it?
      sandbox-lite rootfs build standard         make the root file system, once
      sandbox-lite demo                          see it work, with no model and no key
      sandbox-lite run "TASK" --input DIR        let a model solve a task
      sandbox-lite exec -- python3 -c 'print(1)' run a program in a fresh sandbox
      sandbox-lite shell                         look round in one yourself
      sandbox-lite create --name work            keep one; exec, shell, cp, rm take its name
      sandbox-lite bench math --model NAME       does a computer make a model better?
      sandbox-lite diff RUN                      what one changed in its --workspace; then apply
    """


for name, command in (
    ("run", running.run),
    ("exec", execute.execute),
    ("shell", shell.shell),
    ("replay", replay.replay),
    ("demo", demo.demo),
    ("create", kept.create),
    ("ps", kept.ps),
    ("stats", kept.stats),
    ("logs", kept.logs),
    ("cp", kept.cp),
    ("rm", kept.rm),
    ("prune", kept.prune),
    ("diff", workspace.diff),
    ("apply", workspace.apply),
    ("discard", workspace.discard),
    ("snapshot", branches.snapshot),
    ("commit", branches.commit),
    ("doctor", doctor.doctor),
):
    settings = {"allow_interspersed_args": False} if name == "exec" else {}
    app.command(name, context_settings=settings)(command)
app.add_typer(rootfs.app, name="rootfs")
app.add_typer(config.app, name="config")
app.add_typer(bench.app, name="bench")
app.add_typer(rl.app, name="rl")


def _flow(commands: Sequence[CommandInfo]) -> None:
    """Let help text fill the width of the terminal: typer keeps the line ends of the source."""
    for command in commands:
        paragraphs = inspect.getdoc(command.callback).split("\n\n")  # type: ignore[union-attr]
        command.help = "\n\n".join(
            part if part.startswith("\b") else " ".join(part.split()) for part in paragraphs
        )


for group in (app, rootfs.app, config.app, bench.app, rl.app):
    _flow(group.registered_commands)


def start(arguments: Sequence[str]) -> int:
    """Run one command of the program; return its exit code. All that fails is printed here."""
    _fill_standard_streams()
    signals.install()
    code = _guarded(arguments)
    # typer makes 130 of every KeyboardInterrupt; a program in a sandbox may end so by itself
    if code == 130 and signals.received():
        code = signals.exit_code()
        print("sandbox-lite: interrupted", file=sys.stderr)
    return code


def _fill_standard_streams() -> None:
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # closed by the caller: the next pipe of ours would get its number, and our output
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        # a locale that cannot show a character must not end the program
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _guarded(arguments: Sequence[str]) -> int:
    try:
        code = app(args=list(arguments), prog_name="sandbox-lite", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except SandboxLiteError as error:
        if debugging():
            traceback.print_exc()
        return fail(error)
    except _ClickError as error:
        return _usage(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _quiet()
    except SystemExit as stop:
        # how typer ends where the reader of a pipe has gone away
        if isinstance(stop.__context__, BrokenPipeError):
            return _quiet()
        code = stop.code
    except Exception as error:  # noqa: BLE001  # the last place: the user gets a line, not a dump
        return _unforeseen(error)
    return code if isinstance(code, int) else 0


def _unforeseen(error: Exception) -> int:
    if debugging():
        traceback.print_exc()
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename is not None else ""
        return fail(HostError(f"{error.strerror or error}{where}", hint=_DEBUG))
    return fail(HostError(f"{type(error).__name__}: {error}", hint=f"{_DEBUG}; please report it"))


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    where = f"{context.command_path} --help" if context is not None else "sandbox-lite --help"
    message = getattr(error, "format_message", lambda: str(error))()
    if context is not None and not message:  # no arguments at all: its help was printed
        return 2
    return fail(SpecError(message.rstrip("."), hint=f"run: {where}"))


def _quiet() -> int:
    # what is left in the buffer would fail again at the interpreter's end
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE
