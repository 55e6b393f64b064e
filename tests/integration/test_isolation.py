"""Negative facts: what of the host does not show inside, each looked for where it could."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Limits, Mount
from sandbox_lite.errors import RootfsError
from sandbox_lite.jail import bwrap
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.spec import SandboxSpec
from tests.conftest import require_subordinate_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "planted-3f1c9a-secret"
LOOK = (
    "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo /proc/[0-9]*/task/*/comm "
    "2>/dev/null; true"
)


@pytest.fixture(params=["tmpfs", "directory", "true root"])
def sb(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    monkeypatch.setenv("PLANTED", SECRET)
    limits = Limits.of(timeout=15)
    if request.param == "true root":
        require_subordinate_ids()
        spec = SandboxSpec(rootfs="minimal", upper="tmpfs", limits=limits, ids="subordinate")
    else:
        spec = SandboxSpec(rootfs="minimal", upper=request.param, limits=limits)
    with Sandbox(spec) as opened:
        yield opened


def test_no_secret_and_no_host_path_in_proc(sb: Sandbox, home: Path) -> None:
    seen = sb.run(LOOK).stdout + sb.exec(["sh", "-c", LOOK]).stdout
    assert "overlay" in seen, "the look itself works"
    assert SECRET not in seen
    assert str(home) not in seen
    name = pwd.getpwuid(os.getuid()).pw_name
    if name != "root":
        assert name not in seen
    for line in sb.run("cat /proc/self/mountinfo").stdout.splitlines():
        root, options = line.split()[3], line.rpartition(" ")[2]
        assert "/home" not in root + options
        assert (
            "lowerdir=" not in options
            or "lowerdir=/oldroot/lower/0" in options
            or ("lowerdir=/oldroot/lower/1:/oldroot/lower/0" in options)
        )


def test_an_ordinary_user_inside(standard_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    probe = (
        "id -u; whoami; echo $HOME; stat -c %U /testbed /usr; grep -c 'Cap...:.0*$' "
        "/proc/self/status; chown 5:5 /testbed 2>/dev/null; echo $?"
    )
    with Sandbox("standard", user="user") as sandbox:
        assert sandbox.enforcement.user == "user"
        assert sandbox.enforcement.capabilities == ()
        assert sandbox.enforcement.seccomp == ("deny",)
        found = sandbox.run(probe).stdout.split()
        assert found == ["1000", "user", "/home/user", "user", "user", "5", "1"]
        sandbox.run("cd && python3 -m venv v && v/bin/python -c 'print(1)'").check()
    with Sandbox("standard") as root:
        assert root.run(probe).stdout.split() == ["0", "root", "/root", "root", "root", "0", "0"]
    with pytest.raises(RootfsError, match="no user 'nobody-here'"):
        Sandbox("standard", user="nobody-here").open()


def test_environment_is_ours_alone(sb: Sandbox) -> None:
    inside = dict(line.split("=", 1) for line in sb.run("env").stdout.splitlines() if "=" in line)
    assert "PLANTED" not in inside
    assert inside["HOME"] == "/root"
    leaked = {
        name for name, value in inside.items()
        if os.environ.get(name) == value and len(value) > 3
        and name not in {"LANG", "TERM", "SHELL", "HOME", "USER", "LOGNAME", "PATH"}
        and value not in {"/etc/ssl/certs/ca-certificates.crt", "noninteractive"}
    }  # fmt: skip
    assert not leaked


def test_only_our_own_processes(sb: Sandbox) -> None:
    names = sb.run("cat /proc/[0-9]*/comm").stdout.split()
    assert {"sandbox-lite", "bash"} <= set(names) <= {"sandbox-lite", "bash", "cat"}
    assert sb.run("tr '\\0' ' ' </proc/1/cmdline").stdout.split() == ["sandbox-lite"]


@pytest.mark.parametrize("name", ["fd/0", "mem", "environ", "maps", "root", "cwd", "exe", "ns/net"])
def test_process_1_is_out_of_reach(sb: Sandbox, name: str) -> None:
    look = "p=/proc/{}/" + name + "; if [ -h $p ]; then readlink -v $p; "
    look += "elif [ -d $p ]; then ls $p; else head -c 0 $p; fi"
    # one's own shell can be looked at: it is process 1 that cannot
    assert sb.run(look.format("$$")).exit_code == 0
    assert "Permission denied" in sb.run(look.format("1")).stderr


def test_descriptors_of_the_host_process_stay_outside(sb: Sandbox) -> None:
    for pid in ("1", "self", "$$"):
        for link in sb.run(f"readlink /proc/{pid}/fd/*").stdout.splitlines():
            assert link.startswith(
                ("pipe:", "/dev/null", "/dev/tty", "/dev/pts/", "/run/sandbox-lite/", "/proc/")
            ), link


def test_inherited_descriptor_is_not_passed_on(home: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.write_text(SECRET)
    fd = os.open(planted, os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        with Sandbox("minimal") as sandbox:
            held = sandbox.run("ls -l /proc/[0-9]*/fd").stdout
            assert "/dev/null" in held, "the look itself works"
            assert "planted" not in held
    finally:
        os.close(fd)


def test_namespaces_are_not_the_hosts(sb: Sandbox) -> None:
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        inside = sb.run(f"readlink /proc/self/ns/{kind}").stdout.strip()
        assert inside.startswith(f"{kind}:[")
        assert inside != os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115  # not a path


def test_privileges(sb: Sandbox) -> None:
    status = dict(
        line.split(":\t", 1) for line in sb.run("cat /proc/self/status").stdout.splitlines()
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    # DAC_OVERRIDE, FOWNER and SETFCAP over its own user namespace, and nothing else
    allowed = 1 << 1 | 1 << 3 | 1 << 31
    if sb.spec.ids == "subordinate":
        # CHOWN, FSETID, KILL, SETGID, SETUID, SETPCAP and SYS_CHROOT, over a handful of ids more
        allowed |= 1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 18
    for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
        assert int(status[name], 16) & ~allowed == 0, name
    assert sb.run("id -u").stdout == "0\n"
    assert sb.run("hostname || cat /proc/sys/kernel/hostname").stdout == "sandbox\n"


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none /mnt",
        "umount /proc",
        "mount -o remount,rw /dev",
        "touch /dev/planted",
        "touch /run/sandbox-lite/planted",
        "unshare --user true",
        "unshare --mount true",
        # each writes what is there already, or asks for help only: a failure does no harm
        "cat /proc/sys/kernel/panic >/tmp/x && cat /tmp/x >/proc/sys/kernel/panic",
        "cat /proc/sys/vm/swappiness >/tmp/x && cat /tmp/x >/proc/sys/vm/swappiness",
        "echo h >/proc/sysrq-trigger",
        "mknod /tmp/sda b 8 0 && cat /tmp/sda",
        "cat /dev/vda /dev/sda /dev/mem /dev/kmsg",
        "chroot /proc/1/root/../.. ls /lower",
        "kill -9 1 && ! test -d /proc/1",
    ],
)
def test_operation_is_refused(sb: Sandbox, command: str) -> None:
    assert sb.run(command).exit_code != 0
    assert sb.run("echo alive").stdout == "alive\n"


SYSCALL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
words = [int(word, 0) for word in sys.argv[1:]]
result = libc.syscall(*(ctypes.c_long(word) for word in words))
print("ok" if result >= 0 else os.strerror(ctypes.get_errno()))
"""

EPERM, ENOSYS = "Operation not permitted", "Function not implemented"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize(
    ("call", "expected", "outside"),
    [
        # with the number and arguments that work, or fail otherwise, where no filter is
        pytest.param([165, 0, 0, 0, 0, 0], EPERM, "Bad address", id="mount"),
        pytest.param([272, 0x10000000], EPERM, "ok", id="unshare user"),
        pytest.param([308, 99, 0], EPERM, "Bad file descriptor", id="setns"),
        pytest.param([250, 0, -3, 1], EPERM, "ok", id="keyctl get session keyring"),
        pytest.param([321, 99, 0, 0], EPERM, None, id="bpf"),
        pytest.param([298, 0, 0, -1, -1, 0], EPERM, "Bad address", id="perf_event_open"),
        pytest.param([323, 1], EPERM, "ok", id="userfaultfd"),
        pytest.param([425, 1, 0], ENOSYS, "Bad address", id="io_uring_setup"),
        pytest.param([435, 0, 0], ENOSYS, "Invalid argument", id="clone3"),
        pytest.param([430, 0, 0], ENOSYS, "Bad address", id="fsopen"),
        pytest.param([311, -1, 0, 0, 0, 0, 0], EPERM, None, id="process_vm_writev"),
        pytest.param([312, 1, 1, 0, 0, 0], EPERM, None, id="kcmp"),
        pytest.param([16, 0, 0x5412, 0], EPERM, None, id="TIOCSTI"),
        pytest.param([16, 0, 0x100005412, 0], EPERM, None, id="TIOCSTI behind a high half"),
        pytest.param([16, 0, 0x541C, 0], EPERM, None, id="TIOCLINUX"),
        pytest.param([41, 40, 1, 0], "Address family not supported by protocol", None, id="vsock"),
        pytest.param([462, 0, 0, 0], ENOSYS, None, id="mseal, which nobody has looked at"),
        pytest.param([56, 0x10000011, 0, 0, 0, 0], EPERM, "ok", id="clone into a user namespace"),
        pytest.param([39], "ok", "ok", id="getpid"),
        pytest.param([135, 0xFFFFFFFF], "ok", "ok", id="personality"),
    ],
)
def test_system_call_is_refused(
    sb: Sandbox, unfiltered: Sandbox, call: list[int], expected: str, outside: str | None
) -> None:
    """The controls are the same call without the filter, and by a child of ours on the host."""
    words = [str(word) for word in call]
    inside = sb.exec(["python3", "-c", SYSCALL, *words])
    assert inside.stdout.splitlines()[:1] == [expected]
    free = unfiltered.exec(["python3", "-c", SYSCALL, *words]).stdout.splitlines()[:1]
    if expected == "ok":
        assert free == [expected]
    elif free == [expected]:
        # then it is this host's kernel that lacks it, or keeps it from everybody of our kind
        assert answer_outside(words) == expected
    # of an ordinary user the host itself refuses some
    if outside is not None and os.getuid() == 0:
        assert outside in answer_outside(words)


def answer_outside(words: list[str]) -> str:
    argv = [sys.executable, "-c", SYSCALL, *words]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.partition("\n")[0]


@pytest.fixture(scope="module")
def unfiltered(rootfs_home: Path) -> Iterator[Sandbox]:
    """A sandbox that only the kernel's own rights guard."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SANDBOX_LITE_HOME", str(rootfs_home))
        sandbox = Sandbox("minimal", limits=Limits.of(timeout=15))
        sandbox._filters = ()
        sandbox.open()
    with contextlib.closing(sandbox):
        yield sandbox


def test_foreign_abi_is_killed(sb: Sandbox, unfiltered: Sandbox) -> None:
    probe = ["python3", "-c", SYSCALL, str(0x40000000 + 39)]
    assert sb.exec(probe).exit_code == 128 + 31  # SIGSYS
    assert unfiltered.exec(probe).exit_code == 0


def test_loopback_is_its_own(sb: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 3)"
        assert sb.exec(["python3", "-c", script]).exit_code != 0
        with Sandbox("minimal", network="host") as reaching:
            # the same probe succeeds where the host's network was asked for
            assert reaching.exec(["python3", "-c", script]).exit_code == 0


def test_abstract_sockets_of_the_host_are_out_of_reach(sb: Sandbox) -> None:
    name = f"\0sandbox-lite-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        script = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
        assert sb.exec(["python3", "-c", script]).exit_code != 0
        with Sandbox("minimal", network="host") as reaching:
            assert reaching.exec(["python3", "-c", script]).exit_code == 0


def test_two_sandboxes_share_nothing(home: Path) -> None:
    with Sandbox("minimal") as one, Sandbox("minimal") as other:
        one.run("echo mine >/tmp/mine; sleep 300 & mkfifo /dev/shm/x").check()
        assert not other.run("test -e /tmp/mine || test -e /dev/shm/x").ok
        assert "sleep" not in other.run("cat /proc/[0-9]*/comm").stdout


def test_rootfs_never_changes(home: Path, sb: Sandbox) -> None:
    tree = home / "data" / "rootfs"
    before = {path: path.stat().st_mtime_ns for path in tree.glob("minimal/tree/*")}
    sb.run("rm -rf /etc /home; mkdir /etc; echo x >/etc/new; echo y >>/usr/bin/python3").check()
    assert sb.run("ls /etc").stdout == "new\n"
    assert before == {path: path.stat().st_mtime_ns for path in tree.glob("minimal/tree/*")}
    with Sandbox("minimal") as fresh:
        assert fresh.run("test -e /etc/passwd && python3 -c 'print(1)'").stdout == "1\n"


def test_disk_is_bounded_by_the_kernel(home: Path) -> None:
    with Sandbox("minimal", limits=Limits.of(disk="32MiB", shm="8MiB", timeout=15)) as sandbox:
        assert sandbox.enforcement.limit("disk").by == "kernel"
        for target, bound in (("/filled", 32), ("/dev/shm/filled", 8)):
            result = sandbox.run(f"head -c 100M /dev/zero >{target}; stat -c %s {target}")
            assert "No space left" in result.stderr
            assert int(result.stdout) <= bound * 1024 * 1024
            sandbox.run(f"rm {target}").check()
        assert sandbox.run("echo works >/tmp/x && cat /tmp/x").stdout == "works\n"


def test_mounts_that_were_asked_for(home: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("shown")
    mounts = (
        Mount(source=tmp_path, target="/data"),
        Mount(source=tmp_path, target="/writable", mode="bind"),
        Mount(target="/scratch", mode="tmpfs", size_bytes=1024 * 1024),
    )
    with Sandbox("minimal", mounts=mounts) as sandbox:
        assert sandbox.run("cat /data/data").stdout == "shown"
        assert not sandbox.run("touch /data/new").ok
        assert sandbox.run("touch /writable/new").ok
        assert not sandbox.run("head -c 5M /dev/zero >/scratch/x").ok
    assert (tmp_path / "new").exists()


def test_enforcement_tells_what_is_in_force(sb: Sandbox) -> None:
    enforcement = sb.enforcement
    assert enforcement.rootfs.startswith("minimal sha256:")
    assert enforcement.upper == sb.spec.upper
    assert enforcement.network == "none"
    assert enforcement.limit("disk").by == ("kernel" if sb.spec.upper == "tmpfs" else "sampling")
    assert enforcement.ids == sb.spec.ids
    pretended = ("fakeroot",) if sb.spec.ids == "own" else ()
    assert enforcement.seccomp == ("deny", *pretended)


def test_environment_does_not_show_in_the_hosts_process_list(home: Path) -> None:
    with Sandbox("minimal", env={"TOKEN": "a-token-of-the-caller"}) as sandbox:
        assert sandbox.run("echo $TOKEN").stdout == "a-token-of-the-caller\n"
        for process in psutil.Process().children(recursive=True):
            assert "a-token-of-the-caller" not in " ".join(process.cmdline())


def test_command_line_can_be_pasted(sb: Sandbox) -> None:
    pasted = f"{sb.command_line()} 2>&1 <<<'echo $PPID $(id -u) $(ls /testbed | wc -l) $HOME'"
    done = subprocess.run(
        ["bash", "-c", pasted], capture_output=True, text=True, check=False, env={}, cwd="/"
    )
    assert done.stdout == "0 0 0 /root\n"


def test_command_line_can_be_printed(sb: Sandbox) -> None:
    words = sb.command_line()
    assert "bwrap" in words
    for option in (
        "--unshare-user" if sb.spec.ids == "own" else "unshare --map-root-user --map-users=",
        "--unshare-pid",
        "--cap-drop ALL",
        "--clearenv",
        "--add-seccomp-fd",
    ):
        assert option in words


MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""As Docker has both by default."""


@pytest.mark.parametrize("path", MASKED)
def test_what_docker_masks_shows_nothing(sb: Sandbox, path: str) -> None:
    look = f"if [ -d {path} ]; then ls -A {path}; else timeout 2 head -c 64 {path}; fi 2>/dev/null"
    assert sb.run(look).stdout == ""
    # the same look at its neighbour shows something: it works
    assert sb.run("timeout 2 head -c 64 /proc/stat; ls -A /proc/self").stdout.count("\n") > 5


@pytest.mark.parametrize("path", READ_ONLY)
def test_what_docker_mounts_read_only_takes_nothing(sb: Sandbox, path: str) -> None:
    found = sb.run(f"find {path} -type f -writable 2>/dev/null | head -3").stdout
    assert found == ""
    assert sb.run("find /proc/self/ -maxdepth 1 -type f -writable | head -1").stdout != ""


def test_the_hosts_devices_are_used_and_never_changed(home: Path) -> None:
    """Where root runs a sandbox, its root owns the nodes that are shown inside."""
    nodes = [Path("/dev", name) for name in bwrap.NODES]
    before = [node.stat() for node in nodes]
    names = " ".join(str(node) for node in nodes)
    with Sandbox("minimal", limits=Limits.of(timeout=15)) as sandbox:
        for command in ("chmod 600", "chmod a+x", "touch -d 2001-01-01", "chown 0:0", "rm -f"):
            sandbox.run(f"{command} {names}")
        after = [node.stat() for node in nodes]
        assert [one.st_mode for one in after] == [one.st_mode for one in before]
        assert [one.st_ctime_ns for one in after] == [one.st_ctime_ns for one in before]
        used = "echo x >/dev/null && head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c"
        assert sandbox.run(used).stdout.split() == ["3", "5"]
        assert sandbox.run("echo x >/dev/full").exit_code == 1
        # `chown` is pretended, and `rm` meets a directory that takes and loses nothing
        told = sandbox.run(f"chmod 600 {names}").stderr
        assert told.count("Read-only file system") == len(nodes)
