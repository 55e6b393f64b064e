"""Sandboxes that are kept: made in one process, used from others, ended in every way."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Sandbox
from sandbox_lite.errors import HostError, SandboxClosedError, SpecError
from sandbox_lite.jail.kept import registry
from tests.conftest import require
from tests.installed import Installed, interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cli(home: Path, tmp_path: Path) -> Installed:
    return Installed(home=home, directory=tmp_path, variables={"SANDBOX_LITE_ROOTFS": "minimal"})


@pytest.fixture
def name(cli: Installed) -> Iterator[str]:
    """A kept sandbox, made by a program that has ended."""
    name = f"test-{secrets.token_hex(4)}"
    made = cli.run("create", "--name", name, "--memory", "512MiB", "--ttl", "10m")
    assert made.code == 0, made.err
    try:
        yield name
    finally:
        if any(one.name == name for one in registry.records()):
            registry.end(name)


def keeper(name: str) -> psutil.Process:
    return psutil.Process(registry.read(name).owner.pid)


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_used_from_other_programs(cli: Installed, name: str, tmp_path: Path) -> None:
    one = cli.run("exec", name, "--", "sh", "-c", "echo out; echo err >&2; touch made; exit 3")
    assert (one.code, one.out, one.err) == (3, b"out\n", "err\n")
    assert cli.run("exec", name, "ls").text == "made\n"
    assert cli.run("exec", name, "-c", "cat; exit 4", given=b"a\0b").code == 4
    assert cli.run("exec", name, "--", "cat", given=b"a\0b").out == b"a\0b"
    (tmp_path / "data.bin").write_bytes(b"\0\xff" * 5000)
    assert cli.run("cp", "data.bin", f"{name}:/testbed/sub/").code == 0
    assert cli.run("cp", f"{name}:/testbed/sub", "back").code == 0
    assert (tmp_path / "back" / "data.bin").read_bytes() == b"\0\xff" * 5000
    assert cli.run("cp", f"{name}:/testbed/sub/data.bin", ".").code == 0
    listed = json.loads(cli.run("ps", "--json").text.splitlines()[-1])
    assert {"name", "owner", "host", "alive"} <= listed.keys()
    stats = json.loads(cli.run("stats", name, "--json").text)
    assert stats["name"] == name
    assert stats["limits"]["memory"] == 512 << 20
    assert stats["pids"] >= 2
    logged = cli.run("logs", name).text
    assert "exited 3" in logged
    assert "    out\n" in logged


def test_shell_state_is_shared_and_lasts(name: str, home: Path) -> None:
    with Sandbox.connect(name) as box:
        box.run("cd /tmp && kept=variable").check()
    code = (
        "import sys; from sandbox_lite import Sandbox\n"
        "with Sandbox.connect(sys.argv[1]) as box:\n"
        "    print(box.run('echo $kept $PWD').stdout, end='')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, check=True, timeout=18
    )
    assert done.stdout == "variable /tmp\n"


def test_two_callers_at_once(name: str) -> None:
    outputs: list[str] = []

    def call(word: str) -> None:
        with Sandbox.connect(name) as box:
            meet = "until [ -e /tmp/a ] && [ -e /tmp/b ]; do sleep 0.01; done"
            outputs.append(box.exec(["sh", "-c", f"touch /tmp/{word}; {meet}; echo {word}"]).stdout)

    threads = [threading.Thread(target=call, args=(word,)) for word in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert sorted(outputs) == ["a\n", "b\n"]


def test_everything_that_a_sandbox_can(name: str) -> None:
    with Sandbox.connect(name) as box:
        pieces: list[tuple[str, bytes]] = []
        result = box.run("echo one; echo two >&2", on_output=lambda *piece: pieces.append(piece))
        assert (result.stdout, result.stderr) == ("one\n", "two\n")
        assert sorted(pieces) == [("stderr", b"two\n"), ("stdout", b"one\n")]
        assert box.run("sleep 50", timeout=0.3).outcome == "timed_out"
        assert box.exec(["cat"], input=b"\0" * 3_000_000).stdout_bytes[:3] == b"\0\0\0"
        assert box.run("exit 7").restarted
        box.files.write("/testbed/x", b"data")
        assert box.files.read("/testbed/x") == b"data"
        with box.interact("python3 -q") as python:
            python.expect(">>> ")
            python.sendline("6 * 7")
            python.expect("42")
            python.control("d")
            assert python.finish().exit_code == 0
        assert box.enforcement.limit("memory").value == 512 << 20
        with pytest.raises(SpecError, match="NUL"):
            box.run("a\0b")


def test_caller_who_goes_away_ends_his_command_alone(cli: Installed, name: str) -> None:
    process = cli.start("exec", name, "--", "sh", "-c", "echo ready; exec sleep 77")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert interrupted(process).code == 130
    with Sandbox.connect(name) as box:
        deadline = time.monotonic() + 10
        sleeping = "cat /proc/[0-9]*/comm 2>/dev/null | grep -x sleep"
        while box.run(sleeping).ok and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not box.run(sleeping).ok
    killed = cli.start("exec", name, "--", "sh", "-c", "echo ready; exec sleep 78")
    assert killed.stdout is not None
    with killed:
        assert killed.stdout.readline() == b"ready\n"
        killed.kill()
    with Sandbox.connect(name) as box:
        assert box.run("echo on").stdout == "on\n"


def test_rm_leaves_nothing(cli: Installed, name: str) -> None:
    process = keeper(name)
    tree = [process, *process.children(recursive=True)]
    assert len(tree) > 2
    result = cli.run("rm", name)
    assert (result.code, result.text) == (0, f"{name}\n")
    assert all_gone(tree)
    assert not (registry.base() / name).exists()
    message, hint = cli.run("exec", name, "--", "true").one_error()
    assert "no kept sandbox" in message
    assert "create" in hint


def test_it_ends_at_its_time(cli: Installed) -> None:
    name = f"short-{secrets.token_hex(4)}"
    assert cli.run("create", "--name", name, "--ttl", "2s").code == 0
    process = keeper(name)
    tree = [process, *process.children(recursive=True)]
    box = Sandbox.connect(name)
    assert box.run("echo early").ok

    def use() -> None:
        while True:
            box.run("sleep 0.1")

    with pytest.raises(SandboxClosedError):
        use()
    box.close()
    assert all_gone(tree)
    assert not (registry.base() / name).exists()


def test_killed_keeper_leaves_nothing_after_prune(cli: Installed, name: str) -> None:
    process = keeper(name)
    tree = process.children(recursive=True)
    process.kill()
    assert all_gone([process, *tree])
    with pytest.raises(SandboxClosedError):
        Sandbox.connect(name)
    assert "dead" in cli.run("ps").text
    assert name in cli.run("prune").text
    assert not (registry.base() / name).exists()
    assert name not in cli.run("ps").text


def test_name_that_is_taken(cli: Installed, name: str) -> None:
    result = cli.run("create", "--name", name)
    message, hint = result.one_error()
    assert result.code == 2
    assert "already" in message
    assert f"rm {name}" in hint
    with Sandbox.connect(name) as box:
        assert box.run("echo on").ok


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--name", "../x"], 2),
        (["--name", "x", "--ttl", "soon"], 2),
        (["--name", "x", "--rootfs", "nope"], 125),
        (["--name", "x", "--memory", "lots"], 2),
    ],
)
def test_what_cannot_be_made_leaves_nothing(cli: Installed, words: list[str], code: int) -> None:
    result = cli.run("create", *words)
    result.one_error()
    assert result.code == code
    assert not (registry.base() / "x").exists()


def test_options_of_a_fresh_sandbox_are_refused_for_a_kept_one(cli: Installed, name: str) -> None:
    for words in (["--memory", "64MiB"], ["--output", "out"], ["--rootfs", "minimal"]):
        result = cli.run("exec", *words, name, "--", "true")
        assert result.code == 2
        assert words[0] in result.one_error()[0]


def test_words_behind_dashes_are_a_program(cli: Installed) -> None:
    assert cli.run("exec", "--", "env", "--", "echo", "on").text == "on\n"
    message, hint = cli.run("exec", "no-such-box", "--", "true").one_error()
    assert "no kept sandbox 'no-such-box'" in message
    assert "create" in hint


def test_shells_of_terminals_do_not_pile_up(name: str) -> None:
    with Sandbox.connect(name) as box:
        for number in range(3):
            with box.interact("echo hello", shell=f"terminal-{number}", passing=True) as terminal:
                assert terminal.finish().exit_code == 0
        deadline = time.monotonic() + 5
        while box.stats()["pids"] > 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert box.stats()["pids"] == 2


def test_another_user_is_refused(name: str) -> None:
    require(os.getuid() == 0, "root")
    directory = registry.base() / name
    # a careless chmod; what remains is that the kernel tells who calls
    directory.chmod(0o755)
    (directory / "socket").chmod(0o666)
    code = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1]); os.setgid(65534); os.setuid(65534)\n"
        "caller = socket.socket(socket.AF_UNIX); caller.connect('socket')\n"
        "caller.sendall(b'J' + (16).to_bytes(4, 'big') + b'{\"op\": \"status\"}')\n"
        "print(caller.recv(4096)[5:].decode())\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code, directory], capture_output=True, text=True, check=True
    )
    assert "another user" in json.loads(done.stdout)["message"]
    with pytest.raises(HostError, match="another user"):
        Sandbox.connect(name)


def test_snapshot_diff_and_commit(cli: Installed, name: str, tmp_path: Path) -> None:
    # through the shell that lasts, whose directory and variables are kept as well
    with Sandbox.connect(name) as sandbox:
        sandbox.run("mkdir /w; cd /w; mine=5; echo made >file; rm /etc/debian_version")
    told = cli.run("diff", name).text.splitlines()
    assert "A w/file  (5 B)" in told
    assert any(line.startswith("D etc/debian_version") for line in told)
    listed = [json.loads(line) for line in cli.run("diff", name, "--json").text.splitlines()]
    assert {"path": "w/file", "kind": "added", "size_bytes": 5}.items() <= next(
        one for one in listed if one["path"] == "w/file"
    ).items()

    done = cli.run("snapshot", name, "kept.tar.zst")
    assert (done.code, done.out) == (0, b"")
    assert cli.run("exec", name, "--", "rm", "/w/file").code == 0
    again = f"{name}-again"
    # the rootfs is the snapshot's, whatever this user's default is
    made = cli.run("create", "--name", again, "--snapshot", "kept.tar.zst", "--rootfs", "minimal")
    assert made.code == 0, made.err
    try:
        with Sandbox.connect(again) as sandbox:
            assert sandbox.run("pwd; echo $mine; cat file").stdout == "/w\n5\nmade\n"
    finally:
        registry.end(again)

    done = cli.run("commit", name, f"{name}-rootfs")
    assert done.code == 0, done.err
    try:
        assert cli.run("exec", "--rootfs", f"{name}-rootfs", "--", "ls", "/w").out == b""
        assert cli.run("exec", "--rootfs", f"{name}-rootfs", "--", "test", "-e", "/w").code == 0
    finally:
        assert cli.run("rootfs", "rm", f"{name}-rootfs").code == 0
    assert cli.run("snapshot", name, ".").code == 2
    assert cli.run("create", "--name", "x", "--snapshot", "missing").code == 125
    assert (
        cli.run("create", "--name", "x", "--snapshot", "kept.tar.zst", "--rootfs", "host").code == 2
    )
