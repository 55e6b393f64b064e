"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import sandbox_lite
from sandbox_lite.bench.graders import GRADERS
from sandbox_lite.bench.tasks import TASKS
from sandbox_lite.jail.network import MODES

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml",
    "rootfs", "sandbox_lite", "scripts", "tests",
}  # fmt: skip


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_top_level_is_the_owners() -> None:
    names = {path.partition("/")[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_no_rooms_without_a_name() -> None:
    forbidden = {"utils", "util", "common", "helpers", "base", "manager"}
    assert not [path for path in tracked() if Path(path).stem in forbidden]


def test_exported_names_exist_and_are_listed() -> None:
    for name in sandbox_lite.__all__:
        assert getattr(sandbox_lite, name) is not None
    code = "import sandbox_lite; print(*dir(sandbox_lite))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    public = {name for name in shown.stdout.split() if not name.startswith("_")}
    modules = {"errors", "spec", "annotations", "TYPE_CHECKING"}
    assert public - modules <= set(sandbox_lite.__all__)


def test_import_does_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, threading, os; before = set(os.listdir('/proc/self/fd'))\n"
        "import sandbox_lite\n"
        "heavy = {'openai', 'typer', 'rich', 'httpx2', 'pysequoia', 'zstandard', 'pexpect'}\n"
        "print(sorted(heavy & set(sys.modules)), threading.active_count(),"
        " set(os.listdir('/proc/self/fd')) == before)"
    )
    env = {**os.environ, "HOME": str(tmp_path), "SANDBOX_LITE_HOME": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout == "[] 1 True\n"
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_jail_knows_nothing_of_models() -> None:
    code = (
        "import sys, sandbox_lite.jail.sandbox\n"
        "print(sorted({'openai', 'typer', 'rich', 'sandbox_lite.agent'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_tables_are_the_files() -> None:
    folder = ROOT / "sandbox_lite" / "jail" / "network"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "mode"}
    assert files == set(MODES)
    folder = ROOT / "sandbox_lite" / "bench" / "tasks"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(TASKS)
    prompts = {path.stem for path in (folder.parent / "prompts").glob("*.toml")}
    assert prompts - {"default", "judge"} == set(TASKS)
    folder = ROOT / "sandbox_lite" / "bench" / "graders"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "grader", "notation"}
    modules = {f"sandbox_lite.bench.graders.{name}" for name in files}
    assert {sys.modules[name].GRADER.name for name in modules} == set(GRADERS)


def test_nobody_but_the_command_line_prints() -> None:
    for path in tracked():
        if path.startswith("sandbox_lite/") and path.endswith(".py") and "/cli/" not in path:
            calls = ast.walk(ast.parse((ROOT / path).read_text()))
            names = [
                node.func.id
                for node in calls
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            ]
            assert "print" not in names, path


def test_no_finalizers() -> None:
    for path in tracked():
        if path.startswith("sandbox_lite/") and path.endswith(".py"):
            assert "def __del__" not in (ROOT / path).read_text(), path


def test_readmes_python_runs(
    standard_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        words = [sys.executable, "-W", "error", "-c", block]
        subprocess.run(words, check=True, timeout=60, cwd=tmp_path)


def test_readmes_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for script in set(re.findall(r"scripts/([a-z-]+)", text)):
        assert os.access(ROOT / "scripts" / script, os.X_OK), script
    for command in set(re.findall(r"^sandbox-lite ([a-z]+)", text, re.MULTILINE)):
        done = subprocess.run(
            [sys.executable, "-m", "sandbox_lite", command, "--help"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
