"""Training rows: from own documents and from a hub on loopback, read back as their readers do."""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet
import pytest

from sandbox_lite.bench import data, tasks
from sandbox_lite.cli.app import start
from sandbox_lite.errors import SpecError, TaskError
from sandbox_lite.rl import data as training
from sandbox_lite.rl import sections
from sandbox_lite.rl.data import DataSettings
from sandbox_lite.rl.distractors import sides
from tests.hub_server import HubServer

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = tasks.find("context")
COUNT = 12


def text_of(number: int) -> str:
    return f"# Report {number}\n\nThe secret of report {number} is zebra{number}.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "documents"
    (made / "sub").mkdir(parents=True)
    for number in range(COUNT):
        (made / f"r{number}.md").write_text(text_of(number))
    return made


def asked(path: Path, *questions: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in questions))
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return asked(
        tmp_path / "questions.jsonl",
        *(
            {
                "id": f"r{n}", "question": f"What is the secret of report {n}?",
                "answer": f"zebra{n}", "documents": f"r{n}.md", "qa_type": "Open-Ended",
            }
            for n in range(COUNT)
        ),
    )  # fmt: skip


def test_a_long_document_is_cut_at_its_headings_and_nothing_is_lost() -> None:
    code = "```\n# no heading\n```\n"
    parts = [f"# Part {n}\n\n{code}" + f"word{n} " * 30 + "\n\n" for n in range(5)]
    text = "before\n" + "".join(parts)
    files = sections.split("a/book.md", text, 400)
    assert "".join(part for _, part in files) == text
    assert [name for name, _ in files] == [
        "a/book-01.md", *(f"a/book-{n + 1:02}-part-{n}.md" for n in range(1, 5)),
    ]  # fmt: skip
    assert files[1][1] == parts[1]
    assert sections.split("book.md", text, len(text)) == (("book.md", text),)


@pytest.mark.parametrize(
    "text", ["x" * 1000, "é" * 500, "line\n" * 300, "word \n\n" * 200, "\n" * 999]
)
def test_no_part_is_longer_than_the_bound(text: str) -> None:
    files = sections.split("t.txt", text, 100)
    assert "".join(part for _, part in files) == text
    assert all(0 < len(part.encode()) <= 100 for _, part in files)
    assert len({name for name, _ in files}) == len(files) > 9


def test_our_form_is_read_back_by_bench(folder: Path, questions: Path, tmp_path: Path) -> None:
    rows = training.from_documents(folder, questions)
    settings = DataSettings(distractors=2, validation=0.25, seed=3)
    made = training.write(rows, tmp_path / "out", settings)
    assert (made.train, made.validation) == (9, 3)
    train = data.load(CONTEXT, data=made.folder / "ours-train.jsonl").rows
    validation = data.load(CONTEXT, data=made.folder / "ours-validation.jsonl").rows
    assert {row.id for row in (*train, *validation)} == {f"r{n}" for n in range(COUNT)}
    trained = {name for row in train for name in row.input_files}
    assert trained.isdisjoint({f"{row.id}.md" for row in validation})  # not as a distractor either
    for row in (*train, *validation):
        number = int(row.id[1:])
        assert row.input_files[f"r{number}.md"] == text_of(number)
        assert len(row.input_files) == 3
        assert list(row.input_files) == sorted(row.input_files)
        assert row.extra == {"qa_type": "Open-Ended"}
        assert CONTEXT.grader(row, "default") == "open"


def test_documents_never_enter_the_prompt_but_in_the_baselines(
    folder: Path, questions: Path, tmp_path: Path
) -> None:
    rows = training.from_documents(folder, questions)
    seen: dict[str, list[dict[str, Any]]] = {}
    for baseline in ("none", "text-only", "context-in-prompt"):
        settings = DataSettings(baseline=baseline, distractors=1)
        made = training.write(rows, tmp_path / baseline, settings)
        lines = (made.folder / "trl-train.jsonl").read_text().splitlines()
        seen[baseline] = [json.loads(line) for line in lines]
        for one in seen[baseline]:
            said = json.dumps(one["prompt"])
            assert ("zebra" in said) == (baseline != "none")
            assert ("execute_bash" in said) == (baseline != "text-only")
            assert one["prompt"][-1]["role"] == "user"
            files = json.loads(one["input_files"])
            assert len(files) == (2 if baseline == "none" else 0)
    ids = [[one["id"] for one in ones] for ones in seen.values()]
    assert ids[0] == ids[1] == ids[2]
    for computer, text in zip(seen["none"], seen["text-only"], strict=True):
        for document in json.loads(computer["input_files"]).values():
            assert document.strip() in text["prompt"][-1]["content"]


def test_verls_form(folder: Path, questions: Path, tmp_path: Path) -> None:
    rows = training.from_documents(folder, questions)
    made = training.write(rows, tmp_path / "out", DataSettings(forms=("verl",)))
    assert made.files == ("verl-train.parquet", "verl-validation.parquet")
    records = pyarrow.parquet.read_table(made.folder / made.files[0]).to_pylist()
    assert len(records) == 11
    for index, record in enumerate(records):
        extra = record["extra_info"]
        assert record["reward_model"] == {"style": "rule", "ground_truth": extra["ground_truth"]}
        assert record["data_source"] == record["ability"] == "context"
        assert [message["role"] for message in record["prompt"]] == ["system", "user"]
        assert (extra["split"], extra["index"]) == ("train", index)
        row = data.row_of(extra, "context", "extra_info")
        assert row.input_files == {f"{row.id}.md": text_of(int(row.id[1:]))}


def test_the_same_seed_writes_the_same_bytes(folder: Path, questions: Path, tmp_path: Path) -> None:
    rows = training.from_documents(folder, questions)
    manifests = []
    for number, seed in enumerate((1, 1, 2)):
        settings = DataSettings(distractors=2, seed=seed, validation=0.3)
        made = training.write(rows, tmp_path / str(number), settings)
        manifests.append(json.loads((made.folder / "manifest.json").read_text()))
        for file in manifests[-1]["files"]:
            content = (made.folder / file["name"]).read_bytes()
            assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifests[0] == manifests[1]
    assert manifests[0]["files"] != manifests[2]["files"]
    assert manifests[0]["source"]["digest"] == rows.digest


def test_rows_of_one_document_stand_on_one_side(folder: Path, tmp_path: Path) -> None:
    path = asked(
        tmp_path / "q.jsonl",
        *(
            {
                "question": f"{n}?",
                "answer": "a",
                "documents": [f"r{n // 3}.md", f"r{n // 3 + 6}.md"],
            }
            for n in range(9)
        ),
    )
    rows = training.from_documents(folder, path).rows
    for seed in range(5):
        split = sides(rows, 0.4, seed)
        assert len(split.validation) == 3  # a whole group; two would be too many
        theirs = {name for row in split.validation for name in row.input_files}
        assert not [row for row in split.train if theirs & set(row.input_files)]


def test_distractors_of_the_same_name_do_not_tell_which_is_right(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "problem_statement": f"Secret {n}?", "ground_truth": "x",
         "input_files": {"document.txt": f"text {n}"}}
        for n in range(20)
    ]  # fmt: skip
    path = asked(tmp_path / "rows.jsonl", *rows)
    settings = DataSettings(distractors=2, validation=0)
    made = training.write(training.from_file(path), tmp_path / "out", settings)
    places = set()
    for row in data.load(CONTEXT, data=made.folder / "ours-train.jsonl").rows:
        assert sorted(row.input_files) == ["document-1.txt", "document-2.txt", "document-3.txt"]
        places |= {name for name, text in row.input_files.items() if text == f"text {row.id}"}
    assert len(places) == 3
    rows[0]["problem_statement"] = "What does document.txt say?"
    path = asked(tmp_path / "named.jsonl", *rows)
    made = training.write(training.from_file(path), tmp_path / "named", settings)
    first = data.load(CONTEXT, data=made.folder / "ours-train.jsonl").rows[0]
    assert first.input_files["document.txt"] == "text 0"
    assert len(first.input_files) == 3


def test_sections_of_a_rows_own_document_are_no_distractors(tmp_path: Path, folder: Path) -> None:
    long = "".join(f"# S{n}\n\n" + f"{n} " * 40 + "\n" for n in range(8))
    (folder / "long.md").write_text(long)
    path = asked(
        tmp_path / "q.jsonl",
        {"id": "l1", "question": "1?", "answer": "a", "documents": "long.md"},
        {"id": "l2", "question": "2?", "answer": "b", "documents": "long.md"},
        {"id": "s", "question": "3?", "answer": "c", "documents": "r1.md"},
    )
    settings = DataSettings(section_bytes=100, distractors=1, validation=0)
    rows = training.from_documents(folder, path)
    made = training.write(rows, tmp_path / "out", settings)
    back = {row.id: row for row in data.load(CONTEXT, data=made.folder / "ours-train.jsonl").rows}
    for name in ("l1", "l2"):
        files = back[name].input_files
        assert "".join(text for key, text in files.items() if key.startswith("long-")) == long
        assert files["r1.md"] == text_of(1)
    with pytest.raises(TaskError, match="there are 1 documents of other rows for 'l1', not 2"):
        training.write(rows, tmp_path / "more", DataSettings(distractors=2, validation=0))
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"question": "?", "answer": "a"}, "names no documents"),
        ({"question": "?", "answer": "a", "documents": []}, "names no documents"),
        ({"question": "?", "answer": "a", "documents": "../secret"}, "outside the folder"),
        ({"question": "?", "answer": "a", "documents": "/etc/passwd"}, "outside the folder"),
        ({"question": "?", "answer": "a", "documents": "link"}, "link out of the folder"),
        ({"question": "?", "answer": "a", "documents": "sub"}, "no file"),
        ({"question": "?", "answer": "a", "documents": "binary"}, "no text in UTF-8"),
        ({"question": "?", "answer": "a", "documents": "gone"}, "cannot be read"),
        ({"question": "?", "documents": "r1.md"}, "has no ground_truth"),
    ],
)
def test_a_question_that_is_none(
    folder: Path, tmp_path: Path, question: dict[str, Any], message: str
) -> None:
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(TaskError, match=message):
        training.from_documents(folder, asked(tmp_path / "q.jsonl", question))


def test_the_published_set_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    rows = [
        {"id": f"p{n}", "domain": "instruct_pretrain", "problem_statement": f"Which? {n}",
         "ground_truth": "A, C" if n % 2 else "B", "qa_type": "Multiple Choice",
         "input_files": json.dumps({"context.txt": f"context {n}"})}
        for n in range(6)
    ]  # fmt: skip
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    name = "instruct_pretrain/train-00000-of-00001.parquet"
    commit = "c" * 40
    out = tmp_path / "rows"
    with HubServer(
        "daixuancheng/llm-in-sandbox-rl", {commit: {"README.md": b"", name: sink.getvalue()}}
    ) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        words = ["rl", "data", "--out", str(out), "--distractors", "1", "--validation", "0.34"]
        assert start(words) == 0
    shown = capsys.readouterr().out
    assert "4 rows to train on, 2 to validate" in shown
    assert f"bench context --data {out}/ours-train.jsonl" in shown
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"]["revision"] == commit
    assert manifest["splits"]["train"]["documents"] == 8
    back = data.load(CONTEXT, data=out / "ours-train.jsonl").rows
    assert {CONTEXT.grader(row, "default") for row in back} <= {"choice", "choices-f1"}
    assert start(words) == SpecError.exit_code
    assert "is not empty" in capsys.readouterr().err
    assert start(["rl", "data", "--out", str(tmp_path / "x"), "--documents", str(tmp_path)]) != 0
    assert start([*words[:3], str(tmp_path / "y"), "--baseline", "no"]) == SpecError.exit_code
    assert "no baseline 'no'" in capsys.readouterr().err
