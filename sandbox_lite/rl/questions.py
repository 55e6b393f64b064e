"""Rows from a folder of own documents, and a JSONL file of questions about them."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench import data
from sandbox_lite.bench.data import DataOrigin, Rows
from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox_lite.bench.task import Row

_RENAMED = {"question": "problem_statement", "answer": "ground_truth"}
_MAX_BYTES = 16 * 2**20


def rows_of(folder: Path, questions: Path, domain: str) -> Rows:
    """Return one row for each question.

    Args:
        folder: Holds the documents, text in UTF-8.
        questions: JSON Lines with `question`, `answer`, `documents` (one path or a list, as seen
            from the folder), and where wanted `id` and `qa_type`; other fields go to the grader.
        domain: Of rows that name none.

    Raises:
        TaskError: A file cannot be read, a document lies outside, a question lacks something.
    """
    texts: dict[str, str] = {}
    found: dict[str, Row] = {}
    for number, fields in enumerate(data.fields_of(questions), 1):
        where = f"{questions.name}, question {number}"
        row = data.row_of(_fields(fields, number, folder, texts, where), domain, where)
        if found.setdefault(row.id, row) is not row:
            raise TaskError(f"{where}: another question has the id {row.id!r}")
    if not found:
        raise TaskError(f"there are no questions in {questions}")
    listed = hashlib.sha256()
    for name in sorted(texts):
        listed.update(f"{name}\0{hashlib.sha256(texts[name].encode()).hexdigest()}\n".encode())
    digests = (data.file_digest(questions), listed.hexdigest())
    return Rows(rows=tuple(found.values()), origin=DataOrigin(name=str(questions), sha256=digests))


def _fields(
    fields: Mapping[str, Any], number: int, folder: Path, texts: dict[str, str], where: str
) -> dict[str, Any]:
    """Return a question as the fields of a row."""
    row = {_RENAMED.get(key, key): value for key, value in fields.items() if key != "documents"}
    named = fields.get("documents")
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise TaskError(
            f"{where} names no documents",
            hint='"documents" is a path or a list of paths, as seen from the folder',
        )
    row.setdefault("id", f"q{number}")
    row["input_files"] = dict(_documents(folder, names, texts, where))
    return row


def _documents(
    folder: Path, names: list[str], texts: dict[str, str], where: str
) -> Iterator[tuple[str, str]]:
    for given in names:
        path = PurePosixPath(given)
        name = str(path)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in given:
            raise TaskError(f"{where}: the document {given!r} lies outside the folder")
        if name not in texts:
            texts[name] = _text(folder, folder / name, f"{where}: the document {given!r}")
        yield name, texts[name]


def _text(folder: Path, path: Path, what: str) -> str:
    """Return a document's text; a link out of the folder or a FIFO is none."""
    try:
        found = path.resolve(strict=True)
        information = found.stat()
        if not found.is_relative_to(folder.resolve()):
            raise TaskError(f"{what} is a link out of the folder")
        if not stat.S_ISREG(information.st_mode) or information.st_size > _MAX_BYTES:
            raise TaskError(f"{what} is no file of at most 16 MiB")
        return found.read_bytes().decode("utf-8")
    except OSError as error:
        raise TaskError(f"{what} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{what} is no text in UTF-8", hint="convert it first, as with pdftotext or pandoc"
        ) from error
