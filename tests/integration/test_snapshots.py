"""Snapshots of real sandboxes: what they hold, what is made of them, and that nothing stays."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import zstandard

from sandbox_lite import Limits, Mount, Sandbox, SandboxSpec, Snapshot
from sandbox_lite.errors import HostError, RootfsError, SandboxClosedError, SpecError
from sandbox_lite.jail import places, snapshots
from sandbox_lite.jail.pause import paused
from sandbox_lite.jail.rootfs.store import Store
from tests import faces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.spec import UpperKind

COMMITTED = f"committed-{os.getpid()}"
LIMITS = Limits.of(timeout=30)
SPEC = SandboxSpec(rootfs="minimal", limits=LIMITS)
PREPARE = """
mkdir -p /made/sub && cd /made/sub
echo one >one; echo two >two; chmod 000 two; ln -s one link; ln one hard; mkfifo fifo
chmod 500 /made/sub/../sub; rm -rf /usr/share/doc /var/log; mkdir /var/log; echo new >/var/log/new
rm /etc/hostname 2>/dev/null; mv /etc/debian_version /etc/moved; chmod 600 /etc/passwd
mkdir /closed && echo secret >/closed/file && chmod 000 /closed
truncate -s 1T /sparse
count=3; export EXPORTED='a b'; list=(x 'y z'); declare -A map=([k]=v)
greet() { echo "greetings $count"; }; alias again='greet; greet'; shopt -s extglob; umask 027
set -o pipefail
"""
LOOK = """
pwd; umask; greet; echo "$EXPORTED" "${list[1]}" "${map[k]}"; shopt extglob; alias
cat one two link hard; stat -c '%A %h %n' one two fifo link /closed /etc/passwd /made/sub
stat -c '%s' /sparse; ls /var/log /etc/moved; cat /closed/file
ls -d /usr/share/doc /etc/debian_version 2>&1; set -o | grep pipefail
"""


@pytest.fixture(params=["tmpfs", "directory"])
def kind(request: pytest.FixtureRequest) -> UpperKind:
    found: UpperKind = request.param
    return found


@pytest.fixture
def spec(kind: UpperKind) -> SandboxSpec:
    return dataclasses.replace(SPEC, upper=kind)


@pytest.fixture
def prepared(home: Path, spec: SandboxSpec) -> Iterator[Sandbox]:
    with Sandbox(spec) as sandbox:
        sandbox.run(PREPARE)
        yield sandbox


def leftovers(pid: int | None = None) -> list[str]:
    """Return the directories of a process, by default this one."""
    return [one.name for one in places.run_dir().glob(f"{pid or os.getpid()}-*")]


def test_a_sandbox_made_of_a_snapshot_shows_and_has_all_that_the_first_had(
    prepared: Sandbox,
) -> None:
    before = prepared.run(LOOK)
    assert "greetings 3" in before.stdout
    assert "secret" in before.stdout
    with prepared.snapshot() as snapshot, Sandbox(snapshot) as other:
        assert other.run(LOOK).output == before.output
        # both go on, and neither sees the other
        other.run("echo changed >/made/sub/one; count=9; rm /var/log/new")
        assert prepared.run(LOOK).output == before.output
        prepared.run("rm -rf /made")
        assert other.run("cat /made/sub/link; greet").stdout == "changed\ngreetings 9\n"
    assert prepared.run("ls -d /made").exit_code != 0


def test_without_an_overlay_a_snapshot_is_a_whole_copy(home: Path) -> None:
    with Sandbox(dataclasses.replace(SPEC, upper="copy")) as sandbox:
        sandbox.run(PREPARE)
        before = sandbox.run(LOOK).output
        with sandbox.snapshot() as snapshot:
            sandbox.run("rm /made/sub/one")
            assert [change.path for change in sandbox.diff(snapshot)] == ["made/sub/one"]
            # the request says `copy`; `auto` takes it for such a snapshot too
            with Sandbox(SPEC, snapshot=snapshot) as other:
                assert other.enforcement.upper == "copy"
                assert other.run(LOOK).output == before
            with pytest.raises(SpecError, match="whole copy"):
                Sandbox(dataclasses.replace(SPEC, upper="tmpfs"), snapshot=snapshot).open()


def test_the_snapshot_is_what_was_and_not_what_is(prepared: Sandbox) -> None:
    with prepared.snapshot() as snapshot:
        prepared.run("echo later >/made/sub/one; chmod 777 /closed; rm -f /made/sub/hard")
        with Sandbox(snapshot) as other:
            assert other.run("cat /made/sub/one; stat -c %a /closed").stdout == "one\n0\n"


def test_forks_are_independent_and_outlive_their_parent(home: Path, face: faces.FaceName) -> None:
    with faces.made(face, SPEC) as parent:
        parent.run("mkdir /w; cd /w; echo base >file; n=1")
        children = parent.fork(3)
    try:
        for number, child in enumerate(children):
            child.run(f"echo {number} >>file; n=$((n + {number}))")
        told = [child.run("pwd; cat file; echo $n").stdout.split() for child in children]
        assert told == [["/w", "base", str(n), str(n + 1)] for n in range(3)]
        (grandchild,) = children[2].fork()
        with grandchild:
            assert grandchild.run("cat file; echo $n").stdout.split() == ["base", "2", "3"]
    finally:
        for child in children:
            child.close()
    assert not leftovers()


def test_rollback_ends_what_runs_and_brings_back_what_was(prepared: Sandbox) -> None:
    before = prepared.run(LOOK).output
    with prepared.snapshot() as snapshot:
        assert prepared.run("rm -rf /made /etc/passwd; cd /; unset -f greet; sleep 1000 &").ok
        asleep: list[psutil.Process] = []
        deadline = time.monotonic() + 10
        while not asleep and time.monotonic() < deadline:  # it may not have been started yet
            every = psutil.process_iter(["cmdline"])
            asleep = [one for one in every if one.info["cmdline"] == ["sleep", "1000"]]
        assert asleep
        for _ in range(2):
            prepared.rollback(snapshot)
            assert not any(one.is_running() for one in asleep)
            assert prepared.run(LOOK).output == before
            prepared.run("rm -rf /made")
    # closed, it still serves the sandbox that was made of it
    assert prepared.run("cat /var/log/new").stdout == "new\n"


def test_clean_is_free_and_nothing_else_is_taken_for_it(home: Path, face: faces.FaceName) -> None:
    with faces.made(face, SPEC) as sandbox:
        with sandbox.snapshot() as empty:
            assert empty.layers == ()
        sandbox.run("mkdir /w; echo aaaa >/w/file; echo b >/w/other")
        with sandbox.snapshot() as first:
            with sandbox.snapshot() as same:
                assert same.layers[0] is first.layers[0]
            sandbox.run("cat /w/file >/dev/null; true")
            with sandbox.snapshot() as read:
                assert read.layers[0] is first.layers[0], "reading changes nothing"
            # in place, with the same size and the same times
            sandbox.run("echo bbbb 1<>/w/file; touch -r /w/other /w/file")
            with sandbox.snapshot() as second:
                assert second.layers[0] is not first.layers[0]
            sandbox.files.write("/w/file", b"cccc\n")
            with sandbox.snapshot() as third:
                assert third.layers[0] is not second.layers[0]
            sandbox.run("x=1")
            with sandbox.snapshot() as fourth:
                assert fourth.layers[0] is third.layers[0]
                assert b"x=" in fourth.shells["main"]
            sandbox.run("chmod 700 /w/other")
            with sandbox.snapshot() as fifth:
                assert fifth.layers[0] is not fourth.layers[0]


def test_what_runs_meanwhile_is_paused_and_no_clean(home: Path, face: faces.FaceName) -> None:
    script = """(n=0; while :; do n=$((n+1)); echo $n >/w/a.new; mv /w/a.new /w/a; echo $n >/w/b.new
        mv /w/b.new /w/b; done) >/dev/null 2>&1 &"""
    with faces.made(face, SPEC) as sandbox:
        sandbox.run("mkdir /w")
        sandbox.run(script)
        sandbox.run("until [ -e /w/b ]; do sleep 0.01; done")
        seen = set()
        for _ in range(5):
            with sandbox.snapshot() as snapshot, Sandbox(snapshot) as other:
                a, b = map(int, other.run("cat /w/a /w/b").stdout.split())
                # at one moment: b is written right after a
                assert a - b in (0, 1)
                seen.add(a)
        assert len(seen) > 1, "it goes on in between, though no command was given"
        assert sandbox.run("kill %1; wait; echo $?").stdout == "0\n"


def test_who_was_stopped_before_stays_stopped(home: Path) -> None:
    with Sandbox(SPEC) as sandbox:
        pid = int(sandbox.run("sleep 500 >/dev/null & kill -STOP $!; echo $!").stdout)
        sandbox.run(f"until [ $(cut -d' ' -f3 /proc/{pid}/stat) = T ]; do :; done").check()
        with sandbox.snapshot():
            states = sandbox.run(f"ps -o state= -p {pid} || cut -d' ' -f3 /proc/{pid}/stat").stdout
        assert states.strip() == "T"


def test_diff_lists_what_was_added_changed_and_deleted(prepared: Sandbox) -> None:
    with prepared.snapshot() as snapshot:
        assert prepared.diff(snapshot) == ()
        prepared.run("echo 12345 >/made/sub/one; rm -rf /closed; echo n >/new")
        prepared.run("chmod 640 /etc/passwd")
        prepared.run("cat /etc/os-release >/tmp/x; cat /tmp/x >/etc/os-release; rm /tmp/x")
        told = {
            change.path: (change.kind, change.old_size_bytes, change.size_bytes)
            for change in prepared.diff(snapshot)
            if change.type != "directory"
        }
        size = prepared.files.list("/etc")
        passwd = next(entry.size_bytes for entry in size if entry.name == "passwd")
        assert told == {
            "made/sub/one": ("changed", 4, 6),
            "made/sub/hard": ("changed", 4, 6),
            "closed/file": ("deleted", 7, 0),
            "new": ("added", 0, 2),
            "etc/passwd": ("changed", passwd, passwd),
        }
        prepared.rollback(snapshot)
        assert prepared.diff(snapshot) == ()


def test_diff_of_siblings_is_what_tells_them_apart(home: Path, face: faces.FaceName) -> None:
    with faces.made(face, SPEC) as parent:
        parent.run("echo base >/base; echo gone >/gone")
        one, other = parent.fork(2)
    with one, other:
        one.run("rm /gone; echo left >/left")
        other.run("echo changed >/base")
        with other.snapshot() as snapshot:
            told = {change.path: change.kind for change in one.diff(snapshot)}
        assert told == {"gone": "deleted", "left": "added", "base": "changed"}


def test_a_chain_is_flattened_before_the_kernel_cuts_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MOST_LAYERS", 4)
    with Sandbox(SPEC) as sandbox:
        depths = []
        for number in range(11):
            sandbox.run(
                f"echo {number} >/file{number}; rm -rf /file{number - 2} /usr/share/doc /d;"
                f" mkdir /d; touch /d/{number}; n={number}"
            )
            with sandbox.snapshot() as snapshot:
                depths.append(len(snapshot.layers))
                sandbox.rollback(snapshot)
        assert depths == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]
        told = sandbox.run("ls /d /file*; ls /usr/share/doc; echo $n; ls /etc/debian_version")
        assert told.stdout.split() == [
            "/file10", "/file9", "/d:", "10", "10", "/etc/debian_version",
        ]  # fmt: skip
    assert not leftovers()


def test_sixty_four_layers_are_all_there(home: Path) -> None:
    """The option string of overlayfs is cut without a word: the lowest layer would be gone."""
    with Sandbox(SPEC) as sandbox:
        for number in range(snapshots.MOST_LAYERS):
            sandbox.run(f"echo {number} >/file{number}")
            with sandbox.snapshot() as snapshot:
                sandbox.rollback(snapshot)
        (child,) = sandbox.fork()
        with child:
            assert len(child._freezer.base) == snapshots.MOST_LAYERS  # type: ignore[union-attr]
            told = child.run("ls /file* | wc -l; test -x /usr/bin/env && echo base").stdout
            assert told == "64\nbase\n"


def test_commit_makes_a_rootfs_of_it(prepared: Sandbox) -> None:
    before = prepared.run("cd /; rm /sparse; cat /made/sub/one /closed/file; ls /var/log")
    store = Store()
    info = prepared.commit(COMMITTED)
    try:
        assert info.packages == store.info("minimal").packages
        assert store.verify(COMMITTED).ok
        with Sandbox(COMMITTED, limits=LIMITS) as sandbox:
            after = sandbox.run("cat /made/sub/one /closed/file; ls /var/log")
            assert after.output == before.output
            assert sandbox.run("ls -d /usr/share/doc /etc/debian_version").exit_code != 0
            assert sandbox.run("find / -xdev -type c | grep -v ^/dev").stdout == ""
    finally:
        store.remove(COMMITTED)


def test_the_hosts_own_files_become_no_rootfs(home: Path) -> None:
    with Sandbox("host", limits=LIMITS) as sandbox:
        with pytest.raises(SpecError, match="host's own files"):
            sandbox.commit("mine")
        sandbox.run("echo x >/root/x")
        with sandbox.snapshot() as snapshot, Sandbox(snapshot) as other:
            assert other.run("cat /root/x").stdout == "x\n"


def test_export_and_load(prepared: Sandbox, tmp_path: Path) -> None:
    before = prepared.run(LOOK).output
    prepared.run("rm /sparse")
    archive = tmp_path / "one.tar.zst"
    with prepared.snapshot() as snapshot:
        snapshot.export(archive)
    prepared.close()
    assert [one.name for one in tmp_path.iterdir()] == [archive.name]
    with Snapshot.load(archive) as loaded, Sandbox(loaded) as sandbox:
        sandbox.run("truncate -s 1T /sparse")
        assert sandbox.run(LOOK).output == before
    asked = dataclasses.replace(SPEC, limits=Limits.of(timeout=7), network="none")
    with Snapshot.load(archive, asked) as loaded:
        assert loaded.spec.limits.timeout_seconds == 7
    with pytest.raises(SpecError, match="rootfs"):
        Snapshot.load(archive, SandboxSpec(rootfs="host"))


def test_layers_are_exported_as_one(home: Path, tmp_path: Path) -> None:
    with Sandbox(SPEC) as sandbox:
        for number in range(3):
            sandbox.run(f"echo {number} >/f{number}; rm -rf /d /f{number - 1}")
            sandbox.run(f"mkdir /d; touch /d/{number}")
            with sandbox.snapshot() as snapshot:
                if number == 2:
                    assert len(snapshot.layers) == 3
                    snapshot.export(tmp_path / "s")
                sandbox.rollback(snapshot)
    with Snapshot.load(tmp_path / "s") as loaded, Sandbox(loaded) as sandbox:
        assert len(loaded.layers) == 1
        assert sandbox.run("ls /d /f?").stdout.split() == ["/f2", "/d:", "2"]
    assert not leftovers()


def test_what_a_program_writes_after_a_snapshot_in_its_middle_is_in_the_next(home: Path) -> None:
    """At the moment when it was asked for, and is no process of the sandbox's yet."""
    with Sandbox(SPEC) as sandbox:
        sandbox.run("touch /before")
        assert sandbox._supervisor is not None
        start, taken = sandbox._supervisor.start_program, []

        def late(*args: Any, **kwargs: Any) -> Any:
            taken.append(sandbox.snapshot())
            return start(*args, **kwargs)

        sandbox._supervisor.start_program = late  # type: ignore[method-assign]
        sandbox.exec(["touch", "/written"])
        with taken[0], sandbox.snapshot() as after:
            assert not after.same_as(taken[0])
            assert [one.path for one in snapshots.diff(taken[0], after, ())] == ["written"]


ONWARD = """
import ctypes, threading
def count():
    number = 0
    with open("/count", "w", 1) as file:
        while True:
            number += 1
            file.seek(0)
            file.write(f"{number:012}")
            file.flush()
threading.Thread(target=count).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended_is_stopped(home: Path) -> None:
    with Sandbox(SandboxSpec(rootfs="host", limits=LIMITS)) as sandbox:
        sandbox.files.write("/count.py", ONWARD)
        sandbox.run("python3 /count.py >/dev/null 2>&1 & echo $! >/pid")
        begun = "grep -q 'State:.*zombie' /proc/$(cat /pid)/status && [ -s /count ]"
        assert sandbox.run(f"until {begun}; do :; done", timeout=20).exit_code == 0
        assert sandbox._freezer is not None
        with paused(sandbox._freezer._processes):
            was = sandbox.files.read("/count")
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline:
                assert sandbox.files.read("/count") == was
        # and goes on
        deadline = time.monotonic() + 10
        while sandbox.files.read("/count") == was:
            assert time.monotonic() < deadline


def hostile(path: Path, *members: tarfile.TarInfo) -> Path:
    """Write a snapshot with members that no export makes."""
    with Sandbox(SPEC) as sandbox, sandbox.snapshot() as snapshot:
        snapshot.export(path)
    plain = zstandard.ZstdDecompressor().stream_reader(BytesIO(path.read_bytes())).read()
    with tarfile.open(fileobj=BytesIO(plain)) as tar:
        first = tar.next()
        assert first is not None
        content = tar.extractfile(first)
        assert content is not None
        text = content.read()
    written = BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(first, BytesIO(text))
        for member in members:
            tar.addfile(member)
    path.write_bytes(zstandard.ZstdCompressor().compress(written.getvalue()))
    return path


def test_directories_deeper_than_a_path_is_long(home: Path, tmp_path: Path) -> None:
    with Sandbox(SPEC) as sandbox:
        deep = (
            "name=$(printf 'd%.0s' {1..250}); for n in {1..40}; do mkdir $name; cd $name; done;"
            "echo deep >file; ln file other; cd /; mkdir $name; ln -s $name link"
        )
        assert sandbox.run(deep).exit_code == 0
        look = (
            "find / -xdev ! -type d -printf '%d %n %s %m %l\\n' | sort | md5sum;"
            "find /testbed -name other -execdir cat {} +"
        )
        with sandbox.snapshot() as snapshot, Sandbox(snapshot) as fork:
            assert fork.run(look).stdout == sandbox.run(look).stdout
            assert "deep" in fork.run(look).stdout
            snapshot.export(tmp_path / "s")
            assert sandbox.diff(snapshot) == ()
        with Snapshot.load(tmp_path / "s") as loaded, Sandbox(loaded) as other:
            assert other.run(look).stdout == sandbox.run(look).stdout
    assert not leftovers()


def test_a_directory_below_one_that_is_closed(home: Path, tmp_path: Path) -> None:
    """Root inside passes it by a capability that an ordinary user of the host lacks."""
    with Sandbox(SPEC) as sandbox:
        sandbox.run("mkdir -p /closed/sub/deep; echo x >/closed/sub/deep/f")
        sandbox.run("chmod 0 /closed/sub /closed")
        look = "cat /closed/sub/deep/f; stat -c %a /closed /closed/sub"
        with sandbox.snapshot() as snapshot, Sandbox(snapshot) as fork:
            assert fork.run(look).stdout == "x\n0\n0\n"
            snapshot.export(tmp_path / "s")
        with Snapshot.load(tmp_path / "s") as loaded, Sandbox(loaded) as other:
            assert other.run(look).stdout == "x\n0\n0\n"


def test_a_file_of_holes_is_exported_as_one(home: Path, tmp_path: Path) -> None:
    """A model may make one that is larger than any disk."""
    with Sandbox(SPEC) as sandbox:
        holes = (
            "truncate -s 8E /empty 2>/dev/null || truncate -s 8T /empty; truncate -s 4T /some;"
            "echo begin | dd of=/some conv=notrunc status=none;"
            "for n in 1 5 9; do head -c 70000 /dev/urandom |"
            " dd of=/some seek=${n}G bs=64k oflag=seek_bytes conv=notrunc status=none; done;"
            "printf end | dd of=/some seek=4T bs=64k oflag=seek_bytes conv=notrunc status=none;"
            "echo behind >/then"
        )
        assert sandbox.run(holes).exit_code == 0
        look = (
            "stat -c '%s %n' /empty /some /then; cat /then; head -c 6 /some; tail -c 3 /some;"
            "for n in 1 5 9; do tail -c +$((n<<30)) /some | head -c 80000 | md5sum; done;"
            "du -k /empty | cut -f1"
        )
        with sandbox.snapshot() as snapshot:
            snapshot.export(tmp_path / "s")
        assert (tmp_path / "s").stat().st_size < 1 << 20
        with Snapshot.load(tmp_path / "s") as loaded, Sandbox(loaded) as other:
            assert other.run(look).stdout == sandbox.run(look).stdout


@dataclasses.dataclass
class _Unasked:
    """A request that no sandbox takes."""

    rootfs: str = "minimal"
    workdir: str = "relative"
    user: str = "root"
    env: dict[str, str] = dataclasses.field(default_factory=dict)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    one = tarfile.TarInfo(name)
    one.type, one.linkname, one.mode = kind, link, 0o755
    if kind == tarfile.CHRTYPE:
        one.devmajor, one.devminor = 1, 3
    return one


@pytest.mark.parametrize(
    ("what", "members"),
    [
        ("leaves", [member("layer", tarfile.DIRTYPE), member("layer/../../evil")]),
        ("leaves", [member("layer", tarfile.DIRTYPE), member("/etc/evil")]),
        (
            "lies in no directory",
            [
                member("layer", tarfile.DIRTYPE),
                member("layer/link", tarfile.SYMTYPE, "/tmp"),
                member("layer/link/evil"),
            ],
        ),
        (
            "hard link to no file",
            [
                member("layer", tarfile.DIRTYPE),
                member("layer/link", tarfile.SYMTYPE, "/etc/passwd"),
                member("layer/hard", tarfile.LNKTYPE, "layer/link"),
            ],
        ),
        ("device", [member("layer", tarfile.DIRTYPE), member("layer/null", tarfile.CHRTYPE)]),
        ("comes twice", [member("layer", tarfile.DIRTYPE), member("layer/a"), member("layer/a")]),
        ("is no directory", [member("layer")]),
    ],
)
def test_a_hostile_archive_is_refused(
    what: str, members: list[tarfile.TarInfo], home: Path, tmp_path: Path
) -> None:
    archive = hostile(tmp_path / "s", *members)
    with pytest.raises(RootfsError, match=what):
        Snapshot.load(archive)
    assert not leftovers()


@pytest.mark.parametrize("name", ["proc", "dev", "run"])
def test_a_link_where_bwrap_mounts_starts_nothing(name: str, home: Path, tmp_path: Path) -> None:
    """Through `/proc` process 1 is started, and there is mounted what covers it."""
    archive = hostile(
        tmp_path / "s",
        member("layer", tarfile.DIRTYPE), member("layer/newroot", tarfile.DIRTYPE),
        member("layer/newroot/decoy", tarfile.DIRTYPE), member("layer/decoy", tarfile.DIRTYPE),
        member(f"layer/{name}", tarfile.SYMTYPE, "../newroot/decoy"),
    )  # fmt: skip
    with Snapshot.load(archive) as snapshot:
        with pytest.raises(RootfsError, match=f"/{name} of the rootfs or snapshot is no directory"):
            Sandbox(snapshot).open()
    assert not leftovers()


def test_a_hostile_description_leaves_no_layer(home: Path, tmp_path: Path) -> None:
    with Sandbox(SPEC) as sandbox:
        sandbox.run("echo x >/x")
        with sandbox.snapshot() as snapshot:
            bad = dataclasses.replace(snapshot)
            object.__setattr__(bad, "spec", _Unasked())
            bad.export(tmp_path / "s")
    with pytest.raises(RootfsError, match="asks for what no sandbox"):
        Snapshot.load(tmp_path / "s")
    assert not leftovers()


@pytest.mark.parametrize(
    "content", [b"", b"no archive", zstandard.ZstdCompressor().compress(b"x" * 2048)]
)
def test_what_is_no_snapshot_is_told(content: bytes, home: Path, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(RootfsError, match=r"no snapshot|does not begin"):
        Snapshot.load(tmp_path / "s")
    with pytest.raises(HostError, match="No such file"):
        Snapshot.load(tmp_path / "missing")


def test_another_rootfs_is_refused(home: Path) -> None:
    with Sandbox(SPEC) as sandbox, sandbox.snapshot() as snapshot:
        with pytest.raises(SpecError, match="none of 'host'"):
            Sandbox(SandboxSpec(rootfs="host"), snapshot=snapshot).open()
        other = dataclasses.replace(snapshot, rootfs="minimal sha256:other")
        with pytest.raises(RootfsError, match="the store has"):
            Sandbox(other).open()


def test_another_user_goes_on_with_it(home: Path) -> None:
    """PostgreSQL's way: root installs, and who is not root starts what refuses root."""
    with Sandbox(SPEC) as sandbox:
        sandbox.run("echo worker:x:1234:1234::/home/madeer:/bin/bash >>/etc/passwd")
        sandbox.run("mkdir -p /home/madeer; echo x >/home/madeer/f; export TOLD=old KEPT=kept")
        with sandbox.snapshot() as snapshot:
            env = {"TOLD": "it's new"}
            spec = dataclasses.replace(snapshot.spec, user="worker", env=env)
            with Sandbox(spec, snapshot=snapshot) as other:
                told = other.run("id -u; echo y >>~/f; cat ~/f; echo $USER $KEPT $TOLD").stdout
                assert told.split() == ["1234", "x", "y", "worker", "kept", "it's", "new"]


def test_of_a_closed_one_nothing_is_made(home: Path, face: faces.FaceName) -> None:
    with faces.made(face, SPEC) as sandbox:
        sandbox.run("touch /x")
        snapshot = sandbox.snapshot()
        snapshot.close()
        snapshot.close()
        with pytest.raises(SpecError, match="closed"):
            sandbox.rollback(snapshot)
        assert sandbox.run("ls /x").ok, "the sandbox goes on"
        with pytest.raises(SpecError, match="closed"):
            Sandbox(snapshot).open()
    with pytest.raises((SandboxClosedError, SpecError)):
        sandbox.snapshot()


def test_subordinate_ids_are_refused_plainly(home: Path) -> None:
    sandbox = Sandbox(dataclasses.replace(SPEC, ids="subordinate"))
    with pytest.raises(SpecError, match="subordinate"):
        Snapshot(spec=sandbox.spec, rootfs="", layers=(), shells={}).check(sandbox.spec)


def test_a_workspace_is_refused_plainly(home: Path, tmp_path: Path) -> None:
    mount = Mount(source=tmp_path, target="/testbed", mode="overlay")
    with Sandbox(dataclasses.replace(SPEC, mounts=(mount,))) as sandbox:
        with pytest.raises(SpecError, match="workspace"):
            sandbox.snapshot()
        assert sandbox.run("echo goes on >f && cat f").stdout == "goes on\n"


def test_every_shell_comes_back(home: Path, face: faces.FaceName) -> None:
    with faces.made(face, SPEC) as sandbox:
        sandbox.shell("second").run("cd /usr; name=second")
        sandbox.run("cd /etc; name=main")
        (child,) = sandbox.fork()
    with child:
        assert child.run("pwd; echo $name").stdout.split() == ["/etc", "main"]
        assert child.shell("second").run("pwd; echo $name").stdout.split() == ["/usr", "second"]


def test_a_large_state_is_whole(home: Path) -> None:
    with Sandbox(SPEC) as sandbox:
        sandbox.run("big=$(head -c 5000000 /dev/zero | tr '\\0' x)")
        (child,) = sandbox.fork()
    with child:
        assert child.run("echo ${#big}").stdout == "5000000\n"


def test_the_exit_code_of_the_last_command_is_not_lost(home: Path, face: faces.FaceName) -> None:
    with faces.made(face, SPEC) as sandbox:
        sandbox.run("(exit 7)")
        sandbox.snapshot().close()
        assert sandbox.run("echo $?").stdout == "7\n"


def test_mounts_are_asked_for_anew(home: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("of the host\n")
    spec = dataclasses.replace(SPEC, mounts=(Mount(source=tmp_path, target="/mnt"),))
    with Sandbox(spec) as sandbox:
        sandbox.run("echo x >/x")
        (child,) = sandbox.fork()
    with child:
        assert child.run("cat /mnt/f /x").stdout == "of the host\nx\n"


WORKER = """
import sys
from sandbox_lite import Sandbox, SandboxSpec
with Sandbox(SandboxSpec(rootfs="minimal", upper=sys.argv[1])) as sandbox:
    sandbox.run("mkdir /d; chmod 000 /d; echo x >/x")
    snapshot = sandbox.snapshot()
    children = sandbox.fork(2)
    print(*(child.pid for child in children), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("upper", ["tmpfs", "directory"])
def test_sigkill_of_our_process_leaves_no_layer(home: Path, upper: str) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, upper],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with worker:
        assert worker.stdout is not None
        pids = [int(word) for word in worker.stdout.readline().split()]
        assert len(pids) == 2
        assert leftovers(worker.pid)
        worker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (
        leftovers(worker.pid) or any(map(psutil.pid_exists, pids))
    ):
        time.sleep(0.01)
    assert not leftovers(worker.pid)
    assert not any(map(psutil.pid_exists, pids))


def test_no_room_for_a_layer_is_told_and_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(SPEC) as sandbox:
        sandbox.run("head -c 100000 /dev/urandom >/data; sleep 1000 &")
        with monkeypatch.context() as patch:

            def full(*_: object) -> int:
                raise OSError(28, "No space left on device")

            patch.setattr(os, "write", full)
            with pytest.raises(HostError, match="No space left"):
                sandbox._freezer.freeze((0, 0), (), {})  # type: ignore[union-attr]
        assert not leftovers()
        # whoever was stopped for it goes on
        assert sandbox.run("jobs").stdout.startswith("[1]+  Running")
