"""The published package `llm-in-sandbox` 0.2.0 on our sandboxes, in an environment of its own.

It is installed from pip's index with our extra, as a user would, and nothing of it is changed but
by `install`. The model is a script on loopback; what it makes of the package's four demo problems
is compared with what was recorded once with the package's own Docker runtime, to the last byte.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import MUST_WORK, require
from tests.llm_in_sandbox import demo
from tests.model_server import ModelServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_REPOSITORY = Path(__file__).parents[2]
_EVERYWHERE = _REPOSITORY / "tests" / "llm_in_sandbox" / "everywhere.py"
_NO_DOCKER = {
    "DOCKER_HOST": "unix:///nonexistent/docker.sock",
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
}
"""Whoever asked a daemon would fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The environment in which the package is installed."""

    python: Path
    home: Path

    def run(self, directory: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run its Python to the end, from an empty directory."""
        return subprocess.run(
            [self.python, *words],
            capture_output=True, text=True, check=False, cwd=directory, timeout=200,
            env={
                "HOME": str(directory), "LANG": "C.UTF-8", "SANDBOX_LITE_HOME": str(self.home),
                **_NO_DOCKER, **demo.environment(directory),
            },
        )  # fmt: skip


@pytest.fixture(scope="module")
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    if MUST_WORK:
        # a minute, and nothing in it depends on the user: one of CI's two does
        require(os.geteuid() != 0, "an ordinary user")
    directory = tmp_path_factory.mktemp("llm-in-sandbox")
    python = directory / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    installed = subprocess.run(
        [
            python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            # what is not imported need not be compiled
            "--no-compile", f"{_REPOSITORY}[llm-in-sandbox]",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(installed.stderr)  # noqa: T201 -- shown where the test fails
    require(installed.returncode == 0, "llm-in-sandbox, from pip's index")
    return Package(python=python, home=request.getfixturevalue("standard_home"))


def test_demo_problems_are_solved_as_with_docker(package: Package, tmp_path: Path) -> None:
    adapter = "sandbox_lite.adapters.llm_in_sandbox"
    with ModelServer(demo.reply) as server:
        words = demo.words(server.base_url, tmp_path / "out", "--num_workers", "2")
        ended = package.run(tmp_path, "-m", adapter, *words)
    assert ended.returncode == 0, ended.stderr
    (results,) = (tmp_path / "out").glob("*/results.json")
    result = json.loads(results.read_text())
    assert (result["total"], result["mean_score"], result["num_errors"]) == (4, 1.0, 0)
    found = demo.trajectory(tmp_path / "out")
    assert [problem["reward"] for problem in found.values()] == [1.0] * 4
    assert found == json.loads(demo.TRAJECTORY.read_text())
    assert not _left(tmp_path)


def test_it_is_replaced_everywhere(package: Package, tmp_path: Path) -> None:
    with ModelServer(demo.reply) as server:
        ended = package.run(tmp_path, _EVERYWHERE, server.base_url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert not _left(tmp_path)


def _left(directory: Path) -> list[int]:
    """Return processes whose directory is still the package's: its own and its workers'."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == directory:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
