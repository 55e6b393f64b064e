"""`sandbox-lite bench demo`: real sandboxes, real files and their graders, a scripted model.

The model is right in some episodes and wrong in others, by the conversation it is in. All that is
expected is worked out here by hand, from the tables below.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from sandbox_lite.bench import data, tasks
from tests.demo_answers import FILES, PROGRAMS, TEXTS, WRONG_PROGRAMS, WRONG_TEXTS
from tests.installed import Ended, Installed, ended, first_processes, until
from tests.model_server import ModelServer, Scripted, refuses, says

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

pytestmark = pytest.mark.timeout(240)

STATEMENTS = {row.id: row.problem_statement.strip() for row in data.load(tasks.find("demo")).rows}
ORDER = list(STATEMENTS)

#                 with a computer            alone
RIGHT = {"sandbox": {"trip", "poster", "animation", "chem", "physics", "math", "documents"},
         "plain": {"chem", "biomed"}}  # fmt: skip
"""Of ten with a computer seven; of six alone two. Of the six that are tried both ways the computer
is better on physics, math and documents, and worse on biomed."""

EXPECTED = {("sandbox", name): float(name in RIGHT["sandbox"]) for name in STATEMENTS} | {
    ("plain", name): float(name in RIGHT["plain"]) for name in TEXTS
}


def name_of(request: dict[str, Any]) -> str:
    text = "\n".join(str(message["content"]) for message in request["messages"])
    (found,) = (name for name, statement in STATEMENTS.items() if statement in text)
    return found


def turn_of(request: dict[str, Any]) -> int:
    return sum(message["role"] == "assistant" for message in request["messages"])


def usage(name: str, turn: int) -> tuple[int, int]:
    """Prompts grow by 200 a turn."""
    number = ORDER.index(name)
    return 1000 + number + 200 * turn, 50 + number


def conversation(request: dict[str, Any]) -> Scripted:
    """Alone: one message. With a computer: a program or an answer, for files a look, submit."""
    name, turn = name_of(request), turn_of(request)
    if "tools" not in request:
        text = (TEXTS if name in RIGHT["plain"] else WRONG_TEXTS)[name]
        return says(f"Step by step.\n\nANSWER:\n{text}", usage=usage(name, 0))
    right = name in RIGHT["sandbox"]
    if name in FILES:
        program = (PROGRAMS if right else WRONG_PROGRAMS)[name]
        make = f"cd /testbed/output && python3 - <<'PROGRAM'\n{program}\nPROGRAM\n"
        commands = [f"{make}echo {FILES[name]} > answer.txt", f"wc -c {FILES[name]}"]
    else:
        text = (TEXTS if right else WRONG_TEXTS)[name]
        commands = [f"cat > /testbed/output/answer.txt <<'ANSWER'\n{text}\nANSWER"]
    if turn < len(commands):
        return says(None, ("execute_bash", {"command": commands[turn]}), usage=usage(name, turn))
    return says(None, ("submit", {}), usage=usage(name, turn))


@pytest.fixture
def cli(rootfs_home: Path, tmp_path: Path) -> Installed:
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
    common = ("--mode", "both", "--out", "out", "--base-url", server.base_url)
    return cli.start("bench", "demo", *common, *words)


def finished(process: subprocess.Popen[bytes]) -> Ended:
    return ended(process, seconds=100)


def lines(cli: Installed, where: str = "out") -> list[dict[str, Any]]:
    text = (cli.directory / where / "episodes.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def results(cli: Installed, where: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cli.directory / where / "results.json").read_text())
    return found


def check_whole(cli: Installed, where: str = "out") -> None:
    """Compare scores, statistics and tokens with what is worked out by hand."""
    scores = {(line["mode"], line["row"]): line["score"]["value"] for line in lines(cli, where)}
    assert scores == EXPECTED
    found = results(cli, where)
    assert found["complete"]
    domain = found["statistics"]["domains"]["demo"]
    check_interval(domain["modes"]["sandbox"], [1] * 7 + [0] * 3)
    check_interval(domain["modes"]["plain"], [1] * 2 + [0] * 4)
    compared = domain["comparison"]
    assert compared["method"] == "mcnemar"
    # the four that make files have no partner, and are in no pair
    assert (compared["better"], compared["worse"], compared["unpaired"]) == (3, 1, 4)
    check_interval(compared["difference"], [1, 1, 1, -1, 0, 0])
    # 4 differ: twice the chance of at most one of four fair coins, 2 (1 + 4) / 16
    assert compared["p_value"] == pytest.approx(10 / 16)
    assert domain["adjusted_p_value"] == compared["p_value"]
    assert found["score"] == {"sandbox": pytest.approx(0.7), "plain": pytest.approx(1 / 3)}
    check_tokens(found["spent"]["demo"])


def check_interval(found: dict[str, Any], values: list[int]) -> None:
    """Compare with the exact distribution of the sum of as many values drawn with repetition."""
    count = len(values)
    chances = {0: Fraction(1)}
    for _ in values:
        after: dict[int, Fraction] = {}
        for total, chance in chances.items():
            for value in values:
                after[total + value] = after.get(total + value, Fraction(0)) + chance / count
        chances = after
    assert sum(chances.values()) == 1

    def quantile(share: Fraction) -> int:
        so_far = Fraction(0)
        for total in sorted(chances):
            so_far += chances[total]
            # no bound is so near that 10,000 draws could miss it
            assert abs(so_far - share) > Fraction(3, 2000)
            if so_far > share:
                return total
        raise AssertionError(share)

    assert found["problems"] == count
    assert found["mean"] == pytest.approx(sum(values) / count)
    assert found["low"] == pytest.approx(quantile(Fraction(25, 1000)) / count)
    assert found["high"] == pytest.approx(quantile(Fraction(975, 1000)) / count)


def check_tokens(spent: dict[str, Any]) -> None:
    """Numbers of the rows are 0 to 9; the files are 0 to 3, the texts 4 to 9."""
    files, texts = sum(range(4)), sum(range(4, 10))
    plain, sandbox = spent["plain"], spent["sandbox"]
    assert (plain["episodes"], plain["turns"]) == (6, 6)
    assert plain["tokens"]["prompt"] == 6 * 1000 + texts
    assert plain["tokens"]["completion"] == 6 * 50 + texts
    assert (sandbox["episodes"], sandbox["turns"]) == (10, 4 * 3 + 6 * 2)
    # three turns for a file: 1000, 1200, 1400; two for a text: 1000, 1200
    assert sandbox["tokens"]["prompt"] == 4 * 3600 + 3 * files + 6 * 2200 + 2 * texts
    assert sandbox["tokens"]["completion"] == 24 * 50 + 3 * files + 2 * texts
    # each of 2 * 4 + 6 further prompts is 200 longer, of which the model wrote 50 and its number
    assert sandbox["tokens"]["environment"] == 14 * (200 - 50) - 2 * files - texts


def check_artefacts(cli: Installed) -> None:
    """What was made is beside the trajectory, as it was when it was graded."""
    made = {line["row"]: line for line in lines(cli) if line["artefact"]}
    assert made.keys() == FILES.keys()
    folder = cli.directory / "out"
    for name, line in made.items():
        kept, content = line["artefact"], (folder / line["artefact"]["file"]).read_bytes()
        assert kept["file"] == f"trajectories/demo/{name}.sandbox.1.{FILES[name]}"
        assert (folder / kept["file"]).parent == (folder / line["trajectory"]).parent
        assert kept["size_bytes"] == len(content)
        assert kept["sha256"] == hashlib.sha256(content).hexdigest()
        assert line["answer"]["text"] == f"{FILES[name]}\n"


def test_scores_tokens_and_statistics_are_those_of_a_hand_calculation(cli: Installed) -> None:
    with ModelServer(conversation) as server:
        result = finished(start(cli, server))
    assert result.code == 0, result.err
    check_whole(cli)
    check_artefacts(cli)
    assert len(server.requests) == 24 + 6
    assert results(cli)["counts"]["retried"] == {}
    about = results(cli)["tasks"]["demo"]["data"]
    assert (about["name"], about["config"], about["revision"]) == ("sandbox-lite", "demo", "1")
    told = json.dumps(server.requests)
    for truth in ("ground_truth", "closed_on", "frame_seconds", "graded_by"):
        assert truth not in told
    # without a model the same answers and files have the same scores, once more from there
    again = finished(cli.start("bench", "regrade", "out", "--out", "again"))
    assert again.code == 0, again.err
    check_whole(cli, "again")
    third = finished(cli.start("bench", "regrade", "again", "--out", "third"))
    assert third.code == 0, third.err
    check_whole(cli, "third")


def test_killed_half_way_and_started_again_it_gives_the_same(cli: Installed) -> None:
    held = [True]

    def slow(request: dict[str, Any]) -> Scripted:
        if held and name_of(request) == "physics":
            return Scripted(hang=True)
        return conversation(request)

    with ModelServer(slow) as server:
        process = start(cli, server, "--concurrency", "1")
        # four files, and two texts both ways
        until(
            lambda: bool(server.requests) and name_of(server.requests[-1]) == "physics",
            seconds=100,
        )
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
        assert len(lines(cli)) == 4 + 2 * 2
        path = cli.directory / "out" / "episodes.jsonl"
        with path.open("a") as file:
            file.write('{"task": "demo", "row": "phys')  # as if it had been killed then
        held.clear()
        before = len(server.requests)
        result = finished(start(cli, server))
    assert result.code == 0, result.err
    assert "8 of 16 episodes to do" in result.err
    assert len(server.requests) - before == 4 * 3
    check_whole(cli)
    check_artefacts(cli)


def test_faults_of_server_and_machine_change_no_score_and_are_listed(cli: Installed) -> None:
    """Of 30 requests 2 fail, more than 5 %; and two sandboxes are killed."""
    failing = {("animation", 1, True), ("biomed", 0, False)}
    killing = {("tune", 1, True), ("math", 0, True)}
    killed: list[int] = []

    def spoiling(request: dict[str, Any]) -> Scripted:
        which = (name_of(request), turn_of(request), "tools" in request)
        if which in failing:
            failing.remove(which)
            return refuses(500, "injected")
        if which in killing:
            killing.remove(which)
            pids = first_processes(process.pid)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed.extend(pids)
        return conversation(request)

    with ModelServer(spoiling) as server:
        process = start(cli, server, "--concurrency", "1")
        result = finished(process)
    assert result.code == 0, result.err
    assert len(killed) >= 2
    check_whole(cli)
    check_artefacts(cli)
    counts = results(cli)["counts"]
    assert (counts["faults"], counts["fault_share"]) == (0, 0.0)
    assert counts["retried"] == {"model_error": 2, "sandbox_error": 2}
    listed = {
        (line["row"], line["mode"]): [fault["stop"] for fault in line["faults"]]
        for line in lines(cli)
        if line["faults"]
    }
    assert listed == {
        ("animation", "sandbox"): ["model_error"],
        ("biomed", "plain"): ["model_error"],
        ("tune", "sandbox"): ["sandbox_error"],
        ("math", "sandbox"): ["sandbox_error"],
    }
    # what they took is counted apart: two prompts of the animation had no answer, of biomed none
    spoiled = results(cli)["spent"]["demo"]["sandbox"]["tokens"]["spoiled"]
    tokens = {name: [sum(usage(name, turn)) for turn in range(3)] for name in STATEMENTS}
    assert spoiled == tokens["animation"][0] + sum(tokens["tune"][:2]) + tokens["math"][0]


def test_what_is_no_file_scores_nothing_and_is_not_kept(cli: Installed) -> None:
    """A link to a right file, none at all, a directory, one that is longer than 4 MiB."""
    leave = {
        "trip": f"cd /tmp && python3 - <<'P'\n{PROGRAMS['trip']}\nP\n"
        "ln -s /tmp/trip.html /testbed/output/trip.html",
        "poster": "echo poster.svg > /testbed/output/answer.txt",
        "animation": "mkdir /testbed/output/ball.gif",
        "tune": "truncate -s 5M /testbed/output/tune.wav",
    }

    def leaving(request: dict[str, Any]) -> Scripted:
        if turn_of(request):
            return says(None, ("submit", {}))
        return says(None, ("execute_bash", {"command": leave[name_of(request)]}))

    with ModelServer(leaving) as server:
        process = start(cli, server, "--ids", ",".join(FILES))
        result = finished(process)
    assert result.code == 0, result.err
    found = {line["row"]: line for line in lines(cli)}
    reasons = {name: line["artefact"]["reason"] for name, line in found.items()}
    assert reasons == {
        "trip": "link", "poster": "missing", "animation": "directory", "tune": "huge"
    }  # fmt: skip
    assert {line["score"]["value"] for line in found.values()} == {0.0}
    assert "longer than 4194304 bytes" in found["tune"]["artefact"]["text"]
    kept = {path.suffix for path in (cli.directory / "out" / "trajectories").rglob("*.*")}
    assert kept == {".jsonl"}


def test_what_is_left_running_does_not_change_a_file(cli: Installed) -> None:
    """The tune is wrong when the model submits; a process would make it right soon afterwards."""
    late = "sleep 0.5; cd /testbed/output; while :; do python3 /tmp/right.py; done"
    commands = (
        f"cat > /tmp/right.py <<'P'\n{PROGRAMS['tune']}\nP\ncd /testbed/output; "
        f"head -c 100 /dev/urandom > tune.wav; nohup setsid bash -c '{late}' >/dev/null 2>&1 &"
    )

    def leaving(request: dict[str, Any]) -> Scripted:
        if turn_of(request):
            return says(None, ("submit", {}))
        return says(None, ("execute_bash", {"command": commands}))

    with ModelServer(leaving) as server:
        result = finished(start(cli, server, "--ids", "tune"))
    assert result.code == 0, result.err
    (line,) = lines(cli)
    assert (line["score"]["value"], line["artefact"]["size_bytes"]) == (0.0, 100)


def test_the_command_says_what_makes_no_sense(cli: Installed) -> None:
    for word in ("--no-files", "--no-exec"):
        refused = cli.run("bench", "demo", "--ids", "tune", "--model", "m", word)
        assert refused.code == 2
        assert "ask for a file" in refused.err
    result = cli.run("bench", "demo", "--mode", "plain", "--ids", "tune", "--model", "m")
    assert result.code == 2
    message, hint = result.one_error()
    assert "ask for files, and need a computer" in message
    assert "--mode sandbox" in hint


def test_math_is_right_here() -> None:
    """The bounds of the interval of seven of ten, by the binomial distribution."""
    chances = [math.comb(10, k) * 0.7**k * 0.3 ** (10 - k) for k in range(11)]
    assert sum(chances[:4]) < 0.025 < sum(chances[:5])
    assert sum(chances[:10]) < 0.975
