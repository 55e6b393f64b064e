"""`sandbox-lite bench --engine ray` on real clusters; tests/ray/run gives it a namespace."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.installed import Ended, Installed, ended, interrupted
from tests.model_server import ModelServer, Scripted, says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(300)

EPISODES = 500
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own, which look for their dead head for a minute before they end."""
WRONG = 7
"""Every so many an answer is wrong."""


def number_of(request: dict[str, Any]) -> int:
    found = re.search(r"number (\d+)\.", json.dumps(request["messages"]))
    assert found is not None
    return int(found[1])


def is_first(request: dict[str, Any]) -> bool:
    return not any(message["role"] == "assistant" for message in request["messages"])


def truth(number: int) -> int:
    return 3 * number + 1


def conversation(request: dict[str, Any]) -> Scripted:
    if not is_first(request):
        return says(None, ("submit", {}), usage=(150, 20))
    number = number_of(request)
    found = re.search(r"/[\w/]+/answer\.txt", json.dumps(request["messages"]))
    assert found is not None
    said = truth(number) + (number % WRONG == 0)
    command = f"echo '\\boxed{{{said}}}' > {found[0]}"
    return says(None, ("execute_bash", {"command": command}), usage=(100, 10))


def in_namespace() -> set[int]:
    """Return the pids of the processes in our network namespace, ours and our parents' left out."""
    us = psutil.Process()
    known = {us.pid, *(one.pid for one in us.parents())}
    ours = Path("/proc/self/ns/net").readlink()
    found = set()
    for pid in psutil.pids():
        try:
            if Path(f"/proc/{pid}/ns/net").readlink() == ours and pid not in known:
                found.add(pid)
        except OSError:
            continue  # it is gone, or another user's
    return found


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory, rootfs_home: Path) -> Iterator[Path]:
    """A working directory; when it is left, so are no processes, sandboxes or session directory."""
    running = rootfs_home / "run"

    def sandboxes() -> set[Path]:
        return set(running.iterdir()) if running.exists() else set()

    def sessions() -> set[Path]:
        return set(Path("/tmp").glob("sandbox-lite-ray-*"))

    before, sessions_before = sandboxes(), sessions()
    assert not in_namespace()
    yield tmp_path_factory.mktemp("bench")
    until(lambda: not in_namespace(), 20)
    until(lambda: sandboxes() <= before, 20)
    until(lambda: sessions() <= sessions_before, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    address: str
    raylets: tuple[int, ...]

    def kill_second(self) -> tuple[list[str], list[psutil.Process]]:
        """Kill a node's raylet and workers; return what was beneath them, names first."""
        raylet = psutil.Process(self.raylets[1])
        beneath = raylet.children(recursive=True)
        names = []
        for one in beneath:
            with contextlib.suppress(psutil.NoSuchProcess):
                names.append(one.name())
        for one in (raylet, *raylet.children()):
            one.kill()
        return names, beneath


@pytest.fixture
def cluster(directory: Path, home: Path) -> Iterator[Cluster]:
    del directory, home
    script = Path(__file__).with_name("two_nodes.py")
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        try:
            yield Cluster(address=said["address"], raylets=tuple(said["raylets"]))
        finally:
            process.communicate("", timeout=60)


@pytest.fixture
def cli(directory: Path, rootfs_home: Path) -> Installed:
    rows = (
        {"id": f"p{n}", "problem_statement": f"This is number {n}.", "ground_truth": str(truth(n))}
        for n in range(EPISODES)
    )
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Installed(
        home=rootfs_home,
        directory=directory,
        variables={
            "SANDBOX_LITE_ROOTFS": "minimal", "SANDBOX_LITE_MODEL": "scripted",
            "SANDBOX_LITE_MODEL_RETRIES": "0", "SANDBOX_LITE_NETWORK": "none",
        },
    )  # fmt: skip


def start(cli: Installed, server: ModelServer, *words: str) -> subprocess.Popen[bytes]:
    return cli.start(
        "bench", "math", "--data", "rows.jsonl", "--out", "out", "--mode", "sandbox",
        "--base-url", server.base_url, "--engine", "ray", *words,
    )  # fmt: skip


def finished(process: subprocess.Popen[bytes]) -> Ended:
    try:
        until(lambda: process.poll() is not None, 200)
    except AssertionError:
        process.kill()
        raise
    return ended(process)


def lines(cli: Installed) -> list[dict[str, Any]]:
    text = (cli.directory / "out" / "episodes.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def check_whole(cli: Installed, count: int = EPISODES) -> None:
    """Each episode is there once, with its trajectory and the score of a calculation by hand."""
    found = lines(cli)
    assert Counter(line["row"] for line in found) == {f"p{n}": 1 for n in range(count)}
    for line in found:
        assert line["fault"] is None
        assert line["score"]["value"] == float(int(line["row"][1:]) % WRONG != 0), line
        assert (cli.directory / "out" / line["trajectory"]).is_file()
    results = json.loads((cli.directory / "out" / "results.json").read_text())
    assert results["complete"]
    right = sum(n % WRONG != 0 for n in range(count))
    assert results["score"] == {"sandbox": pytest.approx(right / count)}


def first_requests(server: ModelServer) -> Counter[int]:
    return Counter(number_of(one) for one in server.requests if is_first(one))


def test_each_episode_counts_once(cli: Installed, cluster: Cluster) -> None:
    with ModelServer(conversation) as server:
        words = ("--ray-address", cluster.address, "--concurrency", "4")
        result = finished(start(cli, server, *words))
        assert result.code == 0, result.err
        assert first_requests(server) == dict.fromkeys(range(EPISODES), 1)
    assert result.err.count(": 4,") + result.err.count(": 4\n") == 2, result.err
    check_whole(cli)


def test_what_is_lost_with_a_node_is_done_elsewhere(cli: Installed, cluster: Cluster) -> None:
    enough = threading.Event()
    killed = threading.Event()
    begun: list[int] = []

    def conversation_until_killed(request: dict[str, Any]) -> Scripted:
        begun.append(number_of(request))
        if len(begun) > 200:
            enough.set()
            # both nodes are in the middle of their episodes
            killed.wait(30)
        return conversation(request)

    with ModelServer(conversation_until_killed) as server:
        words = ("--ray-address", cluster.address, "--concurrency", "4")
        process = start(cli, server, *words)
        until(lambda: enough.is_set() or process.poll() is not None, 120)
        assert process.poll() is None, ended(process).err
        names, beneath = cluster.kill_second()
        assert "bwrap" in names, names
        # nobody killed those of its sandboxes but the kernel and the janitor
        _, alive = psutil.wait_procs(beneath, timeout=20)
        killed.set()
        assert not alive, alive
        result = finished(process)
        assert result.code == 0, result.err
        tries = first_requests(server)
    check_whole(cli)
    lost = {line["row"]: line["faults"] for line in lines(cli) if line["faults"]}
    assert lost, result.err
    for row, faults in lost.items():
        assert [one["stop"] for one in faults] == ["machine_lost"], faults
        assert tries[int(row[1:])] <= 2
    assert sum(tries.values()) <= EPISODES + len(lost)
    assert "was lost; its episodes go back to the queue" in result.err


def test_ctrl_c_leaves_a_usable_result_and_nothing_else(cli: Installed) -> None:
    """A cluster of its own, which ends with it; a second start does the rest."""
    held = [True]

    def slow(request: dict[str, Any]) -> Scripted:
        if held and number_of(request) >= 4:
            return says(None, ("execute_bash", {"command": "sleep 100"}))
        return conversation(request)

    words = ("--concurrency", "2", "--limit", "8")
    with ModelServer(slow) as server:
        process = start(cli, server, *words)
        path = cli.directory / "out" / "episodes.jsonl"
        until(lambda: path.exists() and path.read_text().count("\n") == 4)
        until(lambda: any(number_of(one) >= 4 for one in server.requests))
        result = interrupted(process, seconds=60)
        assert result.code == 130, result.err
        assert {line["row"] for line in lines(cli)} == {"p0", "p1", "p2", "p3"}
        held.clear()
        again = finished(start(cli, server, *words))
        assert again.code == 0, again.err
        assert "4 of 8 episodes to do" in again.err
    check_whole(cli, 8)
    # no token of Ray's in the home directory either
    assert not (cli.directory / ".ray").exists()


def test_a_driver_that_is_killed_leaves_nothing(cli: Installed) -> None:
    """The fixture looks; its cluster, the actors and their sandboxes end with it."""

    def slow(request: dict[str, Any]) -> Scripted:
        del request
        return says(None, ("execute_bash", {"command": "sleep 100"}))

    with ModelServer(slow) as server:
        process = start(cli, server, "--concurrency", "2", "--limit", "2")
        until(lambda: sum(map(is_first, server.requests)) == 2)
        beneath = psutil.Process(process.pid).children(recursive=True)
        assert "bwrap" in [one.name() for one in beneath]
        process.kill()
        process.communicate()
        agents = [one for one in beneath if one.name() in AGENTS]
        rest = [one for one in beneath if one not in agents]
        _, alive = psutil.wait_procs(rest, timeout=30)
        for one in agents:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    assert not alive, alive


def test_a_cluster_that_is_not_there(cli: Installed) -> None:
    with ModelServer(conversation) as server:
        result = finished(start(cli, server, "--ray-address", "127.0.0.1:1", "--limit", "1"))
    assert result.code == 125
    assert "no Ray cluster at 127.0.0.1:1" in result.err
