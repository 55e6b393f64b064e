"""`sandbox-lite run`: real sandbox, real client, a scripted server; every way to end."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pexpect
import pytest

from sandbox_lite.agent import trajectory
from tests.installed import PROGRAM, Ended, Installed, ended, interrupted
from tests.model_server import ModelServer, Scripted, refuses, says

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-test-0123456789abcdef"
SUBMIT = says("Done.", ("submit", {}))


def bash(command: str, text: str = "I run something.") -> Scripted:
    return says(text, ("execute_bash", {"command": command}))


ANSWER = bash("cat input/x.csv > output/copy; echo 42 > output/answer.txt")


@pytest.fixture
def cli(rootfs_home: Path, tmp_path: Path) -> Installed:
    return Installed(
        home=rootfs_home,
        directory=tmp_path,
        variables={
            "SANDBOX_LITE_ROOTFS": "minimal",
            "SANDBOX_LITE_MODEL": "scripted",
            "SANDBOX_LITE_MODEL_RETRIES": "0",
            "OPENAI_API_KEY": KEY,
        },
    )


def record(cli: Installed, where: str = "r") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cli.directory / where / "run.json").read_text())
    return found


def lines(cli: Installed, where: str = "r") -> list[dict[str, Any]]:
    text = (cli.directory / where / "trajectory.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def start(cli: Installed, server: ModelServer, *words: str) -> subprocess.Popen[bytes]:
    return cli.start("run", "Do it", "--base-url", server.base_url, "--run-dir", "r", *words)


def run(cli: Installed, *replies: Scripted, words: tuple[str, ...] = ()) -> Ended:
    with ModelServer(*replies) as server:
        return ended(start(cli, server, *words))


def test_a_task_is_solved(cli: Installed, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_bytes(b"a,b\0\n")
    result = run(cli, ANSWER, SUBMIT, words=("--input", "data", "--output", "out"))
    assert result.code == 0
    assert "rootfs minimal" in result.err
    assert "network web (every public host)" in result.err
    assert "answer:\n42\n" in result.text
    assert result.text.index("I run something.") < result.text.index("Exit code: 0")
    for place in ("r/files", "out"):
        assert (tmp_path / place / "copy").read_bytes() == b"a,b\0\n"
        assert (tmp_path / place / "answer.txt").read_text() == "42\n"
    data = record(cli)
    assert (data["stop"], data["exit_code"], data["answer"]) == ("submitted", 0, "42")
    assert data["enforcement"]["network"] == "web"
    assert data["settings"]["model"] == {"value": "scripted", "origin": "SANDBOX_LITE_MODEL"}
    assert [line["kind"] for line in lines(cli)] == ["header", "step", "step", "end"]


def test_json_lines(cli: Installed) -> None:
    result = run(cli, bash("echo hi"), SUBMIT, words=("--json",))
    first, second, last = (json.loads(line) for line in result.text.splitlines())
    assert (first["kind"], first["index"], second["index"]) == ("step", 1, 2)
    assert "hi" in first["observations"][0]["content"]
    assert (last["kind"], last["stop"], last["exit_code"]) == ("end", "submitted", 0)
    assert last["network"] == "web"


def test_what_is_refused_is_told_and_recorded(cli: Installed) -> None:
    ask = "import urllib.request; urllib.request.urlopen('https://elsewhere.example/')"
    words = ("--network", "packages", "--allow", "example.org")
    result = run(cli, bash(f'python3 -c "{ask}"'), SUBMIT, words=words)
    assert "network packages (pypi.org" in result.err
    told = "[NOTE] Network: elsewhere.example is not on the list of this sandbox"
    first, second = (line for line in lines(cli) if line["kind"] == "step")
    assert told in first["observations"][0]["content"]
    assert "example.org" in first["observations"][0]["content"]
    (request,) = first["requests"]
    assert (request["host"], request["port"]) == ("elsewhere.example", 443)
    assert (request["method"], request["verdict"]) == ("CONNECT", "refused")
    assert second["requests"] == []
    step = trajectory.load(cli.directory / "r" / "trajectory.jsonl").steps[0]
    assert step.requests[0].host == "elsewhere.example"


def test_the_key_is_nowhere(cli: Installed, tmp_path: Path) -> None:
    result = run(cli, bash("env; cat /proc/*/environ"), SUBMIT)
    assert result.code == 0
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written + result.out + result.err.encode()
    shown = cli.run("config", "show")
    assert KEY not in shown.text
    assert "set (from" in shown.text


def test_the_server_gets_the_key_and_the_settings(cli: Installed) -> None:
    words = ("run", "Do it", "--run-dir", "r", "--temperature", "0.5", "--max-steps", "7")
    with ModelServer(SUBMIT) as server:
        body = ("--extra-body", '{"top_k": 3}', "--completion-tokens", "99")
        result = cli.run(*words, *body, OPENAI_BASE_URL=server.base_url)
        assert result.code == 0, result.err
        request, headers = server.requests[0], server.headers[0]
    assert (request["model"], request["temperature"], request["top_k"]) == ("scripted", 0.5, 3)
    assert request["max_tokens"] == 99
    sent = {name.lower(): value for name, value in headers.items()}
    assert sent["authorization"] == f"Bearer {KEY}"
    assert "7 steps remaining" in request["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("words", "stop"),
    [
        (("--max-steps", "2"), "step_limit"),
        (("--max-tokens", "150"), "token_limit"),
        (("--max-seconds", "1.5"), "time_limit"),
    ],
)
def test_limits_end_it_without_an_answer(
    cli: Installed, tmp_path: Path, words: tuple[str, ...], stop: str
) -> None:
    result = run(cli, bash("echo x >> output/file; sleep 0.8"), words=words)
    assert result.code == 1
    assert record(cli)["stop"] == stop
    assert (tmp_path / "r" / "files" / "file").read_text().startswith("x\n")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refuses(500, "broken"), "500"),
        (refuses(401, "wrong key"), "401"),
        (refuses(429, "slow down"), "429"),
        (Scripted(body=b"<html>hello</html>", content_type="text/html"), "200"),
        (Scripted(close=True), ""),
    ],
)
def test_a_server_that_fails_loses_nothing(
    cli: Installed, tmp_path: Path, reply: Scripted, said: str
) -> None:
    result = run(cli, bash("echo half > output/file"), reply)
    assert result.code == 125
    errors = [line for line in result.err.splitlines() if line.startswith("sandbox-lite: error")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "\nhint: " in result.err
    assert record(cli)["stop"] == "model_error"
    assert (tmp_path / "r" / "files" / "file").read_text() == "half\n"


def test_a_server_that_hangs(cli: Installed) -> None:
    result = run(cli, Scripted(hang=True), words=("--model-timeout", "0.5"))
    assert result.code == 125
    assert "did not answer in time" in result.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_a_command(
    cli: Installed, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    slow = bash("echo half > output/file; echo begun; sleep 60")
    with ModelServer(bash("echo one"), slow) as server:
        process = start(cli, server, "--output", "out")
        assert process.stdout is not None
        while b"sleep 60" not in process.stdout.readline():
            assert process.poll() is None
        result = interrupted(process, number)
    assert result.code == code
    assert record(cli)["stop"] == "interrupted"
    assert record(cli)["exit_code"] == code
    assert [line["kind"] for line in lines(cli)] == ["header", "step", "step", "end"]


def test_interrupted_while_the_model_thinks(cli: Installed, tmp_path: Path) -> None:
    with ModelServer(bash("echo half > output/file"), Scripted(hang=True)) as server:
        process = start(cli, server)
        assert process.stdout is not None
        while b"s model" not in process.stdout.readline():
            assert process.poll() is None
        result = interrupted(process)
    assert result.code == 130
    assert (tmp_path / "r" / "files" / "file").read_text() == "half\n"


def test_killed_it_leaves_what_was_recorded(cli: Installed) -> None:
    with ModelServer(bash("echo one"), Scripted(hang=True)) as server:
        process = start(cli, server)
        assert process.stdout is not None
        while b"s model" not in process.stdout.readline():
            assert process.poll() is None
        assert interrupted(process, signal.SIGKILL).code == -signal.SIGKILL
    assert [line["kind"] for line in lines(cli)] == ["header", "step"]
    assert record(cli)["stop"] is None


def test_a_reader_that_goes_away_does_not_end_the_run(cli: Installed, tmp_path: Path) -> None:
    with ModelServer(bash("echo one"), ANSWER, SUBMIT) as server:
        process = start(cli, server)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=15) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
        process.stderr.close()
    assert (tmp_path / "r" / "files" / "answer.txt").exists()


def test_a_full_disk_keeps_what_was_written(cli: Installed, tmp_path: Path) -> None:
    # a limit on the size of files is what an ordinary user can have instead of a full disk
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    with ModelServer(bash("echo kept > output/file"), bash("true", "x" * 50_000), SUBMIT) as server:
        done = subprocess.run(
            [PROGRAM, "run", "Do it", "--base-url", server.base_url, "--run-dir", "r"],
            cwd=tmp_path, env=cli.environment({}), preexec_fn=small, timeout=18,
            capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 125, done.stderr
    assert b"sandbox-lite: error: cannot write" in done.stderr
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "r" / "files" / "file").read_text() == "kept\n"
    assert lines_before_the_tear(tmp_path / "r" / "trajectory.jsonl") == ["header", "step"]


def lines_before_the_tear(path: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in path.read_text().split("\n")[:2]]


def test_output_that_leads_out_is_not_copied(cli: Installed, tmp_path: Path) -> None:
    trick = bash("cd output; ln -s /etc/passwd a; mkfifo b; ln -s ../../.. c; echo x > d")
    result = run(cli, trick, SUBMIT)
    assert result.code == 0
    assert sorted(path.name for path in (tmp_path / "r" / "files").iterdir()) == ["d"]
    assert "not copied out: a: it is a link out of the tree" in result.err
    assert len(record(cli)["files"]["skipped"]) == 3


def test_a_model_that_removes_the_output_directory(cli: Installed) -> None:
    result = run(cli, bash("rm -rf /testbed/output"), SUBMIT)
    assert result.code == 0
    assert "nothing came out" in result.err


def test_runs_are_never_overwritten(cli: Installed, tmp_path: Path) -> None:
    with ModelServer(SUBMIT) as server:
        words = ("run", "The Task: no. 1/2!", "--base-url", server.base_url)
        processes = [cli.start(*words) for _ in range(3)]
        assert [ended(process).code for process in processes] == [0, 0, 0]
        names = sorted(path.name for path in (tmp_path / "runs").iterdir())
        assert len(names) == 3
        assert all(re.match(r"\d{8}-\d{6}-the-task-no-1-2", name) for name in names)
        again = cli.run(*words, "--run-dir", f"runs/{names[0]}")
    assert again.code == 2
    assert "no run is overwritten" in again.one_error()[0]


def test_prompt_is_data(cli: Installed, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        'instance_prompt = "SOLVE {problem_statement} in {working_dir}"\nworking_dir = "/w"\n'
        'input_dir = "/w/i"\noutput_dir = "/w/o"\n'
    )
    with ModelServer(bash("pwd; echo yes > /w/o/f"), SUBMIT) as server:
        result = ended(start(cli, server, "--prompt", "p.toml"))
        assert result.code == 0, result.err
        assert "SOLVE Do it in /w" in server.requests[0]["messages"][-1]["content"]
    assert (tmp_path / "r" / "files" / "f").read_text() == "yes\n"
    assert "/w\n" in result.text


def test_the_task_from_stdin(cli: Installed) -> None:
    with ModelServer(SUBMIT) as server:
        words = ("run", "-", "--base-url", server.base_url, "--run-dir", "r")
        assert cli.run(*words, given=b"A long\ntask\n").code == 0
    assert record(cli)["task"] == "A long\ntask"


def test_live_panels_on_a_terminal(cli: Installed) -> None:
    evil = bash(r"printf '\033]0;title\007\033[2J\033[31mred\n'; sleep 0.5")
    with ModelServer(evil, ANSWER, SUBMIT) as server:
        child = pexpect.spawn(
            str(PROGRAM), ["run", "Do it", "--base-url", server.base_url, "--run-dir", "r"],
            encoding="utf-8", timeout=15, dimensions=(40, 100), cwd=str(cli.directory),
            env=cli.environment({}),
        )  # fmt: skip
        child.expect("network web")
        child.expect("step 1 ")
        child.expect("I run something.")
        child.expect("red")
        child.expect("step 3 ")
        child.expect("answer")
        child.expect("submitted after 3 steps")
        child.expect(pexpect.EOF)
        child.wait()
    assert child.exitstatus == 0


def test_ctrl_c_on_a_terminal(cli: Installed, tmp_path: Path) -> None:
    with ModelServer(bash("echo half > output/file; sleep 60")) as server:
        child = pexpect.spawn(
            str(PROGRAM), ["run", "Do it", "--base-url", server.base_url, "--run-dir", "r"],
            encoding="utf-8", timeout=15, dimensions=(40, 100), cwd=str(cli.directory),
            env=cli.environment({}),
        )  # fmt: skip
        child.expect("execute_bash runs")
        child.sendintr()
        child.expect("interrupted after 1 step")
        child.expect(pexpect.EOF)
        child.wait()
    assert child.exitstatus == 130
    assert (tmp_path / "r" / "files" / "file").read_text() == "half\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("", "--base-url", "http://127.0.0.1:9/v1"), 2, "the task is empty"),
        (("x", "--base-url", "nonsense"), 2, "base_url must be an address"),
        (("x", "--input", "nowhere"), 2, "there is no directory nowhere"),
        (("x", "--output", "file"), 2, "file is a file"),
        (("x", "--run-dir", "file"), 2, "is a file"),
        (("x", "--run-dir", "full"), 2, "is not empty"),
        (("x", "--prompt", "nowhere.toml"), 125, "cannot read the prompt"),
        (("x", "--prompt", "file"), 125, "never names the task"),
        (("x", "--max-steps", "0"), 2, "max_steps must be a positive whole number"),
        (("x", "--extra-body", "[1]"), 2, "extra_body must be a JSON object"),
        (("x", "--api-key-env", "NOT_SET"), 2, "NOT_SET is not set"),
        (("x", "--rootfs", "nope"), 125, "there is no rootfs 'nope'"),
        (("x", "--network", "nope"), 2, "no network mode 'nope'"),
    ],
)
def test_bad_requests_start_nothing(
    cli: Installed, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    result = cli.run("run", *words)
    assert said in result.one_error()[0]
    assert result.code == code
    assert not (tmp_path / "runs").exists()


def test_no_model_is_named(cli: Installed) -> None:
    result = cli.run("run", "x", SANDBOX_LITE_MODEL="")
    assert result.code == 2
    assert "sandbox-lite demo" in result.one_error()[1]
