"""`sandbox-lite bench`: real sandboxes and graders, a scripted model; every way to end."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.installed import Ended, Installed, ended, first_processes, interrupted, until
from tests.model_server import ModelServer, Scripted, refuses, says
from tests.pages import Page, check_harmless

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

TRUTHS = {1: 11, 2: 12, 3: 13, 4: 14}
RIGHT = {"sandbox": {1, 2, 3}, "plain": {1, 4}}
"""Problems that the scripted model solves."""
SANDBOX_TOKENS = (100 + 10) + (150 + 20)
PLAIN_TOKENS = 30 + 7


def answer(number: int, mode: str) -> int:
    return TRUTHS[number] + (number not in RIGHT[mode])


def number_of(request: dict[str, Any]) -> int:
    text = json.dumps(request["messages"])
    found = re.search(r"number (\d+)\.", text)
    assert found is not None
    return int(found[1])


def conversation(request: dict[str, Any]) -> Scripted:
    """Answer by what was said before, of whatever problem."""
    number = number_of(request)
    if "tools" not in request:
        return says(f"It is \\boxed{{{answer(number, 'plain')}}}.", usage=(30, 7))
    if not any(message["role"] == "assistant" for message in request["messages"]):
        command = f"echo '\\boxed{{{answer(number, 'sandbox')}}}' > {answer_path(request)}"
        return says(None, ("execute_bash", {"command": command}), usage=(100, 10))
    return says(None, ("submit", {}), usage=(150, 20))


def answer_path(request: dict[str, Any]) -> str:
    found = re.search(r"/[\w/]+/answer\.txt", json.dumps(request["messages"]))
    assert found is not None
    return found[0]


@pytest.fixture
def cli(rootfs_home: Path, tmp_path: Path) -> Installed:
    rows = [
        {"id": f"p{n}", "problem_statement": f"This is number {n}.", "ground_truth": str(truth)}
        for n, truth in TRUTHS.items()
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    return Installed(
        home=rootfs_home,
        directory=tmp_path,
        variables={
            "SANDBOX_LITE_ROOTFS": "minimal",
            "SANDBOX_LITE_MODEL": "scripted",
            "SANDBOX_LITE_MODEL_RETRIES": "0",
            "SANDBOX_LITE_NETWORK": "none",
        },
    )


def start(cli: Installed, server: ModelServer, *words: str) -> subprocess.Popen[bytes]:
    common = ("--data", "rows.jsonl", "--out", "out", "--base-url", server.base_url)
    return cli.start("bench", "math", *common, *words)


def bench(
    cli: Installed, script: Callable[[dict[str, Any]], Scripted], *words: str
) -> tuple[Ended, list[dict[str, Any]]]:
    with ModelServer(script) as server:
        return ended(start(cli, server, *words)), server.requests


def lines(cli: Installed, where: str = "out") -> list[dict[str, Any]]:
    text = (cli.directory / where / "episodes.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def results(cli: Installed, where: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cli.directory / where / "results.json").read_text())
    return found


def scores(cli: Installed) -> dict[tuple[str, str, int], float | None]:
    return {
        (line["mode"], line["row"], line["repeat"]): line["score"] and line["score"]["value"]
        for line in lines(cli)
    }


EXPECTED = {
    (mode, f"p{n}", 1): float(n in RIGHT[mode]) for mode in ("sandbox", "plain") for n in TRUTHS
}


def check_whole(cli: Installed) -> None:
    """Compare with a calculation by hand: 3 of 4 against 2 of 4, better on 2, worse on 1."""
    assert scores(cli) == EXPECTED
    found = results(cli)
    assert found["complete"]
    domain = found["statistics"]["domains"]["math"]
    means = {mode: one["mean"] for mode, one in domain["modes"].items()}
    assert means == {"sandbox": 0.75, "plain": 0.5}
    compared = domain["comparison"]
    assert (compared["better"], compared["worse"], compared["unpaired"]) == (2, 1, 0)
    assert (compared["method"], compared["p_value"]) == ("mcnemar", 1.0)
    assert compared["difference"]["mean"] == 0.25
    spent = found["spent"]["math"]
    totals = {mode: one["tokens"] for mode, one in spent.items()}
    assert (totals["plain"]["prompt"], totals["plain"]["completion"]) == (4 * 30, 4 * 7)
    assert (totals["sandbox"]["prompt"], totals["sandbox"]["completion"]) == (4 * 250, 4 * 30)
    # the second prompt less the first and its completion
    assert totals["sandbox"]["environment"] == 4 * (150 - 100 - 10)
    assert (spent["sandbox"]["turns"], spent["plain"]["turns"]) == (8, 4)


def test_scores_and_tokens_are_those_of_a_hand_calculation(cli: Installed) -> None:
    result, requests = bench(cli, conversation)
    assert result.code == 0, result.err
    check_whole(cli)
    assert "math sandbox: 0.750" in result.text
    assert len(requests) == 4 * 3
    assert {line["domain"] for line in lines(cli)} == {"math"}
    found = results(cli)
    assert found["enforcement"]["network"] == "none"
    assert found["experiment"]["sandbox"]["rootfs"].startswith("minimal sha256:")
    assert found["experiment"]["tasks"]["math"]["prompts"] == "ours"
    assert found["experiment"]["scorer"] == "default"
    for line in lines(cli):
        assert (cli.directory / "out" / line["trajectory"]).is_file()
    assert found["throughput"]["episodes"] == 8
    assert found["throughput"]["episodes_per_second"] > 0
    spent = found["spent"]["math"]
    assert {one["cost"] for one in spent.values()} == {"unknown"}
    used = {"calls": 4, "network": 0, "files": 4, "computation": 0, "other": 0}
    assert spent["sandbox"]["tool_use"] == used
    assert not any(spent["plain"]["tool_use"].values())
    # an answer of a few bytes takes a page, and nothing is written but that and directories
    assert 0 < spent["sandbox"]["disk_bytes"]["most"] < 2**20
    assert spent["sandbox"]["disk_bytes"]["sandboxes"] == 4
    assert spent["plain"]["memory_bytes"] == spent["plain"]["disk_bytes"] == "unknown"


def test_nothing_begins_when_the_cost_is_reached(cli: Installed) -> None:
    """One token of the prompt costs 1 here, one of the answer 2: 30 and 14 an episode."""
    (cli.directory / "prices.toml").write_text(
        'currency = "beads"\n[models.scripted]\nprompt = 1e6\ncompletion = 2e6\n'
    )
    words = ("--mode", "plain", "--concurrency", "1", "--prices", "prices.toml", "--max-cost")
    with ModelServer(conversation) as server:
        result = ended(start(cli, server, *words, "80"))
        assert result.code == 0, result.err
        assert "--max-cost is reached, and 2 episodes were not begun" in result.err
        assert len(server.requests) == len(lines(cli)) == 2
        assert results(cli)["spent"]["math"]["plain"]["cost"] == 88
        # a second start goes on counting
        assert ended(start(cli, server, *words, "80")).code == 0
        assert len(server.requests) == len(lines(cli)) == 2
        assert results(cli)["throughput"]["episodes"] == 2, "that of the last start that did any"
        result = ended(start(cli, server, *words, "1000"))
        assert (result.code, len(server.requests)) == (0, 4)
    assert "176 beads" in result.text
    found = results(cli)
    assert (found["complete"], found["spent"]["math"]["plain"]["cost"]) == (True, 176)
    assert found["price"] == {"prompt": 1e6, "completion": 2e6, "currency": "beads"}
    again = cli.run("bench", "regrade", "out", "--scorer", "paper")
    assert again.code == 0, again.err
    assert "176 beads" in again.text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--max-cost", "1"), "give --prices FILE"),
        (("--prices", "none.toml"), "cannot read the prices"),
        (("--prices", "rows.jsonl"), "holds no prices"),
        (("--prices", "others.toml", "--max-cost", "1"), "has no price of 'scripted', but of m"),
    ],
)
def test_a_bound_of_cost_needs_a_price(cli: Installed, words: tuple[str, ...], told: str) -> None:
    (cli.directory / "others.toml").write_text("[models.m]\nprompt = 1\ncompletion = 1\n")
    result, requests = bench(cli, conversation, *words)
    assert (result.code, requests) == (2, [])
    assert told in result.err
    assert not (cli.directory / "out").exists()


def test_the_truth_is_nowhere_in_what_the_model_is_told(cli: Installed) -> None:
    """The data has a truth that no answer, prompt or file may hold."""
    secret = "731946"
    row = {"id": "p1", "problem_statement": "This is number 1.", "ground_truth": secret}
    (cli.directory / "rows.jsonl").write_text(json.dumps(row))

    def looks(request: dict[str, Any]) -> Scripted:
        if any(message["role"] == "tool" for message in request["messages"]):
            return says(None, ("submit", {}))
        look = f"grep -rsl {secret} / --exclude-dir=proc --exclude-dir=sys; cat /proc/*/environ"
        return says(None, ("execute_bash", {"command": look}))

    result, requests = bench(cli, looks, "--mode", "sandbox")
    assert result.code == 0, result.err
    # the second request holds the command itself, and nothing that it found
    told = [one for one in requests[-1]["messages"] if one["role"] != "assistant"]
    assert secret not in json.dumps(told)


def test_a_second_start_does_the_rest_of_one_that_was_killed(cli: Installed) -> None:
    held = {"sandbox p3": True}

    def slow(request: dict[str, Any]) -> Scripted:
        if held and number_of(request) == 3 and "tools" in request:
            return Scripted(hang=True)
        return conversation(request)

    with ModelServer(slow) as server:
        process = start(cli, server, "--concurrency", "1")
        path = cli.directory / "out" / "episodes.jsonl"
        until(lambda: path.exists() and path.read_text().count("\n") == 4)
        until(lambda: number_of(server.requests[-1]) == 3)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        psutil.wait_procs(children, timeout=10)
        with path.open("a") as file:
            file.write('{"task": "math", "row": "p3", "mo')  # as if it had been killed then
        held.clear()
        before = len(server.requests)
        result = ended(start(cli, server, "--concurrency", "1"))
        assert result.code == 0, result.err
        assert "4 of 8 episodes to do" in result.err
        assert len(server.requests) - before == 2 * 3
        check_whole(cli)
        # nothing is left, and nothing is asked
        again = ended(start(cli, server))
        assert (again.code, len(server.requests) - before) == (0, 2 * 3)
        check_whole(cli)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--model", "another"), "model.model was scripted, and is another"),
        (("--temperature", "0.5"), "model.temperature was None, and is 0.5"),
        (("--max-steps", "3"), "limits.steps was 100, and is 3"),
        (("--limit", "1"), "tasks.math.rows"),
        (("--scorer", "paper"), "scorer was default, and is paper"),
        (("--memory", "1GiB"), "sandbox.memory was None, and is 1GiB"),
    ],
)
def test_another_experiment_is_refused(cli: Installed, words: tuple[str, ...], what: str) -> None:
    with ModelServer(conversation) as server:
        first = ended(start(cli, server, "--mode", "sandbox", "--ids", "p1,p2"))
        assert first.code == 0, first.err
        asked = len(server.requests)
        second = ended(start(cli, server, "--mode", "sandbox", "--ids", "p1,p2", *words))
        assert second.code == 2, second.err
        assert what in second.err
        assert len(server.requests) == asked


def test_another_row_is_refused(cli: Installed) -> None:
    with ModelServer(conversation) as server:
        assert ended(start(cli, server, "--mode", "plain")).code == 0
        path = cli.directory / "rows.jsonl"
        path.write_text(path.read_text().replace('"14"', '"15"'))
        second = ended(start(cli, server, "--mode", "plain"))
    assert second.code == 2
    assert "tasks.math.rows_digest" in second.err


def test_faults_of_the_server_are_retried_and_change_no_score(cli: Installed) -> None:
    failed: set[tuple[int, bool]] = set()

    def failing(request: dict[str, Any]) -> Scripted:
        which = (number_of(request), "tools" in request)
        if which not in failed and which[0] in (2, 4):
            failed.add(which)
            return refuses(500, "injected")
        return conversation(request)

    result, _ = bench(cli, failing)
    assert result.code == 0, result.err
    check_whole(cli)
    counts = results(cli)["counts"]
    assert (counts["faults"], counts["retried"]) == (0, {"model_error": 4})
    retried = {line["row"] for line in lines(cli) if line["faults"]}
    assert retried == {"p2", "p4"}


def test_faults_that_stay_are_counted_and_not_scored(cli: Installed) -> None:
    down = {2}

    def failing(request: dict[str, Any]) -> Scripted:
        if number_of(request) in down:
            return refuses(500, "injected")
        return conversation(request)

    with ModelServer(failing) as server:
        result = ended(start(cli, server, "--mode", "sandbox", "--retries", "1"))
        assert result.code == 1
        assert "25.0% of the episodes ended in faults" in result.err
        found = results(cli)
        assert found["statistics"]["domains"]["math"]["modes"]["sandbox"]["mean"] == 2 / 3
        assert not found["complete"]
        (fault,) = found["counts"]["fault_list"]
        assert (fault["row"], fault["stop"]) == ("p2", "model_error")
        assert "injected" in fault["message"]
        (line,) = (line for line in lines(cli) if line["row"] == "p2")
        assert (line["score"], line["answer"], len(line["faults"])) == (None, None, 2)
        # a second start tries it anew
        down.clear()
        again = ended(start(cli, server, "--mode", "sandbox", "--retries", "1"))
    assert again.code == 0, again.err
    assert results(cli)["statistics"]["domains"]["math"]["modes"]["sandbox"]["mean"] == 0.75
    # what was spoiled before was billed, and is told of still
    assert results(cli)["counts"]["retried"] == {"model_error": 2}


def test_a_killed_sandbox_is_a_fault_and_another_takes_its_place(cli: Installed) -> None:
    killed: list[int] = []

    def killing(request: dict[str, Any]) -> Scripted:
        if number_of(request) == 1 and not killed:
            for pid in first_processes(process.pid):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        return conversation(request)

    with ModelServer(killing) as server:
        process = start(cli, server, "--mode", "sandbox", "--concurrency", "1")
        result = ended(process)
    assert killed
    assert result.code == 0, result.err
    assert results(cli)["counts"]["retried"] == {"sandbox_error": 1}
    modes = results(cli)["statistics"]["domains"]["math"]["modes"]
    assert modes["sandbox"]["mean"] == 0.75


@pytest.mark.parametrize(
    "leave",
    [
        "nohup setsid sh -c 'sleep 0.5; while :; do echo {right} > {path}; done' &",
        "echo 'echo {right} > {path}' >> ~/.bashrc; trap 'echo {right} > {path}' EXIT TERM HUP",
    ],
)
def test_what_is_left_behind_gains_nothing(cli: Installed, leave: str) -> None:
    """Its answer is wrong when it submits; what it left would make it right later."""

    def leaving(request: dict[str, Any]) -> Scripted:
        if any(message["role"] == "assistant" for message in request["messages"]):
            return says(None, ("submit", {}))
        path, right = answer_path(request), TRUTHS[number_of(request)]
        command = f"echo 999 > {path}; {leave.format(path=path, right=right)}"
        return says(None, ("execute_bash", {"command": command}))

    result, _ = bench(cli, leaving, "--mode", "sandbox")
    assert result.code == 0, result.err
    assert set(scores(cli).values()) == {0.0}
    assert {line["answer"]["text"] for line in lines(cli)} == {"999\n"}


def test_a_full_context_is_the_models_failure(cli: Installed) -> None:
    full = refuses(400, "too long", code="context_length_exceeded")
    result, _ = bench(cli, lambda _: full)
    assert result.code == 0, result.err
    assert set(scores(cli).values()) == {0.0}
    assert results(cli)["counts"]["stops"] == {"context_full": 8}


def test_an_answer_at_a_limit_is_graded(cli: Installed) -> None:
    result, _ = bench(cli, conversation, "--mode", "sandbox", "--max-steps", "1")
    assert result.code == 0, result.err
    assert results(cli)["counts"]["stops"] == {"step_limit": 4}
    assert results(cli)["score"] == {"sandbox": 0.75}


def test_ctrl_c_leaves_a_usable_result(cli: Installed) -> None:
    held = [True]

    def slow(request: dict[str, Any]) -> Scripted:
        if held and number_of(request) > 2:
            return says(None, ("execute_bash", {"command": "sleep 100"}))
        return conversation(request)

    with ModelServer(slow) as server:
        process = start(cli, server, "--mode", "sandbox", "--concurrency", "1")
        until(lambda: bool(server.requests) and number_of(server.requests[-1]) == 3)
        result = interrupted(process)
        assert result.code == 130, result.err
        found = results(cli)
        assert (found["complete"], found["left"]) == (False, 2)
        assert found["score"] == {"sandbox": 1.0}
        assert "2 episodes are left" in result.text
        assert "Not complete: 2 episodes are left" in read_page(cli, "out/report.html").text
        held.clear()
        again = ended(start(cli, server, "--mode", "sandbox"))
    assert again.code == 0, again.err
    assert results(cli)["score"] == {"sandbox": 0.75}


def test_without_commands_there_is_the_editor(cli: Installed) -> None:
    """The model asks for a command all the same, by either name: nothing is run."""

    def editing(request: dict[str, Any]) -> Scripted:
        said = sum(message["role"] == "assistant" for message in request["messages"])
        path, number = answer_path(request), number_of(request)
        calls: list[tuple[str, object]] = [
            ("execute_bash", {"command": f"echo {TRUTHS[number]} > {path}"}),
            ("bash", {"command": f"echo {TRUTHS[number]} > {path}"}),
        ]
        if number in RIGHT["sandbox"]:
            text = str(TRUTHS[number])
            made = {"command": "create", "path": path, "file_text": text}
            calls.append(("str_replace_editor", made))
        calls.append(("submit", {}))
        return says(None, calls[said])

    result, requests = bench(cli, editing, "--mode", "sandbox", "--no-exec")
    assert result.code == 0, result.err
    names = {tool["function"]["name"] for one in requests for tool in one["tools"]}
    assert names == {"str_replace_editor", "submit"}
    assert results(cli)["score"] == {"sandbox": 0.75}
    found = results(cli)
    assert found["experiment"]["without_tools"] == ["execute_bash"]
    assert found["experiment"]["sandbox"]["programs"] is False
    assert found["enforcement"]["programs"] is False
    assert "the kernel starts nothing inside" in result.err
    again, _ = bench(cli, editing, "--mode", "sandbox")
    assert again.code == 2
    assert "another" in again.err or "differ" in again.err


def test_without_files_the_answer_is_all_that_can_be_written(cli: Installed) -> None:
    """Documents are in the prompt, and a model finds no other place to write to."""
    documents = {"sub/facts.txt": "The moon is 384400 km away."}
    rows = [
        {"id": f"p{n}", "problem_statement": f"This is number {n}.", "ground_truth": str(truth),
         "domain": "math", "input_files": json.dumps(documents)}
        for n, truth in TRUTHS.items()
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (cli.directory / "rows.jsonl").write_text(text)

    def writing(request: dict[str, Any]) -> Scripted:
        said = sum(message["role"] == "assistant" for message in request["messages"])
        number, path = number_of(request), answer_path(request)
        work = "/testbed/work"
        calls: list[tuple[str, object]] = [
            ("execute_bash", {"command": f"mkdir {work} || touch /tmp/x || echo nowhere; "
                              f"echo {answer(number, 'sandbox')} > {path}; ls /testbed/documents"}),
            ("str_replace_editor", {"command": "create", "path": work, "file_text": "1"}),
            ("submit", {}),
        ]  # fmt: skip
        return says(None, calls[said])

    with ModelServer(writing) as server:
        words = ("--data", "rows.jsonl", "--out", "out", "--base-url", server.base_url)
        result = cli.run("bench", "context", *words, "--mode", "sandbox", "--no-files")
    assert result.code == 0, result.err
    found = results(cli)
    assert found["score"] == {"sandbox": 0.75}
    assert found["experiment"]["context"] == "prompt"
    assert found["experiment"]["sandbox"]["files"] == "the answer alone"
    assert found["enforcement"]["writable"] == ["/testbed/output/answer.txt"]
    last = [json.dumps(one["messages"]) for one in server.requests if len(one["messages"]) > 5]
    assert len(last) == 4
    for messages in last:
        assert "The moon is 384400 km away." in messages
        assert "nowhere" in messages
        assert messages.count("Read-only file system") >= 3
    refused = cli.run("bench", "context", *words, "--no-files", "--context", "files")
    assert refused.code == 2
    assert "no place but the prompt" in refused.err


def test_bounds_and_thresholds(cli: Installed) -> None:
    words = ("--mode", "plain", "--concurrency", "1", "--max-tokens-total", str(PLAIN_TOKENS + 1))
    result, requests = bench(cli, conversation, *words)
    assert (result.code, len(requests)) == (0, 2)
    assert "2 episodes were not begun" in result.err
    assert results(cli)["left"] == 2
    with ModelServer(conversation) as server:
        low = cli.run(
            "bench", "math", "--data", "rows.jsonl", "--out", "two", "--mode", "plain",
            "--fail-under", "0.6", "--base-url", server.base_url, "--json",
        )  # fmt: skip
    assert low.code == 1
    assert json.loads(low.text)["score"] == {"plain": 0.5}
    assert "the score is 0.500, below 0.6" in low.err


def test_answers_are_graded_again_without_a_model(cli: Installed) -> None:
    result, _ = bench(cli, conversation, "--repeats", "2")
    assert result.code == 0, result.err
    before = (cli.directory / "out" / "episodes.jsonl").read_bytes()
    again = cli.run("bench", "regrade", "out", "--scorer", "paper")
    assert again.code == 0, again.err
    found = results(cli, "out/regraded/paper")
    assert found["experiment"]["scorer"] == "paper"
    assert found["score"] == {"sandbox": 0.75, "plain": 0.5}
    assert {one["score"]["scorer"] for one in lines(cli, "out/regraded/paper")} == {"paper"}
    assert len(lines(cli, "out/regraded/paper")) == 16
    assert (cli.directory / "out" / "episodes.jsonl").read_bytes() == before


def read_page(cli: Installed, name: str) -> Page:
    path = cli.directory / name
    page = Page.of(path.read_text())
    check_harmless(page, below=path.parent)
    return page


def test_pages_show_what_happened(cli: Installed) -> None:
    """What a model made stands in frames, from the sandbox to the page."""
    attack = "</pre></iframe><script>alert(1)</script>"

    def attacking(request: dict[str, Any]) -> Scripted:
        if "tools" in request and request["messages"][-1]["role"] == "user":
            given = {"command": f"echo '{attack}'; printf '\\e[1mbold\\e]0;x\\a'"}
            return says(attack, ("execute_bash", given), usage=(50, 5))
        said = sum(message["role"] == "assistant" for message in request["messages"])
        if said == 1:
            answer = {"messages": request["messages"][:2], "tools": []}
            return conversation(answer)
        return conversation(request)

    result, _ = bench(cli, attacking)
    assert result.code == 0, result.err
    assert "report: out/report.html" in result.err
    page = read_page(cli, "out/report.html")
    assert "sandbox 0.750" in page.text
    assert "plain 0.500" in page.text
    assert attack not in page.text
    links = [str(one["href"]) for one in page.of_tag("a")]
    assert len(links) == 8
    shown = read_page(cli, f"out/{next(one for one in links if 'sandbox' in one)}")
    assert attack not in shown.text
    assert shown.frames[0].text.count(attack) >= 3  # said, asked for, and printed
    # graded again, it shows the same steps; made anew, it is the same
    assert cli.run("bench", "regrade", "out", "--scorer", "paper", "--out", "again").code == 0
    again = read_page(cli, "again/pages/math/p1.sandbox.1.html")
    assert again.frames[0].text.count(attack) >= 3
    before = (cli.directory / "out" / "report.html").read_bytes()
    (cli.directory / "out" / "report.html").unlink()
    assert cli.run("bench", "report", "out").code == 0
    assert (cli.directory / "out" / "report.html").read_bytes() == before
    compared = cli.run("bench", "report", "out", "again", "--out", "both.html")
    assert compared.code == 0, compared.err
    assert "warning: does not compare: scorer: default of" in compared.err
    assert "do not compare" in read_page(cli, "both.html").text
    run = "out/trajectories/math/p1.sandbox.1.jsonl"
    told = cli.run("view", run)
    assert told.code == 0, told.err
    assert attack in told.text
    assert cli.run("view", run, run, "--html", "side.html").code == 0
    assert len(read_page(cli, "side.html").frames) == 2
    wrong = cli.run("view", "rows.jsonl", "--html", "none.html")
    assert "is no trajectory" in wrong.one_error()[0]
    assert not (cli.directory / "none.html").exists()


def test_a_judge_comes_later(cli: Installed) -> None:
    rows = cli.directory / "rows.jsonl"

    def judge(request: dict[str, Any]) -> Scripted:
        text = json.dumps(request["messages"])
        check = re.findall(r"[0-9a-f]{16}", text)
        # the tags are chance, and may hold any digits
        said = re.sub(r"[0-9a-f]{16}", "", text)
        right = str(TRUTHS[number_of(request)]) in said and "999" not in said
        verdicts = [
            json.dumps({"verdict": "correct" if right else "incorrect", "reason": "", "check": c})
            for c in dict.fromkeys(check)
        ]
        return says("\n".join(verdicts))

    def model(request: dict[str, Any]) -> Scripted:
        number = number_of(request)
        return says(str(TRUTHS[number]) if number < 4 else "999")

    with ModelServer(model) as server:
        words = ("--mode", "plain", "--data", str(rows), "--out", "out")
        first = cli.run("bench", "long_context", *words, "--base-url", server.base_url)
    assert first.code == 0, first.err
    assert "needs a judge" in first.err
    assert "ungraded: 4" in first.text
    assert results(cli)["score"] == {}
    with ModelServer(judge) as server:
        named = ("--judge-model", "j", "--judge-base-url", server.base_url)
        second = cli.run("bench", "regrade", "out", *named, "--out", "judged")
    assert second.code == 0, second.err
    assert results(cli, "judged")["score"] == {"plain": 0.75}
    assert results(cli, "judged")["experiment"]["judge"]["model"] == "j"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("nothing",), "no task 'nothing'"),
        (("math", "--mode", "all"), "no mode 'all'"),
        (("math", "--data", "rows.jsonl", "--ids", "p9"), "no row 'p9'"),
        (("math", "chem", "--data", "rows.jsonl"), "for one task"),
        (("math", "--network", "web", "--no-network"), "contradict"),
        (("math", "--data", "rows.jsonl", "--prompts", "nowhere"), "no prompts 'nowhere'"),
    ],
)
def test_wrong_requests(cli: Installed, words: tuple[str, ...], what: str) -> None:
    result = cli.run("bench", *words)
    assert result.code == 2
    assert what in result.one_error()[0]
    assert not (cli.directory / "runs").exists()
