"""The demo's inputs, checker, script and server, without a sandbox."""

from __future__ import annotations

import base64
import http.client
import json
import re
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sandbox_lite.agent import tools
from sandbox_lite.demo import inputs, script
from sandbox_lite.demo.check import Check, Figures, check, compute
from sandbox_lite.demo.server import MODEL, ScriptServer
from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = (1, 2, 3, 4, 5)
PLACES = script.Places(
    working_dir="/testbed", input_dir="/testbed/input", output_dir="/testbed/output"
)

Json = dict[str, Any]


def edit(path: Path, pattern: str, replacement: str) -> None:
    """Replace one thing in a file, and see that it was there."""
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1, f"no {pattern!r} in {path.name}"
    path.write_text(text)


def png(width: int = 640, height: int = 480, *, blank: bool = False) -> bytes:
    """Return a picture."""
    rows = b"".join(
        b"\0" + bytes(0 if blank else (x * y) % 251 for x in range(width)) for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def page(figures: str, image: bytes) -> str:
    data = base64.b64encode(image).decode()
    return f'<!DOCTYPE html><p>{figures}</p><img src="data:image/png;base64,{data}">'


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Inputs of seed 1."""
    inputs.write(tmp_path / "input", 1)
    return tmp_path / "input"


@pytest.fixture
def results(given: Path, tmp_path: Path) -> Path:
    """Results as a good run leaves them."""
    directory = tmp_path / "output"
    directory.mkdir()
    answer = str(compute(given))
    (directory / "answer.txt").write_text(answer + "\n")
    (directory / "plot.png").write_bytes(png())
    (directory / "report.html").write_text(page(answer, png()))
    return directory


def wrong(found: Check) -> dict[str, str]:
    return {one.name: one.detail for one in found.findings if not one.ok}


# -- inputs -----------------------------------------------------------------------------------


def test_a_seed_gives_the_same_bytes_in_another_process() -> None:
    code = "from sandbox_lite.demo import inputs; print(ascii(sorted(inputs.make(7).items())))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True,
        env={"PYTHONHASHSEED": "123", "LC_ALL": "C"},
    )  # fmt: skip
    assert other.stdout.strip() == ascii(sorted(inputs.make(7).items()))


def test_the_task_is_as_large_as_it_says() -> None:
    files = inputs.make(1)
    assert sorted(files) == sorted(inputs.FILES)
    assert files["rain.csv"].count("\n") == files["stage.csv"].count("\n") == 1 + inputs.DAYS
    assert files["nitrate.csv"].count("\n") > 100
    assert all(files[name].count("\n") > 150 for name in ("station_manual.md", "field_log.md"))
    assert "@" not in files["station_manual.md"]


def test_seeds_have_answers_of_their_own(tmp_path: Path) -> None:
    for seed in SEEDS:
        inputs.write(tmp_path / str(seed), seed)
    assert len({str(compute(tmp_path / str(seed))) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("file", "pattern", "replacement"),
    [
        ("field_log.md", r"are (\d\.\d+) m too", "are 0.000 m too"),
        ("field_log.md", r"is void", "is fine"),
        ("field_log.md", r"(?<=including bottle\s)N-\d+", "N-000"),
        (
            "field_log.md",
            r"(\d{4}-\d\d-\d\d), both\s+included, are\s+in",
            "2023-10-02, both included, are in",
        ),
        ("station_manual.md", r"is at least \S+ mm", "is at least 500.0 mm"),
        ("station_manual.md", r"R7 \(in.*\n(.*\n)*?Break: h = \S+ m", "R7\n\nBreak: h = 0.01 m"),
    ],
    ids=["shift", "void", "ion", "centimetres", "storm", "rating"],
)
def test_no_rule_can_be_left_out(
    tmp_path: Path, seed: int, file: str, pattern: str, replacement: str
) -> None:
    inputs.write(tmp_path, seed)
    before = compute(tmp_path)
    edit(tmp_path / file, pattern, replacement)
    assert not before.near(compute(tmp_path))


# -- checker ----------------------------------------------------------------------------------


def test_good_results_are_right(given: Path, results: Path) -> None:
    assert check(given, results).ok


def test_one_changed_value_changes_what_is_right(given: Path, results: Path) -> None:
    edit(given / "nitrate.csv", r"(N-060,\S+,)\S+", r"\g<1>19.75")
    assert set(wrong(check(given, results))) == {"answer.txt", "report.html"}


def test_a_figure_rounded_the_other_way_is_right_and_the_next_is_not() -> None:
    exact = Figures(load_tonnes=12.25, storm_share_percent=30.0)
    assert exact.near(Figures(load_tonnes=12.2, storm_share_percent=30.0))
    assert exact.near(Figures(load_tonnes=12.3, storm_share_percent=30.0))
    assert not exact.near(Figures(load_tonnes=12.4, storm_share_percent=30.0))
    assert not exact.near(Figures(load_tonnes=12.3, storm_share_percent=30.1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1.0 t, 2.0 %", "wrong"),
        ("", "not written such as"),
        ("{0} or 1.0 t, 2.0 %", "not written such as"),
        ("about {0}", "not written such as"),
    ],
)
def test_a_wrong_answer_is_found(given: Path, results: Path, text: str, says: str) -> None:
    answer = (results / "answer.txt").read_text().strip()
    (results / "answer.txt").write_text(text.format(answer))
    found = wrong(check(given, results))
    assert list(found) == ["answer.txt"]
    assert says in found["answer.txt"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GIF89a", "not a PNG"),
        (png()[:-20], "cut off"),
        (png().replace(b"IDAT", b"IDAX"), "checksum"),
        (png(20, 20), "no sensible size"),
        (png(blank=True), "blank"),
    ],
)
def test_a_bad_picture_is_found(given: Path, results: Path, data: bytes, says: str) -> None:
    (results / "plot.png").write_bytes(data)
    assert says in wrong(check(given, results))["plot.png"]
    answer = (results / "answer.txt").read_text()
    (results / "report.html").write_text(page(answer, data))
    assert says in wrong(check(given, results))["report.html"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<p>{0}</p>", "embeds no plot"),
        ("<style>{0}</style>", "does not hold the load"),
        ('<p>{0}</p><img src="plot.png">', "needs another file"),
        ('<link href="http://127.0.0.1/x.css"><p>{0}</p>', "needs another file"),
        ('<p>{0}</p><img src="data:image/png;base64,!!">', "embeds a picture that"),
    ],
)
def test_a_bad_report_is_found(given: Path, results: Path, text: str, says: str) -> None:
    answer = (results / "answer.txt").read_text().strip()
    (results / "report.html").write_text(text.format(answer))
    assert says in wrong(check(given, results))["report.html"]


def test_missing_and_linked_results_are_found(given: Path, results: Path, tmp_path: Path) -> None:
    (results / "answer.txt").rename(tmp_path / "answer.txt")
    (results / "answer.txt").symlink_to(tmp_path / "answer.txt")
    (results / "plot.png").unlink()
    found = wrong(check(given, results))
    assert found == {"answer.txt": "is not there", "plot.png": "is not there"}


@pytest.mark.parametrize("damage", ["missing", "text", "rules", "empty"])
def test_inputs_that_cannot_be_understood_are_one_error(given: Path, damage: str) -> None:
    if damage == "missing":
        (given / "rain.csv").unlink()
    elif damage == "text":
        edit(given / "stage.csv", r"2023-10-03,\S+", "2023-10-03,high")
    elif damage == "rules":
        edit(given / "station_manual.md", r"Break: h", "Break: about")
    else:
        (given / "nitrate.csv").write_text("bottle,date,nitrate_mg_l\n")
    with pytest.raises(TaskError):
        compute(given)


# -- script and server --------------------------------------------------------------------------


def observed(**answers: str) -> list[Json]:
    """Return a conversation in which the tools answered so."""
    return [
        {"role": "user", "content": "the task"},
        *({"role": "tool", "tool_call_id": k, "content": v} for k, v in answers.items()),
    ]


def test_the_script_begins_by_looking() -> None:
    reply = script.reply(observed(), PLACES)
    assert [call.name for call in reply.calls] == ["execute_bash"]
    assert PLACES.input_dir in str(reply.calls[0].arguments["command"])


def test_the_script_cannot_be_led_by_empty_answers() -> None:
    reply = script.reply(observed(look="Exit code: 0\n[STDOUT]\n(no output)"), PLACES)
    assert not reply.calls
    assert "cannot go on" in reply.text


def test_the_script_goes_on_from_any_point_of_a_conversation() -> None:
    answers = {"look": "Exit code: 0\n[STDOUT]\n  88 station_manual.md\n 90 total"}
    reply = script.reply(observed(**answers), PLACES)
    assert "88 lines" in reply.text
    assert [call.id for call in reply.calls] == ["heads", "headings"]


def test_the_script_says_when_two_ways_disagree() -> None:
    run = "Exit code: 0\n[STDOUT]\nload 5.000000 t\nstorm share 6.000000 %"
    names = ("look", "heads", "headings", "rating", "rules", "log", "odd", "write")
    answers = dict.fromkeys(names, "") | {
        "run": run, "second": "", "second-run": run.replace("5.0", "5.1")
    }  # fmt: skip
    reply = script.reply(observed(**answers), PLACES)
    assert "disagree" in reply.text
    assert not reply.calls


def ask(server: ScriptServer, body: object, path: str = "/v1/chat/completions") -> tuple[int, Json]:
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc, timeout=10)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def request(**changed: object) -> Json:
    return {"model": MODEL, "messages": observed(), "tools": tools.schemas()} | changed


def test_the_server_answers_as_openai_does() -> None:
    with ScriptServer(PLACES) as server:
        status, answer = ask(server, request())
    assert status == 200
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]
    assert call["type"] == "function"
    assert "command" in json.loads(call["function"]["arguments"])
    assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no JSON"),
        ([], "object"),
        (request(model="gpt"), "only model"),
        (request(stream=True), "stream"),
        (request(messages="hello"), "list of objects"),
        (request(tools=tools.schemas()[:1]), "needs the tools"),
    ],
    ids=["torn", "list", "model", "stream", "messages", "tools"],
)
def test_the_server_refuses_what_is_no_agents_request(body: object, says: str) -> None:
    with ScriptServer(PLACES) as server:
        status, answer = ask(server, body)
    assert status == 400
    assert says in answer["error"]["message"]


def test_the_server_knows_no_other_path() -> None:
    with ScriptServer(PLACES) as server:
        assert ask(server, request(), "/v1/responses")[0] == 404
