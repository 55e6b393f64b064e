"""`sandbox-lite exec` in real sandboxes: exact streams, exit codes, ends of every kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.installed import Ended, Installed, ended, interrupted

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cli(rootfs_home: Path, tmp_path: Path) -> Installed:
    return Installed(
        home=rootfs_home, directory=tmp_path, variables={"SANDBOX_LITE_ROOTFS": "minimal"}
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--", "true"], 0),
        (["-c", "exit 7"], 7),
        (["-c", "exit 130"], 130),
        (["--", "no-such-program"], 127),
        (["--", "/etc/passwd"], 126),
        (["-c", "kill -9 $$"], 137),
        (["--timeout", "0.3", "--", "sleep", "60"], 124),
        (["--rootfs", "nope", "--", "true"], 125),
        (["--network", "nope", "--", "true"], 2),
        (["--no-such-option"], 2),
        ([], 2),
    ],
)
def test_exit_codes(cli: Installed, words: list[str], code: int) -> None:
    assert cli.run("exec", *words).code == code


def test_streams_are_apart_and_exact(cli: Installed) -> None:
    result = cli.run("exec", "-c", r"printf 'a\0\377\r\n'; printf 'no newline' >&2")
    assert (result.out, result.err) == (b"a\0\xff\r\n", "no newline")


def test_megabytes_pass_through_unchanged(cli: Installed) -> None:
    data = os.urandom(3_000_000)
    assert cli.run("exec", "--", "cat", given=data).out == data


def test_output_larger_than_what_is_kept_streams_whole(cli: Installed) -> None:
    result = cli.run("exec", "-c", "head -c 20000000 /dev/zero")
    assert len(result.out) == 20_000_000


def test_stdin_and_stdout_stream_while_it_runs(cli: Installed) -> None:
    script = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"
    process = cli.start("exec", "--", "python3", "-c", script, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for word in (b"one\n", b"two\n"):
        process.stdin.write(word)
        process.stdin.flush()
        # comes while the program still waits for more
        assert process.stdout.readline() == word.upper()
    assert ended(process).code == 0


def test_an_idle_stdin_does_not_hold_the_call(cli: Installed) -> None:
    read, write = os.pipe()
    try:
        process = cli.start("exec", "--", "true", stdin=read)
        assert process.wait(timeout=15) == 0
        ended(process)
    finally:
        os.close(read)
        os.close(write)


def test_words_are_no_shell_line(cli: Installed) -> None:
    assert cli.run("exec", "--", "echo hi").code == 127
    assert cli.run("exec", "--", "printf", "%s|", "a b", "$HOME", "*").out == b"a b|$HOME|*|"
    assert cli.run("exec", "-c", 'echo "$1" | tr a-z A-Z', "word").out == b"WORD\n"


def test_options_behind_the_program_are_its_own(cli: Installed) -> None:
    assert cli.run("exec", "echo", "--json", "-c").out == b"--json -c\n"


def test_variables_workdir_and_mounts(cli: Installed, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "file").write_text("content")
    result = cli.run(
        "exec", "-e", "A=1 2", "-e", "B", "-w", "/elsewhere",
        "--mount", "given:/ro", "--mount", "given:/rw:rw",
        "-c", "echo $A-$B; pwd; cat /ro/file; touch /ro/new || echo refused; echo x > /rw/new",
        B="passed on",
    )  # fmt: skip
    assert result.text == "1 2-passed on\n/elsewhere\ncontentrefused\n"
    assert (tmp_path / "given" / "new").read_text() == "x\n"


def test_directories_go_in_and_out(cli: Installed, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"\0\n")
    line = "cp input/a output/b; ln -s /etc/passwd output/out; exit 3"
    result = cli.run("exec", "--input", "in", "--output", "made/here", "-c", line)
    assert result.code == 3
    assert (tmp_path / "made" / "here" / "b").read_bytes() == b"\0\n"
    assert not (tmp_path / "made" / "here" / "out").is_symlink()
    assert "not copied out: out: it is a link out of the tree" in result.err


def test_json_has_all(cli: Installed) -> None:
    result = cli.run("exec", "--json", "-c", r"printf '\377'; echo err >&2; exit 4")
    data = json.loads(result.out)
    assert result.code == data["exit_code"] == 4
    assert data["outcome"] == "exited"
    assert data["stdout_base64"] == "/w=="
    assert data["stderr"] == "err\n"
    assert data["network"] == "none"
    assert data["rootfs"].startswith("minimal sha256:")


def test_a_reader_that_goes_away_ends_it_quietly(cli: Installed) -> None:
    process = cli.start("exec", "--", "yes")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.wait(timeout=15) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_it_and_save_the_output(
    cli: Installed, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = cli.start(
        "exec", "--output", "out", "-c", "echo half > output/file; echo ready; sleep 60"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    result = interrupted(process, number)
    assert result.code == code
    assert result.err == "sandbox-lite: interrupted\n"
    assert (tmp_path / "out" / "file").read_text() == "half\n"


def test_closed_standard_streams(cli: Installed, tmp_path: Path) -> None:
    command = '"$0" exec -c "cat; echo x >&2; echo y" <&- >&- 2>"$1"; echo $? >"$2"'
    from tests.installed import PROGRAM

    subprocess.run(
        ["bash", "-c", command, PROGRAM, tmp_path / "err", tmp_path / "code"],
        env=cli.environment({}), timeout=15, check=True,
    )  # fmt: skip
    assert (tmp_path / "code").read_text() == "0\n"
    assert (tmp_path / "err").read_text() == "x\n"


def _bad(cli: Installed, *words: str) -> Ended:
    (cli.directory / "file").write_text("")
    return cli.run("exec", *words, "--", "true")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input", "nowhere"], "there is no directory nowhere"),
        (["--input", "file"], "file is a file, not a directory"),
        (["--output", "file"], "is a file, not a directory"),
        (["--output", "file/below"], "is a file, not a directory"),
        (["--mount", "nowhere:/x"], "there is no "),
        (["--mount", "x"], "not DIR:TARGET"),
        (["--mount", "file:x"], "absolute path"),
        (["-e", "NOT_SET_HERE"], "NOT_SET_HERE is not set"),
        (["-e", "a b=1"], "not an environment variable"),
        (["--workdir", "relative"], "absolute path"),
        (["--disk", "much"], "size such as 512MiB"),
        (["--timeout", "-1"], "must be positive"),
        (["--rootfs", "../x"], "not a rootfs name"),
    ],
)
def test_bad_requests_are_one_line(cli: Installed, words: list[str], said: str) -> None:
    result = _bad(cli, *words)
    assert said in (result.err.splitlines() or [""])[0]
    assert result.err.startswith("sandbox-lite: error: ")
    assert len(result.err.splitlines()) <= 2
    assert result.code == 2


def test_an_unknown_rootfs_says_how_to_get_it(cli: Installed) -> None:
    result = cli.run("exec", "-r", "nope", "--", "true")
    assert result.code == 125
    assert "rootfs build nope" in result.one_error()[1]


def test_a_traceback_only_when_asked_for(cli: Installed) -> None:
    assert "Traceback" not in cli.run("exec", "-r", "nope", "--", "true").err
    shown = cli.run("exec", "-r", "nope", "--", "true", SANDBOX_LITE_DEBUG="1")
    assert "Traceback" in shown.err
    assert shown.code == 125


def test_what_the_network_refused_is_told(cli: Installed) -> None:
    ask = "import urllib.request; urllib.request.urlopen('https://elsewhere.example/')"
    words = ("exec", "--network", "packages", "--allow", "example.org")
    said = cli.run(*words, "--", "python3", "-c", ask)
    assert said.code == 1
    assert "sandbox-lite: network: elsewhere.example is not on the list" in said.err
    data = json.loads(cli.run(*words, "--json", "--", "python3", "-c", ask).text)
    assert [request["host"] for request in data["refused"]] == ["elsewhere.example"]
    assert "example.org" in data["reachable"]
