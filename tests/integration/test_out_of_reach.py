"""What stands outside is not reached from inside; each probe succeeds where its guard is off."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Limits, Mount
from sandbox_lite.errors import FileAccessError, LaunchError, SandboxLiteError
from sandbox_lite.jail import bwrap, host
from sandbox_lite.jail.rootfs.store import Store
from sandbox_lite.jail.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.jail.seccomp import FilterName

SECRET = "planted-77ae02-secret"


def filtered(*filters: FilterName) -> Sandbox:
    """Return a sandbox with other system call filters than it should have."""
    sandbox = Sandbox("minimal", limits=Limits.of(timeout=30))
    sandbox._filters = filters
    return sandbox


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name, of which there are 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="sbx-"))
    yield path
    shutil.rmtree(path)


def test_files(sandbox: Sandbox, short: Path) -> None:
    (short / "planted").write_text(SECRET)
    look = ["cat", str(short / "planted")]
    assert "No such file" in sandbox.exec(look).stderr
    mount = Mount(source=short, target=str(short))
    with Sandbox("minimal", mounts=[mount]) as shown:
        assert shown.exec(look).stdout == SECRET


def test_devices(sandbox: Sandbox) -> None:
    # find would believe the directory, where a node is bound over a file
    look = "for f in /dev/* /dev/pts/*; do [ -L $f ] || [ -f $f ] || [ -d $f ] || echo $f; done"
    harmless = {f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero")}
    inside = set(sandbox.run(look).stdout.split())
    assert {path for path in inside if not path.startswith("/dev/pts/")} == harmless
    outside = subprocess.check_output(["bash", "-c", look], text=True)
    assert set(outside.split()) > harmless
    # a node that is made inside is none, not even with the number of a harmless one
    made = sandbox.run("mknod /tmp/zero c 1 5; head -c 1 /dev/zero; head -c 1 /tmp/zero")
    assert made.stdout_bytes == b"\0"


KERNELS = (
    "/proc/acpi", "/proc/cmdline", "/proc/fs", "/proc/interrupts", "/proc/key-users", "/proc/keys",
    "/proc/kpagecount", "/proc/slabinfo", "/proc/timer_list", "/proc/vmallocinfo",
)  # fmt: skip


def told(sandbox: Sandbox) -> set[str]:
    """Return what of the kernel's own shows something."""
    look = (
        f"for p in {' '.join(KERNELS)}; do if [ -d $p ]; then ls -A $p; "
        "else head -c 64 $p; fi 2>/dev/null | grep -q . && echo $p; done; true"
    )
    return set(sandbox.run(look).check().stdout.split())


def test_what_the_kernel_tells_of_the_host(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(sandbox) == set()
    monkeypatch.setattr(host, "hidden", lambda: ())
    with Sandbox("minimal") as bare:
        # a host has not all of them, and what only its root may read the kernel keeps from others
        root = {"/proc/slabinfo", "/proc/vmallocinfo"} if os.geteuid() == 0 else set()
        assert told(bare) >= {"/proc/cmdline", "/proc/interrupts", "/proc/key-users"} | root


def test_no_sandbox_whose_proc_is_not_covered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--ro-bind-try", "/dev/null", "/proc")
    monkeypatch.setattr(bwrap, "covers", lambda _: words)
    sandbox = Sandbox("minimal")
    with pytest.raises(LaunchError, match="cannot be covered"):
        sandbox.open()
    with pytest.raises(SandboxLiteError):
        sandbox.run("true")


def test_settings_of_the_kernel(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    # writes what is there
    write = "v=$(cat /proc/sys/vm/swappiness) && echo $v >/proc/sys/vm/swappiness"
    assert not sandbox.run(write).ok
    monkeypatch.setattr(bwrap, "covers", lambda _: ())
    with Sandbox("minimal") as bare:
        # those of an ordinary user the kernel itself refuses
        assert bare.run(write).ok is (os.geteuid() == 0)


SETNS = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for pid in sorted(name for name in os.listdir("/proc") if name.isdigit()):
    for kind in sorted(os.listdir(f"/proc/{pid}/ns")):
        try:
            fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        except PermissionError:
            assert pid == "1", pid
            continue
        libc.setns(fd, 0)
        print(kind, errno.errorcode.get(ctypes.get_errno(), "ok"))
        os.close(fd)
"""


def test_namespaces_through_proc(sandbox: Sandbox) -> None:
    def answers(one: Sandbox) -> set[str]:
        result = one.exec(["python3", "-c", SETNS]).check()
        return {line.split()[1] for line in result.stdout.splitlines() if "user" in line}

    assert answers(sandbox) == {"EPERM"}
    with filtered("fakeroot") as free:
        assert answers(free) == {"EINVAL"}, "the kernel looks at it: one's own is no other"

    look = "readlink /proc/[0-9]*/ns/* | sort -u"
    # the one of clocks is shared by all: that nobody sets them, the filter sees to
    here = {str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}
    here -= {name for name in here if name.startswith("time:")}
    assert set(sandbox.run(look).stdout.split()) & here == set()
    with Sandbox("minimal", network="host") as reaching:
        shared = set(reaching.run(look).stdout.split()) & here
        assert {name.partition(":")[0] for name in shared} == {"net"}


REACH = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
child = None
if sys.argv[1] == "own":
    child = subprocess.Popen(["sleep", "30"])
pid = child.pid if child else int(sys.argv[1])
class Piece(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t))
def said(result):
    return "ok" if result >= 0 else os.strerror(ctypes.get_errno())
print(said(libc.kill(pid, 0)))
print(said(libc.ptrace(0x4206, pid, None, None)))  # PTRACE_SEIZE
print(os.path.exists(f"/proc/{pid}"))
if child:
    child.kill()
"""


def test_programs_outside_can_be_neither_traced_nor_signalled(sandbox: Sandbox) -> None:
    probe = ["python3", "-c", REACH]
    with subprocess.Popen(["sleep", "300"]) as outside:
        try:
            inside = sandbox.exec([*probe, str(outside.pid)]).check().stdout
            assert inside.splitlines() == ["No such process", "No such process", "False"]
        finally:
            outside.kill()
    assert sandbox.exec([*probe, "own"]).stdout.splitlines() == ["ok", "ok", "True"]
    here = subprocess.run([sys.executable, *probe[1:], "own"], capture_output=True, check=True)
    assert here.stdout.decode().splitlines() == ["ok", "ok", "True"]


def test_sockets_of_the_host(
    sandbox: Sandbox, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = short / "bus"
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={bus}")
    abstract = f"\0sandbox-lite-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(str(bus))
        second.bind(abstract)
        for server in (first, second):
            server.listen()

        def reached(one: Sandbox, name: str) -> bool:
            script = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
            return one.exec(["python3", "-c", script]).ok

        assert not reached(sandbox, str(bus))
        assert not reached(sandbox, abstract)
        mount = Mount(source=short, target=str(short), mode="bind")
        with Sandbox("minimal", mounts=[mount], network="host") as shown:
            assert reached(shown, str(bus))
            assert reached(shown, abstract)
            assert "DBUS" not in shown.run("env").stdout


OTHERS = {
    "file": ("echo x >/tmp/mine", "test -e /tmp/mine"),
    "shared memory": ("echo x >/dev/shm/mine", "test -e /dev/shm/mine"),
    "System V": ("ipcmk -M 12345", "ipcs -m | grep -q 12345"),
    # its name is there only after the fork
    "process": (
        "sleep 299.5 & until grep -aq 299.5 /proc/$!/cmdline; do :; done",
        "for p in /proc/[0-9]*; do [ $(cat $p/comm) != sleep ] || found=1; done; [ $found ]",
    ),
    "server": (
        'python3 -c \'import socket, time; s = socket.create_server(("127.0.0.1", 4321));'
        " print(1, flush=True); time.sleep(300)' > >(exec cat) & "
        "for i in $(seq 100); do grep -q :10E1 /proc/net/tcp && break; sleep 0.05; done",
        "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 4321), 3)'",
    ),
}


def test_other_sandboxes(sandbox: Sandbox) -> None:
    with Sandbox("minimal", limits=Limits.of(timeout=15)) as other:
        for name, (made, probe) in OTHERS.items():
            sandbox.run(made).check()
            assert sandbox.run(probe).ok, name
            assert not other.run(probe).ok, name


def test_proc_pid_root_is_its_own_root(sandbox: Sandbox) -> None:
    look = (
        "for p in /proc/[0-9]*; do ls -A $p/root/ $p/root/.. $p/cwd/../../.. $p/root/proc/..; done"
    )
    names = set(sandbox.run(look).check().stdout.split())
    outer = {"lower", "upper", "control", "mounts"}
    assert "usr" in names
    assert names & outer == set()
    # whoever started it stands in the namespace that has these names
    parent = psutil.Process(sandbox.pid).parent()
    assert parent is not None
    seen = {name for above in ("", "oldroot") for name in names_in(parent.pid, above)}
    assert {"lower", "upper"} <= seen


def names_in(pid: int, above: str) -> list[str]:
    path = f"/proc/{pid}/root/{above}"
    return os.listdir(path) if os.path.isdir(path) else []  # noqa: PTH112, PTH208  # /proc


def test_descriptors_that_somebody_left_open(home: Path, tmp_path: Path) -> None:
    (tmp_path / "planted").write_text(SECRET)
    fd = os.open(tmp_path / "planted", os.O_RDONLY)
    os.set_inheritable(fd, True)
    look = "readlink /proc/self/fd/* /proc/$PPID/fd/*; true"
    try:
        with Sandbox("minimal") as sandbox:
            assert "planted" not in sandbox.run(f"sh -c '{look}'").stdout
            assert "planted" not in sandbox.exec(["sh", "-c", look]).stdout
        passed = subprocess.run(
            ["sh", "-c", look], stdout=subprocess.PIPE, text=True, check=True, close_fds=False
        )
        assert "planted" in passed.stdout
    finally:
        os.close(fd)


def test_what_the_environment_makes_programs_load(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, script = tmp_path / "marker", tmp_path / "script"
    script.write_text(f"echo x >{marker}\n")
    for name in ("LD_PRELOAD", "LD_AUDIT"):
        monkeypatch.setenv(name, str(tmp_path / "preloaded.so"))
    for name in ("BASH_ENV", "ENV"):
        monkeypatch.setenv(name, str(script))
    monkeypatch.setenv("PROMPT_COMMAND", f". {script}")
    with Sandbox("minimal") as sandbox:
        result = sandbox.run("env; cat /dev/null; bash -c :; sh -ic :")
        for word in ("preloaded", str(tmp_path), "PROMPT_COMMAND"):
            assert word not in result.output
        for process in psutil.Process().children(recursive=True):
            if process.name() == "bwrap":
                assert "LD_PRELOAD" not in process.environ()
    assert not marker.exists()
    here = subprocess.run(["bash", "-c", "env"], capture_output=True, text=True, check=True)
    assert "preloaded.so" in here.stderr
    assert "PROMPT_COMMAND" in here.stdout
    assert marker.exists()


def test_traps_for_whoever_takes_files_out(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    sandbox.run(
        f"mkdir t && cd t && echo x >real && ln -s real near && ln -s {secret} away && mkfifo pipe"
        f" && ln -s /proc/self/fd/0 magic && ln -s {tmp_path} above && ln -s / root"
    ).check()
    files = sandbox.files
    assert files.read("t/near") == b"x\n"
    for path in ("t/away", "t/pipe", "t/magic", "t/above/secret", f"t/root{secret}"):
        with pytest.raises(FileAccessError):
            files.read(path)
    for path in ("t/pipe", "t/magic"):
        with pytest.raises(FileAccessError):
            files.write(path, b"y")
    # these name places inside
    files.write("t/near", b"y")
    files.write(f"t/root{secret}", b"y")
    assert secret.read_text() == SECRET
    assert sandbox.run(f"cat real {secret}").stdout == "yy"
    report = files.download("t", tmp_path / "out")
    assert {one.path for one in report.skipped} == {"away", "pipe", "magic", "above", "root"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"real", "near"}
    assert (tmp_path / "out" / "near").read_text() == "y"


@pytest.fixture(scope="module")
def hostile_home(
    rootfs_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """A store with a rootfs that is then changed, and the tree of it."""
    home = tmp_path_factory.mktemp("hostile")
    store = Store(home / "data" / "rootfs")
    with store.stage("hostile") as stage:
        source = Store(rootfs_home / "data" / "rootfs").resolve("minimal").lowers[0]
        stage.tree.rmdir()
        subprocess.run(["cp", "-a", str(source), str(stage.tree)], check=True)
        stage.commit(recipe="hostile")
    yield home, store.resolve("hostile").lowers[0]
    store.remove("hostile")


@pytest.mark.timeout(180)
def test_a_hostile_rootfs_leads_nowhere(
    hostile_home: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, tree = hostile_home
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(home))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text(SECRET)
    up = "../" * 40
    with Sandbox("hostile") as sandbox:
        assert sandbox.run("echo works").stdout == "works\n", "as it is, it is none"
    started = []
    for name in ("dev", "etc", "proc", "root", "run", "run/sandbox-lite", "testbed", "tmp"):
        place = tree / name
        kept = tree / "kept"
        there = place.is_dir()
        if there:
            place.rename(kept)
        for target in (str(outside), f"{up}{str(outside).lstrip('/')}"):
            place.symlink_to(target)
            try:
                with Sandbox("hostile", limits=Limits.of(timeout=10)) as sandbox:
                    look = f"cat /{name}/secret; echo x >/{name}/planted"
                    assert SECRET not in sandbox.run(look).output, name
                    sandbox.files.write("/tmp/mine", b"x")
                    started.append(name)
            except SandboxLiteError:
                pass  # that it does not start, or has no such place, is as good
            assert [path.name for path in outside.iterdir()] == ["secret"], name
            place.unlink()
        if there:
            kept.rename(place)
    assert "root" in started, "a link that is in nobody's way keeps it from nothing"
    # no device, and no set-user-ID program of it, is one here
    su = tree / "usr/bin/true"
    mode = stat.S_IMODE(su.stat().st_mode)
    su.chmod(0o4755)
    with Sandbox("hostile", user="root") as sandbox:
        assert sandbox.run(
            "stat -c %a /usr/bin/true; grep NoNewPrivs /proc/self/status"
        ).stdout == ("4755\nNoNewPrivs:\t1\n")
    su.chmod(mode)


HUNT = """
import os, signal, time
seen, caught = set(), 0
known = set(os.listdir("/proc"))
deadline = time.monotonic() + 60
while not os.path.exists("/tmp/over") and time.monotonic() < deadline:
    for pid in set(os.listdir("/proc")) - known:
        if not pid.isdigit():
            continue
        try:
            os.kill(int(pid), signal.SIGSTOP)
            caught += 1
            for _ in range(40):
                # on, a few instructions at a time
                os.kill(int(pid), signal.SIGCONT)
                os.kill(int(pid), signal.SIGSTOP)
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    try:
                        seen.add(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0])
                    except OSError:
                        pass
        except OSError:
            pass
        try:
            os.kill(int(pid), signal.SIGCONT)
        except OSError:
            pass
print(caught, *seen)
"""


def test_what_process_1_starts_holds_nothing_of_its_own(sandbox: Sandbox) -> None:
    """A child of process 1 that is stopped in its first steps had the way to the host with it."""
    found = []
    hunter = threading.Thread(
        target=lambda: found.append(sandbox.exec(["python3", "-c", HUNT], timeout=90).check())
    )
    hunter.start()
    for _ in range(60):
        sandbox.exec(["true"], timeout=30)
    sandbox.files.write("/tmp/over", "")
    hunter.join(100)
    caught, *kinds = found[0].stdout.split()
    assert int(caught) > 0
    assert "socket" not in kinds
    assert sandbox.exec(["sh", "-c", "exit 7"]).exit_code == 7
