"""`sandbox-lite demo` as a user runs it, on the rootfs `standard`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_lite.demo import inputs
from sandbox_lite.demo.check import check, compute
from tests.model_server import ModelServer, says

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the command."""

    code: int
    stdout: str
    stderr: str
    output: Path

    @property
    def lines(self) -> list[Json]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def steps(self) -> list[Json]:
        return [line for line in self.lines if line["kind"] == "step"]

    @property
    def check(self) -> Json:
        return next(line for line in self.lines if line["kind"] == "check")


def environment(home: Path, **env: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "SANDBOX_LITE_"))}
    return {**kept, "SANDBOX_LITE_HOME": str(home), **env}


def command(output: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "sandbox_lite", "demo", "--output", str(output), *flags]


def demo(home: Path, output: Path, *flags: str, **env: str) -> Run:
    done = subprocess.run(
        command(output, *flags), env=environment(home, **env),
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    return Run(code=done.returncode, stdout=done.stdout, stderr=done.stderr, output=output)


@pytest.fixture(scope="module")
def first(standard_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo with its own seed."""
    return demo(standard_home, tmp_path_factory.mktemp("demo") / "first", "--json")


def test_the_main_job_works_without_a_model(first: Run) -> None:
    assert first.code == 0, first.stderr
    assert "the words are a script's" in first.stderr
    assert first.check["ok"]
    answer = (first.output / "answer.txt").read_text().strip()
    assert answer == str(compute(first.output / "input"))
    assert check(first.output / "input", first.output).ok
    (run,) = (first.output / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert (record["model"], record["stop"], record["exit_code"]) == ("script", "submitted", 0)
    assert (run / "trajectory.jsonl").is_file()


def test_it_looks_like_work(first: Run) -> None:
    calls = [call["name"] for step in first.steps for call in step["calls"]]
    observations = [one for step in first.steps for one in step["observations"]]
    assert 10 <= len(first.steps) <= 14
    assert set(calls) == {"execute_bash", "str_replace_editor", "submit"}
    failed = [one for one in observations if one["exit_code"] not in (None, 0)]
    assert len(failed) == 1
    assert "ValueError: could not convert string to float: 'T'" in failed[0]["content"]


def test_another_seed_has_another_answer(first: Run, standard_home: Path, tmp_path: Path) -> None:
    second = demo(standard_home, tmp_path / "out", "--seed", "2", "--json")
    assert second.code == 0, second.stderr
    assert second.check["ok"]
    assert second.check["expected"] != first.check["expected"]


def test_altered_inputs_alter_the_answer_and_the_way(
    first: Run, standard_home: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    inputs.write(given, 1)
    rain = (given / "rain.csv").read_text()
    (given / "rain.csv").write_text(rain.replace(",T\n", ",0.0\n"))  # no trace, so no error
    nitrate = (given / "nitrate.csv").read_text()
    changed = re.sub(r"(N-05\d,\S+,)\S+", r"\g<1>9.99", nitrate)
    (given / "nitrate.csv").write_text(changed)
    run = demo(standard_home, tmp_path / "out", "--input", str(given), "--json")
    assert run.code == 0, run.stderr
    assert run.check["ok"]
    assert run.check["expected"] != first.check["expected"]
    assert len(run.steps) == len(first.steps) - 3  # nothing to look up and to repair


def test_inputs_that_break_the_script_end_it_honestly(standard_home: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    inputs.write(given, 1)
    manual = (given / "station_manual.md").read_text()
    # the checker reads on; the script looked for the heading
    (given / "station_manual.md").write_text(manual.replace("## 5 Rating\n", "## 5 Curve\n"))
    run = demo(standard_home, tmp_path / "out", "--input", str(given), "--json")
    assert run.code == 1
    assert not run.check["ok"]
    assert "cannot go on" in run.steps[-1]["thought"]
    assert not (run.output / "answer.txt").exists()


def test_plain_output_says_what_is_a_script_and_where_results_are(
    standard_home: Path, tmp_path: Path
) -> None:
    run = demo(standard_home, tmp_path / "out", "--seed", "3")
    assert run.code == 0, run.stderr
    assert run.stdout.startswith("scripted model: the words are a script's;")
    assert "The answer is right." in run.stdout
    for name in ("answer.txt", "plot.png", "report.html"):
        assert str(tmp_path / "out" / name) in run.stdout


def test_a_real_model_gets_the_same_task_and_is_checked(
    standard_home: Path, tmp_path: Path
) -> None:
    write = {"command": "echo '1.0 t, 2.0 %' > /testbed/output/answer.txt"}
    with ModelServer(says("", ("execute_bash", write)), says("", ("submit", {}))) as server:
        run = demo(
            standard_home, tmp_path / "out", "--json", "--base-url", server.base_url,
            "--model", "some-model", OPENAI_API_KEY="sk-of-the-user",
        )  # fmt: skip
    assert run.code == 1
    assert "script" not in run.stderr
    assert "storm share" in json.dumps(server.requests[0]["messages"])
    details = {one["name"]: one["detail"] for one in run.check["findings"]}
    assert "is wrong" in details["answer.txt"]
    assert details["plot.png"] == "is not there"


def test_the_script_is_not_given_the_users_key_or_settings(
    standard_home: Path, tmp_path: Path
) -> None:
    run = demo(
        standard_home, tmp_path / "out", "--json", "--scripted", OPENAI_API_KEY="sk-of-the-user",
        SANDBOX_LITE_MODEL="other", SANDBOX_LITE_MAX_STEPS="2", SANDBOX_LITE_ROOTFS="no-such",
    )  # fmt: skip
    assert run.code == 0, run.stderr
    for path in run.output.rglob("*.json*"):
        assert "sk-of-the-user" not in path.read_text()


def test_ctrl_c_keeps_what_was_done(standard_home: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with subprocess.Popen(
        command(output, "--json"), env=environment(standard_home),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        seen = 0
        while seen < 11:  # the twelfth step draws the plot, which takes a second
            assert json.loads(process.stdout.readline())["kind"] == "step"
            seen += 1
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    (run,) = (output / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["stop"] == "interrupted"
    assert record["steps"] >= seen


@pytest.mark.parametrize(
    ("flags", "env", "code", "message"),
    [
        ((), {"OPENAI_API_KEY": "sk-x"}, 2, "no model is named"),
        (("--scripted", "--model", "m"), {}, 2, "--scripted"),
        (("--input", "/nonexistent"), {}, 2, "there is no directory"),
        (("--rootfs", "no-such"), {}, 125, "no-such"),
        (("--output", "/proc/version/x"), {}, 2, "--output"),
    ],
    ids=["key", "scripted", "input", "rootfs", "output"],
)
def test_bad_requests_are_one_line_with_a_hint(
    standard_home: Path, tmp_path: Path, flags: tuple[str, ...], env: dict[str, str], code: int,
    message: str,
) -> None:  # fmt: skip
    run = demo(standard_home, tmp_path / "out", *flags, **env)
    assert run.code == code, run.stderr
    error, hint = run.stderr.strip().splitlines()[-2:]
    assert error.startswith("sandbox-lite: error: ")
    assert message in error
    assert hint.startswith("hint: ")
