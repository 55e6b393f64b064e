"""What a model is told, per task and per mode: ours, the paper's, or a directory of the user's.

A directory holds `default.toml`, what all tasks share, and one file per task, which overrides it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sandbox_lite.agent.prompt import Prompt
from sandbox_lite.bench import paper
from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from importlib.resources.abc import Traversable

    from sandbox_lite.bench.task import Row

Documents = Literal["files", "prompt"]
"""Where documents go in sandbox mode; a plain model always has them in its prompt."""

_TOP = ("working_dir", "input_dir", "output_dir", "form")
_TABLES = {
    "sandbox": ("system_prompt", "instance_prompt"),
    "plain": ("system_prompt", "instance_prompt"),
    "documents": ("whole", "one"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPrompts:
    """All texts of one task."""

    source: str
    """`ours`, `paper (llm-in-sandbox VERSION)`, or the directory; results name it."""
    sandbox: Prompt
    """For `Agent`; rendered with `statement`."""
    plain_system: str = ""
    plain_instance: str = "{problem_statement}"
    documents: str = "{documents}\n\n{problem_statement}"
    document: str = "{name}:\n{text}"
    published: Callable[[Mapping[str, Any]], str] | None = None
    """The paper's function of a row's fields; it then makes the plain message."""

    @property
    def answer_path(self) -> str:
        """Where the answer of a sandbox is."""
        return f"{self.sandbox.output_dir}/answer.txt"

    @property
    def digest(self) -> str:
        """Of all texts: another digest is another experiment."""
        parts = [
            dataclasses.asdict(self.sandbox), self.plain_system, self.plain_instance,
            self.documents, self.document, self.source if self.published else "",
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def statement(self, row: Row, documents: Documents) -> str:
        """Return a row's problem as the sandbox's model reads it, with its documents or without."""
        if documents == "files" or not row.input_files:
            return row.problem_statement
        if self.published is not None:
            return self.published(_fields(row))
        parts = [
            _fill(self.document, {"name": name, "text": text}).strip()
            for name, text in row.input_files.items()
        ]
        return _fill(
            self.documents,
            {"documents": "\n\n".join(parts), "problem_statement": row.problem_statement},
        ).strip()

    def plain(self, row: Row) -> tuple[str, str]:
        """Return system and user message for a plain model; the first may be empty: send none."""
        if self.published is not None:
            return "", self.published(_fields(row))
        statement = self.statement(row, "prompt")
        return self.plain_system, _fill(
            self.plain_instance, {"problem_statement": statement}
        ).strip()


def load(task: str, source: Literal["ours", "paper"] | Path = "ours") -> TaskPrompts:
    """Return the prompts of a task.

    Args:
        task: Its name.
        source: `ours`; `paper` for those of an installed `llm-in-sandbox`; or a directory. A task
            of a third party that is not in it has the directory's `default.toml`.

    Raises:
        HostError: `llm-in-sandbox` is not installed.
        TaskError: A file cannot be read, or lacks something.
    """
    if source == "paper":
        return TaskPrompts(
            source=f"paper (llm-in-sandbox {paper.version()})",
            sandbox=paper.prompt(task),
            published=paper.plain_prompt(task),
        )
    ours = resources.files("sandbox_lite") / "bench" / "prompts"
    folder: Traversable = ours if source == "ours" else Path(source)
    name = "ours" if source == "ours" else str(source)
    shared, own = (_read(folder / f"{stem}.toml", name) for stem in ("default", task))
    if not shared and not own:
        raise TaskError(
            f"{name} holds no prompts of {task}", hint=f"it holds {task}.toml or default.toml"
        )
    data = {key: own.get(key, shared.get(key)) for key in _TOP}
    tables = {key: shared.get(key, {}) | own.get(key, {}) for key in _TABLES}
    for table, keys in _TABLES.items():
        for key in keys:
            if not isinstance(tables[table].get(key), str):
                raise TaskError(f"the prompts of {task} in {name} lack {key} of [{table}]")
    texts = {k: v for k, v in data.items() if v is not None}
    form = str(texts.pop("form", "")).strip()

    def formed(text: str) -> str:
        return _fill(text, {"form": form}).strip()

    for table, key, must in (
        ("sandbox", "instance_prompt", "{problem_statement}"),
        ("plain", "instance_prompt", "{problem_statement}"),
        ("documents", "whole", "{documents}"),
        ("documents", "one", "{text}"),
    ):
        if must not in tables[table][key]:
            raise TaskError(f"{key} of [{table}] of {task} in {name} never says {must}")
    return TaskPrompts(
        source=name,
        sandbox=Prompt(
            system_prompt=formed(tables["sandbox"]["system_prompt"]),
            instance_prompt=formed(tables["sandbox"]["instance_prompt"]),
            **texts,
        ),
        plain_system=formed(tables["plain"]["system_prompt"]),
        plain_instance=formed(tables["plain"]["instance_prompt"]),
        documents=tables["documents"]["whole"],
        document=tables["documents"]["one"],
    )


def _read(path: Traversable, name: str) -> dict[str, Any]:
    """Return a file's content, empty where there is none, checked for what nobody would read."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TaskError(f"the prompt {path} cannot be read: {error}") from error
    known = {*_TOP, *_TABLES}
    unknown = [key for key in data if key not in known]
    for table, keys in _TABLES.items():
        given = data.get(table, {})
        if not isinstance(given, dict):
            raise TaskError(f"{table} in the prompt {path} is no table")
        unknown += [f"{table}.{key}" for key in given if key not in keys]
    wrong = [key for key in _TOP if not isinstance(data.get(key, ""), str)]
    if unknown or wrong:
        what = f"an unknown entry {unknown[0]!r}" if unknown else f"no text in {wrong[0]!r}"
        raise TaskError(f"{path.name} of {name} has {what}", hint=f"entries: {', '.join(known)}")
    return data


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Replace names in braces, in one pass: what a document says is never looked into."""
    pattern = re.compile("{(" + "|".join(values) + ")}")
    return pattern.sub(lambda match: values[match[1]], text)


def _fields(row: Row) -> dict[str, Any]:
    return {
        "id": row.id, "problem_statement": row.problem_statement, "domain": row.domain,
        "input_files": dict(row.input_files),
    }  # fmt: skip
