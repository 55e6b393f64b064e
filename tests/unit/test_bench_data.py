"""Rows: from a hub on loopback through its real client, and from files."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet
import pytest

from sandbox_lite.bench import data, hub, tasks
from sandbox_lite.bench.data import row_of
from sandbox_lite.bench.task import HubSource
from sandbox_lite.errors import HostError, SpecError, TaskError
from tests.hub_server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.bench.task import Task

REPOSITORY = "daixuancheng/llm-in-sandbox-bench"
OLD, NEW = "a" * 40, "b" * 40
MATH = tasks.find("math")


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"math_{number}", "domain": "math", "problem_statement": f"What is {number}?",
        "ground_truth": str(number), **fields,
    }  # fmt: skip


def parquet(*rows: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in rows)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    commits = {
        OLD: {
            "README.md": b"",
            "math/test-00000-of-00001.parquet": parquet(
                row(1, input_files=json.dumps({"a/b.txt": "text"}), level="easy"),
                row(2, input_files=None, level="hard"),
            ),
            "chem/test-00000-of-00001.parquet": parquet(row(9)),
            "math/train-00000-of-00001.parquet": parquet(row(8)),
        },
        NEW: {"math/test-00000-of-00001.parquet": parquet(row(3))},
    }
    with HubServer(REPOSITORY, commits) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.endpoint)
        yield started


def test_rows_come_from_the_hub(server: HubServer) -> None:
    found = data.load(MATH)
    assert [one.id for one in found.rows] == ["math_1", "math_2"]
    first, second = found.rows
    assert first.problem_statement == "What is 1?"
    assert first.ground_truth == "1"
    assert first.input_files == {"a/b.txt": "text"}
    assert first.extra == {"level": "easy"}
    assert second.input_files == {}
    assert found.origin.name == REPOSITORY
    assert found.origin.revision == OLD
    assert (found.origin.config, found.origin.split) == ("math", "test")
    assert len(found.origin.sha256[0]) == 64
    assert not [one for one in server.requests if "chem" in one or "train" in one]


def test_once_cached_no_network_is_asked(server: HubServer) -> None:
    first = data.load(MATH)
    server.requests.clear()
    assert data.load(MATH) == first
    assert data.load(MATH, offline=True).digest == first.digest
    assert server.requests == []


def test_cached_rows_outlive_the_hub(monkeypatch: pytest.MonkeyPatch, server: HubServer) -> None:
    data.load(MATH)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(data.load(MATH).rows) == 2


def test_a_branch_stays_the_commit_of_its_first_fetch(server: HubServer) -> None:
    assert data.load(MATH).origin.revision == OLD
    server.branch = NEW
    assert data.load(MATH).origin.revision == OLD
    assert data.load(MATH, revision=NEW).rows[0].id == "math_3"
    assert data.load(MATH).origin.revision == OLD
    refreshed = data.load(MATH, refresh=True)
    assert refreshed.origin.revision == NEW
    assert data.load(MATH, offline=True).origin.revision == NEW


def test_the_card_names_the_files(server: HubServer) -> None:
    server.commits[NEW] = {"x/one.jsonl": lines(row(5)).encode(), "x/two.jsonl": b"{"}
    server.branch = NEW
    server.card = {
        "configs": [
            {"config_name": "chem", "data_files": [{"split": "test", "path": "x/two.*"}]},
            {"config_name": "math", "data_files": [{"split": "test", "path": ["x/one*"]}]},
        ]
    }
    assert [one.id for one in data.load(MATH).rows] == ["math_5"]


def test_what_could_not_be_fetched_is_said(server: HubServer) -> None:
    with pytest.raises(HostError, match=r"llm-in-sandbox-bench \(math, test, revision nope\)"):
        data.load(MATH, revision="nope")
    source = HubSource(repository="nobody/nothing", config="c", split="test")
    with pytest.raises(HostError, match=r"nobody/nothing.*could not be fetched") as raised:
        hub.fetch(source)
    assert "--data FILE" in (raised.value.hint or "")
    server.commits[OLD] = {"README.md": b"", "chem/test.jsonl": b""}
    with pytest.raises(TaskError, match=r"holds no test of math; it holds: README.md, chem/test"):
        data.load(MATH)


def test_no_hub_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(HostError, match=r"could not be fetched: http://127\.0\.0\.1:9 gave"):
        data.load(MATH)
    assert time.monotonic() - began < 15
    with pytest.raises(HostError, match="the network is not asked"):
        data.load(MATH, offline=True)


def test_a_half_fetched_set_is_not_noted(server: HubServer) -> None:
    server.failures = [403]
    with pytest.raises(HostError, match="could not be fetched"):
        data.load(MATH)
    server.failures = [500]  # the client tries again by itself
    assert len(data.load(MATH).rows) == 2


def public(task: Task) -> HubSource:
    assert isinstance(task.source, HubSource)
    return task.source


def test_a_changed_file_of_the_cache_is_refused(server: HubServer) -> None:
    found = hub.fetch(public(MATH))
    real = found.paths[0].resolve()
    real.chmod(0o644)
    real.write_bytes(parquet(row(1, ground_truth="2")))
    with pytest.raises(TaskError, match="was changed since it was fetched"):
        data.load(MATH)


def test_a_deleted_file_of_the_cache_is_fetched_again(server: HubServer) -> None:
    found = hub.fetch(public(MATH))
    found.paths[0].unlink()
    with pytest.raises(HostError, match="not in the cache"):
        data.load(MATH, offline=True)
    assert len(data.load(MATH).rows) == 2


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_rows_come_from_a_file(tmp_path: Path, kind: str) -> None:
    rows = [row(1, input_files={"a.txt": "x"}), row(2, input_files={"a.txt": None})]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        path.write_bytes(parquet(*rows))
    else:
        path.write_text(lines(*rows) if kind == "jsonl" else json.dumps(rows))
    found = data.load(MATH, data=path)
    assert [one.input_files for one in found.rows] == [{"a.txt": "x"}, {}]
    assert found.origin.name == str(path)
    assert found.origin.revision == ""


def test_a_file_needs_no_network_and_no_revision(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(row(1)))
    assert data.load(MATH, data=path, offline=True).rows[0].domain == "math"
    with pytest.raises(SpecError, match="no revision"):
        data.load(MATH, data=path, revision="main")


def test_copies_are_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(row(1), row(1), row(2), row(3, problem_statement="What is 2?",
                                                      ground_truth="2")))  # fmt: skip
    found = data.load(MATH, data=path)
    assert [one.id for one in found.rows] == ["math_1", "math_2", "math_3"]
    assert found.origin.copies == 1
    assert found.rows[1].problem == found.rows[2].problem != found.rows[0].problem
    path.write_text(lines(row(1), row(1, ground_truth="7")))
    with pytest.raises(TaskError, match="row 2: another row has the id 'math_1'"):
        data.load(MATH, data=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("{", "no JSON Lines"),
        ("[1]\n", "line 1 is no object"),
        ('{"id": 1}\n', "no problem_statement and no ground_truth"),
        (lines(row(1, input_files="{")), "input_files is no JSON"),
        (lines(row(1, input_files=[1])), "no mapping"),
        (lines(row(1, input_files={"../a": "x"})), "would leave"),
        (lines(row(1, input_files={"/a": "x"})), "would leave"),
        (lines(row(1, input_files={"a/../../b": "x"})), "would leave"),
        (lines(row(1, input_files={"": "x"})), "would leave"),
        (lines(row(1, input_files={"a": 1})), "is no text"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(TaskError, match=message):
        data.load(MATH, data=path)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="No such file"):
        data.load(MATH, data=tmp_path / "none.jsonl")
    (tmp_path / "rows.csv").write_text("a")
    with pytest.raises(SpecError, match="no known kind"):
        data.load(MATH, data=tmp_path / "rows.csv")
    (tmp_path / "rows.parquet").write_text("a")
    with pytest.raises(TaskError, match="no Parquet file"):
        data.load(MATH, data=tmp_path / "rows.parquet")


def test_fields_that_are_no_text_become_one() -> None:
    made = row_of(row(1) | {"id": 7, "ground_truth": ["é", 1], "domain": None}, "d", "here")
    assert (made.id, made.ground_truth, made.domain) == ("7", '["é", 1]', "d")


def test_digests_follow_every_field() -> None:
    base = row_of(row(1, x=1), "d", "here")
    for change in ({"x": 2}, {"ground_truth": "2"}, {"input_files": {"a": "b"}}, {"id": "other"}):
        assert row_of(row(1, x=1) | change, "d", "here").digest != base.digest
    assert row_of(row(1, x=2), "d", "here").problem == base.problem
