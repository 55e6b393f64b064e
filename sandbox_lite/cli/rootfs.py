"""`rootfs`: build, list, check, ship and remove root file systems."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite.cli.progress import progress
from sandbox_lite.cli.terminal import console, emit, status
from sandbox_lite.errors import SpecError
from sandbox_lite.spec import format_size

if TYPE_CHECKING:
    from sandbox_lite.jail.rootfs.store import RootfsInfo

app = typer.Typer(
    no_args_is_help=True,
    help="Root file systems: build, list, check, ship and remove them.",
    rich_markup_mode="rich",
)

AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name in the store.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names in the store.")]


def _info_json(info: RootfsInfo) -> dict[str, object]:
    data = dataclasses.asdict(info)
    return {**data, "path": str(info.path), "packages": len(info.packages)}


def _done(info: RootfsInfo, what: str, started: float, *, as_json: bool) -> None:
    seconds = time.monotonic() - started
    if as_json:
        emit({**_info_json(info), "seconds": round(seconds, 1)})
        return
    print(
        f"{what} {info.name}: {format_size(info.size_bytes)}, {len(info.packages)} packages, "
        f"{info.digest[:19]}, {seconds:.0f} s"
    )


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="A recipe.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name in the store, if another.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Debian mirror; else the host's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a Debian root file system from its signed packages, as an ordinary user.

    One of that name is replaced once the new one is whole.

    \b
    Examples:
      sandbox-lite rootfs build standard
      sandbox-lite rootfs build ./mine.toml --name mine
      sandbox-lite rootfs build minimal --mirror http://deb.debian.org/debian
    """
    from sandbox_lite.jail.rootfs import debian
    from sandbox_lite.jail.rootfs import recipe as recipes
    from sandbox_lite.jail.rootfs.store import Store, check_name

    loaded = recipes.load(recipe)
    if name is not None:
        check_name(name)
        loaded = dataclasses.replace(loaded, name=name)
    started = time.monotonic()
    with progress(silent=as_json) as tell:
        info = debian.build(loaded, Store(), progress=tell, mirror=mirror)
    _done(info, "built", started, as_json=as_json)


@app.command("ls")
def list_(as_json: AsJson = False) -> None:
    """List the root file systems in the store.

    \b
    Examples:
      sandbox-lite rootfs ls
      sandbox-lite rootfs ls --json
    """
    from sandbox_lite.jail.rootfs.store import HOST, Store

    found = Store().list()
    if as_json:
        emit([_info_json(info) for info in found])
        return
    from rich import box
    from rich.table import Table

    table = Table("name", "suite", "size", "packages", "created", "digest", box=box.SIMPLE_HEAD)
    for info in found:
        table.add_row(
            info.name, info.suite, format_size(info.size_bytes), str(len(info.packages)),
            info.created[:16].replace("T", " "), info.digest[:19],
        )  # fmt: skip
    if found:
        console().print(table)
    print(f"{HOST}: always there: this machine's own programs, read-only")


@app.command("rm")
def remove(names: Names) -> None:
    """Remove root file systems; one that a sandbox uses stays.

    \b
    Examples:
      sandbox-lite rootfs rm paper
    """
    from sandbox_lite.jail.rootfs.store import Store

    store = Store()
    for name in names:
        store.remove(name)
        print(f"removed {name}")


@app.command()
def verify(names: Names, as_json: AsJson = False) -> int:
    """Recompute digests and compare them with those stored; exit code 1 where one differs.

    \b
    Examples:
      sandbox-lite rootfs verify standard
    """
    from sandbox_lite.jail.rootfs.store import Store

    store, code = Store(), 0
    for name in names:
        with progress(silent=as_json) as tell:
            result = store.verify(name, progress=tell)
        code = code if result.ok else 1
        if as_json:
            emit({**dataclasses.asdict(result), "ok": result.ok})
        elif result.ok:
            print(f"{name}: unchanged, {result.actual}")
        else:
            print(f"{name}: CHANGED: {result.actual}, stored was {result.expected}")
            status(f"hint: run: sandbox-lite rootfs build {name}")
    return code


@app.command("export")
def export(
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="By default NAME.tar.zst here.")
    ] = None,
    level: Annotated[int, typer.Option(min=1, max=19, help="1 is fast, 19 small.")] = 9,
    as_json: AsJson = False,
) -> None:
    """Write one into an archive for another machine, with its sha256 beside it.

    \b
    Examples:
      sandbox-lite rootfs export standard
      sandbox-lite rootfs export standard /media/usb/standard.tar.zst
    """
    from sandbox_lite.jail.rootfs.archive import checksum_file, export_archive
    from sandbox_lite.jail.rootfs.store import Store, check_name

    check_name(name)
    target = file or Path(f"{name}.tar.zst")
    with progress(silent=as_json) as tell:
        sha256 = export_archive(Store(), name, target, level=level, progress=tell)
    size = target.stat().st_size
    if as_json:
        emit({"file": str(target), "sha256": sha256, "size_bytes": size})
        return
    print(f"{sha256}  {target}")
    status(f"{format_size(size)}; its sha256 is also in {checksum_file(target).name}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name in the store, if another.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Of the file; else as in FILE.sha256.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put an archive into the store, once its sha256 and its digest are right.

    \b
    Examples:
      sandbox-lite rootfs import standard.tar.zst
      sandbox-lite rootfs import standard.tar.zst --name copy
    """
    from sandbox_lite.jail.rootfs.archive import import_archive
    from sandbox_lite.jail.rootfs.store import Store

    started = time.monotonic()
    with progress(silent=as_json) as tell:
        info = import_archive(Store(), file, name=name, sha256=sha256, progress=tell)
    _done(info, "imported", started, as_json=as_json)


@app.command()
def recipes(
    show: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print one, as a start for your own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the recipes that came with this program, or print one.

    \b
    Examples:
      sandbox-lite rootfs recipes
      sandbox-lite rootfs recipes --show minimal > mine.toml
    """
    from sandbox_lite.jail.rootfs import recipe

    if show is not None:
        if show not in recipe.names():
            raise SpecError(f"no recipe {show!r}", hint=f"there are: {', '.join(recipe.names())}")
        print((recipe.directory() / f"{show}.toml").read_text(encoding="utf-8"), end="")
        return
    found = [recipe.load(name) for name in recipe.names()]
    if as_json:
        emit([{"name": one.name, "suite": one.suite, "description": one.description}
              for one in found])  # fmt: skip
        return
    for one in found:
        print(f"{one.name:<10} {one.suite:<10} {one.description}")
