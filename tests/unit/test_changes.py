"""Layers as overlayfs writes them, made by hand; those of real sandboxes are in integration."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.jail.changes import Change, changes

from ..conftest import require

if TYPE_CHECKING:
    from pathlib import Path


def found(uppers: list[Path], lowers: list[Path]) -> dict[str, Change]:
    with ExitStack() as stack:
        fds = []
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for path in (*lowers, *uppers):
            fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY))
            stack.callback(os.close, fds[-1])
        listed = list(changes(fds[len(lowers) :], fds[: len(lowers)]))
        assert len(os.listdir("/proc/self/fd")) == before + len(fds)  # noqa: PTH208
    result = {one.path: one for one in listed}
    assert len(result) == len(listed)
    return result


def kinds(uppers: list[Path], lowers: list[Path]) -> dict[str, str]:
    return {path: one.kind for path, one in found(uppers, lowers).items()}


def whiteout(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        # before Linux 5.8 it takes root
        require(False, "whiteouts")


def opaque(path: Path) -> None:
    path.mkdir()
    os.setxattr(path, "user.overlay.opaque", b"y")


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    made = [tmp_path / str(n) for n in range(4)]
    for path in made:
        path.mkdir()
    return made


def test_added_changed_deleted_and_what_is_the_same(layers: list[Path]) -> None:
    lower, upper = layers[:2]
    for name in ("kept", "same", "longer", "other", "mode", "gone"):
        (lower / name).write_text("text")
    (lower / "link").symlink_to("a")
    (upper / "same").write_text("text")
    (upper / "longer").write_text("longer text")
    (upper / "other").write_text("test")
    os.utime(upper / "other", ns=(1, (lower / "other").stat().st_mtime_ns))
    (upper / "mode").write_text("text")
    (upper / "mode").chmod(0o755)
    (upper / "new").write_bytes(b"12345")
    (upper / "link").symlink_to("b")
    whiteout(upper / "gone")
    whiteout(upper / "never there")
    changed = found([upper], [lower])
    assert {path: (one.kind, one.aspects) for path, one in changed.items()} == {
        "longer": ("changed", ("content",)),
        "other": ("changed", ("content",)),
        "mode": ("changed", ("mode",)),
        "link": ("changed", ("content",)),
        "new": ("added", ()),
        "gone": ("deleted", ()),
    }
    assert list(changed) == sorted(changed)
    assert (changed["new"].size_bytes, changed["new"].old_size_bytes) == (5, 0)
    assert (changed["gone"].size_bytes, changed["gone"].old_size_bytes) == (0, 4)
    assert (changed["longer"].size_bytes, changed["longer"].old_size_bytes) == (11, 4)
    assert (changed["mode"].mode, changed["mode"].old_mode) == (0o755, 0o644)
    assert changed["link"].type == changed["link"].old_type == "link"


def test_directories(layers: list[Path]) -> None:
    lower, upper = layers[:2]
    for name in ("walked", "gone", "replaced", "became a file"):
        (lower / name / "sub").mkdir(parents=True)
        (lower / name / "sub" / "file").write_text("x")
    (lower / "became a directory").write_text("x")
    (upper / "walked" / "sub").mkdir(parents=True)
    (upper / "walked" / "sub" / "more").write_text("y")
    whiteout(upper / "gone")
    opaque(upper / "replaced")
    (upper / "replaced" / "sub").mkdir()
    (upper / "became a file").write_text("x")
    (upper / "became a directory").mkdir(mode=0o700)
    (upper / "became a directory" / "in it").write_text("y")
    changed = found([upper], [lower])
    assert {path: one.kind for path, one in changed.items()} == {
        "became a directory": "changed",
        "became a directory/in it": "added",
        "became a file": "changed",
        "became a file/sub": "deleted",
        "became a file/sub/file": "deleted",
        "gone": "deleted",
        "gone/sub": "deleted",
        "gone/sub/file": "deleted",
        "replaced/sub/file": "deleted",
        "walked/sub/more": "added",
    }
    one = changed["became a file"]
    assert (one.type, one.old_type, one.aspects) == ("file", "directory", ("type",))
    assert changed["gone/sub/file"].old_size_bytes == 1


def test_several_layers_on_either_side(layers: list[Path]) -> None:
    first, second, third, fourth = layers
    for layer, text in ((first, "1"), (second, "2")):
        (layer / "d").mkdir()
        (layer / "d" / "both").write_text(text)
    (first / "d" / "bottom").write_text("1")
    (first / "d" / "hidden").write_text("1")
    whiteout(second / "d" / "hidden")
    (first / "e").mkdir()
    (first / "e" / "under an opaque one").write_text("1")
    opaque(second / "e")
    (third / "d").mkdir()
    (third / "d" / "both").write_text("2")
    (third / "d" / "hidden").write_text("1")
    (third / "d" / "made and gone").write_text("3")
    whiteout(third / "d" / "bottom")
    (third / "e").mkdir()
    (third / "e" / "under an opaque one").write_text("1")
    (fourth / "d").mkdir()
    whiteout(fourth / "d" / "made and gone")
    (fourth / "d" / "bottom").write_text("4")
    assert kinds([third, fourth], [first, second]) == {
        "d/bottom": "changed",
        "d/hidden": "added",
        "e/under an opaque one": "added",
    }
    assert kinds([fourth], [first, second, third]) == {
        "d/bottom": "added",
        "d/made and gone": "deleted",
    }
    assert kinds([second, third, fourth], [first]) == {"d/both": "changed", "d/bottom": "changed"}
    assert kinds([], [first, second]) == {}


def test_names_of_any_bytes_hard_links_and_special_files(layers: list[Path]) -> None:
    lower, upper = layers[:2]
    odd = os.fsdecode(b"\xff new\nline")
    (upper / odd).write_text("x")
    (upper / "again").hardlink_to(upper / odd)
    os.mkfifo(upper / "fifo")
    (lower / "fifo2").write_text("")
    os.mkfifo(upper / "fifo2")
    changed = found([upper], [lower])
    assert {path: one.type for path, one in changed.items()} == {
        odd: "file", "again": "file", "fifo": "fifo", "fifo2": "fifo",
    }  # fmt: skip


def test_a_link_in_the_place_of_a_directory_is_not_followed(layers: list[Path]) -> None:
    lower, upper, outside = layers[:3]
    (outside / "secret").write_text("x")
    (lower / "d").mkdir()
    (lower / "d" / "secret").write_text("y")
    (upper / "d").symlink_to(outside)
    changed = found([upper], [lower])
    assert {path: (one.kind, one.type) for path, one in changed.items()} == {
        "d": ("changed", "link"), "d/secret": ("deleted", "file"),
    }  # fmt: skip


def test_what_the_owner_may_not_read(layers: list[Path]) -> None:
    lower, upper = layers[:2]
    (lower / "d").mkdir()
    (lower / "d" / "file").write_text("same")
    (lower / "file").write_text("same")
    (upper / "d").mkdir()
    (upper / "d" / "file").write_text("same")
    (upper / "d" / "new").write_text("x")
    (upper / "file").write_text("same")
    (upper / "file").chmod(0)
    (upper / "d").chmod(0)
    changed = found([upper], [lower])
    assert {path: (one.kind, one.aspects) for path, one in changed.items()} == {
        "d": ("changed", ("mode",)),
        "d/new": ("added", ()),
        "file": ("changed", ("mode",)),
    }
    # and it is as it was
    assert stat.S_IMODE((upper / "d").stat().st_mode) == 0
    assert stat.S_IMODE((upper / "file").stat().st_mode) == 0
    (upper / "d").chmod(0o755)


def test_below_nothing_is_touched_not_even_to_read_it(layers: list[Path]) -> None:
    require(os.geteuid() != 0, "an ordinary user")
    lower, upper = layers[:2]
    (lower / "d").mkdir()
    (lower / "d" / "file").write_text("secret")
    opaque(upper / "d")
    (upper / "file").write_text("1234")
    (lower / "file").write_text("4321")
    (lower / "file").chmod(0)
    (lower / "d").chmod(0)
    try:
        changed = found([upper], [lower])
    finally:
        assert stat.S_IMODE((lower / "d").stat().st_mode) == 0
        (lower / "d").chmod(0o755)
    assert changed["d"].problem == "Permission denied"
    assert changed["file"].problem == "Permission denied"
    assert "content" in changed["file"].aspects


def test_deeper_than_a_path_may_be_long(layers: list[Path]) -> None:
    lower, upper = layers[:2]
    at = os.open(upper, os.O_PATH | os.O_DIRECTORY)
    name = "d" * 200
    for _ in range(30):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_PATH | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    changed = found([upper], [lower])
    assert len(changed) == 21
    assert list(changed.values())[-1].problem == "File name too long"
    assert not any(one.problem for one in list(changed.values())[:-1])


def test_reading_leaves_no_time_behind(layers: list[Path]) -> None:
    lower, upper = layers[:2]
    (lower / "d").mkdir()
    (lower / "d" / "file").write_text("1234")
    (upper / "d").mkdir()
    (upper / "d" / "file").write_text("4321")
    opaque(upper / "e")
    (lower / "e").mkdir()
    paths = [lower / "d" / "file", lower / "d", lower / "e"]
    for path in paths:
        # older than the last change: relatime would renew it
        os.utime(path, ns=(10**9, path.stat().st_mtime_ns))
    before = {path: path.stat() for path in paths}
    assert kinds([upper], [lower]) == {"d/file": "changed"}
    for path, status in before.items():
        now = path.stat()
        assert (now.st_atime_ns, now.st_mtime_ns, now.st_ctime_ns) == (
            status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip
