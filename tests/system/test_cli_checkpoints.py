"""`run --checkpoint` and `run --resume`: a run is gone on with from any of its steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.installed import Ended, Installed, ended
from tests.model_server import ModelServer, Scripted, says

if TYPE_CHECKING:
    from pathlib import Path

SUBMIT = says("Done.", ("submit", {}))
SECRET = "sk-test-0123456789"


def bash(command: str, **members: str) -> Scripted:
    return says("I run something.", ("execute_bash", {"command": command}), **members)  # type: ignore[arg-type]


STEPS = (
    bash("cd /tmp; x=1; echo first >notes; mkdir d; touch d/a", reasoning_content="because"),
    bash("cat notes"),
    says("Nothing to call."),
    bash("x=2; echo second >>notes; rm -r d; echo $RANDOM >/dev/null"),
    bash("echo wrong >/testbed/output/answer.txt; sleep 1000 &"),
    SUBMIT,
)


def installed(home: Path, directory: Path) -> Installed:
    return Installed(
        home=home,
        directory=directory,
        variables={"SANDBOX_LITE_MODEL_RETRIES": "0", "OPENAI_API_KEY": SECRET},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """A run that kept its states."""

    run: Path
    asked: list[Any]
    """What the model was asked, each time."""


@pytest.fixture(scope="module")
def before(rootfs_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Before:
    place = tmp_path_factory.mktemp("before")
    return Before(run=place / "r", asked=first(installed(rootfs_home, place)))


@pytest.fixture
def cli(rootfs_home: Path, tmp_path: Path) -> Installed:
    return installed(rootfs_home, tmp_path)


def run(cli: Installed, replies: tuple[Scripted, ...], *words: str) -> tuple[Ended, list[Any]]:
    with ModelServer(*replies) as server:
        done = ended(cli.start("run", *words, "--base-url", server.base_url))
        return done, [request["messages"] for request in server.requests]


def first(cli: Installed, kind: str = "dirty") -> list[Any]:
    words = ("--model", "scripted", "--rootfs", "minimal", "--network", "none", "--max-steps", "20")
    done, asked = run(cli, STEPS, "Do it", "--checkpoint", kind, "--run-dir", "r", *words)
    assert done.code == 0, done.err
    return asked


def kept(run: Path) -> list[int]:
    found = (run / "checkpoints").iterdir()
    return sorted(int(path.name.removesuffix(".tar.zst")) for path in found)


def test_only_steps_that_changed_something_are_kept(before: Before) -> None:
    # before the first; two reads and a message without a call change nothing
    assert kept(before.run) == [0, 1, 4, 5]
    for path in (before.run / "checkpoints").iterdir():
        assert SECRET.encode() not in path.read_bytes()


def test_all_are_kept_where_that_is_asked_for(cli: Installed) -> None:
    first(cli, "all")
    assert kept(cli.directory / "r") == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("at", "sees"),
    [
        (0, "/testbed|unset|no notes|no d"),
        (1, "/tmp|1|first|a"),
        (3, "/tmp|1|first|a"),
        (4, "/tmp|2|first second|no d"),
    ],
)
def test_a_run_goes_on_from_any_step(at: int, sees: str, before: Before, cli: Installed) -> None:
    look = bash(
        'echo "$(pwd)|${x-unset}|$(cat notes 2>/dev/null | xargs || true)|$(ls d 2>/dev/null)"'
        " | sed 's/||/|no notes|/; s/|$/|no d/' | tee /testbed/output/answer.txt"
    )
    done, again = run(
        cli, (look, SUBMIT), "--resume", str(before.run), "--at", str(at), "--run-dir", "s"
    )
    assert done.code == 0, done.err
    # word for word what the model had read by then
    assert again[0] == before.asked[at]
    data = json.loads((cli.directory / "s" / "run.json").read_text())
    assert data["answer"] == sees
    assert data["resumed"] == {"run": str(before.run), "at": at}
    assert data["steps"] == at + 2
    assert data["enforcement"]["network"] == "none", "what was asked the first time still holds"
    lines = (cli.directory / "s" / "trajectory.jsonl").read_text().splitlines()
    old = (before.run / "trajectory.jsonl").read_text().splitlines()
    assert lines[1 : at + 1] == old[1 : at + 1]


def test_a_run_that_was_gone_on_with_can_be_again(before: Before, cli: Installed) -> None:
    more = (bash("echo third >>/tmp/notes"), SUBMIT)
    done, _ = run(
        cli,
        more,
        "--resume",
        str(before.run),
        "--at",
        "4",
        "--run-dir",
        "s",
        "--checkpoint",
        "dirty",
    )
    assert done.code == 0, done.err
    last = bash("cat /tmp/notes >/testbed/output/answer.txt")
    done, _ = run(cli, (last, SUBMIT), "--resume", "s", "--at", "5", "--run-dir", "t")
    assert done.code == 0, done.err
    data = json.loads((cli.directory / "t" / "run.json").read_text())
    assert data["answer"] == "first\nsecond\nthird"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--resume", "r", "--at", "9"], "the run has steps 1 to 6"),
        (["--resume", "r", "another task"], "has its task"),
        (["--at", "1", "a task"], "--at names a step of a run"),
        (["--resume", "missing"], "cannot read the trajectory"),
        (["--checkpoint", "often", "a task"], "none, dirty, all"),
        ([], "no task is given"),
    ],
)
def test_what_makes_no_sense_is_told(
    words: list[str], told: str, before: Before, cli: Installed
) -> None:
    words = [str(before.run) if word == "r" else word for word in words]
    done = ended(cli.start("run", *words, "--model", "m"))
    assert done.code in (2, 125)
    assert told in done.err


def test_a_run_without_states_says_how_to_keep_them(cli: Installed) -> None:
    first(cli, "none")
    done = ended(cli.start("run", "--resume", "r", "--at", "2"))
    assert done.code == 2
    assert "--checkpoint dirty" in done.err
