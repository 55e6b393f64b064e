from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.errors import HostError, RootfsError, SpecError
from sandbox_lite.jail.removal import remove_tree
from sandbox_lite.jail.rootfs.store import RootfsInfo, Store, explain
from sandbox_lite.jail.rootfs.tree import summarize

if TYPE_CHECKING:
    from pathlib import Path

NEEDS_USER = pytest.mark.skipif(os.geteuid() == 0, reason="an ordinary user")


def fill(tree: Path, text: str = "hello") -> None:
    (tree / "etc").mkdir()
    (tree / "etc" / "motd").write_text(text)
    (tree / "bin").symlink_to("usr/bin")
    (tree / "usr" / "bin").mkdir(parents=True)
    (tree / "usr" / "bin" / "su").write_bytes(b"\x7fELF")
    (tree / "usr" / "bin" / "su").chmod(0o4755)


def put(store: Store, name: str, text: str = "hello") -> RootfsInfo:
    with store.stage(name) as stage:
        fill(stage.tree, text)
        return stage.commit(recipe=name, suite="trixie", env={"LANG": "C.UTF-8"})


def trees(store: Store) -> list[str]:
    return sorted(path.name for path in (store.path / ".trees").iterdir())


def leftovers(store: Store) -> list[str]:
    return sorted(p.name for p in store.path.iterdir() if p.name.startswith((".stage-", ".link-")))


def test_a_committed_rootfs_is_listed_resolved_and_verified(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.list() == ()
    assert not store.path.exists(), "looking must not write"
    info = put(store, "small")
    assert store.list() == (info,)
    assert (info.name, info.recipe, info.suite) == ("small", "small", "trixie")
    assert info.size_bytes > 0
    assert info.digest.startswith("sha256:")
    rootfs = store.resolve("small")
    assert (rootfs.lowers[0] / "etc" / "motd").read_text() == "hello"
    assert rootfs.env == {"LANG": "C.UTF-8"}
    assert store.verify("small").ok
    assert leftovers(store) == []


def test_a_store_is_closed_to_other_users(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, "small")
    assert store.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("change", ["content", "mode", "link", "added", "removed", "unreadable"])
def test_verify_sees_every_change(tmp_path: Path, change: str) -> None:
    store = Store(tmp_path / "store")
    tree = put(store, "small").tree
    if change == "content":
        (tree / "etc" / "motd").write_text("hellO")
    elif change == "mode":
        (tree / "etc" / "motd").chmod(0o600)
    elif change == "link":
        (tree / "bin").unlink()
        (tree / "bin").symlink_to("usr/sbin")
    elif change == "added":
        (tree / "etc" / "empty").mkdir()
    elif change == "removed":
        (tree / "usr" / "bin" / "su").unlink()
    else:
        (tree / "etc" / "motd").chmod(0)
    result = store.verify("small")
    assert not result.ok
    assert result.actual != result.expected == store.list()[0].digest


def test_the_digest_knows_no_times_links_or_directory_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for tree, names in ((first, range(200)), (second, reversed(range(200)))):
        tree.mkdir(mode=0o755)
        for number in names:
            (tree / f"file{number}").write_text("same" if number < 2 else str(number))
    os.utime(first / "file5", (1, 1))
    (second / "file1").unlink()
    (second / "file1").hardlink_to(second / "file0")
    assert summarize(first).digest == summarize(second).digest
    (second / "file7").write_text("other")
    assert summarize(first).digest != summarize(second).digest


def test_names_that_are_no_text_are_digested_and_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    strange = os.fsencode(tree) + b"/\xff\n name"
    os.close(os.open(strange, os.O_CREAT))
    os.mkfifo(tree / "fifo")
    assert summarize(tree).entries == 3
    remove_tree(tree)
    assert not tree.exists()


def test_a_moved_store_works(tmp_path: Path) -> None:
    info = put(Store(tmp_path / "here"), "small")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Store(tmp_path / "there")
    assert moved.list()[0].digest == info.digest
    assert moved.verify("small").ok
    copied = Store(tmp_path / "copy")
    shutil.copytree(moved.path, copied.path, symlinks=True)
    assert copied.verify("small").ok


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def build() -> None:
        with store.stage("small") as stage:
            fill(stage.tree)
            (stage.tree / "etc").chmod(0o500)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert leftovers(store) == []
    assert store.list() == ()


def test_a_killed_build_is_swept_and_a_running_one_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    code = (
        "import sys, time; from pathlib import Path\n"
        "from sandbox_lite.jail.rootfs.store import Store\n"
        "with Store(Path(sys.argv[1])).stage('small') as stage:\n"
        "    (stage.tree / 'x').write_text('x'); print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"ready\n"
        store.sweep()
        assert len(leftovers(store)) == 1
        builder.send_signal(signal.SIGKILL)
        builder.wait()
    store.sweep()
    assert leftovers(store) == []


def test_two_builds_of_one_name_do_not_clash(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.stage("small") as first, store.stage("small") as second:
        fill(first.tree, "first")
        fill(second.tree, "second")
        second.commit()
        first.commit()
    assert len(store.list()) == 1
    assert (store.resolve("small").lowers[0] / "etc" / "motd").read_text() == "first"
    store.sweep()
    assert len(trees(store)) == 1


def test_many_threads_commit_remove_and_use_one_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, "small", "0")
    faults: list[BaseException] = []

    def rebuild(number: int) -> None:
        try:
            for turn in range(4):
                put(store, "small", f"{number}.{turn}")
        except BaseException as error:  # noqa: BLE001 -- the test's own thread must see it
            faults.append(error)

    def use() -> None:
        try:
            for _ in range(60):
                with store.lease("small") as rootfs:
                    assert (rootfs.lowers[0] / "usr" / "bin" / "su").read_bytes() == b"\x7fELF"
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=rebuild, args=(n,)) for n in range(3)]
    threads += [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    store.sweep()
    assert len(trees(store)) == 1
    assert leftovers(store) == []


def test_a_rootfs_in_use_is_not_removed_but_may_be_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, "small", "old")
    with store.lease("small") as rootfs:
        with pytest.raises(RootfsError, match="in use"):
            store.remove("small")
        put(store, "small", "new")
        store.sweep()
        assert (rootfs.lowers[0] / "etc" / "motd").read_text() == "old"
        assert (store.resolve("small").lowers[0] / "etc" / "motd").read_text() == "new"
    store.sweep()
    assert not rootfs.lowers[0].exists()
    store.remove("small")
    assert store.list() == ()
    assert trees(store) == []


def test_unwritable_directories_are_made_removable(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.stage("small") as stage:
        (stage.tree / "closed" / "below").mkdir(parents=True)
        (stage.tree / "closed" / "below" / "file").write_text("x")
        (stage.tree / "closed" / "below" / "file").chmod(0)
        (stage.tree / "closed" / "below").chmod(0o555)
        (stage.tree / "closed").chmod(0)
        stage.commit()
    assert store.verify("small").ok
    store.remove("small")
    assert trees(store) == []


def test_very_deep_trees_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    directory = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    remove_tree(top)
    assert not top.exists()


def test_removal_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    remove_tree(tree)
    assert (outside / "kept").exists()
    (tmp_path / "itself").symlink_to(outside)
    remove_tree(tmp_path / "itself")
    assert (outside / "kept").exists()


@pytest.mark.parametrize("name", ["", "..", "A", "a/b", ".hidden", "a\n", "-x", "a" * 65])
def test_names_are_checked(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    for act in (store.resolve, store.remove, store.verify):
        with pytest.raises(SpecError, match="not a rootfs name"):
            act(name)
    with pytest.raises(SpecError), store.stage(name):
        pass


def test_the_host_name_is_reserved(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="host"), Store(tmp_path).stage("host"):
        pass


def test_an_unknown_name_is_answered_with_the_remedy(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(RootfsError) as caught:
        store.resolve("paper")
    assert caught.value.hint == "run: sandbox-lite rootfs build paper"
    put(store, "small")
    with pytest.raises(RootfsError) as caught, store.lease("paper"):
        pass
    assert "small" in str(caught.value.hint)


def test_another_format_is_refused_with_a_hint(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, "small")
    (store.path / "format").write_text("99\n")
    for act in (lambda: store.list(), lambda: store.resolve("small"), lambda: put(store, "b")):
        with pytest.raises(RootfsError, match="format '99'") as caught:
            act()
        assert "SANDBOX_LITE_HOME" in str(caught.value.hint)


@pytest.mark.parametrize("damage", ["{", '{"format": 1}', '{"format": 2}', "[]", None])
def test_a_damaged_rootfs_is_named_and_can_be_removed(tmp_path: Path, damage: str | None) -> None:
    store = Store(tmp_path / "store")
    description = put(store, "small").path / "rootfs.json"
    if damage is None:
        description.unlink()
    else:
        description.write_text(damage)
    with pytest.raises(RootfsError, match="small") as caught:
        store.resolve("small")
    assert "rootfs rm small" in str(caught.value.hint)
    store.remove("small")
    assert store.list() == ()


def test_a_lost_tree_is_named_and_can_be_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    remove_tree(put(store, "small").path)
    with pytest.raises(RootfsError, match="incomplete"):
        store.resolve("small")
    store.remove("small")
    path = put(store, "small").path
    (path / "lock").unlink()
    with pytest.raises(RootfsError, match="incomplete"), store.lease("small"):
        pass


def test_a_file_where_the_store_belongs(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    store = Store(tmp_path / "store" / "rootfs")
    with (
        pytest.raises(RootfsError, match=r"Not a directory|File exists") as caught,
        store.stage("a"),
    ):
        pass
    assert "SANDBOX_LITE_HOME" in str(caught.value.hint)


def test_something_else_under_the_name_is_not_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (store.path / "small").mkdir(parents=True)
    with pytest.raises(RootfsError, match="cannot store"):
        put(store, "small")
    assert leftovers(store) == []
    assert trees(store) == []


@NEEDS_USER
def test_a_store_of_another_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RootfsError, match="Permission denied") as caught:
        put(Store(tmp_path / "store"), "a")
    assert "SANDBOX_LITE_HOME" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOSPC, RootfsError, "free some space"),
        (errno.EDQUOT, RootfsError, "free some space"),
        (errno.EROFS, RootfsError, "must belong"),
        (errno.ENOLCK, HostError, "local disk"),
        (errno.EOPNOTSUPP, HostError, "local disk"),
    ],
)
def test_what_the_kernel_says_has_a_remedy(number: int, kind: type[Exception], hint: str) -> None:
    error = explain(OSError(number, os.strerror(number), "/x"), "store rootfs 'a'")
    assert type(error) is kind
    assert "/x" in error.message
    assert hint in str(error.hint)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def build() -> None:
        with store.stage("small") as stage:
            fill(stage.tree)
            # the first thing that a commit writes is the description: let that device be full
            (stage.path / "rootfs.json").symlink_to("/dev/full")
            stage.commit()

    with pytest.raises(RootfsError, match="No space left"):
        build()
    assert leftovers(store) == []
    assert store.list() == ()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(HostError, match="cannot hold the store") as caught:
        put(Store(tmp_path / "store"), "small")
    assert "SANDBOX_LITE_HOME" in str(caught.value.hint)
