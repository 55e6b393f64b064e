"""`str_replace_editor`: view, create and edit text files, byte for byte outside the edit.

Works on bytes through `Sandbox.files`. Bytes that are no UTF-8 travel as surrogate escapes, so that
an edit elsewhere in the file leaves them alone; line endings stay what they were.
"""

from __future__ import annotations

import contextlib
import errno
import posixpath
import re
from typing import TYPE_CHECKING

from sandbox_lite.agent.tools.tool import Refusal, Reply, Tool
from sandbox_lite.agent.work import answer
from sandbox_lite.errors import FileAccessError
from sandbox_lite.spec import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.agent.tools.tool import AnyComputer, Arguments, FileEntry, ToolContext
    from sandbox_lite.agent.work import Work

SNIPPET_LINES = 4
"""Shown before and after an edit."""

MAX_ENTRIES = 500
"""Shown of a directory."""

_UNSHOWN = {0: "\\0", 0xFEFF: None}
"""NUL, which some servers refuse, and the byte order mark."""


def _edit(computer: AnyComputer, arguments: Arguments, context: ToolContext) -> Work[Reply]:
    command, path = str(arguments["command"]), str(arguments["path"])
    if "\0" in path:
        raise Refusal("`path` cannot hold a NUL byte.")
    if not path.startswith("/"):
        raise Refusal(f"`path` must be absolute, not {path!r}. Begin it with a slash.")
    return Reply(content=(yield from _COMMANDS[command](computer, path, arguments, context)))


def _read(computer: AnyComputer, path: str, context: ToolContext) -> Work[str]:
    try:
        data = yield from answer(computer.files.read(path, max_bytes=context.max_file_bytes))
    except FileAccessError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise Refusal(
                f"{path} does not exist. `view` its directory, or make the file with `create`."
            ) from error
        if error.errno == errno.EFBIG:
            raise Refusal(
                f"{path} is longer than {format_size(context.max_file_bytes)}, too long for the "
                "editor. Use execute_bash with `sed -n 'FIRST,LASTp'`, `grep -n` or a program."
            ) from error
        raise
    if b"\0" in data:
        raise Refusal(
            f"{path} is not a text file ({format_size(len(data))}, holds NUL bytes). Look at it "
            "with execute_bash: `file`, `xxd | head`, or a program that knows the format."
        )
    return data.decode(errors="surrogateescape")


def _lines(text: str) -> list[str]:
    """Return the lines as `cat -n` counts them: a newline at the end opens no further one."""
    return text.removesuffix("\n").split("\n") if text else []


def _numbered(lines: list[str], first: int) -> str:
    rows = (f"{number:6}\t{line.removesuffix(chr(13))}" for number, line in enumerate(lines, first))
    return "\n".join(rows).encode(errors="replace").decode().translate(_UNSHOWN)


def _cut(lines: list[str], first: int, context: ToolContext) -> str:
    """Return the lines that fit, numbered, and where to go on."""
    shown, room = 0, context.max_bytes
    for line in lines[: context.max_lines]:
        room -= len(line.encode(errors="replace")) + 8
        if room < 0:
            break
        shown += 1
    if shown == len(lines):
        return _numbered(lines, first)
    if shown == 0:
        part = lines[0].encode(errors="replace")[: context.max_bytes].decode(errors="ignore")
        note = f"line {first} is longer than can be shown"
        return f"{_numbered([part], first)}\n[... the rest left out: {note}; use `cut -c` ...]"
    last = first + len(lines) - 1
    return (
        f"{_numbered(lines[:shown], first)}\n[... lines {first + shown} to {last} left out; view "
        f"on with view_range [{first + shown}, {last}], or search with `grep -n` ...]"
    )


def _view(
    computer: AnyComputer, path: str, arguments: Arguments, context: ToolContext
) -> Work[str]:
    view_range = arguments.get("view_range")
    try:
        lines = _lines((yield from _read(computer, path, context)))
    except FileAccessError as error:
        if error.errno != errno.EISDIR:
            raise
        if view_range is not None:
            raise Refusal(f"{path} is a directory; leave `view_range` out.") from error
        return (yield from _listing(computer, path))
    first, last, note = 1, len(lines), ""
    if isinstance(view_range, list):
        first, last, note = _range(view_range, len(lines))
    if not lines:
        return f"(empty file: {path})"
    shown = _cut(lines[first - 1 : last], first, context)
    return f"Here's the result of running `cat -n` on {path}:\n{shown}\n{note}"


def _range(view_range: list[int], count: int) -> tuple[int, int, str]:
    if len(view_range) != 2:
        raise Refusal("`view_range` must hold two line numbers, such as [11, 30] or [11, -1].")
    first, last = view_range
    if not 1 <= first <= max(1, count):
        raise Refusal(f"`view_range` must begin at a line from 1 to {count}, not {first}.")
    if last == -1:
        return first, count, ""
    if last < first:
        raise Refusal(f"`view_range` must not end ({last}) before it begins ({first}).")
    note = f"(the file has {count} lines)\n" if last > count + 1 else ""
    return first, min(last, count), note


def _listing(computer: AnyComputer, path: str) -> Work[str]:
    found = [path]
    for entry in (yield from _visible(computer, path)):
        inside = posixpath.join(path, entry.name)
        found.append(inside)
        if entry.kind == "directory":
            within = yield from _visible(computer, inside)
            found += [posixpath.join(inside, below.name) for below in within]
    more = (
        f"\n[... {len(found) - MAX_ENTRIES} entries left out ...]"
        if len(found) > MAX_ENTRIES
        else ""
    )
    return (
        f"Here's the files and directories up to 2 levels deep in {path}, excluding hidden:\n"
        + "\n".join(found[:MAX_ENTRIES]).encode(errors="replace").decode()
        + more
        + "\n"
    )


def _visible(computer: AnyComputer, path: str) -> Work[list[FileEntry]]:
    try:
        entries = yield from answer(computer.files.list(path))
    except FileAccessError:  # one unreadable or vanished directory must not hide its siblings
        return []
    return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _create(
    computer: AnyComputer, path: str, arguments: Arguments, context: ToolContext
) -> Work[str]:
    text = arguments.get("file_text")
    if not isinstance(text, str):
        raise Refusal("`create` needs `file_text`, the whole content of the file; it may be empty.")
    if path.endswith("/"):
        raise Refusal(f"{path} is a directory. Name a file in it.")
    try:
        before = yield from answer(computer.files.read(path, max_bytes=context.max_file_bytes))
    except FileAccessError:
        before = None
    yield from _write(computer, path, text.encode(), before)
    shown = _cut(_lines(text), 1, context) if text else "(empty file)"
    return (
        f"File created at {path}. Here's the result of running `cat -n` on {path}:\n{shown}\n"
        "Review the file and make sure that it is as expected. Edit the file if necessary."
    )


def _str_replace(
    computer: AnyComputer, path: str, arguments: Arguments, context: ToolContext
) -> Work[str]:
    old, new = arguments.get("old_str"), str(arguments.get("new_str", ""))
    if not isinstance(old, str) or not old:
        raise Refusal("`str_replace` needs `old_str`, the exact text to replace.")
    text = yield from _read(computer, path, context)
    # a model is shown no carriage returns, so it cannot be asked to write them
    pattern = re.escape(old.replace("\r\n", "\n")).replace("\\\n", "\r?\n")
    matches = list(re.finditer(pattern, text))
    if not matches:
        raise Refusal(_no_match(text, old, path))
    if len(matches) > 1:
        where = ", ".join(str(text.count("\n", 0, match.start()) + 1) for match in matches[:20])
        raise Refusal(
            f"`old_str` occurs {len(matches)} times in {path} (lines {where}). Nothing was "
            "changed. Add lines before or after it until it occurs once."
        )
    start, end = matches[0].span()
    new = _with_endings(new, matches[0][0] if "\n" in matches[0][0] else text)
    yield from _replace(computer, path, text, text[:start] + new + text[end:])
    line = text.count("\n", 0, start)
    return _snippet(path, text[:start] + new + text[end:], line, line + new.count("\n"), context)


def _no_match(text: str, old: str, path: str) -> str:
    message = f"`old_str` does not occur in {path}. Nothing was changed. "
    wanted = [line.strip() for line in old.splitlines() if line.strip()]
    lines = [line.strip() for line in text.splitlines()]
    if wanted and wanted[0] in lines:
        number = lines.index(wanted[0]) + 1
        return message + (
            f"Its first line stands at line {number}, but white space or the lines after it "
            f"differ. `view` the lines around {number} and copy them exactly, without line numbers."
        )
    return message + "`view` the file and copy the text exactly, without line numbers."


def _insert(
    computer: AnyComputer, path: str, arguments: Arguments, context: ToolContext
) -> Work[str]:
    after, new = arguments.get("insert_line"), arguments.get("new_str")
    if not isinstance(after, int) or not isinstance(new, str):
        raise Refusal("`insert` needs `insert_line` (0 is before the first line) and `new_str`.")
    text = yield from _read(computer, path, context)
    lines = re.findall("[^\n]*\n|[^\n]+", text)
    if not 0 <= after <= len(lines):
        raise Refusal(f"`insert_line` must be from 0 to {len(lines)}, the file's last line.")
    newline = "\r\n" if _dominant_crlf(text) else "\n"
    new = _with_endings(new.removesuffix("\n"), text)
    before, rest = "".join(lines[:after]), "".join(lines[after:])
    if before and not before.endswith("\n"):
        result = before + newline + new  # the last line has no newline, so neither gets the new one
    else:
        result = before + new + newline + rest
    yield from _replace(computer, path, text, result)
    return _snippet(path, result, after, after + new.count("\n"), context)


def _dominant_crlf(text: str) -> bool:
    return text.count("\r\n") * 2 > text.count("\n")


def _with_endings(new: str, like: str) -> str:
    """Return `new` with the line endings of `like`."""
    new = new.replace("\r\n", "\n")
    return new.replace("\n", "\r\n") if _dominant_crlf(like) else new


def _write(computer: AnyComputer, path: str, after: bytes, before: bytes | None) -> Work[None]:
    try:
        yield from answer(computer.files.write(path, after))
    except FileAccessError:
        # a full disk leaves a file cut short; what was in it fitted before
        if before is not None:
            with contextlib.suppress(FileAccessError):
                yield from answer(computer.files.write(path, before))
        raise


def _replace(computer: AnyComputer, path: str, before: str, after: str) -> Work[None]:
    old, new = (text.encode(errors="surrogateescape") for text in (before, after))
    yield from _write(computer, path, new, old)


def _snippet(path: str, text: str, first: int, last: int, context: ToolContext) -> str:
    start = max(0, first - SNIPPET_LINES)
    lines = _lines(text)[start : last + SNIPPET_LINES + 1]
    return (
        f"The file {path} has been edited. Here's the result of running `cat -n` on a snippet of "
        f"{path}:\n{_cut(lines, start + 1, context) if lines else '(empty file)'}\n"
        "Review the changes and make sure they are as expected. Edit the file again if necessary."
    )


_COMMANDS: dict[str, Callable[[AnyComputer, str, Arguments, ToolContext], Work[str]]] = {
    "view": _view,
    "create": _create,
    "str_replace": _str_replace,
    "insert": _insert,
}

TOOL = Tool(
    name="str_replace_editor",
    aliases=("str_replace_based_edit_tool", "file_editor"),
    parameter_aliases={"insert_text": "new_str"},
    description=(
        "View, create and edit text files in the sandbox. `view` numbers the lines of a file, or "
        "lists a directory two levels deep without hidden names. `create` writes a whole file, "
        "replacing one that exists. `str_replace` replaces the one place where `old_str` occurs. "
        "`insert` puts lines after a given line. Files change only where you say."
    ),
    parameters={
        "command": {
            "type": "string",
            "enum": list(_COMMANDS),
            "description": "What to do: `view`, `create`, `str_replace` or `insert`.",
        },
        "path": {
            "type": "string",
            "description": "Absolute path of the file, or for `view` also of a directory.",
        },
        "file_text": {
            "type": "string",
            "description": "For `create`: the whole content of the file.",
        },
        "old_str": {
            "type": "string",
            "description": (
                "For `str_replace`: the exact text to replace, white space included, with enough "
                "lines around it that it occurs once."
            ),
        },
        "new_str": {
            "type": "string",
            "description": "For `str_replace`: the new text, if any. For `insert`: the lines.",
        },
        "insert_line": {
            "type": "integer",
            "description": "For `insert`: the line after which to insert; 0 is before the first.",
        },
        "view_range": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "For `view` of a file: first and last line, from 1; -1 is the last.",
        },
    },
    required=("command", "path"),
    function=_edit,
)
