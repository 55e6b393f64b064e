"""Root by subordinate ids: what is real, what stays shut, and who removes what other ids made."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Limits, Sandbox
from sandbox_lite.errors import HostError
from sandbox_lite.jail import janitor, places, served_files
from sandbox_lite.jail.kept import registry
from sandbox_lite.spec import SandboxSpec
from tests.conftest import private_mirrors, require, require_subordinate_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.spec import UpperKind

LIMITS = Limits.of(timeout=30)


@pytest.fixture
def home(home: Path) -> Path:
    require_subordinate_ids()
    return home


@pytest.fixture(params=["tmpfs", "directory"])
def sb(request: pytest.FixtureRequest, home: Path) -> Iterator[Sandbox]:
    upper: UpperKind = request.param
    spec = SandboxSpec(rootfs="minimal", ids="subordinate", upper=upper, limits=LIMITS)
    with Sandbox(spec) as opened:
        yield opened


REAL = {
    "chown": ("touch f && chown 33:44 f && stat -c %u:%g f", "33:44"),
    "the last id": ("touch l && chown 65535:65535 l && stat -c %u:%g l", "65535:65535"),
    "an id that nobody gave": ("chown 65536 f 2>&1 | grep -c 'Invalid argument'", "1"),
    "runuser": ("runuser -u www-data -- id -u", "33"),
    "su": ("su www-data -s /bin/sh -c 'id -u; id -g'", "33\n33"),
    "setuid of a program": ("python3 -c 'import os; os.setuid(7); print(os.getuid())'", "7"),
    "setgroups": (
        "python3 -c 'import os; os.setgroups([5, 6]); print(os.getgroups())'", "[5, 6]",
    ),
    "a wall between users": (
        "echo secret >s && chmod 600 s && chown 33 s && ! runuser -u games -- cat s"
        " && runuser -u www-data -- cat s", "secret",
    ),
    "root reads all": ("mkdir -m 0 d && chown 33 d && echo in >d/x && cat d/x", "in"),
    "root ends all": (
        "runuser -u www-data -- sleep 100 & sleep 0.2; pkill -u www-data sleep || kill $!;"
        " wait $!; echo $?", "143",
    ),
    "useradd": (
        "useradd -m bob && su bob -c 'cd && pwd && touch x && stat -c %U x'", "/home/bob\nbob",
    ),
    "useradd --system": (
        "useradd --system --create-home --home-dir /srv/d daemon2 && stat -c %U:%G /srv/d",
        "daemon2:daemon2",
    ),
    "chmod u+s stays": ("cp /bin/true t && chmod 6755 t && stat -c %a t", "6755"),
    "chmod g+s with a group not root's": ("chgrp 44 t && chmod 2755 t && stat -c %a t", "2755"),
    "tar keeps owners": (
        "mkdir o && cd o && touch a && chown 33:44 a && tar cf ../o.tar a && rm a"
        " && tar xf ../o.tar && stat -c %u:%g a; cd ..", "33:44",
    ),
    "install -o": ("install -o www-data -g games -m 640 /dev/null i && stat -c %U:%G:%a i",
                   "www-data:games:640"),
    "chroot": ("chroot / id -u", "0"),
    "mkfifo": ("mknod p p && stat -c %F p", "fifo"),
}  # fmt: skip


def test_what_is_real(sb: Sandbox) -> None:
    assert sb.enforcement.ids == "subordinate"
    assert sb.enforcement.seccomp == ("deny",)
    for name, (command, expected) in REAL.items():
        result = sb.run(command)
        assert result.stdout.strip() == expected, (name, result.output)


def test_what_stays_a_lie(sb: Sandbox) -> None:
    # the kernel heeds neither the bit nor the attribute under no-new-privs
    sb.run("cp /usr/bin/id i && chmod 4755 i && cp /bin/cat c && chmod 755 /testbed").check()
    assert sb.run("runuser -u www-data -- ./i -u").stdout == "33\n"
    assert not sb.run("mknod n c 1 3").ok
    # nor has any other id a capability, or a way to one
    held = sb.run("runuser -u www-data -- grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status").stdout
    assert held.count("0000000000000000") == 3
    assert not sb.run("runuser -u www-data -- python3 -c 'import os; os.setuid(0)'").ok


def test_mappings_are_this_users_own(sb: Sandbox) -> None:
    first, *others = [line.split() for line in sb.run("cat /proc/self/uid_map").stdout.splitlines()]
    assert first == ["0", str(os.getuid()), "1"]
    assert sum(int(count) for _, _, count in others) == 65535
    sb.run("runuser -u www-data -- sleep 100 & sleep 0.1")
    for process in psutil.Process(sb.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "sleep" and process.uids().real != os.getuid():
                start = int(others[0][1])
                assert process.uids().real == start + 32
                return
    pytest.fail("nobody runs as another id")


# ---- no further namespace ---------------------------------------------------------------------

CLONE = """
import ctypes, errno, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
kinds = {"user": 0x10000000, "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000,
         "ipc": 0x8000000, "pid": 0x20000000, "net": 0x40000000, "time": 0x80}
number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def said(result):
    return "made" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def in_child(work):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, work().encode())
        os._exit(0)
    os.wait()
    return os.read(reader, 99).decode()
def clone(call, *words):
    pid = libc.syscall(call, *words)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return said(pid)
for name, flag in kinds.items():
    print("unshare", name, in_child(lambda: said(libc.unshare(flag))))
    if name != "time":
        print("clone", name, clone(number, flag | signal.SIGCHLD, 0, 0, 0, 0))
    arguments = struct.pack("11Q", flag, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    print("clone3", name, clone(435, arguments, len(arguments)))
    nested = struct.pack("11Q", flag | kinds["user"], *([0] * 3), signal.SIGCHLD, *([0] * 6))
    print("clone3 with user", name, clone(435, nested, len(nested)))
print("plain clone", "child", clone(number, signal.SIGCHLD, 0, 0, 0, 0))
"""


def answers(sandbox: Sandbox) -> dict[str, str]:
    result = sandbox.exec(["python3", "-c", CLONE]).check()
    found = dict(line.rsplit(" ", 1) for line in result.stdout.splitlines())
    assert found.pop("plain clone child") == "made", "the probe itself works"
    assert len(found) == 31
    return found


def test_no_namespace_can_be_made(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opened() -> Sandbox:
        return Sandbox("minimal", ids="subordinate", limits=LIMITS)

    with opened() as sandbox:
        for name, said in answers(sandbox).items():
            assert said == ("ENOSYS" if "clone3" in name else "EPERM"), name
    # without the filter the kernel's own bound still holds
    bare = opened()
    monkeypatch.setattr(bare, "_filters", ())
    with bare as sandbox:
        found = answers(sandbox)
        assert set(found.values()) <= {"EPERM", "ENOSPC"}, found
        assert found["unshare user"] == found["clone3 with user net"] == "ENOSPC"
        # and root has nothing to mount with
        assert not sandbox.run("mount -t tmpfs none /mnt").ok
        assert not sandbox.run("echo 9 >/proc/sys/user/max_user_namespaces").ok
    # the control: without either they are made
    monkeypatch.setattr(janitor.Janitor, "forbid_namespaces", lambda *_: None)
    bare = opened()
    monkeypatch.setattr(bare, "_filters", ())
    with bare as sandbox:
        found = answers(sandbox)
        assert found["unshare user"] == found["clone user"] == found["clone3 user"] == "made"
        assert found["clone3 with user net"] == found["clone3 with user mnt"] == "made"


# ---- files from outside -----------------------------------------------------------------------


def test_files_of_other_ids_from_outside(sb: Sandbox, tmp_path: Path) -> None:
    sb.run(
        "mkdir -p d/shut && echo deep >d/shut/f && chown -R 33:33 d && chmod 0 d/shut/f"
        " && chmod 700 d d/shut && ln -s /etc/passwd d/link && chown -h 7 d/link"
    ).check()
    files = sb.files
    assert files.read("d/shut/f") == b"deep\n"
    assert [entry.name for entry in files.list("d")] == ["link", "shut"]
    assert files.exists("d/shut/f")
    assert not files.exists("d/shut/g")
    # what is there keeps its owner, what is new is root's
    files.write("d/shut/f", b"changed")
    files.write("d/shut/new/g", b"new")
    seen = sb.run("cat d/shut/f; stat -c %u:%g:%a d/shut/f d/shut/new d/shut/new/g").stdout
    assert seen.split() == ["changed33:33:0", "0:0:755", "0:0:644"]
    report = files.download("d", tmp_path / "out")
    assert (tmp_path / "out" / "shut" / "new" / "g").read_bytes() == b"new"
    assert (tmp_path / "out" / "shut" / "f").stat().st_uid == os.getuid()
    assert [one.path for one in report.skipped] == ["link"]
    files.upload(tmp_path / "out", "d/back")
    assert files.read("d/back/shut/new/g") == b"new"
    files.remove("d", recursive=True)
    assert not sb.run("test -e d").ok
    assert sb.run("cat /etc/passwd").stdout.startswith("root:")


def served(pid: int | None = None) -> list[psutil.Process]:
    """The processes that have files of our sandboxes."""
    found = []
    for process in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "served_files" in " ".join(process.cmdline()):
                found.append(process)
    return found


def namespace(pid: int, kind: str) -> int:
    return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino


def test_the_process_that_has_the_files(home: Path, tmp_path: Path) -> None:
    require(served_files.needed(), "an ordinary user")
    with Sandbox("minimal", ids="subordinate", limits=LIMITS) as sandbox:
        assert served() == [], "nobody has asked for files yet"
        sandbox.files.write("a", b"1")
        [first] = served()
        # inside nobody sees it, and it is of the jail's user namespace alone
        assert "python" not in sandbox.run("cat /proc/[0-9]*/comm").stdout
        assert namespace(first.pid, "user") == namespace(sandbox.pid, "user")
        assert namespace(first.pid, "pid") == namespace(os.getpid(), "pid")
        first.kill()
        with pytest.raises(HostError, match="was killed"):
            sandbox.files.read("a")
        assert sandbox.files.read("a") == b"1"
        # a program's own links lead nowhere outside, though it has more rights than the caller
        secret = tmp_path / "secret"
        secret.write_text("of the host")
        sandbox.run(f"ln -s {secret} link; ln -s /proc/1/root{secret} magic").check()
        for name in ("link", "magic", f"../..{secret}"):
            with pytest.raises(Exception, match=r"No such file|Too many|the kernel's|Permission"):
                sandbox.files.read(name)
    assert served() == []


def test_a_kept_sandbox(home: Path) -> None:
    name = f"true-root-{os.getpid()}"
    # a keeper is the child of whoever asks for it, and outlives it: so not ours
    words = ["create", "--name", name, "--rootfs", "minimal", "--ids", "subordinate", "--ttl", "60"]
    subprocess.run([sys.executable, "-m", "sandbox_lite", *words], check=True, timeout=60)
    try:
        with Sandbox.connect(name) as sandbox:
            assert sandbox.enforcement.ids == "subordinate"
            sandbox.run("mkdir -m 700 d && echo x >d/f && chown -R 33 d").check()
            assert sandbox.files.read("/testbed/d/f") == b"x\n"
            assert sandbox.exec(["stat", "-c", "%u", "d/f"]).stdout == "33\n"
        assert served() == []
    finally:
        registry.end(name)


# ---- what is left -----------------------------------------------------------------------------

DIRTY = (
    "mkdir -p /srv/a/b && echo x >/srv/a/b/f && chown -R 33:44 /srv/a && chmod 0 /srv/a/b"
    " && chown -R 7 /etc && install -d -o games /srv/g"
    " && runuser -u games -- sh -c 'mkdir /srv/g/h; chmod 0 /srv/g/h /srv/g'"
)


def uppers(pid: int) -> list[Path]:
    """Directories of one program's upper layers: others may be at work here too."""
    return list(places.run_dir().glob(f"{pid}-*"))


def test_closing_leaves_no_directory(home: Path) -> None:
    spec = SandboxSpec(rootfs="minimal", ids="subordinate", upper="directory", limits=LIMITS)
    with Sandbox(spec) as sandbox:
        sandbox.run(DIRTY).check()
        assert len(uppers(os.getpid())) == 1
    assert uppers(os.getpid()) == []


WORKER = f"""
import sys
from sandbox_lite import Sandbox
from sandbox_lite.spec import SandboxSpec
sandbox = Sandbox(SandboxSpec(rootfs="minimal", ids="subordinate", upper=sys.argv[1])).open()
sandbox.run({DIRTY!r}).check()
sandbox.files.write("x", b"x")
print("working", flush=True)
sandbox.run("runuser -u www-data -- sleep 1000", timeout=1000)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("upper", ["tmpfs", "directory"])
@pytest.mark.parametrize("also_the_janitor", [False, True])
def test_sigkill_leaves_nothing(home: Path, upper: str, also_the_janitor: bool) -> None:
    words = [sys.executable, "-c", WORKER, upper]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "working\n"
        assert len(uppers(worker.pid)) == (upper == "directory")
        left = psutil.Process(worker.pid).children(recursive=True)
        assert any("served_files" in " ".join(one.cmdline()) for one in left) or not os.getuid()
        if also_the_janitor:
            for one in left:
                if "janitor" in " ".join(one.cmdline()):
                    one.kill()
        worker.kill()
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive
    if also_the_janitor:
        # the next program of ours sweeps; this process has looked already
        code = "from sandbox_lite.jail import layers; layers.sweep()"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    deadline = time.monotonic() + 10
    while uppers(worker.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert uppers(worker.pid) == []


def test_a_start_that_fails_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox_lite.jail import nests, subids

    nests.SHARED.close()  # those of other tests, which wait for the next sandbox
    with monkeypatch.context() as patch:
        # newuidmap refuses what is nobody's to give
        patch.setattr(subids, "mapping", lambda *_: ("0", "0", "4000000000"))
        spec = SandboxSpec(rootfs="minimal", ids="subordinate", upper="directory")
        with pytest.raises(HostError, match="could not be mapped"):
            Sandbox(spec).open()
    assert uppers(os.getpid()) == []
    assert not [one for one in psutil.Process().children() if "bwrap" in one.name()]


# ---- real work --------------------------------------------------------------------------------

POSTGRES = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends postgresql >/tmp/log 2>&1 || { cat /tmp/log; false; }
pg_lsclusters -h
pg_ctlcluster $(pg_lsclusters -h | awk '{print $1, $2}') start
su postgres -c "psql -Atc 'select 40 + 2'"
stat -c %U:%a /var/lib/postgresql/*/main
ps -o user= -C postgres | sort -u
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_postgresql(standard_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_subordinate_ids()
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    with Sandbox(
        "standard", ids="subordinate", network="packages", allow_private=private_mirrors(),
        limits=Limits.of(timeout=300),
    ) as sandbox:  # fmt: skip
        result = sandbox.run(f"( {POSTGRES} )")
        assert result.ok, result.output[-3000:]
        *_, answer, owner, user = result.stdout.split()
        assert (answer, owner, user) == ("42", "postgres:700", "postgres")
        assert sandbox.run("su user -c 'cd && touch x && stat -c %U x'").stdout == "user\n"
