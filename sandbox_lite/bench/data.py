"""Rows of a task: from a public data set, or from a file of the user's with the same fields."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench import hub
from sandbox_lite.bench.libraries import need
from sandbox_lite.bench.task import PackagedSource, Row
from sandbox_lite.errors import SpecError, TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sandbox_lite.bench.task import Task

_OWN = ("id", "problem_statement", "ground_truth", "domain", "input_files")
_ARTEFACT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOrigin:
    """Where rows come from, for the record."""

    name: str
    """Of the data set, or the path of the file."""
    config: str = ""
    split: str = ""
    revision: str = ""
    """The commit; empty for a file."""
    sha256: tuple[str, ...] = ()
    """Of each file that was read."""
    copies: int = 0
    """Rows that were left out because an equal one was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The problems of a task."""

    rows: tuple[Row, ...]
    origin: DataOrigin

    @property
    def digest(self) -> str:
        """Of all rows, in order: another digest is another experiment."""
        return hashlib.sha256("".join(row.digest for row in self.rows).encode()).hexdigest()


def load(
    task: Task,
    *,
    data: Path | None = None,
    revision: str | None = None,
    offline: bool = False,
    refresh: bool = False,
) -> Rows:
    """Return the rows of a task.

    Args:
        task: Whose.
        data: A local JSONL, JSON or Parquet file instead of the public set.
        revision: Another revision of the public set; a commit is best.
        offline: Never look at the network.
        refresh: Resolve the revision anew, though it is in the cache.

    Raises:
        HostError: The public set is not here and cannot be fetched, or a library lacks.
        SpecError: The task has no public set, and no file is named.
        TaskError: The data cannot be read, or a row lacks what it must have.
    """
    if data is not None:
        if revision is not None:
            raise SpecError("a local file has no revision", hint="leave one of them out")
        paths: tuple[Path, ...] = (data,)
        origin = DataOrigin(name=str(data), sha256=(file_digest(data),))
    elif isinstance(task.source, PackagedSource):
        paths, origin = _packaged(task.source, task.version, revision)
    elif task.source is None:
        raise SpecError(
            f"the task {task.name} has no public data set", hint="name a file with its rows"
        )
    else:
        found = hub.fetch(task.source, revision=revision, offline=offline, refresh=refresh)
        paths = found.paths
        origin = DataOrigin(
            name=found.repository,
            config=found.config,
            split=found.split,
            revision=found.commit,
            sha256=found.sha256,
        )
    rows: dict[str, Row] = {}
    copies = 0
    for path in paths:
        for number, fields in enumerate(fields_of(path), 1):
            row = row_of(fields, task.name, f"{path.name}, row {number}")
            known = rows.setdefault(row.id, row)
            if known is row:
                continue
            if known.digest != row.digest:
                raise TaskError(f"{path.name}, row {number}: another row has the id {row.id!r}")
            copies += 1
    if not rows:
        raise TaskError(f"there are no rows in {origin.name}")
    if copies:
        origin = DataOrigin(
            name=origin.name, config=origin.config, split=origin.split,
            revision=origin.revision, sha256=origin.sha256, copies=copies,
        )  # fmt: skip
    return Rows(rows=tuple(rows.values()), origin=origin)


def _packaged(
    source: PackagedSource, version: str, revision: str | None
) -> tuple[tuple[Path, ...], DataOrigin]:
    if revision not in (None, version):
        raise SpecError(
            f"this package holds version {version} of {source.folder}, not {revision}",
            hint="install the version of sandbox-lite that made the results",
        )
    path = Path(__file__).parent / "problems" / source.folder / "rows.toml"
    origin = DataOrigin(
        name="sandbox-lite", config=source.folder, revision=version, sha256=(file_digest(path),)
    )
    return (path,), origin


def row_of(fields: Mapping[str, Any], domain: str, where: str) -> Row:
    """Return one row.

    Args:
        fields: As the data has them.
        domain: That of the task, for rows that name none.
        where: For messages.

    Raises:
        TaskError: A field lacks, or an input file's name leaves its directory.
    """
    lacking = [name for name in ("id", "problem_statement", "ground_truth")
               if fields.get(name) is None]  # fmt: skip
    if lacking:
        raise TaskError(
            f"{where} has no {' and no '.join(lacking)}",
            hint=f"a row has the fields {', '.join(_OWN)}, and what its grader needs",
        )
    artefact = fields.get("artefact")
    if artefact is not None and not _ARTEFACT.fullmatch(str(artefact)):
        raise TaskError(
            f"{where}: the artefact {artefact!r} is no plain file name",
            hint="letters, digits, `.`, `_` and `-`, such as poster.svg",
        )
    return Row(
        id=_text(fields["id"]),
        problem_statement=_text(fields["problem_statement"]),
        ground_truth=_text(fields["ground_truth"]),
        domain=_text(fields.get("domain") or domain),
        input_files=dict(_input_files(fields.get("input_files"), where)),
        extra={name: value for name, value in fields.items() if name not in _OWN},
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _input_files(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield name and text; the hub's rows hold them as JSON in a string, local ones as they are."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise TaskError(f"{where}: input_files is no JSON ({error})") from error
    if value is None or value == "":
        return
    if not isinstance(value, Mapping):
        raise TaskError(f"{where}: input_files is no mapping of names to texts")
    for name, text in value.items():
        if text is None:  # some loaders give every row the names of all others
            continue
        path = PurePosixPath(str(name))
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in str(name):
            raise TaskError(f"{where}: the input file {name!r} would leave its directory")
        if not isinstance(text, str):
            raise TaskError(f"{where}: the input file {name!r} is no text")
        yield str(path), text


def fields_of(path: Path) -> Iterable[Mapping[str, Any]]:
    """Yield the fields of each row of a JSONL, JSON or Parquet file, as they stand there.

    Raises:
        HostError: A library lacks.
        SpecError: The file is of no known kind.
        TaskError: It cannot be read.
    """
    reader = {
        ".parquet": _parquet, ".jsonl": _lines, ".ndjson": _lines, ".json": _json, ".toml": _toml,
    }  # fmt: skip
    if path.suffix not in reader:
        raise SpecError(
            f"{path} is of no known kind", hint="a file named .jsonl, .json, .toml or .parquet"
        )
    try:
        yield from reader[path.suffix](path)
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}") from error


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    library = need("pyarrow.parquet", "reading Parquet")
    errors = need("pyarrow", "reading Parquet").ArrowException
    try:
        rows: list[dict[str, Any]] = library.read_table(path).to_pylist()
    except errors as error:
        raise TaskError(f"{path} is no Parquet file that can be read: {error}") from error
    yield from rows


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _object(json.loads(line), f"{path}, line {number}")
        except ValueError as error:
            raise TaskError(f"{path} is no JSON Lines: {error}") from error


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TaskError(f"{path} is no JSON: {error}") from error
    for number, item in enumerate(found if isinstance(found, list) else [found], 1):
        yield _object(item, f"{path}, entry {number}")


def _toml(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the tables `rows`; the documents that `documents` names stand beside the file."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TaskError(f"{path} is no TOML: {error}") from error
    for number, item in enumerate(found.get("rows") or (), 1):
        row = dict(_object(item, f"{path}, row {number}"))
        documents = row.pop("documents", ())
        texts = {name: (path.parent / name).read_text(encoding="utf-8") for name in documents}
        yield {**row, "input_files": {**row.get("input_files", {}), **texts}}


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TaskError(f"{where} is no object")
    return value


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        TaskError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TaskError(
            f"{path} cannot be read: {error.strerror}", hint="check the path of the data"
        ) from error
