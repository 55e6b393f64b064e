"""The difference that a change makes, as git writes it and `git apply` reads it."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from typing import TYPE_CHECKING

from sandbox_lite.jail.changes import open_untouched
from sandbox_lite.jail.workspace import writing

if TYPE_CHECKING:
    from sandbox_lite.jail.changes import Change, FileType
    from sandbox_lite.jail.workspace.changeset import ChangeSet

_LONGEST_BYTES = 1 << 20
_MOST_LINES = 20_000
"""Comparing takes, at worst, the square of the lines."""
_LOOKED_AT = 8000
"""Where git looks for a NUL, by which it knows what is no text."""
_ODD = re.compile(rb'[\x00-\x1f"\\\x7f-\xff]')
_SHORT = {9: b"\\t", 10: b"\\n", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}


def patch(change: Change, whole: ChangeSet, top: int) -> bytes:
    """Return what one change does; empty for directories, which git does not know.

    Args:
        change: Which.
        whole: Whose change it is.
        top: Descriptor of the user's directory, where the old file is.
    """
    old = change.old_type if change.old_type in ("file", "link") else None
    new = change.type if change.type in ("file", "link") and change.kind != "deleted" else None
    if old == new:
        return b"" if old is None else _difference(change, whole, top, old, new)
    # to git a file that became a link is another one
    return b"".join(
        _difference(change, whole, top, left, right)
        for left, right in ((old, None), (None, new))
        if left or right
    )


def _difference(
    change: Change, whole: ChangeSet, top: int, old: FileType | None, new: FileType | None
) -> bytes:
    path = os.fsencode(change.path)
    before, after = _quoted(b"a/" + path), _quoted(b"b/" + path)
    head = b"diff --git %s %s\n" % (before, after)
    if old is None and new is not None:
        head += b"new file mode %s\n" % _mode(new, change.mode)
        before = b"/dev/null"
    elif new is None and old is not None:
        head += b"deleted file mode %s\n" % _mode(old, change.old_mode)
        after = b"/dev/null"
    elif old is not None and new is not None and change.type == "file":
        modes = _mode(old, change.old_mode), _mode(new, change.mode)
        if modes[0] != modes[1]:
            head += b"old mode %s\nnew mode %s\n" % modes
    if "mode" in change.aspects and "content" not in change.aspects and old == new:
        return head if b"\n" in head.rstrip(b"\n") else b""
    try:
        left = b"" if old is None else _old(path, top, old)
        right = b"" if new is None else _new(change, whole, new)
    except OSError as error:
        return head + b"cannot be shown: %s\n" % os.strerror(error.errno or 0).encode()
    if left is None or right is None or _binary(left) or _binary(right):
        what = b"Binary" if left is not None and right is not None else b"Large"
        return head + b"%s files %s and %s differ\n" % (what, before, after)
    if left == right:
        return head
    hashes = tuple(
        b"0" * 10 if of is None else _hash(data) for of, data in ((old, left), (new, right))
    )
    same_mode = old is not None and new is not None and b"\nold mode" not in head
    # by the mode in this line git knows a link
    mode = b" " + _mode(change.type, change.mode) if same_mode else b""
    head += b"index %s..%s%s\n" % (*hashes, mode)
    return head + _unified(left, right, before, after)


def _hash(data: bytes) -> bytes:
    """Return the name that git has for it."""
    whole = b"blob %d\0%s" % (len(data), data)
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest()[:10].encode()


def _mode(kind: FileType, mode: int) -> bytes:
    if kind == "link":
        return b"120000"
    return b"100755" if mode & 0o100 else b"100644"


def _old(path: bytes, top: int, kind: FileType) -> bytes | None:
    with writing.opened_above(top, path) as (parent, name):
        if kind == "link":
            return os.readlink(name, dir_fd=parent)
        descriptor = open_untouched(parent, name)
        try:
            return _read(descriptor)
        finally:
            os.close(descriptor)


def _new(change: Change, whole: ChangeSet, kind: FileType) -> bytes | None:
    if kind == "link":
        return whole.link(change)
    with whole.content(change) as descriptor:
        return _read(descriptor)


def _read(descriptor: int) -> bytes | None:
    """Return a file's content; None where it is too long to be compared line by line."""
    data = b""
    while len(data) <= _LONGEST_BYTES:
        piece = os.pread(descriptor, _LONGEST_BYTES, len(data))
        if not piece:
            return data if data.count(b"\n") <= _MOST_LINES else None
        data += piece
    return None


def _binary(data: bytes) -> bool:
    return b"\0" in data[:_LOOKED_AT]


def _unified(left: bytes, right: bytes, before: bytes, after: bytes) -> bytes:
    # on \n alone: for `splitlines` a form feed ends a line as well
    lines = difflib.diff_bytes(
        difflib.unified_diff, _lines(left), _lines(right), before, after, lineterm=b"\n"
    )
    return b"".join(
        line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
        for line in lines
    )


def _lines(data: bytes) -> list[bytes]:
    return [line for line in re.split(rb"(?<=\n)", data) if line]


def _quoted(path: bytes) -> bytes:
    if _ODD.search(path) is None:
        return path

    def escaped(match: re.Match[bytes]) -> bytes:
        byte = match[0][0]
        return _SHORT.get(byte, b"\\%03o" % byte)

    return b'"' + _ODD.sub(escaped, path) + b'"'
