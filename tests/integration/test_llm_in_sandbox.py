"""The stand-in for the Docker runtime of `llm-in-sandbox`, without the package.

`tests/llm_in_sandbox/face.json` is what the package's own runtime answered on Docker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.adapters.llm_in_sandbox import Choice, DockerRuntime, install
from sandbox_lite.errors import (
    HostError,
    RootfsError,
    SandboxClosedError,
    SpecError,
)
from tests.llm_in_sandbox import calls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.jail.sandbox import Sandbox


class Minimal(DockerRuntime):
    choice = Choice(rootfs="minimal")


@pytest.fixture
def runtime(home: Path) -> Iterator[Minimal]:
    del home
    made = Minimal("some/image:v1", logger=False)
    yield made
    made.close()


def _sandbox(runtime: DockerRuntime) -> Sandbox:
    assert runtime.container is not None
    return runtime.container.sandbox


def _kill(runtime: DockerRuntime) -> None:
    """Kill the sandbox from outside, as a host does that is short of memory."""
    os.kill(_sandbox(runtime).pid, signal.SIGKILL)


@pytest.mark.timeout(90)
def test_every_answer_is_the_one_recorded_with_docker(
    standard_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    host, out = tmp_path / "host", tmp_path / "out"
    out.mkdir()
    calls.prepare(host)
    runtime = DockerRuntime("cdx123/llm-in-sandbox:v0.1", environment=calls.ENVIRONMENT)
    answers = calls.play(runtime, host, out)
    recorded = json.loads(calls.FACE.read_text())
    assert len(recorded) == len(calls.CALLS) + 1
    for call, ours, docker in zip((*calls.CALLS, "what came out"), answers, recorded, strict=True):
        assert ours == docker, call


def test_attributes_are_the_package_s(runtime: Minimal) -> None:
    assert (runtime.docker_image, runtime.repo_path) == ("some/image:v1", "/testbed")
    assert (runtime.command, runtime.docker_kwargs) == ("sleep infinity", {})
    assert runtime.client is None
    container = runtime.container
    assert container is not None
    assert container.name == runtime.container_name
    assert runtime.container_name.startswith("some-image-v1-")
    assert container.status == "running"
    assert container.id.startswith(container.short_id)
    runtime.start_container("some/image:v1", "sleep infinity", runtime.container_name)
    assert runtime.container is container, "the one of that name is kept, as with Docker"
    runtime.close()
    assert runtime.container is None
    assert container.status == "exited"


def test_git_is_not_needed(runtime: Minimal) -> None:
    assert runtime.run("command -v git; ls -A") == ("input\noutput\n", "0")


def test_killed_sandbox_is_an_exception_and_no_answer(runtime: Minimal, tmp_path: Path) -> None:
    runtime.faults.clear()
    _kill(runtime)
    (tmp_path / "file").touch()
    with pytest.raises(SandboxClosedError):
        runtime.run("echo")
    with pytest.raises(SandboxClosedError):
        runtime.demux_run("echo")
    with pytest.raises(SandboxClosedError):
        runtime.copy_to_container(str(tmp_path / "file"), "/testbed/x")
    assert [type(one) for one in runtime.faults] == [SandboxClosedError] * 3
    assert runtime.container is not None
    assert runtime.container.status == "exited"
    runtime.start_container("i", "sleep infinity", runtime.container_name)
    assert runtime.run("echo fresh") == ("fresh\n", "0")


def test_sandbox_killed_under_a_command_is_an_exception(runtime: Minimal) -> None:
    timer = threading.Timer(0.5, _kill, [runtime])
    timer.start()
    try:
        with pytest.raises(SandboxClosedError):
            runtime.run("sleep 60")
    finally:
        timer.join()


def test_closed_runtime_says_so_and_can_be_started_again(runtime: Minimal, tmp_path: Path) -> None:
    runtime.close()
    with pytest.raises(SandboxClosedError, match="closed"):
        runtime.run("echo")
    with pytest.raises(SandboxClosedError, match="closed"):
        runtime.copy_from_container("/testbed", str(tmp_path))
    runtime.start_container("i", "sleep infinity", "again")
    assert runtime.demux_run("pwd") == ("/testbed\n", "", "0")


def test_what_ignores_sigterm_is_killed(runtime: Minimal) -> None:
    began = time.monotonic()
    late = runtime.run("trap '' TERM; while :; do sleep 0.1; done", timeout=1)
    assert late == ("The command took too long to execute (>1s)", "-1")
    assert time.monotonic() - began < 10
    alive = (
        "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -c '^bash -c trap'"
    )
    assert runtime.run(alive) == ("0\n", "Error: Exit code 1")


def test_background_job_does_not_hold_the_call(runtime: Minimal) -> None:
    began = time.monotonic()
    assert runtime.run("sleep 60 & echo $!")[1] == "0"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("timeout", ["abc", -1, "1 s", ""])
def test_time_out_that_is_none_is_refused(runtime: Minimal, timeout: float | str) -> None:
    with pytest.raises(SpecError, match="time-out"):
        runtime.run("echo", timeout=timeout)


@pytest.mark.parametrize("code", [["ls"], 5, b"ls"])
def test_command_that_is_no_text_is_a_type_error(runtime: Minimal, code: str) -> None:
    with pytest.raises(TypeError):
        runtime.run(code)


def test_long_output_is_whole(runtime: Minimal) -> None:
    stdout, stderr, ended = runtime.demux_run("head -c 3000000 /dev/zero | tr '\\0' a")
    assert (len(stdout), set(stdout), stderr, ended) == (3_000_000, {"a"}, "", "0")


def test_commands_of_several_threads_run_at_once(runtime: Minimal) -> None:
    answers: list[tuple[str, str]] = []
    # each waits for the other's file, so neither ends alone
    codes = [
        f"touch {a}; for i in $(seq 100); do test -e {b} && echo {a} && exit; sleep 0.1; done"
        for a, b in (("x", "y"), ("y", "x"))
    ]
    threads = [
        threading.Thread(target=lambda code=code: answers.append(runtime.run(code)))
        for code in codes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [("x\n", "0"), ("y\n", "0")]


def test_files_with_spaces_and_alone(runtime: Minimal, tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("1\n")
    runtime.copy_to_container(str(tmp_path / "a b"), "/testbed/c d/")
    assert runtime.run("cat 'c d/a b'") == ("1\n", "0")
    runtime.copy_from_container("/testbed/c d/a b", str(tmp_path / "out"))
    assert (tmp_path / "out" / "a b").read_text() == "1\n"


def test_link_out_of_the_output_reaches_nothing_of_the_host(
    runtime: Minimal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.run("cd output; ln -s /etc/passwd secret; ln -s ../../../etc up; echo > kept")
    runtime.copy_from_container("/testbed/output", str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]
    assert caplog.text.count("Not copied of /testbed/output") == 2


def test_options_of_docker_are_followed(home: Path, tmp_path: Path) -> None:
    del home
    (tmp_path / "given").write_text("of the host\n")
    runtime = Minimal(
        "i", "/box", "sleep 97", False, environment={"A": 1}, network_mode="none",
        mem_limit="256m", pids_limit=64, shm_size="1m", hostname="box", auto_remove=True,
        volumes={str(tmp_path): {"bind": "/given", "mode": "ro"}},
    )  # fmt: skip
    try:
        said = runtime.run("pwd; ls; echo $A; cat /proc/sys/kernel/hostname /given/given")
        assert said == ("/box\ninput\noutput\n1\nbox\nof the host\n", "0")
        assert runtime.run("echo > /given/x")[1] == "Error: Exit code 1"
        assert (
            "sleep 97"
            in runtime.run(
                "tr '\\0' ' ' < /proc/[0-9]*/cmdline; cat /proc/*/cmdline | tr '\\0' ' '"
            )[0]
        )
        spec = _sandbox(runtime).spec
        assert (spec.network, spec.limits.memory_bytes, spec.limits.pids) == ("none", 256 << 20, 64)
        assert spec.limits.shm_bytes == 1 << 20
        assert {"memory", "pids", "shm"} <= set(spec.limits.named)
    finally:
        runtime.close()


@pytest.mark.parametrize(
    "options",
    [
        {"privileged": True},
        {"network_mode": "container:other"},
        {"mem_limit": None},
        {"environment": ["A=1"]},
        {"volumes": ["named:/x"]},
        {"volumes": {"/tmp": {"bind": "/x", "mode": "z"}}},
    ],
)
def test_option_without_counterpart_is_refused(home: Path, options: dict[str, object]) -> None:
    del home
    with pytest.raises(SpecError, match="docker"):
        Minimal("i", logger=False, **options)  # type: ignore[arg-type]


def test_settings_of_the_environment_choose_the_sandbox(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del home
    usual = DockerRuntime.choice.spec("i", "/testbed", {})
    assert (usual.rootfs, usual.network) == ("standard", "web")
    monkeypatch.setenv("SANDBOX_LITE_ROOTFS", "paper")
    monkeypatch.setenv("SANDBOX_LITE_NETWORK", "packages")
    monkeypatch.setenv("SANDBOX_LITE_MEMORY", "1GiB")
    chosen = DockerRuntime.choice.spec("i", "/testbed", {})
    assert (chosen.rootfs, chosen.network, chosen.limits.memory_bytes) == (
        "paper",
        "packages",
        1 << 30,
    )
    named = Choice(rootfs="minimal", network="none", images={"i": "host"})
    assert named.spec("i", "/testbed", {}).rootfs == "host"
    assert named.spec("j", "/testbed", {"network_mode": "bridge"}).network == "none"
    assert named.spec("j", "/testbed", {}).rootfs == "minimal"


def test_rootfs_that_is_not_there_is_an_error_with_its_remedy(home: Path) -> None:
    del home
    with pytest.raises(RootfsError) as caught:
        Choice(rootfs="nobody-built-this").check("i")
    assert caught.value.hint


def test_install_without_the_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_in_sandbox", None)
    with pytest.raises(HostError, match="cannot import") as caught:
        install()
    assert "llm-in-sandbox" in (caught.value.hint or "")


def test_import_needs_neither_openai_nor_the_package() -> None:
    script = (
        "import sys\n"
        "for name in ('openai', 'docker', 'litellm', 'llm_in_sandbox'): sys.modules[name] = None\n"
        "from sandbox_lite.adapters import llm_in_sandbox\n"
        "print(llm_in_sandbox.DockerRuntime.__name__)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "DockerRuntime\n"), ended.stderr


def test_command_line_without_the_package_is_one_error_with_its_remedy() -> None:
    script = (
        "import runpy, sys\n"
        "sys.modules['llm_in_sandbox'] = None\n"
        "runpy.run_module('sandbox_lite.adapters.llm_in_sandbox', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 125
    first, hint = ended.stderr.splitlines()
    assert first.startswith("sandbox-lite: error: cannot import llm_in_sandbox")
    assert hint.startswith("hint: ")
