"""`--workspace`, and what comes of it: diff, apply, discard."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from sandbox_lite.cli import signals, transfer
from sandbox_lite.cli.terminal import emit, one_line, status, visible
from sandbox_lite.errors import SpecError
from sandbox_lite.spec import Mount, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.jail.workspace.applying import ApplyReport

DIRECTORY = "workspace"
"""Of a run: the changes."""
INCOMPLETE = 1
"""Exit code where something was not applied."""
_LETTERS = {"added": "A", "changed": "M", "deleted": "D"}

Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace", metavar="DIR", help="Work on a copy-on-write view of it; see diff, apply."
    ),
]
Git = Annotated[
    bool,
    typer.Option(
        "--workspace-git", metavar="", help="With its .git, which otherwise is read-only inside."
    ),
]
Where = Annotated[str, typer.Argument(metavar="NAME|RUN", help="A kept sandbox, or a run's DIR.")]
Paths = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH]...", help="Those alone, and what is below.")
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, an object a line.")]


def mounts(workspace: Path | None, target: str, *, git: bool) -> tuple[Mount, ...]:
    """Return the mount that `--workspace` asks for, if it was given.

    Raises:
        SpecError: There is no such directory, or the working directory is no place for it.
    """
    path = transfer.checked_input(workspace, "--workspace")
    if path is None:
        if git:
            raise SpecError("--workspace-git: there is no --workspace", hint="name the directory")
        return ()
    return (
        Mount(
            source=path.absolute(), target=target, mode="overlay",
            git="writable" if git else "read_only",
        ),
    )  # fmt: skip


@dataclasses.dataclass(slots=True)
class Kept:
    """Where the changes of a sandbox are, once it has ended."""

    directory: Path | None = None


@contextlib.contextmanager
def kept_at_end(
    sandbox: Sandbox, runs_dir: str, what: str, *, asked: bool, own: Sequence[str] = ()
) -> Iterator[Kept]:
    """Keep what changed in the workspace, if there is one, when the block ends, however it does.

    Args:
        sandbox: Whose workspace.
        runs_dir: Where a fresh directory for it is made.
        what: Of its name, the end.
        asked: Whether there is a workspace.
        own: Directories inside that are ours, not the project's.
    """
    kept = Kept()
    try:
        yield kept
    finally:
        if asked:
            stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
            kept.directory = keep(sandbox, _fresh(Path(runs_dir), f"{stamp}-{what}"), own)


def _fresh(above: Path, name: str) -> Path:
    number = 1
    path = above / name
    while path.exists():
        number += 1
        path = above / f"{name}-{number}"
    return path


def keep(sandbox: Sandbox, directory: Path, own: Sequence[str] = ()) -> Path | None:
    """Write what changed in the workspace to a run's directory; say where, and return it.

    Args:
        sandbox: Whose workspace.
        directory: Of the run.
        own: Directories inside that are ours, not the project's.

    Raises:
        SandboxLiteError: It cannot be written.
    """
    from sandbox_lite.jail.workspace.saved import save

    with signals.held("keeping the changes of the workspace"):
        saved = save(sandbox.workspace(), directory / DIRECTORY, without=own)
    if saved is None:
        status("workspace: nothing was changed")
        return None
    count = len(saved.changes())
    changes = "1 change" if count == 1 else f"{count} changes"
    status(f"workspace: {changes}; look: sandbox-lite diff {directory}; then apply or discard")
    return directory


class _Changes(Protocol):
    """What both kinds can do."""

    @property
    def source(self) -> Path: ...
    def changes(self) -> tuple[Change, ...]: ...
    def chosen(self, paths: Sequence[str]) -> tuple[Change, ...]: ...
    def patch(self, paths: Sequence[str] = ()) -> Iterator[bytes]: ...
    def apply(
        self, paths: Sequence[str] = (), *, outward_links: bool = False, overwrite: bool = False
    ) -> ApplyReport: ...


@contextlib.contextmanager
def _found(where: str) -> Iterator[_Changes]:
    saved = _saved(where)
    if saved is not None:
        from sandbox_lite.jail.workspace.saved import SavedChanges

        yield SavedChanges(saved)
        return
    from sandbox_lite.jail.kept.client import KeptSandbox

    with KeptSandbox(where) as sandbox:
        yield sandbox.workspace()


def _saved(where: str) -> Path | None:
    """Return the directory with the changes of a run, where that is what is meant."""
    path = Path(where)
    for directory in (path / DIRECTORY, path):
        if (directory / "changes.jsonl").is_file():
            return directory
    # a name never has a slash
    return path / DIRECTORY if "/" in where or path.is_dir() else None


def diff(
    where: Where,
    paths: Paths = None,
    patch: Annotated[
        bool, typer.Option("--patch", "-p", metavar="", help="Print the differences line by line.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """List what a sandbox changed in its workspace: A added, M changed, D deleted, with sizes.

    Of a kept sandbox without a workspace, what it changed in its own files since its start.

    \b
    Examples:
      sandbox-lite diff work
      sandbox-lite diff work --patch src
      sandbox-lite diff runs/20260101-120000-fix-it --json | jq .path
    """
    own = None if patch or paths else _own_changes(where)
    if own is not None:
        _list(own, as_json=as_json)
        return 0
    with _found(where) as found:
        if patch:
            for piece in found.patch(paths or ()):
                _print_patch(piece)
            return 0
        _list(found.chosen(paths or ()), as_json=as_json)
    return 0


def _own_changes(where: str) -> tuple[Change, ...] | None:
    """Return what a kept sandbox without a workspace changed; None where it has one, or is none."""
    if _saved(where) is not None:
        return None
    from sandbox_lite.jail.kept.client import KeptSandbox

    with KeptSandbox(where) as sandbox:
        try:
            sandbox.workspace().changes()
        except SpecError:
            return sandbox.diff()
    return None


def _list(changes: Sequence[Change], *, as_json: bool) -> None:
    for one in changes:
        if as_json:
            emit(dataclasses.asdict(one))
        else:
            print(_line(one))


def _print_patch(piece: bytes) -> None:
    if sys.stdout.isatty():
        # what a model wrote must not repaint the person's terminal
        print(visible(piece.decode(errors="replace")), end="")
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(piece)


def _line(one: Change) -> str:
    path = one_line(one.path) + ("/" if one.type == "directory" else "")
    notes = []
    if "type" in one.aspects:
        notes.append(f"was a {one.old_type}")
    if "mode" in one.aspects:
        notes.append(f"mode {one.old_mode:04o} -> {one.mode:04o}")
    if one.type == "file" or one.old_type == "file":
        notes.append(_sizes(one))
    elif one.type != "directory":
        notes.append(one.type)
    if one.problem:
        notes.append(one.problem)
    shown = [note for note in notes if note]
    return f"{_LETTERS[one.kind]} {path}" + (f"  ({', '.join(shown)})" if shown else "")


def _sizes(one: Change) -> str:
    if one.kind == "added":
        return format_size(one.size_bytes)
    if one.kind == "deleted":
        return format_size(one.old_size_bytes)
    if "content" not in one.aspects:
        return ""
    return f"{format_size(one.old_size_bytes)} -> {format_size(one.size_bytes)}"


def apply(
    where: Where,
    paths: Paths = None,
    outward_links: Annotated[
        bool,
        typer.Option(
            "--outward-links", metavar="", help="Also links that lead out of the directory."
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", metavar="", help="Also over what you changed, at the named paths."
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Make what a sandbox changed in the workspace itself, all or chosen paths.

    What you changed meanwhile is a conflict: it is listed and left as it is. Exit codes: 0 all is
    applied, 1 something is not, 125 a fault.

    \b
    Examples:
      sandbox-lite apply work
      sandbox-lite apply work src/main.py docs
      sandbox-lite apply work src/main.py --overwrite     yours is lost
    """
    with _found(where) as found, signals.held("applying"):
        report = found.apply(paths or (), outward_links=outward_links, overwrite=overwrite)
        return _said(report, f"applied to {found.source}", as_json=as_json)


def _said(report: ApplyReport, doing: str, *, as_json: bool) -> int:
    code = 0 if report.complete else INCOMPLETE
    if as_json:
        emit(dataclasses.asdict(report))
        return code
    for conflict in report.conflicts:
        print(f"conflict: {one_line(conflict.path)}: {conflict.reason}; left as it is")
    for skipped in report.skipped:
        print(f"not applied: {one_line(skipped.path)}: {one_line(skipped.reason)}")
    counts = [f"{len(report.applied)} {doing}"]
    if report.already:
        counts.append(f"{len(report.already)} were so already")
    if report.conflicts:
        counts.append(f"{len(report.conflicts)} in conflict")
    if report.skipped:
        counts.append(f"{len(report.skipped)} not applied")
    print(", ".join(counts))
    return code


def discard(where: Where, paths: Paths = None, as_json: AsJson = False) -> int:
    """Drop what a sandbox changed in its workspace; the directory itself never had it.

    In a kept sandbox the files are then again those of the directory; of a run the changes are
    removed from the disk.

    \b
    Examples:
      sandbox-lite discard work src/main.py
      sandbox-lite discard runs/20260101-120000-fix-it
    """
    saved = _saved(where)
    if saved is None:
        from sandbox_lite.jail.kept.client import KeptSandbox

        with KeptSandbox(where) as sandbox:
            report = sandbox.workspace().discard(paths or ())
        return _said(report, "discarded", as_json=as_json)
    from sandbox_lite.jail.workspace.saved import SavedChanges

    if paths:
        raise SpecError(
            "the changes of a run are discarded as a whole", hint="or apply the other paths"
        )
    found = SavedChanges(saved)
    count: Any = len(found.changes())
    found.discard()
    if as_json:
        emit({"discarded": count})
    else:
        print(f"{count} discarded")
    return 0
