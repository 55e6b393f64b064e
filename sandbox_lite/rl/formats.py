"""The forms in which trainers read rows: a table, one line each.

A row's `input_files` are a mapping of names to texts only in our own form; in the others they are
that mapping as JSON in a string, as in the published sets: Arrow would make of it a struct with
every name of every row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sandbox_lite.bench.libraries import need

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.bench.task import Row

Baseline = Literal["none", "text-only", "context-in-prompt"]
"""What a row is for: a computer with its documents; none, and the documents in the prompt; or a
computer, and the documents in the prompt all the same."""

AGENT = "sandbox_lite"
"""Under which verl knows our episode loop."""

_WITHOUT_COMPUTER = "single_turn_agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row, ready to be written."""

    row: Row
    messages: tuple[Mapping[str, str], ...]
    """System and user, as the policy reads them."""
    baseline: Baseline
    split: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One form of training rows."""

    name: str
    title: str
    suffix: str
    record: Callable[[Example], dict[str, Any]]


def _ours(example: Example) -> dict[str, Any]:
    row = example.row
    return {
        **row.extra,
        "id": row.id,
        "domain": row.domain,
        "problem_statement": row.problem_statement,
        "ground_truth": row.ground_truth,
        "input_files": dict(row.input_files),
    }


def _flat(row: Row) -> dict[str, Any]:
    """Return a row's fields with the same type in every row: Arrow reads them as columns."""
    plain = {
        name: value if value is None or isinstance(value, str) else json.dumps(value, default=str)
        for name, value in row.extra.items()
    }
    return {
        **plain,
        "id": row.id,
        "domain": row.domain,
        "problem_statement": row.problem_statement,
        "ground_truth": row.ground_truth,
        "input_files": json.dumps(dict(row.input_files), ensure_ascii=False),
    }


def _trl(example: Example) -> dict[str, Any]:
    return {
        **_flat(example.row),
        "prompt": [dict(message) for message in example.messages],
        "baseline": example.baseline,
    }


def _verl(example: Example) -> dict[str, Any]:
    row = example.row
    alone = example.baseline == "text-only"
    return {
        "data_source": row.domain,
        "prompt": [dict(message) for message in example.messages],
        "ability": row.domain,
        "reward_model": {"style": "rule", "ground_truth": row.ground_truth},
        "agent_name": _WITHOUT_COMPUTER if alone else AGENT,
        "extra_info": {
            **_flat(row),
            "baseline": example.baseline,
            "split": example.split,
            "index": example.index,
        },
    }


FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format(name="ours", title="rows of bench", suffix=".jsonl", record=_ours),
        Format(name="trl", title="conversations with columns", suffix=".jsonl", record=_trl),
        Format(name="verl", title="Parquet of verl", suffix=".parquet", record=_verl),
    )
}


def write(form: Format, examples: Sequence[Example], path: Path) -> None:
    """Write examples in a form.

    Raises:
        HostError: A library lacks.
    """
    records = [form.record(example) for example in examples]
    if form.suffix == ".jsonl":
        with path.open("x", encoding="utf-8", errors="surrogatepass") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        return
    # None keeps a column whose first rows lack it: the schema is drawn from all of them
    names = {key for record in records for key in record.get("extra_info", ())}
    for record in records:
        record["extra_info"] = dict.fromkeys(sorted(names)) | record["extra_info"]
    tables = need("pyarrow", f"training rows as {form.title}")
    need("pyarrow.parquet", f"training rows as {form.title}").write_table(
        tables.Table.from_pylist(records), path
    )
