"""`view`: recorded runs again, as lines or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite.cli.terminal import clip_lines, one_line, status, visible
from sandbox_lite.cli.view import described

if TYPE_CHECKING:
    from sandbox_lite.pages.runs import Run


def view(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Directories of runs, or trajectories.")
    ],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE|DIR", help="Write a page; in DIR it is view.html."),
    ] = None,
) -> int:
    """Show recorded runs: their steps as lines, or a page with several side by side.

    The page opens offline and holds all it needs. What a model made stands in a frame that can do
    nothing.

    \b
    Examples:
      sandbox-lite view runs/20260101-120000-task
      sandbox-lite view runs/20260101-120000-task --html page.html
      sandbox-lite view runs/one runs/two published.json --html both.html
    """
    from sandbox_lite.pages import runs as pages

    found = [pages.load(one) for one in runs]
    if html is not None:
        from sandbox_lite.pages.site import write

        target = html / "view.html" if html.is_dir() else html
        write(target, pages.page(found))
        status(f"page: {target}")
        return 0
    for one in found:
        _print(one)
    return 0


def _print(run: Run) -> None:
    from sandbox_lite.pages.runs import facts

    print(f"{one_line(run.name)}: {one_line(run.record.task)[:200]}")
    for step in run.record.steps:
        if step.thought.strip():
            print(f"[{step.index}] thought")
            _lines(step.thought)
        for place, call in enumerate(step.calls):
            print(f"[{step.index}] {one_line(call.name)}")
            _lines(described(call))
            if place < len(step.observations):
                print(f"[{step.index}] observation")
                _lines(step.observations[place].content)
    for name, value in facts(run.record):
        print(f"{name}: {one_line(value)}")
    if run.record.answer is not None:
        print("answer:")
        _lines(run.record.answer)


def _lines(text: str) -> None:
    for line in clip_lines(visible(text), 12).split("\n"):
        print(f"    {line}")
