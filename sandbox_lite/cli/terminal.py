"""What is printed: text made harmless, lines to stderr, JSON to stdout, errors with their hint."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from sandbox_lite.errors import SandboxLiteError
    from sandbox_lite.spec import Enforcement

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
# all of C0 but tab and newline, DEL, C1, and what turns the direction of writing round
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Return text that cannot command the terminal: what a model prints must not repaint it."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    # of a progress line only its last state would be seen
    text = re.sub(r"[^\n]*\r(?=[^\n])", "", text).replace("\r", "")
    text = text.encode(errors="replace").decode()
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """Return text on one line, made harmless."""
    return " ".join(visible(text).split())


def clip_lines(text: str, lines: int, *, tail: bool = False) -> str:
    """Return at most so many lines, the first or the last, and say how many are left out."""
    every = text.rstrip("\n").split("\n")
    left = len(every) - lines
    if left <= 1:  # a line that says so would take the room of the line left out
        return "\n".join(every)
    note = f"... {left} lines {'above' if tail else 'more'} ..."
    return "\n".join([note, *every[-lines:]] if tail else [*every[:lines], note])


def status(line: str) -> None:
    """Print a line for the person, beside what a program reads."""
    print(one_line(line), file=sys.stderr, flush=True)


def emit(data: object) -> None:
    """Print one JSON object on a line of its own."""
    print(json.dumps(data, ensure_ascii=False, default=str), flush=True)


def say_in_force(enforcement: Enforcement) -> None:
    """Print which rootfs, network and ids the sandbox has."""
    from sandbox_lite.jail import network

    name, _, digest = enforcement.rootfs.partition(" ")
    frozen = f" ({digest[:19]})" if digest else ""
    mode = network.find(enforcement.network)
    reach = enforcement.reachable or mode.summary
    by = f", by {enforcement.carrier}" if enforcement.carrier else ""
    status(f"sandbox: rootfs {name}{frozen}, network {mode.name} ({reach}{by})")
    if enforcement.ids == "subordinate":
        status("ids: subordinate; root inside has 65535 other ids, and chown and su are real")
    if not enforcement.programs:
        status("programs: none; the kernel starts nothing inside")
    if enforcement.writable is not None:
        status(f"files: read-only but for {', '.join(enforcement.writable) or 'none'}")
    for one in enforcement.published:
        status(f"published: http://{one.address}:{one.port} leads to port {one.inner_port} inside")


def fail(error: SandboxLiteError) -> int:
    """Print an error and its hint; return the exit code."""
    print(f"sandbox-lite: error: {one_line(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {one_line(error.hint)}", file=sys.stderr, flush=True)
    return error.exit_code


def debugging() -> bool:
    """Return whether tracebacks are wanted."""
    return os.environ.get("SANDBOX_LITE_DEBUG", "") not in ("", "0")


def console(*, stderr: bool = False) -> Console:
    """Return a rich console on stdout or stderr that takes nothing for markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)
