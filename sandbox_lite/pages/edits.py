"""What a call asks for, as people read it: a command, or an edit as the lines it changes."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sandbox_lite.pages.text import Room, flat

if TYPE_CHECKING:
    from sandbox_lite.agent.tools import ToolCall

_MOST_COMPARED = 400
"""Lines: comparing takes time that grows with their square, and a model chooses them."""
_MOST_LINES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of an edit."""

    kind: Literal["added", "removed", "kept", "place"]
    text: str

    @property
    def sign(self) -> str:
        """Return what stands before it: colours alone tell not everybody."""
        return {"added": "+", "removed": "-", "kept": " ", "place": ""}[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call."""

    title: str
    """One line."""
    text: str = ""
    """The command, or arguments."""
    lines: tuple[Line, ...] = ()
    """Of an edit."""


def asked(call: ToolCall, room: Room) -> Asked:
    """Return what a call asks for; arguments that are no JSON as they are."""
    try:
        given: Any = json.loads(call.arguments or "{}", strict=False)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        text = flat(room.cut(call.arguments))
        return Asked(title=_title(f"{call.name} {text}"), text=text)
    path, command = given.get("path"), given.get("command", given.get("cmd"))
    if isinstance(path, str):
        what = flat(str(command)) if command else call.name
        place = given.get("view_range") or given.get("insert_line")
        title = _title(f"{what} {flat(path)}{'' if place is None else f' {place}'}")
        return Asked(title=title, lines=_edit(given, room))
    if isinstance(command, str):
        text = flat(room.cut(command))
        return Asked(title=_title(f"$ {text}"), text=text)
    text = flat(room.cut(json.dumps(given, indent=1, ensure_ascii=False))) if given else ""
    return Asked(title=_title(f"{call.name} {text}"), text=text)


def _title(text: str) -> str:
    line = " ".join(text[:2000].split())
    return line if len(line) <= 160 else f"{line[:157]}..."


def _edit(given: dict[str, Any], room: Room) -> tuple[Line, ...]:
    old = flat(room.cut(str(given.get("old_str") or ""))).splitlines()
    new = given.get("file_text", given.get("new_str", given.get("insert_text")))
    added = flat(room.cut(str(new or ""))).splitlines()
    if old and added and max(len(old), len(added)) <= _MOST_COMPARED:
        lines = [_line(one) for one in difflib.unified_diff(old, added, lineterm="", n=3)][2:]
        if lines and lines[0].kind == "place":
            del lines[0]
    else:
        lines = [Line(kind="removed", text=one) for one in old]
        lines += [Line(kind="added", text=one) for one in added]
    if len(lines) > _MOST_LINES:
        left = f"[... {len(lines) - _MOST_LINES} lines are not shown here ...]"
        lines = [*lines[:_MOST_LINES], Line(kind="place", text=left)]
    return tuple(lines)


def _line(text: str) -> Line:
    kinds: dict[str, Literal["added", "removed", "kept"]] = {
        "+": "added", "-": "removed", " ": "kept",
    }  # fmt: skip
    if text[:2] == "@@":
        return Line(kind="place", text="...")
    return Line(kind=kinds[text[:1]], text=text[1:])
