"""Run by the Python of an environment in which the package is installed: what `install` replaces.

Arguments: the model server's address, and an empty directory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import llm_in_sandbox
from llm_in_sandbox import DockerRuntime as Copied
from llm_in_sandbox import cli, docker_runtime
from llm_in_sandbox.agent import Agent
from llm_in_sandbox.benchmark import runner

from sandbox_lite.adapters import llm_in_sandbox as adapter
from sandbox_lite.errors import RootfsError

ORIGINAL = (Copied,)


class Further(Copied):  # type: ignore[misc]  # mypy does not see the package
    """A class that somebody has derived already."""

    def run(self, code: str, **options: Any) -> Any:
        """Do as before, and mark the answer."""
        output, ended = super().run(code, **options)
        return f"further: {output}", ended


def check_names() -> None:
    """Whoever holds the package's class, holds ours."""
    ours = adapter.install(network="none")
    assert ours is not ORIGINAL[0]
    for held in (Copied, llm_in_sandbox.DockerRuntime, docker_runtime.DockerRuntime):
        assert held is ours
    assert cli.DockerRuntime is ours
    assert issubclass(Further, adapter.DockerRuntime)
    further = Further("any/image:v1", logger=False)
    assert further.run("echo 1") == ("further: 1\n", "0")
    assert further.container.sandbox.enforcement.network == "none"
    further.close()


def check_further_install() -> None:
    """A second call changes what is asked for, and the check for the image goes by it."""
    ours = adapter.install(network="none", images={"their/image": "not-built"})
    assert ours is docker_runtime.DockerRuntime
    assert cli.ensure_docker_image("any/image:v1", None)
    hint = None
    try:
        cli.ensure_docker_image("their/image", None)
    except RootfsError as error:
        hint = error.hint
    assert hint, "a rootfs that is not there passed for an image"
    adapter.install(network="none")


def problem(url: str, directory: Path) -> dict[str, Any]:
    """Return what the package's runner is given for one problem."""
    (row, *_) = json.loads((Path(runner.__file__).parent / "demo" / "data.json").read_text())
    config = {
        "docker_image": cli.DEFAULT_DOCKER_IMAGE, "llm_name": "openai/scripted",
        "llm_base_url": url, "max_steps": 9, "temperature": 1.0, "max_token_limit": 65536,
        "max_tokens_per_call": 65536,
    }  # fmt: skip
    task = runner.load_task_config("demo")
    return {
        "problem": row, "agent_config": config, "task_name": "demo",
        "prompt_config": {name: task[name] for name in ("system_prompt", "instance_prompt")},
        "output_dir": str(directory), "logs_dir": str(directory),
    }  # fmt: skip


def check_faults(url: str, directory: Path) -> None:
    """A sandbox that is killed is the problem's error, also where the package swallows it."""
    ours = docker_runtime.DockerRuntime
    before, run = ours.demux_run, Agent.run

    def kill(runtime: Any) -> None:
        os.kill(runtime.container.sandbox.pid, signal.SIGKILL)

    def killed_first(self: Any, code: str) -> Any:
        kill(self)
        return before(self, code)

    def killed_last(self: Any, runtime: Any, **options: Any) -> Any:
        trajectory = run(self, runtime=runtime, **options)
        kill(runtime)
        return trajectory

    work = problem(url, directory)
    ours.demux_run = killed_first
    found = runner.run_single_problem(work)
    ours.demux_run = before
    assert "the sandbox has ended" in found.error, found
    Agent.run = killed_last
    found = runner.run_single_problem(work)
    Agent.run = run
    assert "the sandbox has ended" in found.error, found
    found = runner.run_single_problem(work)
    assert (found.score, found.error) == (1.0, None), found


def check_run(url: str, directory: Path) -> None:
    """The package's `run`: a directory is copied in, and what the model left is copied out."""
    (directory / "in" / "deep").mkdir(parents=True)
    (directory / "in" / "deep" / "word.txt").write_text("amber\n")
    cli.run_agent_query(
        "Copy the word.", llm_name="scripted", llm_base_url=url, input_dir=str(directory / "in"),
        output_dir=str(directory / "out"),
    )  # fmt: skip
    (answer,) = (directory / "out").glob("*/files/answer.txt")
    assert answer.read_text() == "amber\n"


def check_workers(url: str, directory: Path) -> None:
    """Worker processes that are not forked, and so import the package afresh, have ours as well."""
    multiprocessing.set_start_method("spawn")
    found = cli.run_benchmark(
        "demo", llm_name="scripted", llm_base_url=url, output_dir=str(directory / "spawned"),
        num_workers=2, start_id=0, end_id=1,
    )  # fmt: skip
    assert (found["mean_score"], found["num_errors"], found["total"]) == (1.0, 0, 1), found


def main() -> None:
    """Check one after the other."""
    url, directory = sys.argv[1], Path(sys.argv[2])
    check_names()
    check_further_install()
    check_faults(url, directory)
    check_run(url, directory)
    check_workers(url, directory)


if __name__ == "__main__":
    main()
