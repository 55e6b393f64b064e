"""`sandbox-lite shell` on a real terminal, with a person's keys."""

from __future__ import annotations

import re
import termios
from typing import TYPE_CHECKING

import pexpect
import pytest

from tests.installed import PROGRAM, Installed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMPT = r"sandbox\x1b\[0m:\x1b\[1;34m(\S+)\x1b\[0m# "


@pytest.fixture
def cli(rootfs_home: Path, tmp_path: Path) -> Installed:
    return Installed(
        home=rootfs_home, directory=tmp_path, variables={"SANDBOX_LITE_ROOTFS": "minimal"}
    )


@pytest.fixture
def person(cli: Installed) -> Iterator[pexpect.spawn[str]]:
    child = pexpect.spawn(
        str(PROGRAM), ["shell", "--output", "out"], encoding="utf-8", timeout=15,
        dimensions=(33, 97), cwd=str(cli.directory), env=cli.environment({}),
    )  # fmt: skip
    try:
        yield child
    finally:
        child.close(force=True)


def where(person: pexpect.spawn[str]) -> str:
    """Wait for the prompt and return the directory in it."""
    person.expect(PROMPT)
    assert isinstance(person.match, re.Match)
    return str(person.match[1])


def test_a_person_at_work(person: pexpect.spawn[str], tmp_path: Path) -> None:
    before = termios.tcgetattr(person.child_fd)
    person.expect_exact("rootfs minimal")
    person.expect_exact("network none")
    assert where(person) == "/testbed"
    person.sendline("cd /tmp; echo $TERM; stty size")
    person.expect_exact("xterm\r\n33 97\r\n")
    assert where(person) == "/tmp"
    person.setwinsize(20, 50)
    person.sendline("stty size")
    person.expect_exact("20 50\r\n")
    person.expect(PROMPT)
    person.sendline("bash -c 'echo up; exec sleep 60'")
    person.expect_exact("\x1b[?2004l\rup\r\n")  # not the echo: a program is in the foreground now
    person.sendintr()
    person.expect(PROMPT)
    person.sendline("read -p 'name? ' n; echo \"<$n>\" | tee /testbed/output/f; exit 5")
    person.expect(r"\x1b\[\?2004l\rname\? ")  # not the echo of the line that was typed
    person.sendline("Ada")
    person.expect_exact("<Ada>\r\n")
    person.expect(pexpect.EOF)
    person.wait()
    assert person.exitstatus == 5
    assert (tmp_path / "out" / "f").read_text() == "<Ada>\n"
    assert termios.tcgetattr(person.child_fd)[:4] == before[:4]


def test_keys_reach_a_program(person: pexpect.spawn[str]) -> None:
    person.expect(PROMPT)
    # the newer prompt throws away what was typed while it set up the terminal
    person.sendline("PYTHON_BASIC_REPL=1 python3 -q")
    person.expect_exact(">>> ")
    person.sendline("6 * 7")
    person.expect_exact("42")
    person.sendeof()
    person.expect(PROMPT)
    person.sendeof()
    person.expect(pexpect.EOF)
    person.wait()
    assert person.exitstatus == 0


def test_it_needs_a_terminal(cli: Installed) -> None:
    result = cli.run("shell", given=b"ls\n")
    assert result.code == 2
    assert "terminal" in result.one_error()[0]
