"""`doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox_lite.cli.terminal import console, emit, one_line, visible
from sandbox_lite.errors import SandboxLiteError
from sandbox_lite.spec import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.jail.doctor.report import Report
    from sandbox_lite.jail.rootfs.info import RootfsInfo

_WORDS = {"ok": ("ok", "green"), "failed": ("FAIL", "bold red"), "lacking": ("-", "yellow")}
_COLUMN = 17
"""Where details begin."""
_VERDICTS = {
    0: "A sandbox can be made here.",
    1: "Not all of it works here; a weaker sandbox can be made by those who name it.",
    125: "No sandbox can be made here.",
}


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object.")
    ] = False,
) -> int:
    """Look at what sandboxes need of this machine, by starting some.

    Exit codes: 0 all works as it is by default; 1 not all, and a weaker sandbox can be made, which
    is offered by the name of an option; 125 none can.

    \b
    Examples:
      sandbox-lite doctor
      sandbox-lite doctor --json | jq .weaker
    """
    from sandbox_lite.jail import doctor
    from sandbox_lite.jail.rootfs.store import Store

    report = doctor.examine()
    trouble = None
    try:
        found = Store().list()
    except SandboxLiteError as error:
        found, trouble = (), error
    code = 125 if trouble is not None else report.exit_code
    if as_json:
        emit(
            {
                "ok": code == 0,
                "exit_code": code,
                **dataclasses.asdict(report),
                "rootfs": [
                    {"name": one.name, "digest": one.digest, "size_bytes": one.size_bytes}
                    for one in found
                ],
                "error": trouble and trouble.message,
            }
        )
        return code
    _show(report, found, trouble)
    console().print(_VERDICTS[code], soft_wrap=True)
    return code


def _show(report: Report, found: Sequence[RootfsInfo], trouble: SandboxLiteError | None) -> None:
    for check in report.checks:
        _line(check.verdict, check.name, check.detail)
        _note("layer", check.layer)
        _note("hint", check.hint)
        if check.paste:
            _note("paste", "into a shell")
            for line in visible(check.paste).split("\n"):
                # never broken by us: it is to be pasted
                console().print(f"  {line}", soft_wrap=True)
    for weaker in report.weaker:
        _line("lacking", "weaker", f"to do without {weaker.lacks}: {weaker.option}")
        _note("then", weaker.detail)
    if trouble is not None:
        _line("failed", "rootfs", trouble.message)
        _note("hint", trouble.hint or "")
    for one in found:
        _line("ok", "rootfs", f"{one.name} ({one.suite}), {format_size(one.size_bytes)}")
    if not found and trouble is None:
        _line("lacking", "rootfs", "none is built yet")
        _note("hint", "sandbox-lite rootfs build standard (without network: --rootfs host)")


def _line(verdict: str, name: str, detail: str) -> None:
    word, style = _WORDS[verdict]
    _print((f"{word:<5}", style), f"{name:<{_COLUMN - 5}}{one_line(detail)}")


def _note(name: str, text: str) -> None:
    if text:
        _print((" " * 5, ""), f"{name + ':':<{_COLUMN - 5}}{one_line(text)}")


def _print(word: tuple[str, str], text: str) -> None:
    """Print a line; on a terminal it is broken at blanks, its further lines below the details."""
    from rich.text import Text

    screen = console()
    lines = [text]
    if screen.is_terminal:
        # a path or a command is whole on a line, as long as it may be
        lines = textwrap.wrap(
            text, max(40, screen.width) - len(word[0]), break_long_words=False,
            break_on_hyphens=False, subsequent_indent=" " * (_COLUMN - 5),
        )  # fmt: skip
    indent = " " * len(word[0])
    for number, line in enumerate(lines):
        screen.print(Text.assemble(indent if number else word, line), soft_wrap=True)
