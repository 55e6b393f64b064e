"""`rootfs`, `replay`, `doctor`, `config` and the program itself."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pexpect
import pytest

from sandbox_lite.jail.rootfs.store import Store
from tests.installed import PROGRAM, Installed, ended, interrupted
from tests.model_server import ModelServer, says

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cli(rootfs_home: Path, tmp_path: Path) -> Installed:
    return Installed(
        home=rootfs_home, directory=tmp_path, variables={"SANDBOX_LITE_ROOTFS": "minimal"}
    )


@pytest.fixture
def empty(tmp_path: Path) -> Installed:
    return Installed(home=tmp_path / "home", directory=tmp_path)


# -- rootfs ---------------------------------------------------------------------------------------


def test_list_and_recipes(cli: Installed, empty: Installed) -> None:
    assert "minimal" in cli.run("rootfs", "ls").text
    found = json.loads(cli.run("rootfs", "ls", "--json").text)
    minimal = next(one for one in found if one["name"] == "minimal")
    assert minimal["digest"].startswith("sha256:")
    assert minimal["packages"] > 50
    assert empty.run("rootfs", "ls").text.startswith("host:")
    recipes = empty.run("rootfs", "recipes").text
    assert all(name in recipes for name in ("minimal", "standard", "paper"))
    assert 'name = "minimal"' in empty.run("rootfs", "recipes", "--show", "minimal").text


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_export_import_verify_remove(cli: Installed, empty: Installed, tmp_path: Path) -> None:
    exported = cli.run("rootfs", "export", "minimal", "m.tar.zst", "--level", "1")
    assert exported.code == 0, exported.err
    check = subprocess.run(["sha256sum", "-c"], input=exported.out, cwd=tmp_path, check=False)
    assert check.returncode == 0
    imported = empty.run("rootfs", "import", "m.tar.zst", "--name", "copy")
    assert imported.code == 0, imported.err
    assert "imported copy" in imported.text
    assert empty.run("rootfs", "verify", "copy").code == 0
    assert empty.run("exec", "-r", "copy", "--", "echo", "hi").out == b"hi\n"
    tree = Store(empty.home / "data" / "rootfs").info("copy").tree
    (tree / "etc" / "hostname").write_text("altered")
    verified = empty.run("rootfs", "verify", "copy")
    assert verified.code == 1
    assert "CHANGED" in verified.text
    with (tmp_path / "m.tar.zst").open("r+b") as file:
        file.seek(1000)
        file.write(b"altered")
    refused = empty.run("rootfs", "import", "m.tar.zst")
    assert refused.code == 125
    assert "has sha256" in refused.err
    assert empty.run("rootfs", "rm", "copy").text == "removed copy\n"
    assert empty.run("rootfs", "verify", "copy").code == 125


def test_verify_draws_a_bar_on_a_terminal(cli: Installed) -> None:
    child = pexpect.spawn(
        str(PROGRAM), ["rootfs", "verify", "minimal"], encoding="utf-8", timeout=18,
        dimensions=(30, 100), cwd=str(cli.directory), env=cli.environment({}),
    )  # fmt: skip
    child.expect("digest")
    child.expect("MiB of ")
    child.expect("minimal: unchanged")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_one_in_use_stays(cli: Installed, tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = Store(home / "data" / "rootfs")
    with store.stage("tiny") as stage:
        # of links alone: what stands in it is another rootfs's, mounted over it
        (stage.tree / "file").write_text("x")
        stage.commit()
    with store.lease("tiny"):
        busy = Installed(home=home, directory=tmp_path).run("rootfs", "rm", "tiny")
        assert busy.code == 125
        assert "in use" in busy.one_error()[0]
    assert Installed(home=home, directory=tmp_path).run("rootfs", "rm", "tiny").code == 0


@contextmanager
def silent_mirror() -> Iterator[tuple[str, threading.Event]]:
    """Yield the address of a server that takes connections and never answers."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def serve() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                taken.append(connection)
                if connection.recv(1):
                    asked.set()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/debian", asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def test_an_interrupted_build_leaves_nothing(empty: Installed) -> None:
    with silent_mirror() as (url, asked):
        process = empty.start("rootfs", "build", "minimal", "--mirror", url)
        assert asked.wait(15)
        result = interrupted(process)
    assert result.code == 130
    assert "Traceback" not in result.err
    store = empty.home / "data" / "rootfs"
    assert not [path for path in store.iterdir() if path.name not in ("format", ".lock")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "nope"], "no recipe 'nope'"),
        (["build", "nope.toml"], "no recipe"),
        (["build", "broken.toml"], "is no TOML"),
        (["build", "minimal", "--mirror", "nonsense"], "not a mirror"),
        (["build", "minimal", "--mirror", "http://127.0.0.1:9/debian"], "127.0.0.1"),
        (["build", "minimal", "--name", "../x"], "not a rootfs name"),
        (["rm", "nope"], "there is no rootfs 'nope'"),
        (["verify", "nope"], "there is no rootfs 'nope'"),
        (["export", "nope"], "there is no rootfs 'nope'"),
        (["import", "nope.tar.zst"], "nope.tar.zst"),
        (["import", "broken.toml", "--sha256", "0" * 64], "has sha256"),
        (["recipes", "--show", "nope"], "no recipe 'nope'"),
    ],
)
def test_bad_requests(empty: Installed, words: list[str], said: str) -> None:
    (empty.directory / "broken.toml").write_text("name =")
    result = empty.run("rootfs", *words)
    assert result.code in (2, 125)
    errors = [line for line in result.err.splitlines() if line.startswith("sandbox-lite: error")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in result.err


def test_a_file_in_place_of_the_store(empty: Installed) -> None:
    empty.home.write_text("in the way")
    build = ["rootfs", "build", "minimal", "--mirror", "http://127.0.0.1:9/debian"]
    for words in (build, ["exec", "-r", "minimal", "--", "true"]):
        result = empty.run(*words)
        assert result.code == 125, words
        result.one_error()


# -- replay ---------------------------------------------------------------------------------------


def recorded(cli: Installed, *commands: str) -> Path:
    replies = [says("", ("execute_bash", {"command": command})) for command in commands]
    with ModelServer(*replies, says("", ("submit", {}))) as server:
        words = ("run", "x", "--model", "m", "--base-url", server.base_url, "--run-dir", "r")
        assert cli.run(*words).code == 0
    return cli.directory / "r" / "trajectory.jsonl"


def test_a_record_agrees_with_itself(cli: Installed) -> None:
    path = recorded(cli, "echo $((6 * 7)); false", "cd /tmp; pwd")
    result = cli.run("replay", path, SANDBOX_LITE_ROOTFS="")
    assert result.code == 0, result.text
    assert "3 same: agreed" in result.text
    assert "rootfs minimal" in result.err
    last = json.loads(cli.run("replay", path, "--json").text.splitlines()[-1])
    assert (last["kind"], last["ok"], last["same"]) == ("end", True, 3)


def test_drift_is_shown_and_can_be_expected(cli: Installed, tmp_path: Path) -> None:
    path = recorded(cli, "date +%N", "true")
    result = cli.run("replay", path)
    assert result.code == 1
    assert "1 drift: DRIFTED" in result.text
    assert "+++ replayed" in result.text
    (tmp_path / "known.toml").write_text(
        '[[step]]\nstep = 1\nkind = "date"\ncause = "it prints the time"\n'
    )
    excused = cli.run("replay", path, "--expect", "known.toml")
    assert excused.code == 0
    assert "it prints the time" in excused.text


def test_a_record_does_not_open_the_network(cli: Installed) -> None:
    path = recorded(cli, "ls /sys/class/net")
    text = path.read_text()
    path.write_text(text.replace('"network": "web"', '"network": "host"'))
    assert path.read_text() != text
    result = cli.run("replay", path)
    assert result.code == 0, result.text
    assert "network none" in result.err
    assert "--network host gives it again" in result.err


def test_a_published_record(cli: Installed, tmp_path: Path) -> None:
    def step(function: str, observation: str, **parameters: str) -> dict[str, object]:
        action = {"function": function, "parameters": parameters}
        return {"thought": "t", "action": action, "observation": observation}

    good = "Exit code: 0\nExecution output of \\[execute_bash]:\n\\[STDOUT]\n42\n"
    steps = [step("execute_bash", good, command="echo 42"), step("submit", "")]
    (tmp_path / "p.json").write_text(json.dumps({"problem_statement": "x", "steps": steps}))
    result = cli.run("replay", "p.json", "-r", "minimal")
    assert (result.code, "2 same: agreed" in result.text) == (0, True), result.text
    bad = cli.run("replay", "p.json", "-r", "nope")
    assert bad.code == 125


@pytest.mark.parametrize(
    "words", [["nowhere"], ["text"], ["dir"], ["r.jsonl", "--expect", "nowhere"]]
)
def test_replay_of_what_is_no_record(cli: Installed, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "dir").mkdir()
    (tmp_path / "r.jsonl").write_text(json.dumps({"problem_statement": "x", "steps": []}))
    result = cli.run("replay", *words)
    assert result.code == 125
    assert len(result.err.splitlines()) <= 2
    assert result.err.startswith("sandbox-lite: error: ")


# -- doctor, config, the program ------------------------------------------------------------------


def test_doctor(cli: Installed) -> None:
    result = cli.run("doctor")
    assert result.code == 0, result.text
    assert "A sandbox can be made here." in result.text
    data = json.loads(cli.run("doctor", "--json").text)
    assert data["ok"] is True
    assert "minimal" in [one["name"] for one in data["rootfs"]]


def test_doctor_says_what_is_missing(empty: Installed) -> None:
    assert "none is built yet" in empty.run("doctor").text
    empty.home.mkdir(exist_ok=True)
    shutil.rmtree(empty.home)
    empty.home.write_text("in the way")
    result = empty.run("doctor")
    assert result.code == 125
    assert "No sandbox can be made here." in result.text
    assert "hint: " in result.text


def test_config(empty: Installed) -> None:
    path = empty.run("config", "path").text.strip()
    assert path == str(empty.home / "config" / "config.toml")
    assert empty.run("config", "set", "model", "m1").code == 0
    assert empty.run("config", "set", "temperature", "-0.5").code == 0
    shown = json.loads(empty.run("config", "show", "--json", SANDBOX_LITE_MODEL="m2").text)
    assert shown["settings"]["model"] == {"value": "m2", "origin": "SANDBOX_LITE_MODEL"}
    assert shown["settings"]["temperature"] == {"value": -0.5, "origin": path}
    assert shown["settings"]["rootfs"]["origin"] == "default"
    assert shown["api_key"] == "not set"
    assert "m1" in empty.run("config", "show").text
    assert empty.run("config", "unset", "temperature").code == 0
    assert empty.run("config", "unset", "temperature").code == 2
    assert empty.run("config", "set", "api_key", "sk-1").code == 2


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_help_has_examples_everywhere(empty: Installed) -> None:
    commands = [[], ["run"], ["exec"], ["shell"], ["replay"], ["doctor"], ["demo"]]
    commands += [["rootfs", name] for name in ("build", "ls", "rm", "verify", "export", "import")]
    commands += [["config", name] for name in ("show", "path", "set", "unset")]
    processes = [empty.start(*words, "--help") for words in commands]
    for words, process in zip(commands, processes, strict=True):
        result = ended(process)
        assert result.code == 0
        assert "Examples:" in result.text, words


def test_version_and_module(empty: Installed) -> None:
    version = empty.run("--version").text
    assert version.startswith("sandbox-lite 0.")
    module = [sys.executable, "-m", "sandbox_lite", "--version"]
    assert subprocess.run(module, capture_output=True, text=True, check=True).stdout == version


def test_completion(empty: Installed) -> None:
    script = empty.run("--show-completion", "bash").text
    assert "_SANDBOX_LITE_COMPLETE" in script
    offered = empty.run(
        _SANDBOX_LITE_COMPLETE="complete_bash", COMP_WORDS="sandbox-lite r", COMP_CWORD="1"
    )
    assert {"run", "rootfs", "replay"} <= set(offered.text.split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, sandbox_lite.cli.app\n"
        "heavy = {'openai', 'rich.live', 'pexpect', 'httpx2', 'zstandard', 'pysequoia',"
        " 'sandbox_lite.jail.sandbox', 'sandbox_lite.agent.loop'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extras_one_line_says_so(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = ['rootfs', 'recipes']\n"
        "from sandbox_lite.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if package == "typer":
        assert done.returncode == 125
        assert done.stderr.splitlines()[-1] == "hint: pip install 'sandbox-lite[all]'"
    assert "Traceback" not in done.stderr
