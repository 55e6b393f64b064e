"""Training rows, read as TRL's users read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.bench.data import DataOrigin, Rows, row_of
from sandbox_lite.rl import data as training

if TYPE_CHECKING:
    from pathlib import Path

datasets = pytest.importorskip("datasets")


def test_rows_of_trl_are_a_dataset(tmp_path: Path) -> None:
    rows = tuple(
        row_of(
            {"id": str(n), "problem_statement": f"{n}?", "ground_truth": "a",
             "input_files": {f"d{n}.txt": f"text {n}"}, **({"qa_type": "open"} if n % 2 else {})},
            "context", "row",
        )
        for n in range(6)
    )  # fmt: skip
    settings = training.DataSettings(forms=("trl", "verl"), validation=0, distractors=1)
    found = Rows(rows=rows, origin=DataOrigin(name="test"))
    made = training.write(found, tmp_path / "rows", settings)
    for kind, name in zip(("json", "parquet"), made.files, strict=True):
        read = datasets.load_dataset(
            kind, data_files=str(made.folder / name), split="train", cache_dir=str(tmp_path / kind)
        )
        assert len(read) == 6
        for row, columns in zip(rows, read, strict=True):
            assert [message["role"] for message in columns["prompt"]] == ["system", "user"]
            fields = columns.get("extra_info", columns)
            assert fields["id"] == row.id
            files = json.loads(fields["input_files"])
            assert len(files) == 2
            assert files[f"d{row.id}.txt"] == f"text {row.id}"
            assert fields["qa_type"] == row.extra.get("qa_type")
