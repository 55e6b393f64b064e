"""`exec`: one program in a fresh sandbox, byte-exact on all three streams."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite import config
from sandbox_lite.cli import transfer
from sandbox_lite.cli.terminal import emit, say_in_force, status
from sandbox_lite.errors import SpecError
from sandbox_lite.spec import Limits, Mount, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.spec import CommandResult, Enforcement

TIMED_OUT = 124
"""As of timeout(1)."""

Rootfs = Annotated[
    str | None,
    typer.Option("--rootfs", "-r", metavar="NAME", help="A name in the store, or host."),
]
Network = Annotated[
    str | None, typer.Option("--network", metavar="MODE", help="none, or host (unsafe).")
]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME=VALUE", help="A variable; NAME alone passes ours."),
]
Mounts = Annotated[
    list[str] | None,
    typer.Option("--mount", metavar="DIR:TARGET[:rw]", help="Show a path of the host inside."),
]
Workdir = Annotated[
    str, typer.Option("--workdir", "-w", metavar="DIR", help="Where it starts, inside.")
]


def execute(
    words: Annotated[list[str] | None, typer.Argument(metavar="CMD [ARG]...")] = None,
    line: Annotated[
        str | None,
        typer.Option("-c", metavar="LINE", help="Run a line of bash instead of a program."),
    ] = None,
    rootfs: Rootfs = None,
    network: Network = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End it after so long (exit code 124).")
    ] = None,
    env: Env = None,
    mount: Mounts = None,
    workdir: Workdir = "/testbed",
    input_dir: Annotated[
        Path | None,
        typer.Option("--input", metavar="DIR", help=f"Copied to {transfer.INPUT} before."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help=f"Takes {transfer.OUTPUT} at the end."),
    ] = None,
    disk: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What it may write, such as 512MiB.")
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", metavar="", help="Print one JSON object with all that happened."),
    ] = False,
) -> int:
    """Run one program in a fresh sandbox, which is gone afterwards.

    Its exit code is ours: 124 after a time-out, 126 and 127 as from bash, 125 if the sandbox
    failed.

    \b
    Examples:
      sandbox-lite exec -- python3 -c 'print(6 * 7)'
      sandbox-lite exec -c 'ls -la | wc -l'
      sandbox-lite exec --input data --output out -c 'sort input/a.txt > output/a.txt'
      sandbox-lite exec --network host -- apt-get update
      echo hello | sandbox-lite exec -- tr a-z A-Z
    """
    from sandbox_lite.jail.sandbox import Sandbox

    argv = _argv(words or [], line)
    limits = (
        Limits(timeout_seconds=timeout) if disk is None else Limits.of(timeout=timeout, disk=disk)
    )
    settings = config.load({"rootfs": rootfs, "network": network})
    source, target = transfer.checked_input(input_dir), transfer.checked_output(output_dir)
    sandbox = Sandbox(
        settings.rootfs, network=settings.network, workdir=workdir, env=variables(env or ()),
        mounts=mounts(mount or ()), limits=limits,
    )  # fmt: skip
    with sandbox:
        if sys.stderr.isatty() and not as_json:  # elsewhere both streams are the program's alone
            say_in_force(sandbox.enforcement)
        transfer.send(sandbox, source)
        with transfer.fetched_at_end(sandbox, target):
            result = sandbox.exec(argv, input=_stdin(), on_output=None if as_json else _pass_on)
        enforcement = sandbox.enforcement
    timed_out = result.outcome is Outcome.TIMED_OUT
    code = TIMED_OUT if timed_out else result.exit_code
    if as_json:
        emit(_as_json(result, enforcement, argv, code))
    elif timed_out:
        status(f"sandbox-lite: the command was ended after {timeout:g} s")
    return code


def _argv(words: Sequence[str], line: str | None) -> list[str]:
    if line is not None:
        return ["bash", "-c", line, "bash", *words]
    if not words:
        raise SpecError("no command is named", hint="put it behind --, or a line of bash behind -c")
    return list(words)


def variables(given: Sequence[str]) -> dict[str, str]:
    """Return the variables that `--env` named.

    Raises:
        SpecError: One that was to be passed on is not set.
    """
    found = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            if name not in os.environ:
                raise SpecError(f"--env: {name} is not set", hint="write it as NAME=VALUE")
            value = os.environ[name]
        found[name] = value
    return found


def mounts(given: Sequence[str]) -> tuple[Mount, ...]:
    """Return the mounts that `--mount` named: read-only, but for those that end in `:rw`.

    Raises:
        SpecError: One is not of the form, or there is nothing to show.
    """
    found = []
    for item in given:
        parts = item.split(":")
        mode = parts.pop() if parts[-1] in ("rw", "ro") else "ro"
        if len(parts) != 2 or not all(parts):
            raise SpecError(f"--mount: not DIR:TARGET[:rw]: {item!r}", hint="such as .:/src:rw")
        source = Path(parts[0]).expanduser().absolute()
        if not source.exists():
            raise SpecError(f"--mount: there is no {source}", hint="check the path")
        kind = "bind" if mode == "rw" else "ro_bind"
        found.append(Mount(source=source, target=parts[1], mode=kind))  # type: ignore[arg-type]
    return tuple(found)


def _stdin() -> int | None:
    """Return our standard input, unless a person sits there or it was closed."""
    with contextlib.suppress(OSError):
        os.fstat(0)
        return None if os.isatty(0) else 0
    return None


def _pass_on(stream: str, data: bytes) -> None:
    fd = 1 if stream == "stdout" else 2
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _as_json(
    result: CommandResult, enforcement: Enforcement, argv: Sequence[str], code: int
) -> dict[str, object]:
    data: dict[str, object] = {
        "command": list(argv),
        "outcome": result.outcome,
        "exit_code": code,
        "seconds": round(result.seconds, 6),
        "dropped_bytes": result.dropped_bytes,
        "rootfs": enforcement.rootfs,
        "network": enforcement.network,
        "stdout": result.stdout,
        "stderr": result.stderr,
    }
    for name, raw in (("stdout", result.stdout_bytes), ("stderr", result.stderr_bytes)):
        try:
            raw.decode()
        except UnicodeDecodeError:  # JSON has no bytes
            data[f"{name}_base64"] = base64.b64encode(raw).decode()
    return data
