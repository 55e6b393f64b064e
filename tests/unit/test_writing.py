"""One entry of a directory of the user's, put in place by the real kernel, and without its help."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.jail.workspace import writing
from sandbox_lite.jail.workspace.origin import State
from sandbox_lite.jail.workspace.writing import MeanwhileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["guarded", "plain"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory; on a second one the file system knows neither O_TMPFILE nor renameat2's flags.

    No such one is to be had without mounting: its answers are put in the kernel's place.
    """
    if request.param == "plain":

        def refused(*_: object) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        def without_tmpfile(path: bytes, flags: int, *rest: int, **named: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, *rest, **named)

        real: Callable[..., int] = os.open
        monkeypatch.setattr(writing, "_renameat2", refused)
        monkeypatch.setattr(os, "open", without_tmpfile)
    (tmp_path / "there").write_text("mine\n")
    return tmp_path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def put(place: Path, name: str, old: State | None, mode: int = 0o644) -> None:
    with opened(Path(__file__)) as content, opened(place) as parent:
        writing.put_file(parent, name.encode(), content, mode, old)


def state(path: Path) -> State:
    return State.of(path.lstat())


def test_a_file_is_made_and_replaced(place: Path) -> None:
    put(place, "new", None, 0o4750)
    assert (place / "new").read_bytes() == Path(__file__).read_bytes()
    # set-user-ID is never handed on, and no umask takes part
    assert stat.S_IMODE((place / "new").stat().st_mode) == 0o750
    put(place, "there", state(place / "there"), 0o606)
    assert (place / "there").read_bytes() == Path(__file__).read_bytes()
    assert stat.S_IMODE((place / "there").stat().st_mode) == 0o606
    assert sorted(os.listdir(place)) == ["new", "there"]  # noqa: PTH208


def test_what_is_something_else_by_now_stays(place: Path) -> None:
    before = state(place / "there")
    (place / "there").write_text("newer\n")
    os.utime(place / "there", ns=(1, 1))
    now = state(place / "there")
    for old in (before, None):
        with pytest.raises(MeanwhileError):
            put(place, "there", old)
    with pytest.raises(MeanwhileError):
        put(place, "gone", before)
    with opened(place) as parent:
        with pytest.raises(MeanwhileError):
            writing.put_link(parent, b"there", b"x", before)
        with pytest.raises(MeanwhileError):
            writing.remove(parent, b"there", before)
        with pytest.raises(MeanwhileError):
            writing.set_mode(parent, b"there", 0o600, before)
        with pytest.raises(MeanwhileError):
            writing.put_directory(parent, b"there", 0o700, None)
    # the inode, its content and its times; to be put back renews the ctime
    assert state(place / "there")[:-1] == now[:-1]
    assert (place / "there").read_text() == "newer\n"
    assert os.listdir(place) == ["there"]  # noqa: PTH208


def test_other_kinds_in_its_place(place: Path) -> None:
    with opened(place) as parent:
        writing.put_link(parent, b"there", b"elsewhere", state(place / "there"))
        assert str((place / "there").readlink()) == "elsewhere"
        with pytest.raises(MeanwhileError):
            # never through a link
            writing.set_mode(parent, b"there", 0o777, None)
        writing.put_directory(parent, b"there", 0o750, state(place / "there"))
        assert stat.S_IMODE((place / "there").stat().st_mode) == 0o750
        (place / "there" / "in").write_text("x")
        with pytest.raises(MeanwhileError):
            put(place, "there", state(place / "there"))
        (place / "there" / "in").unlink()
        put(place, "there", state(place / "there"))
        assert (place / "there").is_file()
        writing.remove(parent, b"there", state(place / "there"))
        assert not os.listdir(place)  # noqa: PTH208


def test_no_link_is_followed_on_the_way(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    top.mkdir()
    (top / "way").symlink_to(outside)
    with opened(top) as descriptor:
        for path in (b"way/x", b"../outside/x", b"/etc/x", b"", b".", b"a/.."):
            with pytest.raises(OSError), writing.opened_above(descriptor, path):  # noqa: PT011
                pass
