from __future__ import annotations

import hashlib
import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
import zstandard

from sandbox_lite.errors import RootfsError, SpecError
from sandbox_lite.jail.rootfs.archive import checksum_file, export_archive, import_archive
from sandbox_lite.jail.rootfs.store import RootfsInfo, Store
from sandbox_lite.jail.rootfs.tree import summarize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    with store.stage("small") as stage:
        tree = stage.tree
        (tree / "usr" / "bin").mkdir(parents=True)
        (tree / "usr" / "bin" / "su").write_bytes(os.urandom(300_000))
        (tree / "usr" / "bin" / "su").chmod(0o4755)
        (tree / "usr" / "bin" / "sg").hardlink_to(tree / "usr" / "bin" / "su")
        (tree / "bin").symlink_to("usr/bin")
        (tree / "etc").mkdir()
        (tree / "etc" / "absolute").symlink_to("/usr/bin/su")
        (tree / "tmp").mkdir()
        (tree / "tmp").chmod(0o1777)
        (tree / "closed").mkdir(mode=0o500)
        os.mkfifo(tree / "fifo")
        (tree / ("long" * 60)).write_text("x")
        os.close(os.open(os.fsencode(tree) + b"/no\xfftext\n", os.O_CREAT))
        os.utime(tree / "usr" / "bin" / "su", (1_600_000_000, 1_600_000_000))
        stage.commit(
            recipe="small", suite="trixie", env={"A": "b"}, packages={"bash": "5"}, releases={}
        )
    return store


def rewrite(
    source: Path, target: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]
) -> Path:
    """Write `source` again with its members changed, and the right checksum beside it."""
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    with (
        zstandard.ZstdDecompressor().stream_reader(source.read_bytes()) as stream,
        tarfile.open(mode="r|", fileobj=stream) as tar,
    ):
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            members.append((member, content.read() if content else b""))
    change(members)
    buffer = io.BytesIO()
    with tarfile.open(mode="w", fileobj=buffer, format=tarfile.GNU_FORMAT) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    target.write_bytes(zstandard.ZstdCompressor().compress(buffer.getvalue()))
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    checksum_file(target).write_text(f"{digest}  {target.name}\n")
    return target


def leftovers(store: Store) -> list[str]:
    return sorted(p.name for p in store.path.iterdir() if p.name.startswith((".stage-", ".link-")))


def test_what_is_exported_comes_back(store: Store, tmp_path: Path) -> None:
    archive = tmp_path / "small.tar.zst"
    told: list[tuple[str, int, int | None, str]] = []
    sha256 = export_archive(store, "small", archive, progress=lambda *step: told.append(step))
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == sha256
    assert checksum_file(archive).read_text() == f"{sha256}  small.tar.zst\n"
    assert told[-1][0] == "export"
    assert told[-1][1] == told[-1][2]
    other = Store(tmp_path / "other")
    info = import_archive(other, archive, progress=lambda *step: told.append(step))
    before = store.list()[0]
    assert (info.name, info.digest, info.created) == ("small", before.digest, before.created)
    assert (info.env, info.packages) == ({"A": "b"}, {"bash": "5"})
    assert other.verify("small").ok
    su, sg = info.tree / "usr" / "bin" / "su", info.tree / "usr" / "bin" / "sg"
    assert su.stat().st_ino == sg.stat().st_ino
    assert su.stat().st_mtime == 1_600_000_000
    assert {step[0] for step in told} == {"export", "import", "digest"}


def test_the_same_tree_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    first = export_archive(store, "small", tmp_path / "a.tar.zst")
    assert export_archive(store, "small", tmp_path / "b.tar.zst") == first
    other = Store(tmp_path / "other")
    import_archive(other, tmp_path / "a.tar.zst")
    assert export_archive(other, "small", tmp_path / "c.tar.zst") == first


def test_an_import_may_take_another_name_and_sha256(store: Store, tmp_path: Path) -> None:
    archive = tmp_path / "small.tar.zst"
    sha256 = export_archive(store, "small", archive)
    checksum_file(archive).unlink()
    with pytest.raises(RootfsError, match="nothing to check") as caught:
        import_archive(store, archive, name="copy")
    assert "small.tar.zst.sha256" in str(caught.value.hint)
    import_archive(store, archive, name="copy", sha256=sha256.upper())
    assert [info.name for info in store.list()] == ["copy", "small"]
    with pytest.raises(SpecError):
        import_archive(store, archive, name="../x", sha256=sha256)
    with pytest.raises(SpecError, match="host"):
        import_archive(store, archive, name="host", sha256=sha256)


@pytest.mark.parametrize("sha256", ["0" * 64, "short", ""])
def test_a_wrong_checksum_is_refused(store: Store, tmp_path: Path, sha256: str) -> None:
    archive = tmp_path / "small.tar.zst"
    export_archive(store, "small", archive)
    checksum_file(archive).write_text(sha256)
    with pytest.raises(RootfsError, match="sha256"):
        import_archive(store, archive, name="copy")
    assert len(store.list()) == 1


def test_a_failed_export_leaves_the_old_file(store: Store, tmp_path: Path) -> None:
    archive = tmp_path / "out" / "small.tar.zst"
    with pytest.raises(RootfsError, match="No such file"):
        export_archive(store, "small", archive)
    archive.parent.mkdir()
    archive.write_text("old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_archive(store, "small", archive, progress=interrupt)
    assert [path.name for path in archive.parent.iterdir()] == ["small.tar.zst"]
    assert archive.read_text() == "old"
    with pytest.raises(RootfsError, match="Is a directory"):
        export_archive(store, "small", tmp_path / "out")


def test_an_interrupted_import_leaves_nothing(store: Store, tmp_path: Path) -> None:
    export_archive(store, "small", tmp_path / "a.tar.zst")
    other = Store(tmp_path / "other")

    def interrupt(stage: str, *_: object) -> None:
        if stage == "digest":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_archive(other, tmp_path / "a.tar.zst", progress=interrupt)
    assert other.list() == ()
    assert leftovers(other) == []


@pytest.mark.parametrize("cut", [0, 10, 5_000, 200_000])
def test_a_cut_archive_is_refused(store: Store, tmp_path: Path, cut: int) -> None:
    archive = tmp_path / "a.tar.zst"
    export_archive(store, "small", archive)
    archive.write_bytes(archive.read_bytes()[:cut])
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    other = Store(tmp_path / "other")
    with pytest.raises(RootfsError) as caught:
        import_archive(other, archive, sha256=sha256)
    assert caught.value.hint is not None
    assert other.list() == ()


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x28\xb5\x2f\xfd\x00"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(content)
    with pytest.raises(RootfsError, match="archive"):
        import_archive(Store(tmp_path / "s"), archive, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(RootfsError, match="No such file"):
        import_archive(Store(tmp_path / "s"), tmp_path / "missing")
    with pytest.raises(RootfsError, match="Is a directory"):
        import_archive(Store(tmp_path / "s"), tmp_path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o755
    return made


HOSTILE = {
    "absolute": [member("/tree/x")],
    "outside the tree": [member("x")],
    "parent": [member("tree/../x")],
    "parent at the end": [member("tree/..", tarfile.DIRTYPE)],
    "through a link": [
        member("tree/out", tarfile.SYMTYPE, "{outside}"),
        member("tree/out/planted"),
    ],
    "over a link": [
        member("tree/out", tarfile.SYMTYPE, "{outside}/planted"),
        member("tree/out"),
    ],
    "link over a directory": [
        member("tree/etc", tarfile.SYMTYPE, "{outside}"),
        member("tree/etc/planted"),
    ],
    "hard link outside": [member("tree/hard", tarfile.LNKTYPE, "{outside}/secret")],
    "hard link by parents": [member("tree/hard", tarfile.LNKTYPE, "tree/../../../secret")],
    "hard link to a link": [
        member("tree/soft", tarfile.SYMTYPE, "{outside}/secret"),
        member("tree/hard", tarfile.LNKTYPE, "tree/soft"),
    ],
    "character device": [member("tree/null", tarfile.CHRTYPE)],
    "block device": [member("tree/disk", tarfile.BLKTYPE)],
    "twice": [member("tree/etc/one"), member("tree/etc/one")],
    "no parent": [member("tree/no/where")],
    "below a file": [member("tree/etc/f"), member("tree/etc/f/g")],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members_are_refused(store: Store, tmp_path: Path, case: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    export_archive(store, "small", tmp_path / "a.tar.zst")

    def plant(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        for planted in HOSTILE[case]:
            planted.linkname = planted.linkname.replace("{outside}", str(outside))
            members.append((planted, b""))

    archive = rewrite(tmp_path / "a.tar.zst", tmp_path / "hostile.tar.zst", plant)
    other = Store(tmp_path / "other")
    with pytest.raises(RootfsError, match="member"):
        import_archive(other, archive)
    assert other.list() == ()
    assert leftovers(other) == []
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1


def test_an_altered_member_fails_the_digest(store: Store, tmp_path: Path) -> None:
    export_archive(store, "small", tmp_path / "a.tar.zst")

    def alter(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.append((member("tree/etc/added"), b""))

    archive = rewrite(tmp_path / "a.tar.zst", tmp_path / "b.tar.zst", alter)
    other = Store(tmp_path / "other")
    with pytest.raises(RootfsError, match="digest"):
        import_archive(other, archive)
    assert other.list() == ()
    assert leftovers(other) == []


def test_descriptions_are_checked(store: Store, tmp_path: Path) -> None:
    export_archive(store, "small", tmp_path / "a.tar.zst")
    other = Store(tmp_path / "other")

    def reorder(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.append(members.pop(0))

    def empty(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        del members[1:]

    def distort(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        text = members[0][1].replace(b'"A": "b"', b'"A": 1   ')
        members[0] = (members[0][0], text)

    for change, match in ((reorder, "begin with"), (empty, "no tree"), (distort, "env")):
        with pytest.raises(RootfsError, match=match):
            import_archive(other, rewrite(tmp_path / "a.tar.zst", tmp_path / "b.tar.zst", change))


def test_a_later_version_may_add_keys(store: Store) -> None:
    info = store.list()[0]
    text = info.to_json().replace('"format"', '"colour": "blue",\n "format"')
    assert RootfsInfo.from_json(text, path=info.path) == info
    assert summarize(info.tree).digest == info.digest
