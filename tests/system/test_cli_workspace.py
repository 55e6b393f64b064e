"""`--workspace`, `diff`, `apply`, `discard`: the whole way, from other programs each."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_lite.jail.kept import registry
from tests.conftest import require
from tests.installed import Ended, Installed, ended
from tests.model_server import ModelServer, Scripted, says

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def cli(home: Path, tmp_path: Path) -> Installed:
    return Installed(
        home=home,
        directory=tmp_path,
        variables={
            "SANDBOX_LITE_ROOTFS": "minimal",
            "SANDBOX_LITE_MODEL": "scripted",
            "SANDBOX_LITE_MODEL_RETRIES": "0",
            "OPENAI_API_KEY": "sk-test",
        },
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    top = tmp_path / "project"
    (top / "src").mkdir(parents=True)
    (top / "src" / "main.py").write_text("print(1)\n")
    (top / "old").write_text("old\n")
    return top


def bash(command: str) -> Scripted:
    return says("I do it.", ("execute_bash", {"command": command}))


def run_of(result: Ended) -> str:
    """Return the directory in which a one-shot sandbox says that it kept the changes."""
    (line,) = [line for line in result.err.splitlines() if line.startswith("workspace: ")]
    return line.partition("sandbox-lite diff ")[2].partition(";")[0]


def test_a_command_changes_nothing_and_what_it_did_is_applied_later(
    cli: Installed, project: Path
) -> None:
    line = "echo 'print(2)' > src/main.py; rm old; echo n > new; cat old input/x; exit 3"
    (cli.directory / "in").mkdir()
    (cli.directory / "in" / "x").write_text("given\n")
    result = cli.run("exec", "--workspace", "project", "--input", "in", "-c", line)
    assert (result.code, result.text) == (3, "given\n")
    assert sorted(path.name for path in project.iterdir()) == ["old", "src"]
    kept = run_of(result)
    assert kept.startswith("runs/")
    assert kept.endswith("-exec")
    listed = cli.run("diff", kept)
    assert listed.text == "A new  (2 B)\nD old  (4 B)\nM src/main.py  (9 B -> 9 B)\n"
    assert cli.run("diff", kept, "src").text == "M src/main.py  (9 B -> 9 B)\n"
    patch = cli.run("diff", kept, "--patch", "src").text
    assert patch.startswith("diff --git a/src/main.py b/src/main.py\n")
    assert "\n-print(1)\n+print(2)\n" in patch
    objects = [json.loads(line) for line in cli.run("diff", kept, "--json").text.splitlines()]
    assert [(one["path"], one["kind"]) for one in objects] == [
        ("new", "added"), ("old", "deleted"), ("src/main.py", "changed"),
    ]  # fmt: skip
    (project / "old").write_text("mine\n")
    one = cli.run("apply", kept, "src", "new")
    assert (one.code, one.text) == (0, f"2 applied to {project}\n")
    assert (project / "src" / "main.py").read_text() == "print(2)\n"
    two = cli.run("apply", kept)
    assert two.code == 1
    assert two.text == (
        "conflict: old: changed meanwhile; left as it is\n"
        f"0 applied to {project}, 2 were so already, 1 in conflict\n"
    )
    told = json.loads(cli.run("apply", kept, "--json").text)
    assert told["conflicts"] == [{"path": "old", "reason": "changed meanwhile"}]
    assert (project / "old").read_text() == "mine\n"
    assert cli.run("discard", kept).text == "3 discarded\n"
    gone = cli.run("diff", kept)
    assert gone.code == 2
    assert "there are no changes" in gone.one_error()[0]


def test_nothing_is_kept_of_nothing(cli: Installed, project: Path) -> None:
    result = cli.run("exec", "--workspace", "project", "--", "touch", "old")
    assert (result.code, result.err) == (0, "workspace: nothing was changed\n")
    assert not (cli.directory / "runs").exists()
    told = json.loads(cli.run("exec", "--json", "--workspace", "project", "--", "true").text)
    assert told["workspace"] is None
    told = json.loads(cli.run("exec", "--json", "--workspace", "project", "rm", "old").text)
    assert cli.run("diff", told["workspace"]).text == "D old  (4 B)\n"


def test_wrong_requests(cli: Installed, project: Path) -> None:
    for words in (
        ("exec", "--workspace", "nowhere", "true"),
        ("exec", "--workspace", "project/old", "true"),
        ("exec", "--workspace-git", "true"),
        ("diff", "no-such-name"),
        ("diff", "no/such/run"),
        ("apply", "."),
    ):
        result = cli.run(*words)
        assert result.code == 2, words
        message, hint = result.one_error()
        assert message
        assert hint


def test_a_kept_sandbox(cli: Installed, project: Path, home: Path) -> None:
    name = f"test-{secrets.token_hex(4)}"
    made = cli.run("create", "--name", name, "--ttl", "10m", "--workspace", "project")
    assert made.code == 0, made.err
    try:
        assert cli.run("diff", name).text == ""
        cli.run("exec", name, "-c", "echo more >> src/main.py; echo 1 > a; chmod 700 src; rm old")
        assert cli.run("diff", name).text == (
            "A a  (2 B)\nD old  (4 B)\nM src/  (mode 0755 -> 0700)\nM src/main.py  (9 B -> 14 B)\n"
        )
        assert "+more\n" in cli.run("diff", name, "-p").text
        assert cli.run("discard", name, "old").text == "1 discarded\n"
        assert cli.run("exec", name, "cat", "old").text == "old\n"
        (project / "a").write_text("mine\n")
        applied = cli.run("apply", name)
        assert applied.code == 1
        assert "conflict: a: made meanwhile" in applied.text
        assert "2 applied" in applied.text
        assert (project / "src" / "main.py").read_text() == "print(1)\nmore\n"
        assert stat.S_IMODE((project / "src").stat().st_mode) == 0o700
        assert cli.run("apply", name, "a", "--overwrite").code == 0
        assert (project / "a").read_text() == "1\n"
        cli.run("exec", name, "-c", "echo 3 > a")
        (project / "a").write_text("mine\n")
        wrong = cli.run("apply", name, "nowhere")
        assert wrong.code == 2
        assert "nothing was changed at 'nowhere'" in wrong.one_error()[0]
        assert cli.run("discard", name).code == 0
        assert cli.run("diff", name).text == ""
        assert cli.run("exec", name, "cat", "a").text == "mine\n"
    finally:
        registry.end(name)


# -- the scenario: a model works on a checkout while its user does ------------------------------


def git(directory: Path, *words: str) -> str:
    person = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", *person, *words], cwd=directory, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of this project, as a repository of its own."""
    require(shutil.which("git") is not None, "git")
    from pathlib import Path as HostPath

    here = HostPath(__file__).parents[2]
    top = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "rootfs", "runs"
    )
    shutil.copytree(here, top, ignore=ignored, symlinks=True)
    git(top, "init", "-q", "-b", "main")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "all of it")
    return top


SCRIPT = (
    "sed -i 's/^import os$/import os  # edited/' sandbox_lite/jail/files.py\n"
    "echo '# by the model' >> README.md\necho '# by the model' >> pyproject.toml",
    "rm sandbox_lite/demo/task.py; rm -r tests/limits",
    "mv sandbox_lite/agent sandbox_lite/worker; mv LICENSE COPYING",
    "chmod 755 sandbox_lite/errors.py; ln -s README.md READ; head -c 100000 /dev/zero > blob",
    "echo planted > .git/hooks/post-checkout; git config core.pager evil; ls -a .git | head -n 3",
)


def test_a_model_works_on_a_checkout_while_its_user_does(cli: Installed, checkout: Path) -> None:
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}

    def meanwhile(_: dict[str, Any]) -> Scripted:
        (checkout / "README.md").write_text("mine\n")
        (checkout / "sandbox_lite" / "demo" / "task.py").write_text("mine\n")
        before[checkout / "README.md"] = before[checkout / "sandbox_lite" / "demo" / "task.py"] = (
            b"mine\n"
        )
        return bash(SCRIPT[-1])

    replies: tuple[Scripted | Callable[[dict[str, Any]], Scripted], ...] = (
        *map(bash, SCRIPT[:-1]),
        meanwhile,
        says("Done.", ("submit", {})),
    )
    words = ("--run-dir", "r", "--network", "none", "--workspace", "checkout")
    with ModelServer(*replies) as server:
        result = ended(cli.start("run", "Improve it", "--base-url", server.base_url, *words))
    assert result.code == 0, result.err
    assert "Read-only file system" in result.text
    assert run_of(result) == "r"
    # nothing is changed but what the user did
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before

    listed = cli.run("diff", "r").text.splitlines()
    letters = {line.split("  ")[0].partition(" ")[::2][1]: line[0] for line in listed}
    assert letters["sandbox_lite/jail/files.py"] == "M"
    assert letters["sandbox_lite/demo/task.py"] == "D"
    assert letters["tests/limits/"] == "D"
    assert letters["sandbox_lite/agent/loop.py"] == "D"
    assert letters["sandbox_lite/worker/loop.py"] == "A"
    assert (letters["LICENSE"], letters["COPYING"], letters["READ"]) == ("D", "A", "A")
    assert "M sandbox_lite/errors.py  (mode 0644 -> 0755)" in listed
    assert "A blob  (97.7 KiB)" in listed
    assert not [path for path in letters if ".git" in path]
    patch = cli.run("diff", "r", "--patch", "sandbox_lite/jail").text
    assert "+import os  # edited\n" in patch

    # a part
    part = cli.run("apply", "r", "sandbox_lite/jail", "COPYING", "LICENSE")
    assert (part.code, part.text) == (0, f"3 applied to {checkout}\n")
    assert "import os  # edited\n" in (checkout / "sandbox_lite/jail/files.py").read_text()
    assert not (checkout / "LICENSE").exists()
    assert (checkout / "tests" / "limits").exists()
    changed = git(checkout, "diff", "--name-status", "--no-renames").splitlines()
    assert changed == [
        "D\tLICENSE",
        "M\tREADME.md",
        "M\tsandbox_lite/demo/task.py",
        "M\tsandbox_lite/jail/files.py",
    ]

    # the rest, and the conflict
    rest = cli.run("apply", "r")
    assert rest.code == 1
    conflicts = [line for line in rest.text.splitlines() if line.startswith("conflict")]
    assert conflicts == [
        "conflict: README.md: changed meanwhile; left as it is",
        "conflict: sandbox_lite/demo/task.py: changed meanwhile; left as it is",
    ]
    assert (checkout / "README.md").read_text() == "mine\n"
    assert (checkout / "sandbox_lite" / "demo" / "task.py").read_text() == "mine\n"
    assert not (checkout / "tests" / "limits").exists()
    assert (checkout / "sandbox_lite" / "worker" / "loop.py").read_bytes() == before[
        checkout / "sandbox_lite" / "agent" / "loop.py"
    ]
    assert os.access(checkout / "sandbox_lite" / "errors.py", os.X_OK)
    assert str((checkout / "READ").readlink()) == "README.md"
    assert not (checkout / ".git" / "hooks" / "post-checkout").exists()
    assert "evil" not in git(checkout, "config", "--list")
    git(checkout, "fsck")

    # the user gives in with one of them
    unnamed = cli.run("apply", "r", "--overwrite")
    assert (unnamed.code, (checkout / "README.md").read_text()) == (2, "mine\n")
    assert cli.run("apply", "r", "README.md", "--overwrite").code == 0
    assert (checkout / "README.md").read_text().endswith("# by the model\n")

    assert cli.run("discard", "r").code == 0
    assert not (cli.directory / "r" / "workspace").exists()
    assert (cli.directory / "r" / "run.json").exists()
