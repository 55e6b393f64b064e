"""What is kept of a kept sandbox: `snapshot` into a file, `commit` as a rootfs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sandbox_lite.cli.kept import Name
from sandbox_lite.cli.terminal import status
from sandbox_lite.errors import SpecError
from sandbox_lite.spec import format_size


def snapshot(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to, such as work.tar.zst.")],
) -> int:
    """Write the files and shells of a kept sandbox, as they are now, to a file.

    `create --snapshot FILE` makes a sandbox of it, here or elsewhere over the same rootfs.
    Variables of its shells go with it, and with them any secret that is in one.

    \b
    Examples:
      sandbox-lite snapshot work work.tar.zst
      sandbox-lite create --name again --snapshot work.tar.zst
    """
    from sandbox_lite.jail.kept.client import KeptSandbox

    if file.is_dir():
        raise SpecError(f"{file} is a directory", hint="name the file itself")
    with KeptSandbox(name) as sandbox:
        sandbox.export_snapshot(file)
    status(f"snapshot: {file} ({format_size(file.stat().st_size)})")
    return 0


def commit(
    name: Name,
    rootfs: Annotated[str, typer.Argument(metavar="ROOTFS", help="What it is called.")],
) -> int:
    """Make a rootfs of what a kept sandbox shows now: its own with all that was done to it.

    \b
    Examples:
      sandbox-lite exec work -- apt-get install -y jq
      sandbox-lite commit work with-jq
      sandbox-lite exec --rootfs with-jq -- jq --version
    """
    from sandbox_lite.jail.kept.client import KeptSandbox

    with KeptSandbox(name) as sandbox:
        info = sandbox.commit(rootfs)
    status(f"rootfs {info.name}: {format_size(info.size_bytes)}, {info.digest}")
    return 0
