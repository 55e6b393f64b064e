from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.errors import FileAccessError
from sandbox_lite.spec import Limits, SandboxSpec
from tests.conftest import require_subordinate_ids
from tests.faces import made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.spec import Ids, UpperKind
    from tests.faces import FaceName


@pytest.fixture(params=["tmpfs", "directory", "copy", "true root"])
def box(
    request: pytest.FixtureRequest,
    face: FaceName,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Sandbox]:
    """A sandbox on the host's own files, with each kind of upper layer, and with other ids."""
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(tmp_path / "home"))
    ids: Ids = "own"
    upper: UpperKind = "tmpfs"
    if request.param == "true root":
        require_subordinate_ids()
        ids = "subordinate"
    else:
        upper = request.param
    limits = Limits.of(timeout=15, disk="64MiB")
    spec = SandboxSpec(rootfs="host", upper=upper, ids=ids, limits=limits)
    with made(face, spec) as opened:
        yield opened


def test_what_is_written_outside_is_read_inside_and_back(box: Sandbox) -> None:
    data = bytes(range(256)) * 1000
    box.files.write("made/here.bin", data, mode=0o640)
    seen = box.run("stat -c '%u %g %a' made made/here.bin; sha256sum < made/here.bin")
    assert seen.stdout.split()[:6] == ["0", "0", "755", "0", "0", "640"]
    assert box.run("cat made/here.bin").stdout_bytes == data
    box.run("printf 'a\\0\\377' > back; chmod 000 back; mkdir -m 000 shut")
    assert box.files.read("back") == b"a\0\xff"
    assert box.files.list("shut") == ()
    box.files.write("/etc/hosts", "127.0.0.1 changed\n")
    assert "changed" in box.run("cat /etc/hosts").stdout


def test_a_models_links_lead_nowhere_outside(box: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret of the host")
    box.run(f"ln -s {secret} a; ln -s ../../../../../..{secret} b; ln -s {tmp_path} c").check()
    for path in ("a", "b", "c/secret", str(secret), "/proc/1/root/etc/shadow", "/proc/self/root"):
        with pytest.raises(FileAccessError):
            box.files.read(path)
    box.run("mkdir out; cp -P a b c out; ln -s /proc/kcore out/kcore; ln -s /proc/1/environ e")
    report = box.files.download("out", tmp_path / "host")
    assert {skipped.path for skipped in report.skipped} == {"a", "b", "c", "kcore"}
    assert list((tmp_path / "host").iterdir()) == []
    with pytest.raises(FileAccessError, match="the kernel's"):
        box.files.read("e")
    assert secret.read_text() == "secret of the host"


def test_up_and_down_again(box: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "data").write_bytes(os.urandom(100_000))
    (source / "run.sh").write_text("#!/bin/sh\ncp -a deep ../out; chmod 000 ../out/er\n")
    (source / "run.sh").chmod(0o755)
    box.files.upload(source, "/testbed/input")
    box.run(
        "cd input && ./run.sh && cd .. && ln out/er/data out/again 2>&1; mkfifo out/pipe"
    ).check()
    report = box.files.download("/testbed/out", tmp_path / "host")
    assert [(s.path, s.reason) for s in report.skipped] == [("pipe", "it is a fifo")]
    got = tmp_path / "host" / "er" / "data"
    assert got.read_bytes() == (source / "deep" / "er" / "data").read_bytes()
    assert got.stat().st_uid == os.geteuid()
    assert (tmp_path / "host" / "again").stat().st_ino == got.stat().st_ino
    assert stat.S_IMODE(got.parent.stat().st_mode) & stat.S_IRWXU == stat.S_IRWXU
    box.files.remove("/testbed/out", recursive=True)
    assert "out" not in box.run("ls -A").stdout.split()


def test_a_full_sandbox_is_said(box: Sandbox, tmp_path: Path) -> None:
    if box.enforcement.upper != "tmpfs":
        return  # a directory has no bound of its own
    with pytest.raises(FileAccessError, match="No space left") as caught:
        box.files.write("big", bytes(80 << 20))
    assert "limit" in str(caught.value.hint)
    box.files.remove("big")
    box.files.write("small", b"x")


def test_devices_stay_inside(box: Sandbox, tmp_path: Path) -> None:
    report = box.files.download("/dev", tmp_path / "dev")
    assert {"null", "zero", "tty"} <= {skipped.path for skipped in report.skipped}
    for path in ("/dev/null", "/dev/zero", "/dev/tty"):
        with pytest.raises(FileAccessError):
            box.files.read(path)
        with pytest.raises(FileAccessError):
            box.files.write(path, b"x")
