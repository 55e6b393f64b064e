"""`exec`: one program in a fresh sandbox, byte-exact on all three streams."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite import config
from sandbox_lite.cli import transfer
from sandbox_lite.cli import workspace as workspaces
from sandbox_lite.cli.terminal import emit, say_in_force, status
from sandbox_lite.errors import SpecError
from sandbox_lite.spec import WEAKER_NAMES, Mount, Outcome, Publish, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.spec import CommandResult, Enforcement, WeakerName

TIMED_OUT = 124
"""As of timeout(1)."""

Rootfs = Annotated[
    str | None,
    typer.Option("--rootfs", "-r", metavar="NAME", help="A name in the store, or host."),
]
Network = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="MODE",
        help="none, packages, web, allow, internet (raw packets), or host (unsafe).",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", metavar="HOST[:PORT]", help="May be reached as well; *.name is all below it."
    ),
]
AllowPrivate = Annotated[
    list[str] | None,
    typer.Option("--allow-private", metavar="HOST", help="May have a private address."),
]
User = Annotated[
    str, typer.Option("--user", "-u", metavar="NAME", help="For programs that refuse root.")
]
IdsOption = Annotated[
    str | None,
    typer.Option(
        "--ids", metavar="own|subordinate", help="subordinate: true root, by the host's subuids."
    ),
]
Ports = Annotated[
    list[str] | None,
    typer.Option(
        "--publish", "-p", metavar="[PORT:]INNER", help="Open a server inside on our loopback."
    ),
]
Memory = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Of all its processes, as 512MiB.")
]
Cpus = Annotated[
    str | None, typer.Option("--cpus", metavar="N", help="Processors' worth of time, as 0.5.")
]
Pids = Annotated[
    str | None, typer.Option("--pids", metavar="N", help="Processes and threads at once.")
]
Disk = Annotated[
    str | None, typer.Option("--disk", metavar="SIZE", help="What it may write, as 512MiB.")
]
Wall = Annotated[
    str | None, typer.Option("--wall", metavar="SECONDS", help="Of the whole sandbox.")
]
Weaker = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-weaker",
        metavar="LIMIT",
        help="Go on where this host cannot hold that limit; or where it has no overlay.",
    ),
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
    allow: Allow = None,
    allow_private: AllowPrivate = None,
    publish: Ports = None,
    user: User = "root",
    ids: IdsOption = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End it after so long (exit code 124).")
    ] = None,
    env: Env = None,
    mount: Mounts = None,
    workdir: Workdir = "/testbed",
    workspace: workspaces.Workspace = None,
    workspace_git: workspaces.Git = False,
    input_dir: Annotated[
        Path | None,
        typer.Option("--input", metavar="DIR", help=f"Copied to {transfer.INPUT} before."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help=f"Takes {transfer.OUTPUT} at the end."),
    ] = None,
    memory: Memory = None,
    cpus: Cpus = None,
    pids: Pids = None,
    disk: Disk = None,
    wall: Wall = None,
    allow_weaker: Weaker = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", metavar="", help="Print one JSON object with all that happened."),
    ] = False,
) -> int:
    """Run one program in a fresh sandbox, which is gone afterwards, or in a kept one.

    Its exit code is ours: 124 after a time-out, 126 and 127 as from bash, 125 if the sandbox
    failed.

    \b
    Examples:
      sandbox-lite exec -- python3 -c 'print(6 * 7)'
      sandbox-lite exec -c 'ls -la | wc -l'
      sandbox-lite exec --input data --output out -c 'sort input/a.txt > output/a.txt'
      sandbox-lite exec --network packages -- pip install six
      sandbox-lite exec --workspace . -- make      changes nothing here: see diff, apply
      echo hello | sandbox-lite exec -- tr a-z A-Z
      sandbox-lite exec work -- ls                 in the kept sandbox `work`, see create
    """
    kept, words, line = _kept(words or [], line)
    if kept is not None:
        refuse_for_kept(
            kept, rootfs=rootfs, network=network, allow=allow, allow_private=allow_private,
            publish=publish, user=None if user == "root" else user, ids=ids, mount=mount,
            input=input_dir, output=output_dir, workspace=workspace,
            memory=memory, cpus=cpus, pids=pids, disk=disk, wall=wall, allow_weaker=allow_weaker,
        )  # fmt: skip
        return _execute_kept(kept, words, line, env=env, timeout=timeout, as_json=as_json)
    from sandbox_lite.jail.sandbox import Sandbox

    argv = _argv(words, line)
    settings = config.load(
        {
            "rootfs": rootfs, "network": network, "allow": allow, "allow_private": allow_private,
            "ids": ids, "memory": memory, "cpus": cpus, "pids": pids,
            "disk": disk, "wall": wall,
        }
    )  # fmt: skip
    source, target = transfer.checked_input(input_dir), transfer.checked_output(output_dir)
    sandbox = Sandbox(
        settings.rootfs, network=settings.network_or("none"), allow=settings.allow,
        allow_private=settings.allow_private, publish=ports(publish), user=user, ids=settings.ids,
        workdir=workdir, env=variables(env or ()),
        mounts=(*workspaces.mounts(workspace, workdir, git=workspace_git), *mounts(mount or ())),
        limits=settings.limits(timeout),
        allow_weaker=weaker(allow_weaker),
    )  # fmt: skip
    with sandbox:
        if sys.stderr.isatty() and not as_json:  # elsewhere both streams are the program's alone
            say_in_force(sandbox.enforcement)
        transfer.send(sandbox, source)
        own = (transfer.INPUT, transfer.OUTPUT)
        with (
            workspaces.kept_at_end(
                sandbox, settings.runs_dir, "exec", asked=workspace is not None, own=own
            ) as changed,
            transfer.fetched_at_end(sandbox, target),
        ):
            result = sandbox.exec(argv, input=_stdin(), on_output=None if as_json else _pass_on)
        enforcement = sandbox.enforcement
    timed_out = result.outcome is Outcome.TIMED_OUT
    code = TIMED_OUT if timed_out else result.exit_code
    if as_json:
        said = _as_json(result, enforcement, argv, code)
        if workspace is not None:
            said["workspace"] = changed.directory and str(changed.directory)
        emit(said)
    elif "wall" in result.limits_hit:
        status(f"sandbox-lite: the sandbox's time of {settings.wall:g} s is over")
    elif timed_out:
        status(f"sandbox-lite: the command was ended after {timeout:g} s")
    else:
        for line in met(result, enforcement):
            status(f"sandbox-lite: {line}")
    return code


def _kept(words: list[str], line: str | None) -> tuple[str | None, list[str], str | None]:
    """Return the kept sandbox that the first word names, if it does, and what is left of the words.

    `NAME CMD`, `NAME -- CMD` and `NAME -c LINE` mean one where there is one of that name; what
    stands behind a first `--` is always a program.
    """
    from sandbox_lite.jail.kept import registry

    if line is not None or not words or _after_dashes(words):
        return None, words, line
    name, *rest = words
    if not any(one.name == name for one in registry.records()):
        if rest[:1] == ["--"]:
            raise registry.unknown(name)
        return None, words, line
    if rest[:1] == ["-c"] and len(rest) > 1:
        return name, rest[2:], rest[1]
    return name, rest[1:] if rest[:1] == ["--"] else rest, None


def _after_dashes(words: Sequence[str]) -> bool:
    """Return whether `--` stood before the words: the parser takes it away."""
    given = sys.argv
    return given[len(given) - len(words) - 1 : len(given) - len(words)] == ["--"]


def ports(texts: Sequence[str] | None) -> tuple[Publish, ...]:
    """Return the ports to publish.

    Raises:
        SpecError: One is none.
    """
    return tuple(Publish.parse(text) for text in texts or ())


def refuse_for_kept(name: str, **options: object) -> None:
    """Refuse what can only be asked of a fresh sandbox.

    Raises:
        SpecError: One of the options was given.
    """
    for option, value in options.items():
        if value:
            raise SpecError(
                f"--{option.replace('_', '-')} is for a fresh sandbox, and {name!r} is a kept one",
                hint=f"give it to sandbox-lite create; or copy with: sandbox-lite cp PATH {name}:",
            )


def _execute_kept(
    name: str,
    words: Sequence[str],
    line: str | None,
    *,
    env: Sequence[str] | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    from sandbox_lite.jail.kept.client import KeptSandbox

    argv = _argv(words, line)
    with KeptSandbox(name) as sandbox:
        result = sandbox.exec(
            argv, input=_stdin(), env=variables(env or ()), timeout=timeout,
            on_output=None if as_json else _pass_on,
        )  # fmt: skip
        enforcement = sandbox.enforcement
    timed_out = result.outcome is Outcome.TIMED_OUT
    code = TIMED_OUT if timed_out else result.exit_code
    if as_json:
        emit(_as_json(result, enforcement, argv, code))
    elif timed_out:
        status("sandbox-lite: the command was ended at its time limit")
    else:
        for text in met(result, enforcement):
            status(f"sandbox-lite: {text}")
    return code


def _argv(words: Sequence[str], line: str | None) -> list[str]:
    if line is not None:
        return ["bash", "-c", line, "bash", *words]
    if not words:
        raise SpecError("no command is named", hint="put it behind --, or a line of bash behind -c")
    return list(words)


def weaker(given: Sequence[str] | None) -> tuple[WeakerName, ...]:
    """Return the limits that `--allow-weaker` named, and `overlay` if it did.

    Raises:
        SpecError: One of them is no limit.
    """
    for name in given or ():
        if name not in WEAKER_NAMES:
            raise SpecError(
                f"--allow-weaker: no limit {name!r}", hint=f"one of: {', '.join(WEAKER_NAMES)}"
            )
    return tuple(name for name in WEAKER_NAMES if name in (given or ()))


def met(result: CommandResult, enforcement: Enforcement) -> list[str]:
    """Return a line for each limit of the sandbox that a command met, and each refused host."""
    texts = {
        "memory": "a process was killed: it needed more than {} of memory",
        "disk": "the disk became full: {}",
        "shm": "/dev/shm became full: {}",
        "pids": "processes were refused: {} at once",
    }
    lines = []
    for name in result.limits_hit:
        if name in texts:
            value = enforcement.limit(name).value or 0
            shown = f"{value:g}" if name == "pids" else format_size(int(value))
            lines.append(texts[name].format(shown) + " is the limit of this sandbox")
    # of a refused tunnel many clients say no more than its number
    reasons = dict.fromkeys(request.reason for request in result.refused)
    return [*lines, *(f"network: {reason}" for reason in reasons)]


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
        "limits_hit": list(result.limits_hit),
        "usage": dataclasses.asdict(result.usage),
        "limits": {state.name: dataclasses.asdict(state) for state in enforcement.limits},
        "backend": enforcement.backend,
        "rootfs": enforcement.rootfs,
        "user": enforcement.user,
        "ids": enforcement.ids,
        "network": enforcement.network,
        "reachable": enforcement.reachable,
        "carrier": enforcement.carrier,
        "refused": [dataclasses.asdict(request) for request in result.refused],
        "stdout": result.stdout,
        "stderr": result.stderr,
    }
    for name, raw in (("stdout", result.stdout_bytes), ("stderr", result.stderr_bytes)):
        try:
            raw.decode()
        except UnicodeDecodeError:  # JSON has no bytes
            data[f"{name}_base64"] = base64.b64encode(raw).decode()
    return data
