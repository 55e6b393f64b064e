from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.jail import bwrap, places
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.jail.rootfs import host
from sandbox_lite.jail.rootfs.store import Store

if TYPE_CHECKING:
    from sandbox_lite.jail.rootfs.store import Rootfs


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(places.HOME_VARIABLE, str(tmp_path / "sandbox-lite"))
    return tmp_path / "sandbox-lite"


def run(rootfs: Rootfs, script: str) -> str:
    """Run a script on the rootfs with nothing but bwrap; return what it prints."""
    words = [
        *bwrap.namespaces(network_host=False),
        *bwrap.identity(hostname="sandbox"),
        *(w for lower in rootfs.lowers for w in ("--overlay-src", str(lower))),
        *("--tmp-overlay", "/"),
        *(w for m in rootfs.mounts for w in ("--ro-bind", str(m.source), m.target)),
        *bwrap.devices(shm_bytes=1 << 20),
        *bwrap.environment(rootfs.env),
        *("--", "bash", "-c", script),
    ]
    done = subprocess.run(
        [str(find_bwrap()), *words], env={}, capture_output=True, text=True, timeout=15, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hosts_programs_run() -> None:
    with host.lease() as rootfs:
        assert run(rootfs, "echo hi; ls /usr | head -n1; awk 'BEGIN{print 6*7}'").endswith("42\n")
        assert run(rootfs, "python3 -c 'print(6*7)'") == "42\n"
        assert run(rootfs, "whoami; cd ~; pwd; getent passwd 1000 | cut -d: -f1").split() == [
            "root",
            "/root",
            "user",
        ]
        assert run(rootfs, ". /etc/os-release; echo $ID").strip()


def test_certificates_are_found_by_python() -> None:
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists():
        pytest.skip("this host keeps its certificates elsewhere")
    code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    with host.lease() as rootfs:
        assert int(run(rootfs, f"python3 -c '{code}'")) > 50


def test_what_belongs_to_the_host_alone_does_not_show() -> None:
    with host.lease() as rootfs:
        shown = run(rootfs, "cd /; ls -A home root home/user opt mnt media srv var/lib")
        assert shown.split() == [
            "home:", "user", "home/user:", "media:", "mnt:", "opt:", "root:", "srv:", "var/lib:",
        ]  # fmt: skip
        hidden = (
            "shadow gshadow passwd- sudoers sudoers.d ssh ssl/private machine-id hostname fstab "
            "pip.conf npmrc gitconfig netrc krb5.keytab NetworkManager wireguard docker cron.d "
            "apt profile.d environment.d pam.d security systemd default init.d"
        )
        shown = run(rootfs, f"cd /etc; for f in {hidden}; do [ -e $f ] && echo $f; done; true")
        assert shown == ""
        names = {line.split(":")[0] for line in run(rootfs, "cat /etc/passwd").splitlines()}
        assert names == {entry[0] for entry in host._USERS}
        assert run(rootfs, "find / -xdev -type s; find /run /var -type s") == ""


def test_no_private_key_shows() -> None:
    with host.lease() as rootfs:
        found = run(rootfs, "grep -rl -- 'PRIVATE KEY-----' /etc || true")
        assert found == ""


def test_usr_is_read_only_and_the_rest_is_not() -> None:
    with host.lease() as rootfs:
        out = run(rootfs, "touch /usr/x 2>&1; touch /etc/x /root/x /tmp/x /testbed/x && echo made")
        assert "Read-only file system" in out
        assert out.endswith("made\n")
        assert not (rootfs.lowers[0] / "etc" / "x").exists()


def test_secrets_planted_among_the_copied_files_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "etc"
    planted.mkdir()
    (planted / "open").write_text("fine")
    (planted / "closed").write_text("secret")
    (planted / "closed").chmod(0o640)
    (planted / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n")
    (planted / "leads-to-closed").symlink_to(planted / "closed")
    (planted / "leads-to-open").symlink_to(planted / "open")
    (planted / "dangling").symlink_to("/nowhere")
    (planted / "shows").symlink_to("/usr/bin/env")
    (planted / "closed-directory").mkdir(mode=0o750)
    (planted / "closed-directory" / "open").write_text("secret")
    os.mkfifo(planted / "fifo")
    target = tmp_path / "copy"
    host._copy(planted, target)
    assert sorted(path.name for path in target.iterdir()) == ["leads-to-open", "open", "shows"]
    assert (target / "leads-to-open").read_text() == "fine"
    assert not (target / "leads-to-open").is_symlink()


def test_it_is_made_once_and_again_when_the_host_changes(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    first = host.make()
    assert host.make() == first
    assert Store().resolve("host") == first
    monkeypatch.setattr(host, "_VERSION", "another")
    with host.lease() as second:
        assert second.lowers != first.lowers
        assert not first.lowers[0].exists()
    assert stat.S_IMODE((home / "cache" / "host").stat().st_mode) == 0o700


def test_an_older_skeleton_stays_while_a_sandbox_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Store().lease("host") as first:
        monkeypatch.setattr(host, "_VERSION", "another")
        host.make()
        assert (first.lowers[0] / "etc" / "passwd").exists()
