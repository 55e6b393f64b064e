"""Answers that a model left in a real sandbox, whatever it left there."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.bench.answer import HUGE_BYTES, MAX_BYTES, read_answer
from sandbox_lite.bench.task import Answer, NoAnswer
from sandbox_lite.errors import FileAccessError
from sandbox_lite.jail.aio import AsyncSandbox
from sandbox_lite.jail.sandbox import Sandbox
from tests.conftest import require_subordinate_ids

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/testbed/output/answer.txt"


def left_by(sandbox: Sandbox, command: str) -> Answer | NoAnswer:
    sandbox.run("rm -rf /testbed/output; mkdir -p /testbed/output; cd /testbed/output").check()
    sandbox.run(command).check()
    return read_answer(sandbox.files, PATH)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("echo 204 > answer.txt", "204\n"),
        ("printf '%s' '\\boxed{204}' > answer.txt", "\\boxed{204}"),
        ("echo 204 > answer.txt; chmod 000 answer.txt", "204\n"),
        ("echo 204 > answer.txt; chmod 000 .", "204\n"),
        ("echo 204 > a; ln a answer.txt", "204\n"),
    ],
)
def test_a_file_is_an_answer(sandbox: Sandbox, command: str, text: str) -> None:
    found = left_by(sandbox, command)
    assert isinstance(found, Answer)
    assert found.text == text


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("true", "missing"),
        ("cd /; rm -rf /testbed/output", "missing"),
        ("cd /; rm -rf /testbed/output; echo 5 > /testbed/output", "missing"),
        ("touch answer.txt", "empty"),
        ("mkdir answer.txt", "directory"),
        ("echo 5 > b; ln -s b answer.txt", "link"),
        ("ln -s /etc/passwd answer.txt", "link"),
        ("ln -s /proc/1/root/etc/shadow answer.txt", "link"),
        ("ln -s answer.txt answer.txt", "link"),
        ("ln -s /nowhere answer.txt", "link"),
        ("mkfifo answer.txt", "special"),
        ("head -c 100 /dev/zero > answer.txt", "binary"),
        (f"truncate -s {HUGE_BYTES + 1} answer.txt", "huge"),
        ("truncate -s 1T answer.txt", "huge"),
    ],
)
def test_anything_else_is_none(sandbox: Sandbox, command: str, reason: str) -> None:
    found = left_by(sandbox, command)
    assert isinstance(found, NoAnswer)
    assert found.reason == reason


def test_a_long_one_is_cut(sandbox: Sandbox) -> None:
    found = left_by(sandbox, f"(echo 5; yes | head -c {MAX_BYTES}) > answer.txt")
    assert isinstance(found, Answer)
    assert found.truncated
    assert found.text.startswith("5\ny\n")
    assert len(found.text) == MAX_BYTES


def test_links_are_followed_unless_it_is_said(sandbox: Sandbox) -> None:
    sandbox.run("cd /tmp; echo x > real; ln -s real link; ln -s . here").check()
    assert sandbox.files.read("/tmp/link") == b"x\n"
    assert sandbox.files.read("/tmp/here/real", follow_links=False) == b"x\n"
    with pytest.raises(FileAccessError) as raised:
        sandbox.files.read("/tmp/link", follow_links=False)
    assert raised.value.errno == errno.ELOOP


def test_the_same_where_files_have_several_owners(home: Path) -> None:
    require_subordinate_ids()
    with Sandbox("minimal", ids="subordinate") as sandbox:
        found = left_by(
            sandbox, "echo 204 > answer.txt; chown nobody answer.txt; chmod 0 answer.txt"
        )
        assert isinstance(found, Answer)
        assert found.text == "204\n"
        linked = left_by(sandbox, "ln -s /etc/passwd answer.txt")
        assert isinstance(linked, NoAnswer)
        assert linked.reason == "link"


def test_the_same_for_asyncio(home: Path) -> None:
    async def work() -> None:
        async with AsyncSandbox("minimal") as sandbox:
            (await sandbox.run("cd /tmp; echo x > real; ln -s real link")).check()
            assert await sandbox.files.read("/tmp/real", follow_links=False) == b"x\n"
            with pytest.raises(FileAccessError):
                await sandbox.files.read("/tmp/link", follow_links=False)

    asyncio.run(work())
