"""Files that are read before and after each command stay open, as many as there is room for."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.jail.limits.kept_files import KeptFiles

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def kept() -> Iterator[KeptFiles]:
    files = KeptFiles()
    yield files
    files.after_fork()


def opened(below: Path) -> list[str]:
    """Return what this process has open below a directory."""
    found = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sorted(path for path in found if path.startswith(f"{below}/"))


def test_a_file_is_opened_once_and_read_anew(kept: KeptFiles, tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("1")
    assert kept.read(str(path), 64) == b"1"
    path.write_text("23")
    assert kept.read(str(path), 64) == b"23"
    assert kept.read(str(path), 1) == b"2"
    assert opened(tmp_path) == [str(path)]


def test_a_duplicate_is_the_callers(kept: KeptFiles, tmp_path: Path) -> None:
    path = tmp_path / "peak"
    path.write_text("9")
    fd = kept.duplicate(str(path))
    os.pwrite(fd, b"0", 0)
    os.close(fd)
    assert kept.read(str(path), 64) == b"0"


def test_the_oldest_give_way(
    kept: KeptFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * 16, 4096))
    paths = [tmp_path / name for name in "abcd"]
    for path in paths:
        path.write_text(path.name)
    for path in (*paths[:3], paths[0], paths[3]):
        assert kept.read(str(path), 9) == path.name.encode()
    assert opened(tmp_path) == [str(tmp_path / name) for name in "acd"]
    assert kept.read(str(paths[1]), 9) == b"b", "it is opened again"


def test_those_of_a_directory_are_let_go(kept: KeptFiles, tmp_path: Path) -> None:
    for name in ("one", "one-more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
        kept.read(str(tmp_path / name / "f"), 9)
    kept.forget(str(tmp_path / "one"))
    assert opened(tmp_path) == [str(tmp_path / "one-more" / "f")]


def test_what_is_not_there_is_an_error(kept: KeptFiles, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kept.read(str(tmp_path / "none"), 9)
    assert opened(tmp_path) == []
