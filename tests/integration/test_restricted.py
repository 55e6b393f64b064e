"""Sandboxes that take no files, or run nothing: the kernel's word, whatever is tried inside."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import AsyncSandbox
from sandbox_lite.errors import FileAccessError, LaunchError, PolicyError, SpecError
from sandbox_lite.jail import commands
from sandbox_lite.jail.kept import wire
from sandbox_lite.jail.native import nest
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.spec import Mount, SandboxSpec
from tests.conftest import require_subordinate_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox_lite.spec import UpperKind

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.timeout(120)]

ANSWER = "/testbed/output/answer.txt"
NO_FILES = SandboxSpec(
    rootfs="minimal", writable=(ANSWER,), directories=("/testbed/documents", "/testbed/output")
)
NO_PROGRAMS = SandboxSpec(rootfs="minimal", programs=False)


@pytest.fixture(scope="module")
def bare(rootfs_home: Path) -> Iterator[Sandbox]:
    """One that takes no file but the answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOX_LITE_HOME", str(rootfs_home))
        with Sandbox(NO_FILES) as sandbox:
            yield sandbox


# -- no files --------------------------------------------------------------------------------------

CANNOT = {
    "a file": "echo 1 > /testbed/notes",
    "beside the answer": "echo 1 > /testbed/output/other",
    "tmp": "echo 1 > /tmp/x",
    "var tmp": "echo 1 > /var/tmp/x",
    "shm": "echo 1 > /dev/shm/x",
    "home": "echo 1 > ~/x",
    "dev": "echo 1 > /dev/x",
    "run": "echo 1 > /run/sandbox-lite/x",
    "a directory": "mkdir /testbed/d",
    "a fifo": "mkfifo /testbed/f",
    "a link": "ln -s / /testbed/l",
    "a hard link": f"ln {ANSWER} /testbed/output/b",
    "remove the answer": f"rm -f {ANSWER}",
    "move the answer": f"mv {ANSWER} /testbed/output/b",
    "move its directory": "mv /testbed/output /testbed/o",
    "replace it by a link": f"ln -sf /etc/passwd {ANSWER}",
    "append to a file of the rootfs": "echo 1 >> /etc/passwd",
    "mode of a directory": "chmod 777 /tmp",
    "times": "touch /testbed",
    "by process 1": "echo 1 > /proc/1/root/tmp/x",
    "by the own root": "echo 1 > /proc/self/root/tmp/x",
    "by a descriptor": "exec 9</etc/passwd; echo 1 > /proc/self/fd/9",
    "mount a tmpfs": "mount -t tmpfs none /tmp",
    "mount it writable": "mount -o remount,rw /",
    "mount it writable by bind": "mount -o remount,bind,rw /",
    "unmount the answer": f"umount {ANSWER}",
    "a namespace of its own": "unshare -Urm true",
    "a file without a name": "python3 -c \"import os; os.open('/tmp', os.O_TMPFILE | os.O_RDWR)\"",
    "an attribute": "python3 -c \"import os; os.setxattr('/testbed', 'user.a', b'1')\"",
}  # fmt: skip


@pytest.mark.parametrize("command", CANNOT.values(), ids=list(CANNOT))
def test_nothing_else_can_be_written(bare: Sandbox, command: str) -> None:
    found = bare.run(f"( {command} ) 2>&1")
    assert found.exit_code != 0, found.output
    assert "No such file" not in found.output
    assert bare.run("ls -A /testbed /testbed/output /tmp /dev/shm").stdout.split() == [
        "/dev/shm:", "/testbed:", "documents", "output", "/testbed/output:", "answer.txt", "/tmp:",
    ]  # fmt: skip


def test_what_the_kernel_calls_writable_is_the_answer_alone(bare: Sandbox) -> None:
    found = bare.run(
        "find / \\( -path /proc -o -path /dev/pts \\) -prune -o \\( -type f -o -type d \\) "
        "-writable -print | while read -r path; do [ -c $path ] || echo $path; done"
    )
    assert found.check().stdout.split() == [ANSWER]


def test_the_answer_can_be_written_inside_and_by_the_editor(bare: Sandbox) -> None:
    bare.run(f"echo 5 > {ANSWER}; echo 6 >> {ANSWER}").check()
    assert bare.files.read(ANSWER, follow_links=False) == b"5\n6\n"
    bare.files.write(ANSWER, "seven")
    assert bare.run(f"cat {ANSWER}").stdout == "seven"
    bare.run(f"cat > {ANSWER} <<'EOF'\n\\boxed{{8}}\nEOF").check()
    with bare.still():
        assert bare.files.read(ANSWER, follow_links=False) == b"\\boxed{8}\n"
    for path in ("/tmp/x", "/testbed/output/b", "/dev/shm/x"):
        with pytest.raises(FileAccessError, match="Read-only"):
            bare.files.write(path, b"1")
    with pytest.raises(FileAccessError):
        bare.files.remove(ANSWER)
    assert bare.enforcement.writable == (ANSWER,)
    assert bare.enforcement.programs


def test_programs_run_and_calculate_as_ever(bare: Sandbox) -> None:
    assert bare.run("python3 -c 'print(6 * 7)' | cat").stdout == "42\n"
    assert bare.exec(["sh", "-c", "cd /testbed && pwd"]).stdout == "/testbed\n"
    bare.run("x=5; cd /testbed/output")
    assert bare.run("echo $x $PWD").stdout == "5 /testbed/output\n"


@pytest.mark.parametrize("upper", ["directory", "copy"])
def test_the_same_on_every_upper_layer(upper: UpperKind) -> None:
    with Sandbox(dataclasses.replace(NO_FILES, upper=upper)) as sandbox:
        assert sandbox.run("echo 1 > /tmp/x; echo 1 > /dev/shm/x").exit_code != 0
        assert sandbox.run(f"echo 5 > {ANSWER}; cat {ANSWER}").stdout == "5\n"
        assert sandbox.run(f"rm {ANSWER}").exit_code != 0


def test_the_same_where_ids_are_real() -> None:
    require_subordinate_ids()
    with Sandbox(dataclasses.replace(NO_FILES, ids="subordinate")) as sandbox:
        assert sandbox.run("mount -o remount,bind,rw / || echo 1 > /tmp/x").exit_code != 0
        assert sandbox.run(f"echo 5 > {ANSWER}; cat {ANSWER}").stdout == "5\n"


def test_the_same_with_directories_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("host")
    shown = Mount(target="/mnt/data", source=tmp_path)
    with Sandbox(dataclasses.replace(NO_FILES, mounts=(shown,))) as sandbox:
        assert sandbox.run("cat /mnt/data/f; echo 1 > /mnt/data/f").stdout == "host"
    assert (tmp_path / "f").read_text() == "host"
    for mode in ("bind", "overlay"):
        with pytest.raises(SpecError, match="ro_bind alone"):
            dataclasses.replace(
                NO_FILES, mounts=(Mount(target="/mnt", source=tmp_path, mode=mode),)
            )


def test_it_is_refused_where_it_is_not_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nest, "read_only", lambda _: ())
    with pytest.raises(LaunchError, match="can still be written"), Sandbox(NO_FILES):
        pass


# -- no programs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        lambda sandbox: sandbox.run("true"),
        lambda sandbox: sandbox.exec(["/bin/true"]),
        lambda sandbox: sandbox.shell("another"),
        lambda sandbox: sandbox.interact("true"),
    ],
)
def test_nothing_is_even_asked_for(attempt: Callable[[Sandbox], object]) -> None:
    with Sandbox(NO_PROGRAMS) as sandbox, pytest.raises(PolicyError, match="nothing runs"):
        attempt(sandbox)


def test_the_kernel_refuses_what_is_asked_for_all_the_same() -> None:
    """As if we had forgotten to look: process 1 itself is asked."""
    with Sandbox(NO_PROGRAMS) as sandbox:
        supervisor = sandbox._supervisor
        assert supervisor is not None
        for words in (["/bin/true"], ["bash", "-c", "true"], ["/proc/self/exe"]):
            with pytest.raises(LaunchError, match="Operation not permitted"):
                supervisor.start_program(
                    supervisor.new_key(), words, env={}, cwd="/", fds=(0, 1, 2)
                )
        master, _ = supervisor.open_terminal()
        with os.fdopen(master, "rb"), pytest.raises(LaunchError, match="Operation not permitted"):
            supervisor.start_shell("/dev/null", master)
        assert sandbox.stats().pids == 1
        assert sandbox.alive


def test_files_work_as_ever_and_nobody_takes_them_for_programs() -> None:
    with Sandbox(dataclasses.replace(NO_PROGRAMS, directories=("/testbed/documents",))) as sandbox:
        sandbox.files.write("/etc/ld.so.preload", b"/tmp/evil.so")
        sandbox.files.write("/root/.bashrc", b"echo 1 > /tmp/ran")
        sandbox.files.write("/bin/sh", b"#!/bin/bash\necho 1 > /tmp/ran\n", mode=0o755)
        sandbox.files.write(ANSWER, b"5")
        with sandbox.still():
            assert sandbox.files.read(ANSWER, follow_links=False) == b"5"
        assert not sandbox.files.exists("/tmp/ran")
        assert sandbox.files.list("/testbed/documents") == ()
        assert not sandbox.enforcement.programs
        with sandbox.snapshot() as snapshot, Sandbox(snapshot) as again:
            assert again.files.read(ANSWER) == b"5"
            with pytest.raises(PolicyError):
                again.run("true")


def test_it_is_refused_where_the_kernel_would_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(*words: object, **named: object) -> commands.Command:
        return dataclasses.replace(join(*words, **named), programs=True)

    join: Callable[..., commands.Command] = commands.join
    monkeypatch.setattr(commands, "join", forgetful)
    with pytest.raises(LaunchError, match="one was started"), Sandbox(NO_PROGRAMS):
        pass


def test_both_at_once_for_asyncio() -> None:
    async def work() -> None:
        spec = dataclasses.replace(NO_FILES, programs=False)
        async with AsyncSandbox("minimal").like(spec) as sandbox:
            await sandbox.files.write(ANSWER, b"5")
            for path in ("/tmp/x", "/testbed/documents/x"):
                with pytest.raises(FileAccessError):
                    await sandbox.files.write(path, b"5")
            with pytest.raises(PolicyError):
                await sandbox.run("true")
            async with sandbox.still():
                assert await sandbox.files.read(ANSWER, follow_links=False) == b"5"

    asyncio.run(work())


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["answer.txt", "/a/../b", "", "/a\0b"])
def test_paths_are_absolute(path: str) -> None:
    with pytest.raises(SpecError):
        SandboxSpec(writable=(path,))
    with pytest.raises(SpecError):
        SandboxSpec(directories=(path,))


def test_a_request_goes_to_another_process_and_back() -> None:
    for spec in (NO_FILES, NO_PROGRAMS, SandboxSpec()):
        data = wire.parsed(json.dumps(wire.spec_to_json(spec)).encode())
        assert wire.spec_from_json(data) == spec
    with Sandbox(NO_FILES) as sandbox:
        told = dataclasses.asdict(sandbox.enforcement)
        data = wire.parsed(json.dumps(told).encode())
        assert wire.enforcement_from_json(data) == sandbox.enforcement
