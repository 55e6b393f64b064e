from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.errors import FileAccessError
from sandbox_lite.jail.files import Files
from sandbox_lite.jail.transfer import stays_inside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret of the host")
    inside = tmp_path / "root"
    (inside / "testbed").mkdir(parents=True)
    (inside / "etc").mkdir()
    (inside / "etc" / "passwd").write_text("root of the sandbox\n")
    return inside


@pytest.fixture
def files(root: Path) -> Iterator[Files]:
    before = open_descriptors()
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield Files(descriptor, workdir="/testbed")
    os.close(descriptor)
    assert open_descriptors() == before


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def refused(error: pytest.ExceptionInfo[FileAccessError]) -> str:
    return errno.errorcode[error.value.errno]


# -- read and write ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\0\xff\r\n", bytes(range(256)) * 5000], ids=["empty", "x", "odd", "1MB"]
)
def test_bytes_come_back_as_they_went(files: Files, root: Path, data: bytes) -> None:
    files.write("/testbed/a.bin", data)
    assert (root / "testbed" / "a.bin").read_bytes() == data
    assert files.read("/testbed/a.bin") == files.read("a.bin") == data


def test_text_is_utf8_and_surrogates_are_bytes(files: Files) -> None:
    files.write("a", "grüße\udcff")
    assert files.read("a") == "grüße".encode() + b"\xff"


def test_a_hundred_megabytes(files: Files, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 100
    files.write("big", data)
    assert files.read("big") == data
    report = files.download("big", tmp_path / "out")
    assert (report.files, report.bytes) == (1, len(data))
    assert (tmp_path / "out" / "big").read_bytes() == data


@pytest.mark.parametrize("name", ["a b", "$(id)", "-rf", "new\nline", "\udcff\udc80", "ü" * 100])
def test_any_name(files: Files, name: str) -> None:
    files.write(name, b"x")
    assert files.read(f"/testbed/{name}") == b"x"
    assert [entry.name for entry in files.list()] == [name]
    files.remove(name)
    assert not files.exists(name)


@pytest.mark.parametrize("path", ["", "a\0b", "/etc/passwd\0"])
def test_what_is_no_path(files: Files, path: str) -> None:
    for act in (files.read, files.list, files.exists, files.remove):
        with pytest.raises(FileAccessError, match="not a path"):
            act(path)
    with pytest.raises(FileAccessError, match="not a path"):
        files.write(path, b"")


def test_a_write_makes_parents_and_ignores_our_umask(files: Files, root: Path) -> None:
    old = os.umask(0o077)
    try:
        files.write("a/b/c/file", b"x")
        files.write("script", b"x", mode=0o755)
    finally:
        os.umask(old)
    made = root / "testbed" / "a" / "b"
    assert stat.S_IMODE(made.stat().st_mode) == 0o755
    assert stat.S_IMODE((made / "c" / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE((root / "testbed" / "script").stat().st_mode) == 0o755


def test_a_write_keeps_the_inode_and_its_permissions(files: Files, root: Path) -> None:
    path = root / "testbed" / "a"
    path.write_bytes(b"long old content")
    path.chmod(0o640)
    inode = path.stat().st_ino
    files.write("a", b"new")
    assert path.read_bytes() == b"new"
    assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (inode, 0o640)


def test_max_bytes(files: Files) -> None:
    files.write("a", b"12345")
    assert files.read("a", max_bytes=5) == b"12345"
    with pytest.raises(FileAccessError) as caught:
        files.read("a", max_bytes=4)
    assert refused(caught) == "EFBIG"
    assert files.read("a", max_bytes=6) == b"12345"


def test_what_is_not_there_and_what_is_no_file(files: Files, root: Path) -> None:
    os.mkfifo(root / "testbed" / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(root / "testbed", os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    expected = {
        "none": "ENOENT", "/etc/passwd/x": "ENOTDIR", "/etc": "EISDIR", "fifo": "EINVAL",
        "socket": "ENXIO",
    }  # fmt: skip
    for path, name in expected.items():
        with pytest.raises(FileAccessError) as caught:
            files.read(path)
        assert refused(caught) == name
        assert path in str(caught.value)
    for path in ("fifo", "socket", "/etc", "/etc/passwd/x"):
        with pytest.raises(FileAccessError):
            files.write(path, b"x")
    with pytest.raises(FileAccessError) as caught:
        files.list("/etc/passwd")
    assert refused(caught) == "ENOTDIR"


# -- links ------------------------------------------------------------------------------------


def test_links_stop_at_the_sandboxs_root(files: Files, root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    bed = root / "testbed"
    (bed / "absolute").symlink_to(secret)
    (bed / "relative").symlink_to("../../../../../../.." + str(secret))
    (bed / "directory").symlink_to(tmp_path)
    (bed / "inside").symlink_to("/etc/passwd")
    for path in ("absolute", "relative", "directory/secret", f"../../../../../../{secret}"):
        with pytest.raises(FileAccessError) as caught:
            files.read(path)
        assert refused(caught) == "ENOENT"
        assert not files.exists(path)
    assert files.read("inside") == b"root of the sandbox\n"
    files.write("inside", b"changed")
    assert (root / "etc" / "passwd").read_bytes() == b"changed"
    with pytest.raises(FileAccessError) as caught:
        files.write("absolute", b"mine")
    assert refused(caught) == "ENOENT"
    (root / str(tmp_path).lstrip("/")).mkdir(parents=True)
    files.write("absolute", b"mine")
    assert secret.read_text() == "secret of the host"
    assert (root / str(secret).lstrip("/")).read_bytes() == b"mine"
    files.write("directory/deep/file", b"mine")
    assert (root / str(tmp_path).lstrip("/") / "deep" / "file").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "secret"]


def test_magic_links_and_loops_are_refused(files: Files, root: Path) -> None:
    (root / "testbed" / "loop").symlink_to("loop")
    with pytest.raises(FileAccessError) as caught:
        files.read("loop")
    assert refused(caught) == "ELOOP"
    descriptor = os.open("/proc", os.O_PATH)
    (root / "testbed" / "file").write_text("x")
    try:
        held = os.open(root / "testbed" / "file", os.O_RDONLY)
        with pytest.raises(FileAccessError) as caught:
            Files(descriptor).read(f"/self/fd/{held}")
        os.close(held)
        assert refused(caught) == "ELOOP"
    finally:
        os.close(descriptor)


def test_what_the_kernel_answers_for_is_refused(tmp_path: Path) -> None:
    descriptor = os.open("/", os.O_PATH)
    try:
        files = Files(descriptor)
        for path in ("/proc/uptime", "/proc/self/status", "/sys/kernel/notes"):
            with pytest.raises(FileAccessError, match="the kernel's") as caught:
                files.read(path)
            assert "inside the sandbox" in str(caught.value.hint)
            with pytest.raises(FileAccessError, match="the kernel's"):
                files.download(path, tmp_path)
        with pytest.raises(FileAccessError, match="the kernel's"):
            files.list("/proc/self")
        with pytest.raises(FileAccessError, match="the kernel's"):
            files.download("/proc/self", tmp_path)
        with pytest.raises(FileAccessError, match="the kernel's"):
            files.write("/proc/self/comm", b"pytest")
    finally:
        os.close(descriptor)


# -- list, exists, remove ---------------------------------------------------------------------


def test_entries(files: Files, root: Path) -> None:
    bed = root / "testbed"
    (bed / "b").write_bytes(b"12")
    (bed / "b").chmod(0o755)
    (bed / "a").mkdir()
    (bed / "c").symlink_to("nowhere")
    os.mkfifo(bed / "d")
    entries = files.list()
    assert [(e.name, e.kind) for e in entries] == [
        ("a", "directory"),
        ("b", "file"),
        ("c", "link"),
        ("d", "fifo"),
    ]
    assert (entries[1].size_bytes, entries[1].mode, entries[1].target) == (2, 0o755, None)
    assert entries[2].target == "nowhere"
    assert files.exists("a")
    assert not files.exists("c")
    assert files.exists("/")


def test_removal(files: Files, root: Path, tmp_path: Path) -> None:
    bed = root / "testbed"
    (bed / "full" / "below").mkdir(parents=True)
    (bed / "full" / "below" / "file").write_text("x")
    (bed / "full" / "link").symlink_to(tmp_path)
    (bed / "link").symlink_to("full")
    (bed / "empty").mkdir()
    with pytest.raises(FileAccessError) as caught:
        files.remove("full")
    assert refused(caught) == "ENOTEMPTY"
    files.remove("link", recursive=True)
    assert (bed / "full" / "below" / "file").exists()
    files.remove("empty")
    files.remove("full/", recursive=True)
    assert files.list() == ()
    assert (tmp_path / "secret").exists()
    for path in ("/", "/testbed/..", ".", "/testbed/."):
        with pytest.raises(FileAccessError):
            files.remove(path, recursive=True)
    with pytest.raises(FileAccessError) as caught:
        files.remove("none", recursive=True)
    assert refused(caught) == "ENOENT"


def test_what_has_no_permissions_is_still_ours(files: Files, root: Path) -> None:
    bed = root / "testbed"
    (bed / "closed" / "deep").mkdir(parents=True)
    (bed / "closed" / "deep" / "file").write_text("x")
    for path in (bed / "closed" / "deep" / "file", bed / "closed" / "deep", bed / "closed"):
        path.chmod(0)
    assert files.read("closed/deep/file") == b"x"
    assert [entry.name for entry in files.list("closed/deep")] == ["file"]
    assert files.exists("closed/deep/file")
    assert not files.exists("closed/deep/none")
    files.write("closed/deep/file", b"y")
    files.write("closed/new/file", b"z")
    assert files.read("closed/deep/file") == b"y"
    assert files.read("closed/new/file") == b"z"
    assert stat.S_IMODE((bed / "closed").stat().st_mode) == 0, "permissions are put back"
    files.remove("closed/new/file")
    files.remove("closed", recursive=True)
    assert files.list() == ()


# -- upload -----------------------------------------------------------------------------------


def test_upload_of_a_tree(files: Files, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "run").write_bytes(b"#!")
    (source / "sub" / "run").chmod(0o4755)
    (source / "sub").chmod(0o750)
    (source / "link").symlink_to("/anywhere/../at all")
    (source / "same").hardlink_to(source / "sub" / "run")
    os.mkfifo(source / "fifo")
    os.utime(source / "sub" / "run", (5, 5))
    report = files.upload(source, "/testbed/input")
    made = root / "testbed" / "input"
    assert (report.files, report.bytes) == (2, 2)
    assert [(s.path, s.reason) for s in report.skipped] == [("fifo", "it is a fifo")]
    assert (made / "sub" / "empty").is_dir()
    assert os.fspath((made / "link").readlink()) == "/anywhere/../at all"
    status = (made / "sub" / "run").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o755, 5)
    assert status.st_ino == (made / "same").stat().st_ino
    assert stat.S_IMODE((made / "sub").stat().st_mode) == 0o750


def test_upload_of_a_file(files: Files, root: Path, tmp_path: Path) -> None:
    report = files.upload(tmp_path / "secret", "new/name.txt")
    assert (root / "testbed" / "new" / "name.txt").read_text() == "secret of the host"
    assert report.files == 1
    for target in ("new/", "."):
        with pytest.raises(FileAccessError) as caught:
            files.upload(tmp_path / "secret", target)
        assert refused(caught) == "EISDIR"
    with pytest.raises(FileAccessError) as caught:
        files.upload(tmp_path / "none", "x")
    assert refused(caught) == "ENOENT"
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileAccessError):
        files.upload(tmp_path / "fifo", "x")


def test_an_upload_is_not_led_astray(files: Files, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "d").mkdir(parents=True)
    (source / "d" / "file").write_text("uploaded")
    (source / "secret").write_text("uploaded")
    bed = root / "testbed"
    (bed / "d").symlink_to(tmp_path)
    (bed / "secret").symlink_to(tmp_path / "secret")
    files.upload(source, "/testbed")
    assert (tmp_path / "secret").read_text() == "secret of the host"
    assert not (tmp_path / "file").exists()
    assert not (bed / "d").is_symlink()
    assert (bed / "d" / "file").read_text() == "uploaded"
    assert (bed / "secret").read_text() == "uploaded"


# -- download ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "depth", "inside"),
    [
        (b"a", 0, True),
        (b"a/./b", 0, True),
        (b"../a", 1, True),
        (b"..", 1, True),
        (b"../a", 0, False),
        (b"../../a", 1, False),
        (b"/a", 3, False),
        # up again behind a name: where that ends depends on what the name is by then
        (b"a/../b", 0, False),
        (b"up/../../etc/passwd", 5, False),
        (b"", 0, True),
    ],
)
def test_which_links_stay_inside(text: bytes, depth: int, inside: bool) -> None:
    assert stays_inside(text, depth) is inside


def test_download_takes_what_is_safe_and_lists_the_rest(
    files: Files, root: Path, tmp_path: Path
) -> None:
    out = root / "out"
    (out / "sub").mkdir(parents=True)
    (out / "result.txt").write_bytes(b"42\n")
    (out / "result.txt").chmod(0o4644)
    (out / "sub" / "good").symlink_to("../result.txt")
    (out / "sub" / "away").symlink_to("../../etc/passwd")
    (out / "absolute").symlink_to("/etc/passwd")
    (out / "sub" / "up").symlink_to("..")
    (out / "chained").symlink_to("sub/up/../../etc/passwd")
    os.mkfifo(out / "fifo")
    (out / "sticky").mkdir()
    (out / "sticky").chmod(0o7777)
    (out / "closed").mkdir()
    (out / "closed" / "file").write_bytes(b"x")
    (out / "closed" / "file").chmod(0)
    (out / "closed").chmod(0)
    os.close(os.open(os.fsencode(out) + b"/\xff\n", os.O_CREAT))
    host = tmp_path / "host" / "new"
    report = files.download("/out", host)
    assert {(s.path, s.reason.split(",")[0]) for s in report.skipped} == {
        ("absolute", "it is a link out of the tree"),
        ("chained", "it is a link out of the tree"),
        ("fifo", "it is a fifo"),
        ("sub/away", "it is a link out of the tree"),
    }
    assert (report.files, report.bytes) == (3, 4)
    assert {os.fsencode(path.name) for path in host.iterdir()} == {
        b"\xff\n", b"closed", b"result.txt", b"sticky", b"sub",
    }  # fmt: skip
    assert (host / "result.txt").stat().st_mode & 0o7000 == 0
    assert (host / "sticky").stat().st_mode & 0o7000 == 0
    assert (host / "sub" / "good").read_bytes() == b"42\n"
    assert (host / "closed" / "file").read_bytes() == b"x"
    assert stat.S_IMODE((out / "closed").stat().st_mode) == 0


def test_a_second_download_replaces_but_leads_nowhere(
    files: Files, root: Path, tmp_path: Path
) -> None:
    host, elsewhere = tmp_path / "host", tmp_path / "elsewhere"
    host.mkdir()
    elsewhere.mkdir()
    (elsewhere / "victim").write_text("old")
    (host / "d").symlink_to(elsewhere)
    (host / "victim").symlink_to(elsewhere / "victim")
    (host / "plain").write_text("old")
    (host / "busy" / "x").mkdir(parents=True)
    (root / "out" / "d").mkdir(parents=True)
    for path in ("d/victim", "victim", "plain", "busy"):
        (root / "out" / path).write_text("new")
    report = files.download("/out", host)
    assert (elsewhere / "victim").read_text() == "old"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["victim"]
    for path in ("d/victim", "victim", "plain"):
        assert (host / path).read_text() == "new"
    assert [(s.path, s.reason) for s in report.skipped] == [
        ("busy", "a directory stands in its place")
    ]


def test_download_of_one_file_and_of_none(files: Files, root: Path, tmp_path: Path) -> None:
    (root / "testbed" / "link").symlink_to("/etc/passwd")
    files.download("link", tmp_path / "host")
    assert (tmp_path / "host" / "link").read_text() == "root of the sandbox\n"
    with pytest.raises(FileAccessError) as caught:
        files.download("/none", tmp_path / "host")
    assert refused(caught) == "ENOENT"
    with pytest.raises(FileAccessError) as caught:
        files.download("/etc", tmp_path / "secret")
    assert refused(caught) == "EEXIST"
    os.mkfifo(root / "testbed" / "fifo")
    with pytest.raises(FileAccessError):
        files.download("fifo", tmp_path / "host")


def test_holes_and_hard_links_take_no_more_room_than_inside(
    files: Files, root: Path, tmp_path: Path
) -> None:
    out = root / "out"
    out.mkdir()
    with (out / "sparse").open("wb") as file:
        file.truncate(1 << 34)
        file.seek(1 << 30)
        file.write(b"middle")
        file.seek((1 << 34) - 3)
        file.write(b"end")
    (out / "name0").write_bytes(os.urandom(1 << 20))
    for number in range(1, 300):
        (out / f"name{number}").hardlink_to(out / "name0")
    host = tmp_path / "host"
    report = files.download("/out", host)
    assert report.files == 301
    sparse = host / "sparse"
    assert sparse.stat().st_size == 1 << 34
    with sparse.open("rb") as file:
        file.seek(1 << 30)
        assert file.read(7) == b"middle\0"
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"\0end"
    assert sum(e.stat().st_blocks * 512 for e in (sparse, host / "name0")) < 3 << 20
    assert (host / "name0").stat().st_nlink == 300
    assert (host / "name7").read_bytes() == (out / "name0").read_bytes()


def test_very_deep_trees_are_cut_and_listed(files: Files, root: Path, tmp_path: Path) -> None:
    directory = os.open(root / "testbed", os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    report = files.download("/testbed", tmp_path / "host")
    assert len(report.skipped) == 1
    assert "deep" in report.skipped[0].reason
    files.remove("d", recursive=True)
    assert files.list() == ()


def test_a_directory_swapped_for_a_link_meanwhile(files: Files, root: Path, tmp_path: Path) -> None:
    """The model replaces what we download, as fast as it can, by links to the host's files."""
    out, away = root / "out", tmp_path / "away"
    (out / "a").mkdir(parents=True)
    away.mkdir()
    (away / "file").write_text("SECRET")
    for number in range(20):
        (out / "a" / f"file{number}").write_text("fine")
    (out / "l").symlink_to(away)
    (out / "a" / "file").write_text("fine")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(out / "a", out / "b")  # noqa: PTH104 -- as quick as can be
            os.rename(out / "l", out / "a")  # noqa: PTH104
            os.rename(out / "a", out / "l")  # noqa: PTH104
            os.rename(out / "b", out / "a")  # noqa: PTH104

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: set[str] = set()
    try:
        for turn in range(150):
            host = tmp_path / f"host{turn}"
            seen.update(s.reason.split(",")[0] for s in files.download("/out", host).skipped)
            for found in host.rglob("*"):
                assert not found.is_symlink()
                assert found.is_dir() or found.read_text() == "fine"
            with suppress(FileAccessError):
                assert files.read("/out/a/file") == b"fine"
    finally:
        stop.set()
        swapper.join()
    assert "it is a link out of the tree" in seen, "the race was never on"


def test_a_full_disk_is_said_and_half_a_file_is_not_left(
    files: Files, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "testbed" / "a").write_bytes(b"x" * 100)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(FileAccessError, match="No space left") as caught:
        files.download("a", tmp_path / "host")
    assert "full" in str(caught.value.hint)
    assert list((tmp_path / "host").iterdir()) == []


def test_many_threads_at_once(files: Files) -> None:
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(100):
                path = f"shared/deep/{turn}/{number}"
                files.write(path, str(turn))
                assert files.read(path) == str(turn).encode()
                files.remove(path)
        except BaseException as error:  # noqa: BLE001 -- the test's own thread must see it
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
