"""The report of a benchmark: its numbers, its size, its links; and several compared."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_lite.bench import report
from sandbox_lite.bench.episode import Episode, Fault, Key, Spent
from sandbox_lite.bench.ledger import RESULTS, Ledger, load_header, write_json
from sandbox_lite.bench.report import writing
from sandbox_lite.bench.results import results
from sandbox_lite.bench.task import Answer, Score, Ungraded
from sandbox_lite.errors import SpecError, TaskError
from tests.pages import Page, check_harmless
from tests.unit.test_pages import HOSTILE, SEEN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox_lite.bench.task import Mode


def experiment(**members: object) -> dict[str, Any]:
    task = {"version": "1", "modes": ["sandbox"], "rows": 2, "rows_digest": "abc",
            "prompts": "ours", "prompts_digest": "def"}  # fmt: skip
    return {
        "tasks": {"math": task}, "repeats": 1, "context": "files", "without_tools": [],
        "model": {"model": "m1", "base_url": None, "temperature": None}, "limits": {"steps": 9},
        "sandbox": {"rootfs": "minimal sha256:1", "network": "web"}, "scorer": "default",
        "judge": None, **members,
    }  # fmt: skip


ABOUT = {
    "tasks": {"math": {"name": "math", "title": "AIME", "version": "1", "prompts": "ours",
                       "data": {"name": "some/set", "revision": "0123abcd"}}},
    "enforcement": {"rootfs": "minimal sha256:1", "network": "web", "seccomp": ["deny"],
                    "limits": [{"name": "memory", "value": 2**30, "by": "kernel", "detail": ""}]},
    "started": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def episode(row: str, mode: Mode, value: float | None, **members: object) -> Episode:
    score = None if value is None else Score(
        value=value, verdict="right", grader="g", scorer="default", details={}
    )  # fmt: skip
    given: dict[str, object] = {
        "key": Key(task="math", row=row, mode=mode, repeat=1), "problem": row, "row_digest": "d",
        "domain": "math", "stop": "submitted", "answer": Answer(text="4", size_bytes=1),
        "score": score, "turns": 3,
        "spent": Spent(prompt_tokens=1000, completion_tokens=50, environment_tokens=300,
                       model_seconds=2, environment_seconds=1, total_seconds=4),
    }  # fmt: skip
    return Episode(**(given | members))  # type: ignore[arg-type]


def stored(
    directory: Path, episodes: Sequence[Episode], more: object = None, **members: object
) -> Path:
    with Ledger(directory, experiment(**members), ABOUT) as ledger:
        for one in episodes:
            ledger.append(one)
    found = results(load_header(directory), episodes)
    for mode in found["spent"]["math"].values():
        mode.update(more or {})
    write_json(directory / RESULTS, found)
    return directory


TRIED = (("a", 1.0, 0.0), ("b", 1.0, 1.0), ("c", 0.0, 0.0), ("d", 1.0, 0.0))
PAIRS = [
    one
    for row, sandbox, plain in TRIED
    for one in (episode(row, "sandbox", sandbox), episode(row, "plain", plain))
]


def read(path: Path) -> Page:
    found = Page.of(path.read_text())
    check_harmless(found, below=path.parent)
    return found


def test_it_says_what_the_results_say(tmp_path: Path) -> None:
    more = {
        "cost": 1.25,
        "tool_use": {"calls": 5, "network": 1, "files": 2, "computation": 3, "other": 0},
        "memory_bytes": {"mean": 2**20, "most": 2**21, "sandboxes": 4},
    }  # fmt: skip
    path = report.write(stored(tmp_path, PAIRS, more))
    assert path == tmp_path / "report.html"
    page = read(path)
    words = " ".join(page.text.split())
    for what in (
        "sandbox 0.750", "plain 0.250", "+0.500 [", "0.5 mcnemar", "4,000", "1,200", "1.25",
        "1.25 calls", "1 network, 2 files, 3 computation, 0 other",
        "1.0 MiB, at most 2.0 MiB", "0123abcd",
        "1.0 GiB, held by kernel", "ours def", "sandbox-lite", "minimal sha256:1",
    ):  # fmt: skip
        assert what in words or what.replace(" ", "") in words.replace(" ", ""), what
    dots = [one["cx"] for one in page.of_tag("circle")]
    assert dots == ["25.00%", "75.00%", "75.00%"]  # plain, sandbox; and the difference of 0.5
    assert len(page.of_tag("a")) == len(PAIRS)
    for link in page.of_tag("a"):
        inner = read(tmp_path / str(link["href"]))
        assert inner.frames


def test_what_is_not_known_is_called_so(tmp_path: Path) -> None:
    spent = Spent(prompt_tokens=10, completion_tokens=1, estimated=True)
    estimated = dataclasses.replace(PAIRS[0], spent=spent)
    page = read(report.write(stored(tmp_path, [estimated])))
    assert page.text.count("unknown") >= 4
    assert "about 11" in page.text


def test_what_a_model_or_a_server_wrote_stands_in_frames(tmp_path: Path) -> None:
    fault = Fault(stop="model_error", message=HOSTILE, hint=HOSTILE)
    hostile = [
        episode(HOSTILE, "sandbox", None, answer=None, fault=fault, faults=(fault,)),
        episode("b", "sandbox", None, answer=Answer(text=HOSTILE, size_bytes=9),
                score=Ungraded(reason=HOSTILE, grader=HOSTILE), trajectory="../../etc/passwd"),
        episode("c", "plain", 1.0, answer=Answer(text=HOSTILE, size_bytes=9), domain=HOSTILE,
                stop=HOSTILE, trajectory=f"trajectories/{HOSTILE}"),
        dataclasses.replace(PAIRS[0], score=Score(
            value=1, verdict=HOSTILE, grader="g", scorer="paper", details={HOSTILE: HOSTILE})),
    ]  # fmt: skip
    page = read(report.write(stored(tmp_path, hostile)))
    assert [SEEN in frame.text for frame in page.frames] == [True, True]
    pages = [one for one in (tmp_path / "pages").rglob("*.html") if one.name != "index.html"]
    assert len(pages) == len(hostile)
    shown = [read(one) for one in pages]
    assert all(SEEN in one.frames[0].text for one in shown)


def test_a_damaged_trajectory_costs_its_own_page_alone(tmp_path: Path) -> None:
    bad = dataclasses.replace(PAIRS[0], trajectory="trajectories/math/a.sandbox.1.jsonl")
    (tmp_path / "trajectories" / "math").mkdir(parents=True)
    (tmp_path / "trajectories" / "math" / "a.sandbox.1.jsonl").write_text('{"kind": "head')
    report.write(stored(tmp_path, [bad, *PAIRS[1:]]))
    page = read(tmp_path / "pages" / "math" / "a.sandbox.1.html")
    assert "cannot be shown" in page.text
    assert "is no trajectory" in page.frames[0].text


def test_many_episodes_leave_it_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_episode_page", lambda *_: "")  # those take their time
    fault = Fault(stop="model_error", message="x" * 10_000)
    many = [episode(f"row-{n:0100}", "sandbox", 1.0) for n in range(3000)]
    many += [
        episode(f"f{n}", "sandbox", None, answer=None, fault=fault, faults=(fault,))
        for n in range(300)
    ]
    path = report.write(stored(tmp_path, many))
    assert path.stat().st_size < 5_000_000
    page = read(path)
    assert "300 more in the list of all" in page.text
    every = read(tmp_path / "pages" / "index.html")
    assert len(every.of_tag("a")) == len(many) + 1


def test_models_are_compared(tmp_path: Path) -> None:
    model = {"model": "m2", "base_url": None, "temperature": None}
    one, two = stored(tmp_path / "1", PAIRS), stored(tmp_path / "2", PAIRS[:4], model=model)
    assert report.compare([one, two], tmp_path / "c.html") == ()
    page = read(tmp_path / "c.html")
    assert [dot["cx"] for dot in page.of_tag("circle")] == ["25.00%", "75.00%", "50.00%", "100.00%"]
    assert "do not compare" not in page.text
    with pytest.raises(SpecError):
        report.compare([one], tmp_path / "c.html")
    with pytest.raises(TaskError):
        report.compare([one, tmp_path / "nowhere"], tmp_path / "c.html")


def test_what_does_not_compare_is_said(tmp_path: Path) -> None:
    one = stored(tmp_path / "1", PAIRS)
    tasks = experiment()["tasks"]
    tasks["math"] |= {"rows_digest": "other"}
    two = stored(tmp_path / "2", PAIRS, scorer="paper", tasks=tasks)
    said = report.compare([one, two], tmp_path / "c.html")
    assert [line.partition(":")[0] for line in said] == ["scorer", "math rows"]
    page = read(tmp_path / "c.html")
    assert "do not compare" in page.text
    assert all(line in page.text for line in said)
    assert f"m1 ({one})" in page.text
