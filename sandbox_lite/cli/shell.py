"""`shell`: a person's terminal in a fresh sandbox."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Wall,
    Weaker,
    Workdir,
    mounts,
    ports,
    refuse_for_kept,
    variables,
    weaker,
)
from sandbox_lite.cli.terminal import say_in_force, status
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.jail.interaction import Interaction

# The rootfs may not know the person's terminal. readline puts back the modes it found before each
# command, and those of the sandbox's terminal do not echo.
_LINE = r"""
t=${TERM:0:1}/$TERM
[[ -e /usr/share/terminfo/$t || -e /lib/terminfo/$t || -e /etc/terminfo/$t ]] ||
  TERM=xterm-256color
stty sane rows ROWS columns COLUMNS
bash --noprofile --rcfile <(printf '%s\n' \
  "PS1='\[\e[1;36m\]sandbox\[\e[0m\]:\[\e[1;34m\]\w\[\e[0m\]# '" \
  "alias ls='ls --color=auto' grep='grep --color=auto' ll='ls -l'" "unset HISTFILE") -i
"""


def shell(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A kept sandbox; else a fresh one.")
    ] = None,
    rootfs: Rootfs = None,
    network: Network = None,
    allow: Allow = None,
    allow_private: AllowPrivate = None,
    publish: Ports = None,
    user: User = "root",
    ids: IdsOption = None,
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
) -> int:
    """Open a terminal in a fresh sandbox, which is gone when you leave it, or in a kept one.

    \b
    Examples:
      sandbox-lite shell
      sandbox-lite shell --network packages --input data
      sandbox-lite shell --mount .:/src
      sandbox-lite shell --workspace .
      sandbox-lite shell work                      in the kept sandbox `work`
    """
    from sandbox_lite.jail.sandbox import Sandbox

    if not (os.isatty(0) and os.isatty(1)):
        raise SpecError(
            "a shell needs a terminal on its standard input and output",
            hint="without one: sandbox-lite exec -c LINE",
        )
    if name is not None:
        from sandbox_lite.jail.kept.client import KeptSandbox

        refuse_for_kept(
            name, rootfs=rootfs, network=network, allow=allow, allow_private=allow_private,
            publish=publish, user=None if user == "root" else user, ids=ids, env=env, mount=mount,
            input=input_dir, output=output_dir, workspace=workspace, memory=memory, cpus=cpus,
            pids=pids, disk=disk, wall=wall,
            allow_weaker=allow_weaker,
        )  # fmt: skip
        with KeptSandbox(name) as kept:
            # a shell of its own: the main one stays free for commands of others
            with kept.interact(
                _line(), shell=f"terminal-{os.getpid()}", passing=True
            ) as interaction:
                return _attached(interaction)
    settings = config.load(
        {
            "rootfs": rootfs, "network": network, "allow": allow, "allow_private": allow_private,
            "ids": ids, "memory": memory, "cpus": cpus, "pids": pids,
            "disk": disk, "wall": wall,
        }
    )  # fmt: skip
    source, target = transfer.checked_input(input_dir), transfer.checked_output(output_dir)
    given = {"TERM": os.environ.get("TERM") or "dumb", **variables(env or ())}
    sandbox = Sandbox(
        settings.rootfs, network=settings.network_or("none"), allow=settings.allow,
        allow_private=settings.allow_private, publish=ports(publish), user=user, ids=settings.ids,
        workdir=workdir, env=given,
        mounts=(*workspaces.mounts(workspace, workdir, git=workspace_git), *mounts(mount or ())),
        limits=settings.limits(None),
        allow_weaker=weaker(allow_weaker),
    )  # fmt: skip
    with sandbox:
        say_in_force(sandbox.enforcement)
        outlives = "the output directory" if workspace is None else "the workspace's changes"
        status(f"nothing but {outlives} outlives it; leave with exit or Ctrl-D")
        transfer.send(sandbox, source)
        own = (transfer.INPUT, transfer.OUTPUT)
        with (
            workspaces.kept_at_end(
                sandbox, settings.runs_dir, "shell", asked=workspace is not None, own=own
            ),
            transfer.fetched_at_end(sandbox, target),
        ):
            with sandbox.interact(_line()) as interaction:
                return _attached(interaction)


def _line() -> str:
    size = os.get_terminal_size(0)
    return _LINE.replace("ROWS", str(size.lines)).replace("COLUMNS", str(size.columns))


def _attached(interaction: Interaction) -> int:
    """Join the person's terminal to the sandbox's until the shell ends; return its exit code."""
    size = os.get_terminal_size(0)
    with _following(interaction), _raw(0):
        interaction.resize(size.lines, size.columns)
        interaction.attach(0, 1)
        result = interaction.finish()
    return result.exit_code


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Pass every key on as it is; the terminal is put back however the block ends."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        # the program inside may have left it in the other screen, or without a cursor
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        if sys.stdout.isatty():
            sys.stdout.flush()


@contextlib.contextmanager
def _following(interaction: Interaction) -> Iterator[None]:
    """Tell the program inside of every new size of the window."""

    def resized(*_: object) -> None:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(0)
            interaction.resize(size.lines, size.columns)

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
