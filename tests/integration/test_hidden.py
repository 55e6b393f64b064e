"""Nothing of the host's own shows inside: every word that could give it away is looked for in every
file that the kernel and we put there, and the same look at the host finds each of them."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.spec import SandboxSpec

if TYPE_CHECKING:
    from sandbox_lite.spec import UpperKind

SECRET = "planted-8d20c1-secret"
LOOK = """
import json, os, re, sys
asked = json.load(sys.stdin)
words = {word: word.encode() for word in asked["words"]}
found = {word: [] for word in words}
# endless, or of gigabytes
skipped = re.compile(r"/proc/.*(/mem|/pagemap|/clear_refs|/map_files|/kmsg|/kcore|/attr)$|/dev/.*")
def look(path, data):
    for word, raw in words.items():
        if raw in data:
            found[word].append(path)
for top in asked["tops"]:
    if os.path.isfile(top):
        look(top, open(top, "rb").read())
    for above, directories, files in os.walk(top):
        directories[:] = [one for one in directories if not skipped.match(f"{above}/{one}")]
        for name in directories + files:
            path = f"{above}/{name}"
            look("name of " + path, os.fsencode(name))
            if skipped.match(path):
                continue
            try:
                if os.path.islink(path):
                    look("link " + path, os.fsencode(os.readlink(path)))
                elif name in files:
                    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                    try:
                        look(path, os.read(opened, 1 << 20))
                    finally:
                        os.close(opened)
            except OSError:
                continue
print(json.dumps(found))
"""
INSIDE = (
    "/dev", "/etc", "/home", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/srv", "/sys",
    "/testbed", "/tmp", "/var/log", "/var/tmp",
)  # fmt: skip
OUTSIDE = (
    "/etc/machine-id", "/etc/passwd", "/etc/resolv.conf", "/proc/cmdline", "/proc/self",
)  # fmt: skip


def look(words: list[str], tops: tuple[str, ...]) -> bytes:
    return json.dumps({"words": words, "tops": tops}).encode()


def of_the_host(home: Path, tmp_path: Path) -> list[str]:
    """Return what names this host, its user, and where things are here."""
    account = pwd.getpwuid(os.getuid())
    words = [SECRET, str(home), str(tmp_path), Path("/proc/cmdline").read_text().strip()]
    if account.pw_name != "root":
        words += [account.pw_name, account.pw_dir]
    for path, pattern in (
        ("/etc/machine-id", r"(\w{32})"),
        # the resolver of the host itself, as systemd's, has an address of loopback
        ("/etc/resolv.conf", r"(?m)^nameserver (?!127\.|::1)(\S+)"),
    ):
        if os.access(path, os.R_OK):
            words += re.findall(pattern, Path(path).read_text())
    return list(dict.fromkeys(word for word in words if len(word) > 3))


@pytest.mark.parametrize(("network", "upper"), [("none", "tmpfs"), ("packages", "directory")])
def test_no_word_of_the_host_shows(
    network: str, upper: UpperKind, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PLANTED", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, f"{tmp_path}/{SECRET}")
    words = of_the_host(home, tmp_path)
    spec = SandboxSpec(rootfs="minimal", network=network, upper=upper, limits=Limits.of(timeout=60))
    monkeypatch.chdir(tmp_path)
    with Sandbox(spec) as sandbox:
        argv = ["python3", "-c", LOOK]
        found = json.loads(sandbox.exec(argv, input=look(words, INSIDE)).check().stdout)
        told = sandbox.run("env; set; mount; df; id; w; who; ls -la / /home; ulimit -a").stdout
    # its own standard input is not among the files that are looked at, its pipe is a link
    assert found == {word: [] for word in words}
    assert [word for word in words if word in told] == []

    done = subprocess.run(
        [sys.executable, "-c", LOOK], input=look(words, OUTSIDE), stdout=subprocess.PIPE, check=True
    )
    assert [word for word, where in json.loads(done.stdout).items() if not where] == []


def test_names_are_the_sandboxs(sandbox: Sandbox) -> None:
    look = "hostname; uname -n; cat /etc/hostname /proc/sys/kernel/hostname"
    assert sandbox.run(look).stdout.split() == ["sandbox"] * 4
    assert sandbox.run("cat /proc/sys/kernel/domainname").stdout == "(none)\n"
    assert sandbox.run("cat /etc/hosts").stdout == (
        "127.0.0.1 localhost\n127.0.1.1 sandbox\n::1 localhost ip6-localhost ip6-loopback\n"
    )
    assert sandbox.run("grep -s nameserver /etc/resolv.conf").stdout == ""
    # the same calls name the host where they are made there
    assert subprocess.check_output(["uname", "-n"], text=True).strip() == socket.gethostname()


def test_terminals_are_its_own(sandbox: Sandbox) -> None:
    pairs = [os.openpty() for _ in range(4)]
    try:
        theirs = {Path(os.ttyname(slave)).name for _, slave in pairs}
        assert theirs <= {path.name for path in Path("/dev/pts").iterdir()}
        ours = set(sandbox.run("ls /dev/pts").stdout.split())
        assert "ptmx" in ours
        assert len(ours) <= 2
        # of a number that both have, what is written outside is not read inside
        with sandbox.interact("cat") as shown:
            for _, slave in pairs:
                os.write(slave, SECRET.encode())
            shown.sendline("mine")
            shown.expect("mine")
            assert SECRET not in shown.before
    finally:
        for pair in pairs:
            for end in pair:
                os.close(end)


def test_processes_of_the_host_are_not_seen(sandbox: Sandbox) -> None:
    with subprocess.Popen(["sleep", "300.125"]) as outside:
        try:
            look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
            everything = sandbox.run(look).stdout
            assert "300.125" not in everything
            assert "bash" in everything, "the look itself works"
            here = subprocess.run(["bash", "-c", look], capture_output=True, check=False)
            assert b"300.125" in here.stdout
        finally:
            outside.kill()
