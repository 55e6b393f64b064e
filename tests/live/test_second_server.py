"""The agent against `transformers serve`: a server that is not ours, and a model that is one.

Run it once by hand; torch is too large for every CI run, and without it the test is skipped:

    python3 -m venv DIR
    DIR/bin/pip install torch==2.13.0 "transformers[serving]"
    SANDBOX_LITE_TRANSFORMERS_PYTHON=DIR/bin/python python -m pytest -s tests/live

Seen with torch 2.13.0 and transformers 5.23.0: half a minute, two cores, no network.
(Where pip's index has no CPU build of torch, take it from PyTorch's own CPU index: the default one
brings CUDA along.)

A model of two layers is built here, and taught conversations that our own loop records in real
sandboxes: eight words, one conversation each. Which of them a file holds it can then know only
from the tool message that our loop sends back, so a lost or wrong one gives a wrong answer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits
from sandbox_lite.agent import tools
from sandbox_lite.agent.loop import Agent
from sandbox_lite.agent.model import Model, ModelSettings
from sandbox_lite.agent.trajectory import StopReason, TrajectoryWriter, load
from sandbox_lite.errors import ModelError
from sandbox_lite.jail.rootfs.store import Store
from sandbox_lite.jail.sandbox import Sandbox
from tests.conftest import require
from tests.model_server import ModelServer, says

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.agent.completion import Message

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

PYTHON = os.environ.get("SANDBOX_LITE_TRANSFORMERS_PYTHON", "")

TASK = "Which word is in the file word.txt?"
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grape", "hazel")
READ = {"command": "cat input/word.txt"}


def _write(word: str) -> dict[str, str]:
    return {"command": f"echo {word} > output/answer.txt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    base_url: str
    model: str
    store: Store

    def model_of(self, **settings: object) -> Model:
        asked: dict[str, object] = {"model": self.model, "base_url": self.base_url, **settings}
        return Model(ModelSettings(**asked))  # type: ignore[arg-type]


@contextlib.contextmanager
def _sandbox(store: Store, word: str) -> Iterator[Sandbox]:
    with Sandbox("minimal", limits=Limits.of(timeout=15), store=store) as sandbox:
        sandbox.files.write("/testbed/input/word.txt", f"{word}\n")
        yield sandbox


def _recorded(store: Store, word: str) -> list[Message]:
    """Return what our loop and a real sandbox make of a task; only the calls come from a script."""
    script = (
        says(None, ("execute_bash", READ)),
        says(None, ("execute_bash", _write(word))),
        says(None, ("submit", {})),
    )
    with ModelServer(*script) as server, _sandbox(store, word) as sandbox:
        with Model(ModelSettings(model="scripted", base_url=server.base_url)) as model:
            agent = Agent(sandbox, model)
            run = agent.run(TASK)
    assert (run.stop, run.answer) == (StopReason.SUBMITTED, word)
    return agent.messages


def _build(store: Store, directory: Path) -> Path:
    recorded = directory / "recorded.json"
    conversations = [_recorded(store, word) for word in WORDS]
    recorded.write_text(json.dumps({"tools": tools.schemas(), "conversations": conversations}))
    script = Path(__file__).with_name("tiny_model.py")
    target = directory / "model"
    built = subprocess.run(
        [PYTHON, str(script), str(recorded), str(target)],
        capture_output=True, text=True, timeout=400, check=False, env=_environment(directory),
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    print(f"\nbuilt: {built.stdout}", end="")  # noqa: T201 -- a run by hand wants to see it
    return target


def _environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(directory / "hub")}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        # no urllib: it would ask a proxy for this machine's own server
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
            with contextlib.suppress(OSError):
                client.request("GET", "/health")
                assert client.getresponse().status == 200
                return
        time.sleep(0.1)
    pytest.fail(f"transformers serve did not come up: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """`transformers serve` on loopback, with the model made here."""
    require(bool(PYTHON), "transformers")
    rootfs_home: Path = request.getfixturevalue("rootfs_home")  # not built for a test that skips
    directory = tmp_path_factory.mktemp("second-server")
    store = Store(rootfs_home / "data" / "rootfs")
    model = _build(store, directory)
    port, log = _free_port(), directory / "serve.log"
    command = [
        str(Path(PYTHON).with_name("transformers")), "serve", str(model),
        "--device", "cpu", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    began = time.monotonic()
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environment(directory)
        ) as process,
    ):
        try:
            _wait_until_up(process, port, log)
            print(f"up after {time.monotonic() - began:.1f} s")  # noqa: T201
            yield Served(base_url=f"http://127.0.0.1:{port}/v1", model=str(model), store=store)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.parametrize("word", ["fjord", "birch"])
def test_calls_are_executed_and_their_results_read(
    served: Served, word: str, tmp_path: Path
) -> None:
    path = tmp_path / "trajectory.jsonl"
    with _sandbox(served.store, word) as sandbox, served.model_of(max_tokens=16) as model:
        with TrajectoryWriter(path) as writer:
            agent = Agent(sandbox, model, writer=writer)
            run = agent.run(TASK)
        assert (run.stop, run.error) == (StopReason.SUBMITTED, None)
        assert sandbox.files.read("/testbed/output/answer.txt") == f"{word}\n".encode()
        calls = [(call.name, json.loads(call.arguments)) for s in run.steps for call in s.calls]
        assert calls == [("execute_bash", READ), ("execute_bash", _write(word)), ("submit", {})]
    assert model.refused == frozenset()
    first, second, last = run.steps
    assert first.observations[0].content == f"Exit code: 0\n[STDOUT]\n{word}"
    assert last.observations[0].final
    assert {step.finish_reason for step in run.steps} == {"tool_calls"}
    assert not any(step.tokens.estimated for step in run.steps)
    assert min(first.tokens.prompt, second.tokens.environment, last.tokens.environment) > 0
    asked = [c["id"] for m in agent.messages for c in m.get("tool_calls", ())]
    answered = [m["tool_call_id"] for m in agent.messages if m["role"] == "tool"]
    assert asked == answered
    assert len(set(asked)) == 3
    assert load(path).steps == run.steps
    seconds = [f"{step.seconds.model:.3f}" for step in run.steps]
    print(f"\n{word}: {[step.tokens for step in run.steps]}, {seconds} s")  # noqa: T201


def test_parameter_that_it_refuses_is_dropped(served: Served) -> None:
    extra = {"top_k": 5, "seed": 1}
    with served.model_of(temperature=0.0, max_tokens=16, extra_body=extra) as model:
        answer = model.complete([{"role": "user", "content": TASK}], tools.schemas())
        assert model.refused == {"top_k"}
    assert answer.usage.completion_tokens <= 16


def test_model_that_it_does_not_serve_is_one_clear_line(served: Served) -> None:
    with served.model_of(model="nobody/nothing", max_retries=0) as model:
        with pytest.raises(ModelError, match="nobody/nothing") as caught:
            model.complete([{"role": "user", "content": TASK}], tools.schemas())
    assert "\n" not in caught.value.message
    assert "400" in caught.value.message
    print(f"\n{caught.value.message}")  # noqa: T201
