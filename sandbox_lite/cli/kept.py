"""Sandboxes that are kept: create, ps, stats, logs, cp, rm, prune."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandbox_lite import config
from sandbox_lite.cli import transfer
from sandbox_lite.cli import workspace as workspaces
from sandbox_lite.cli.execute import (
    Allow,
    AllowPrivate,
    Cpus,
    Disk,
    Env,
    IdsOption,
    Memory,
    Mounts,
    Network,
    Pids,
    Ports,
    Rootfs,
    User,
    Weaker,
    Workdir,
    mounts,
    ports,
    variables,
    weaker,
)
from sandbox_lite.cli.terminal import console, emit, one_line, say_in_force, status, visible
from sandbox_lite.errors import FileAccessError, SandboxClosedError, SandboxLiteError, SpecError
from sandbox_lite.spec import SandboxSpec, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.jail.kept.client import KeptSandbox

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DEFAULT_TTL = "8h"
_WORKDIR = "/testbed"
_STATS_SECONDS = 1.0
_FOLLOW_SECONDS = 0.2

AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, an object a line.")]
Name = Annotated[str, typer.Argument(metavar="NAME")]


def seconds_of(text: str) -> float | None:
    """Return the seconds of `90`, `30m`, `8h`, `2d`; None for `never`.

    Raises:
        SpecError: It is none of these.
    """
    if text == "never":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None or float(match[1]) <= 0:
        raise SpecError(f"--ttl: not a time: {text!r}", hint="such as 30m, 8h, 2d or never")
    return float(match[1]) * _UNITS[match[2]]


def create(
    name: Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="What it is called.")],
    ttl: Annotated[
        str, typer.Option(metavar="TIME", help="When it ends by itself: 30m, 8h, 2d or never.")
    ] = _DEFAULT_TTL,
    rootfs: Rootfs = None,
    network: Network = None,
    allow: Allow = None,
    allow_private: AllowPrivate = None,
    publish: Ports = None,
    user: User = "root",
    ids: IdsOption = None,
    env: Env = None,
    mount: Mounts = None,
    workdir: Workdir = _WORKDIR,
    workspace: workspaces.Workspace = None,
    workspace_git: workspaces.Git = False,
    memory: Memory = None,
    cpus: Cpus = None,
    pids: Pids = None,
    disk: Disk = None,
    snapshot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Begin as the snapshot in it.")
    ] = None,
    allow_weaker: Weaker = None,
) -> int:
    """Make a sandbox that stays, for any program of yours to work in, until its time is over.

    \b
    Examples:
      sandbox-lite create --name work
      sandbox-lite exec work -- python3 -c 'print(1)'
      sandbox-lite cp data.csv work:/testbed/
      sandbox-lite rm work
      sandbox-lite create --name fix --workspace .   then: diff fix, apply fix, discard fix
    """
    from sandbox_lite.jail import keeper, snapshot_archive

    if snapshot is not None:
        was = snapshot_archive.describe(snapshot)
        rootfs, workdir = rootfs or was.name, was.workdir if workdir == _WORKDIR else workdir
        user = was.user if user == "root" else user
    settings = config.load(
        {
            "rootfs": rootfs, "network": network, "allow": allow, "allow_private": allow_private,
            "ids": ids, "memory": memory, "cpus": cpus, "pids": pids,
            "disk": disk,
        }
    )  # fmt: skip
    spec = SandboxSpec(
        rootfs=settings.rootfs, network=settings.network_or("none"), allow=settings.allow,
        allow_private=settings.allow_private, publish=ports(publish), user=user, ids=settings.ids,
        workdir=workdir, env=variables(env or ()),
        mounts=(*workspaces.mounts(workspace, workdir, git=workspace_git), *mounts(mount or ())),
        limits=settings.limits(None), allow_weaker=weaker(allow_weaker),
    )  # fmt: skip
    record = keeper.create(name, spec, ttl_seconds=seconds_of(ttl), snapshot=snapshot)
    with _connected(name) as sandbox:
        say_in_force(sandbox.enforcement)
    ends = "" if record.ends is None else f"; it ends in {_span(record.ends - time.time())}"
    status(f"created {name}{ends}")
    return 0


def _connected(name: str) -> KeptSandbox:
    from sandbox_lite.jail.kept.client import KeptSandbox

    return KeptSandbox(name)


def _span(seconds: float) -> str:
    """Return a length of time as a person reads it."""
    seconds = max(0, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def ps(as_json: AsJson = False) -> int:
    """List the sandboxes that are kept.

    \b
    Examples:
      sandbox-lite ps
      sandbox-lite ps --json | jq .name
    """
    from sandbox_lite.jail.kept import registry

    records = registry.records()
    if as_json:
        for record in records:
            emit(dataclasses.asdict(record) | {"alive": record.alive})
        return 0
    _table(
        ["NAME", "STATE", "ROOTFS", "NETWORK", "AGE", "ENDS IN", "PID"],
        [
            [
                record.name, "running" if record.alive else "dead: prune removes it",
                record.rootfs.partition(" ")[0], record.network,
                _span(time.time() - record.created),
                "never" if record.ends is None else _span(record.ends - time.time()),
                str(record.owner.pid),
            ]
            for record in records
        ],
    )  # fmt: skip
    return 0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(one_line(cell) for cell in row))
    console().print(table)


def stats(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None,
    once: Annotated[
        bool, typer.Option("--once", metavar="", help="Print one look, and end.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show what kept sandboxes take, live until Ctrl-C: one line for each.

    \b
    Examples:
      sandbox-lite stats
      sandbox-lite stats work --once --json
    """
    from rich.live import Live

    before: dict[str, tuple[float, float]] = {}
    if once or as_json or not sys.stdout.isatty():
        rows = _looks(names or [], before)
        if as_json:
            for row in rows:
                emit(row)
        else:
            _table(_STATS_HEAD, [_stats_row(row) for row in rows])
        return 0
    with Live(console=console(), screen=False, auto_refresh=False) as live:
        while True:
            live.update(_stats_table(_looks(names or [], before)), refresh=True)
            time.sleep(_STATS_SECONDS)


_STATS_HEAD = ["NAME", "CPU", "MEMORY / LIMIT", "PIDS / LIMIT", "DISK / LIMIT", "AGE"]


def _looks(names: Sequence[str], before: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Return one look at each; of a processor what was taken since the last."""
    from sandbox_lite.jail.kept import registry

    rows = []
    for name in names or [record.name for record in registry.records() if record.alive]:
        try:
            with _connected(name) as sandbox:
                found = sandbox.stats()
                limits = {state.name: state.value for state in sandbox.enforcement.limits}
        except SandboxClosedError:
            if names:
                raise
            continue  # it ended while we looked
        now, spent = time.monotonic(), found["cpu_seconds"] or 0.0
        past, had = before.get(name, (now - found["age_seconds"], 0.0))
        before[name] = (now, spent)
        share = 0.0 if now <= past else max(0.0, spent - had) / (now - past)
        rows.append({"name": name, **found, "cpus": round(share, 3), "limits": limits})
    return rows


def _stats_row(row: dict[str, Any]) -> list[str]:
    limits = row["limits"]

    def size(value: float | None) -> str:
        return "-" if value is None else format_size(int(value))

    return [
        row["name"], f"{100 * row['cpus']:.0f} %",
        f"{size(row['memory_bytes'])} / {size(limits.get('memory'))}",
        f"{row['pids']} / {limits['pids']:g}" if limits.get("pids") else str(row["pids"]),
        f"{size(row['disk_bytes'])} / {size(limits.get('disk'))}", _span(row["age_seconds"]),
    ]  # fmt: skip


def _stats_table(rows: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(*_STATS_HEAD, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*_stats_row(row))
    return table


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", metavar="", help="Go on until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Print what was run in a kept sandbox: commands, how they ended, the tail of their output.

    \b
    Examples:
      sandbox-lite logs work
      sandbox-lite logs work --follow
    """
    from sandbox_lite.jail.kept import registry

    registry.read(name)  # an error where there is none
    path = registry.log_path(name)
    for old in (path.with_suffix(".1"), path):
        if old.exists():
            for line in old.read_text(encoding="utf-8", errors="replace").splitlines():
                _say_entry(line, as_json)
    if not follow:
        return 0
    at = path.stat().st_size if path.exists() else 0
    while any(record.name == name and record.alive for record in registry.records()):
        size = path.stat().st_size if path.exists() else 0
        if size < at:
            at = 0
        if size > at:
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(at)
                for line in file:
                    _say_entry(line, as_json)
                at = file.tell()
        time.sleep(_FOLLOW_SECONDS)
    return 0


def _say_entry(line: str, as_json: bool) -> None:
    try:
        entry = json.loads(line)
    except ValueError:
        return
    if as_json:
        emit(entry)
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["time"]))
    how = f"{entry['outcome']} {entry['exit_code']}, {entry['seconds']:g} s"
    if entry["limits_hit"]:
        how += f", limits hit: {', '.join(entry['limits_hit'])}"
    print(f"{when}  {one_line(entry['command'])[:200]}  ({how})")
    for text in visible(entry["output"]).rstrip("\n").splitlines():
        print(f"    {text}")
    sys.stdout.flush()


def cp(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="PATH or NAME:PATH.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="PATH or NAME:PATH.")],
) -> int:
    """Copy a file or a directory into a kept sandbox, or out of it.

    \b
    Examples:
      sandbox-lite cp data.csv work:/testbed/
      sandbox-lite cp work:/testbed/output .
    """
    from_box, to_box = _place(source), _place(target)
    if (from_box is None) == (to_box is None):
        raise SpecError(
            "cp copies between this machine and one sandbox", hint="write one side as NAME:PATH"
        )
    if from_box is not None:
        with _connected(from_box[0]) as sandbox:
            return _copy_out(sandbox, from_box[1], Path(target))
    assert to_box is not None
    with _connected(to_box[0]) as sandbox:
        return _copy_in(sandbox, Path(source), to_box[1])


def _place(text: str) -> tuple[str, str] | None:
    name, colon, path = text.partition(":")
    return (name, path or ".") if colon and "/" not in name else None


def _copy_in(sandbox: KeptSandbox, source: Path, target: str) -> int:
    if not source.exists():
        raise SpecError(f"there is no {source}", hint="check the path")
    if target.endswith("/") or _is_directory(sandbox, target):
        target = f"{target.rstrip('/')}/{source.absolute().name}"
    if source.is_dir():
        transfer.say_skipped(sandbox.files.upload(source, target), "copied in")
    else:
        sandbox.files.write(target, source.read_bytes())
    return 0


def _copy_out(sandbox: KeptSandbox, source: str, target: Path) -> int:
    name = PurePosixPath(source).name or sandbox.name
    if target.is_dir():
        target /= name
    if _is_directory(sandbox, source):
        transfer.say_skipped(sandbox.files.download(source, target), "copied out")
    else:
        data = sandbox.files.read(source)
        try:
            target.write_bytes(data)
        except OSError as error:
            raise SpecError(
                f"cannot write {target}: {error.strerror}", hint="name another"
            ) from error
    return 0


def _is_directory(sandbox: KeptSandbox, path: str) -> bool:
    try:
        sandbox.files.list(path)
    except FileAccessError:
        return False
    return True


def rm(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...")] = None,
    all_: Annotated[bool, typer.Option("--all", metavar="", help="All that are kept.")] = False,
) -> int:
    """End kept sandboxes and drop their files.

    \b
    Examples:
      sandbox-lite rm work
      sandbox-lite rm --all
    """
    from sandbox_lite.jail.kept import registry

    chosen = [record.name for record in registry.records()] if all_ else list(names or [])
    if not chosen and not all_:
        raise SpecError("no sandbox is named", hint="sandbox-lite ps lists them; or --all")
    failed: SandboxLiteError | None = None
    for name in chosen:
        try:
            registry.end(name)
            print(name, flush=True)
        except SandboxLiteError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return 0


def prune() -> int:
    """Remove what killed programs left: sandboxes, directories, control groups. All that live stay.

    \b
    Examples:
      sandbox-lite prune
    """
    from sandbox_lite.jail import layers, limits
    from sandbox_lite.jail.kept import registry
    from sandbox_lite.jail.orphans import kill_orphans

    kept = registry.prune()
    for name in kept:
        print(f"kept sandbox {name}")
    counts = {
        "directories": layers.sweep(),
        "half-started sandboxes": kill_orphans(),
        "control groups": limits.sweep(),
    }
    for what, count in counts.items():
        if count:
            print(f"{count} {what}")
    if not kept and not any(counts.values()):
        status("nothing was left behind")
    return 0
