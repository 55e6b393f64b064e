"""Training rows: from the published set or own documents, in the forms that trainers read.

The same call with the same seed writes the same rows; a manifest says what was made of what.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from sandbox_lite import __version__
from sandbox_lite.agent.episode import remaining
from sandbox_lite.bench import data, prompt, tasks
from sandbox_lite.errors import HostError, SpecError, TaskError
from sandbox_lite.rl import formats, questions, sections
from sandbox_lite.rl.distractors import Pool, digest, sides
from sandbox_lite.rl.formats import FORMATS, Baseline, Example

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Literal

    from sandbox_lite.bench.data import Rows
    from sandbox_lite.bench.prompt import Documents, TaskPrompts
    from sandbox_lite.bench.task import Row

MANIFEST = "manifest.json"
_TASK = "context"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What is made of rows."""

    forms: tuple[str, ...] = tuple(FORMATS)
    baseline: Baseline = "none"
    validation: float = 0.05
    """Share of the rows that is set aside."""
    seed: int = 0
    distractors: int = 0
    """Documents of other rows beside a row's own."""
    section_bytes: int = 32 * 1024
    """A longer document becomes several files; 0 leaves it whole."""
    limit: int | None = None
    """Of rows, drawn by the seed."""
    turns: int = 100
    """Of an episode, as the prompt tells the policy; the environment's limit must be the same."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.forms if name not in FORMATS]
        if unknown or not self.forms:
            what = f"no form {unknown[0]!r}" if unknown else "no form is named"
            raise SpecError(what, hint=f"one or more of: {', '.join(FORMATS)}")
        if self.baseline not in get_args(Baseline):
            raise SpecError(
                f"no baseline {self.baseline!r}", hint=f"one of: {', '.join(get_args(Baseline))}"
            )
        if not 0 <= self.validation <= 0.9:
            raise SpecError(f"a share of {self.validation}", hint="--validation is 0 to 0.9")
        if self.distractors < 0 or self.section_bytes < 0 or (self.limit or 1) < 1:
            raise SpecError("a negative number of distractors, bytes or rows", hint="0 is none")
        if self.turns < 1:
            raise SpecError(f"an episode of {self.turns} turns", hint="one or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What `write` left."""

    folder: Path
    files: tuple[str, ...]
    train: int
    validation: int
    """Rows of each side."""


def published(*, revision: str | None = None, offline: bool = False, refresh: bool = False) -> Rows:
    """Return the rows of the published set. See `bench.data.load`."""
    return data.load(tasks.find(_TASK), revision=revision, offline=offline, refresh=refresh)


def from_file(path: Path) -> Rows:
    """Return rows of the benchmark's form, or of the published set's. See `bench.data.load`."""
    return data.load(tasks.find(_TASK), data=path)


def from_documents(folder: Path, asked: Path) -> Rows:
    """Return rows of a folder of documents and a file of questions. See `rl.questions`."""
    return questions.rows_of(folder, asked, _TASK)


def check(out: Path) -> None:
    """Look before rows are fetched whether they can go there.

    Raises:
        SpecError: It is a file, or a folder that holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{out} is not empty", hint="name a new folder with --out")


def write(
    rows: Rows,
    out: Path,
    settings: DataSettings | None = None,
    *,
    prompts: Literal["ours", "paper"] | Path = "ours",
) -> Written:
    """Write training and validation rows, and a manifest; all of it or nothing.

    Args:
        rows: Whence.
        out: A folder that is not there yet, or empty.
        settings: What is made of them.
        prompts: See `bench.prompt.load`.

    Raises:
        HostError: A library lacks, or the folder cannot be written.
        SpecError: The folder holds something.
        TaskError: The rows do not allow what was asked for.
    """
    settings = settings or DataSettings()
    check(out)
    texts = prompt.load(_TASK, prompts)
    made = dict(_examples(rows.rows, settings, texts))
    place = out.absolute()
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        part.mkdir(parents=True)
        files = []
        for side, examples in made.items():
            for name in settings.forms if examples else ():
                form = FORMATS[name]
                path = part / f"{form.name}-{side}{form.suffix}"
                formats.write(form, examples, path)
                files.append(_file(path, len(examples)))
        manifest = _manifest(rows, settings, texts, made) | {"files": files}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        part.rename(place)  # also onto a folder that is empty
    except OSError as error:
        raise HostError(
            f"training rows cannot be written to {out}: {error.strerror or error}",
            hint="name another folder with --out",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Written(
        folder=out,
        files=tuple(str(file["name"]) for file in files),
        train=len(made["train"]),
        validation=len(made["validation"]),
    )


def _examples(
    rows: Sequence[Row], settings: DataSettings, texts: TaskPrompts
) -> Iterator[tuple[str, tuple[Example, ...]]]:
    chosen = _limited(rows, settings)
    split = sides(chosen, settings.validation, settings.seed)
    seen: list[Row] = []
    seen_sources: list[frozenset[str]] = []
    for side, members in (("train", split.train), ("validation", split.validation)):
        sources = [frozenset(map(digest, row.input_files.values())) for row in members]
        whole = [_in_sections(row, settings.section_bytes) for row in members]
        seen += whole
        seen_sources += sources
        pool = Pool(seen, seen_sources)
        yield side, tuple(
            _example(
                pool.beside(row, own, settings.distractors, settings.seed),
                settings, texts, side, index,
            )
            for index, (row, own) in enumerate(zip(whole, sources, strict=True))
        )  # fmt: skip


def _limited(rows: Sequence[Row], settings: DataSettings) -> Sequence[Row]:
    """Return so many rows as are wanted, drawn by their digests: order and copies do not matter."""
    if settings.limit is None or settings.limit >= len(rows):
        return rows
    marks = {
        row.id: hashlib.sha256(f"{settings.seed} {row.digest}".encode()).digest() for row in rows
    }
    kept = set(sorted(marks, key=marks.__getitem__)[: settings.limit])
    return [row for row in rows if row.id in kept]


def _in_sections(row: Row, max_bytes: int) -> Row:
    if not max_bytes:
        return row
    files: dict[str, str] = {}
    for name, text in row.input_files.items():
        for part, content in sections.split(name, text, max_bytes):
            if part in files:
                raise TaskError(
                    f"row {row.id!r} has two files that would be named {part!r}",
                    hint="rename one, or leave documents whole: --section-bytes 0",
                )
            files[part] = content
    return dataclasses.replace(row, input_files=files)


def _example(
    row: Row, settings: DataSettings, texts: TaskPrompts, split: str, index: int
) -> Example:
    """Return a row with what the policy reads; the baselines differ in where its documents are."""
    baseline = settings.baseline
    if baseline == "text-only":
        system, user = texts.plain(row)
    else:
        place: Documents = "files" if baseline == "none" else "prompt"
        system, user = texts.sandbox.render(texts.statement(row, place))
        # as an episode begins: it tells what is left
        user += f"\n\n{remaining(settings.turns, texts.sandbox.output_dir)}"
    if baseline != "none":
        row = dataclasses.replace(
            row, problem_statement=texts.statement(row, "prompt"), input_files={}
        )
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    return Example(row=row, messages=tuple(messages), baseline=baseline, split=split, index=index)


def _file(path: Path, rows: int) -> dict[str, Any]:
    return {
        "name": path.name,
        "rows": rows,
        "bytes": path.stat().st_size,
        "sha256": data.file_digest(path),
    }


def _manifest(
    rows: Rows,
    settings: DataSettings,
    texts: TaskPrompts,
    made: dict[str, tuple[Example, ...]],
) -> dict[str, Any]:
    return {
        "sandbox_lite": __version__,
        "source": dataclasses.asdict(rows.origin) | {"digest": rows.digest},
        "settings": dataclasses.asdict(settings),
        "prompts": {"source": texts.source, "digest": texts.digest},
        "answer": texts.answer_path if settings.baseline != "text-only" else None,
        "splits": {
            side: {
                "rows": len(examples),
                "documents": sum(len(one.row.input_files) for one in examples),
                "digest": hashlib.sha256(
                    "".join(one.row.digest for one in examples).encode()
                ).hexdigest(),
            }
            for side, examples in made.items()
        },
    }
