"""The parts of a build: mirror, signature, index, download, unpacking. The whole is integration."""

from __future__ import annotations

import hashlib
import logging
import socket
import tarfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.errors import RootfsError, SandboxLiteError
from sandbox_lite.jail.rootfs import mirror as mirrors
from sandbox_lite.jail.rootfs import recipe as recipes
from sandbox_lite.jail.rootfs import release as releases
from sandbox_lite.jail.rootfs.download import Downloads, Wanted
from sandbox_lite.jail.rootfs.packages import Index, decompress
from sandbox_lite.jail.rootfs.recipe import Recipe
from sandbox_lite.jail.rootfs.unpack import PathFilter, merge_usr, unpack, write_file
from tests.debian_mirror import DATE, Handler, Mirror, deb, entry, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERYTHING = PathFilter((), ())
DIRECTORY, LINK, HARD, DEVICE = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE


@pytest.fixture(autouse=True)
def _no_mirror_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (mirrors.MIRROR_VARIABLE, mirrors.SECURITY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as found:
        yield found


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    with Downloads(tmp_path / "cache") as found:
        yield found


def fetch(downloads: Downloads, mirror: Mirror, tmp_path: Path, suite: str = "trixie") -> None:
    found = releases.fetch(downloads, mirror.url, suite, mirror.keyring(tmp_path))
    assert found is not None
    assert (found.date, found.by_hash) == (DATE, True)


# -- the signed Release ----------------------------------------------------------------------------


def test_a_good_signature_is_taken(downloads: Downloads, mirror: Mirror, tmp_path: Path) -> None:
    mirror.publish("trixie")
    fetch(downloads, mirror, tmp_path)


def test_text_around_the_signed_part_is_not_believed(
    downloads: Downloads, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.publish("trixie")
    path = "/debian/dists/trixie/InRelease"
    mirror.content[path] = b"Codename: evil\n" + mirror.content[path] + b"Date: never\n"
    fetch(downloads, mirror, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"), [(b"Codename: trixie", b"Codename: trixif"), (b"Date: Sat", b"Date: Sun")]
)
def test_an_altered_release_is_refused(
    old: bytes, new: bytes, downloads: Downloads, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.publish("trixie")
    path = "/debian/dists/trixie/InRelease"
    assert old in mirror.content[path]
    mirror.content[path] = mirror.content[path].replace(old, new)
    with pytest.raises(RootfsError, match="signature") as error:
        fetch(downloads, mirror, tmp_path)
    assert error.value.hint


def test_another_key_or_none_is_refused(
    downloads: Downloads, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.publish("trixie")
    with pytest.raises(RootfsError, match="signature"):
        releases.fetch(downloads, mirror.url, "trixie", recipes.KEYRING)
    mirror.content["/debian/dists/trixie/InRelease"] = b"Codename: trixie\nDate: now\n"
    with pytest.raises(RootfsError, match="signature"):
        fetch(downloads, mirror, tmp_path)


def test_a_well_signed_release_of_another_suite_is_refused(
    downloads: Downloads, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.publish("trixie", codename="bookworm")
    with pytest.raises(RootfsError, match="bookworm"):
        fetch(downloads, mirror, tmp_path)


def test_a_release_older_than_the_last_is_refused(
    downloads: Downloads, mirror: Mirror, tmp_path: Path
) -> None:
    records, keyring = tmp_path / "records", mirror.keyring(tmp_path)

    def check(date: datetime, *, remember: bool = False) -> None:
        mirror.publish("trixie", date=date)
        found = releases.fetch(downloads, mirror.url, "trixie", keyring)
        assert found is not None
        releases.check_date(found, records, ignore_valid_until=False)
        if remember:
            releases.remember(found, records)

    check(DATE - timedelta(days=9))
    check(DATE, remember=True)
    check(DATE)
    check(DATE + timedelta(days=1))
    with pytest.raises(RootfsError, match="older") as error:
        check(DATE - timedelta(seconds=1))
    (record,) = records.iterdir()
    assert str(record) in (error.value.hint or "")
    assert releases.seen(records, mirror.url, "trixie")
    assert not releases.seen(records, mirror.url, "bookworm")
    record.write_text("{")
    with pytest.raises(RootfsError, match="damaged"):
        check(DATE)


@pytest.mark.parametrize("ignored", [False, True])
def test_an_expired_release_is_taken_with_a_warning(
    ignored: bool,
    downloads: Downloads,
    mirror: Mirror,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror.publish("trixie", more="Valid-Until: Sat, 19 Sep 2026 07:55:41 UTC\n")
    found = releases.fetch(downloads, mirror.url, "trixie", mirror.keyring(tmp_path))
    assert found is not None
    assert found.valid_until == datetime(2026, 9, 19, 7, 55, 41, tzinfo=UTC)
    assert found.expired == (datetime.now(UTC) > found.valid_until)
    with caplog.at_level(logging.WARNING):
        releases.check_date(found, tmp_path / "records", ignore_valid_until=ignored)
    assert bool(caplog.records) == (found.expired and not ignored)


def test_a_missing_suite_is_no_error_here(
    downloads: Downloads, mirror: Mirror, tmp_path: Path
) -> None:
    assert releases.fetch(downloads, mirror.url, "sid", mirror.keyring(tmp_path)) is None


# -- downloads -------------------------------------------------------------------------------------


def wanted(mirror: Mirror, content: bytes = b"x" * 300_000, name: str = "one") -> Wanted:
    mirror.package(name, content)
    return Wanted(
        url=f"{mirror.url}/pool/{name}_1_all.deb",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )


def test_a_file_is_fetched_once_and_a_damaged_copy_again(
    downloads: Downloads, mirror: Mirror
) -> None:
    one = wanted(mirror)
    counted = 0

    def tell(count: int) -> None:
        nonlocal counted
        counted += count

    path = downloads.file(one, tell=tell)
    assert path.read_bytes() == b"x" * 300_000
    assert counted == 300_000
    assert downloads.file(one) == path
    assert len(mirror.requests) == 1
    path.write_bytes(b"y" * 300_000)
    assert downloads.file(one).read_bytes() == b"x" * 300_000
    assert len(mirror.requests) == 2


@pytest.mark.parametrize("content", [b"y" * 300_000, b"x" * 300_001, b"x" * 299_999, b""])
def test_what_is_not_what_the_index_says_is_refused(
    content: bytes, downloads: Downloads, mirror: Mirror
) -> None:
    one = wanted(mirror)
    mirror.package("one", content)
    with pytest.raises(RootfsError, match=r"hash|longer") as error:
        downloads.file(one)
    assert error.value.hint
    assert list(downloads.cache.iterdir()) == [], "nothing stays"


def test_a_mirror_that_stumbles_is_asked_again(downloads: Downloads, mirror: Mirror) -> None:
    one = wanted(mirror)
    path = "/debian/pool/one_1_all.deb"

    def breaks_off(handler: Handler) -> None:
        mirror.faults[path] = busy
        handler.send_response(200)
        handler.send_header("Content-Length", "300000")
        handler.end_headers()
        handler.wfile.write(b"z" * 1000)
        handler.close_connection = True

    def busy(handler: Handler) -> None:
        del mirror.faults[path]
        handler.send_response(503)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    mirror.faults[path] = breaks_off
    counted: list[int] = []
    assert downloads.file(one, tell=counted.append).read_bytes() == b"x" * 300_000
    assert sum(counted) == 300_000, "what was lost is not counted"
    assert len(mirror.requests) == 3


def test_a_mirror_that_refuses_or_is_not_there(downloads: Downloads, mirror: Mirror) -> None:
    def forbidden(handler: Handler) -> None:
        handler.send_response(403)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    mirror.faults["/debian/x"] = forbidden
    with pytest.raises(RootfsError, match="403"):
        downloads.text(f"{mirror.url}/x")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(RootfsError, match="cannot fetch") as error:
        downloads.text(f"http://user:secret@127.0.0.1:{port}/x")
    assert "secret" not in str(error.value)
    assert mirrors.MIRROR_VARIABLE in str(error.value.hint)


def test_one_bad_file_ends_all(downloads: Downloads, mirror: Mirror) -> None:
    many = [wanted(mirror, bytes([n]) * 1000, f"p{n}") for n in range(40)]
    assert [p.read_bytes()[0] for p in downloads.files(many)] == list(range(40))
    mirror.package("p7", b"?")
    (downloads.cache / many[7].sha256).unlink()
    with pytest.raises(RootfsError, match="p7"):
        downloads.files(many)


# -- indexes ---------------------------------------------------------------------------------------


def paragraph(name: str, fields: str = "", version: str = "1") -> str:
    return (
        f"Package: {name}\nVersion: {version}\n{fields}"
        f"Filename: pool/{name}_{version}.deb\nSize: 5\nSHA256: {'a' * 64}"
    )


def index(*paragraphs: str) -> Index:
    found = Index()
    found.add("http://m/debian", "\n\n".join(paragraphs).encode())
    return found


def names(found: Index, *asked: str) -> list[str]:
    return [package.name for package in found.closure(asked)]


def test_closure_takes_first_alternatives_providers_and_circles() -> None:
    found = index(
        paragraph("a", "Pre-Depends: b (>= 1) [amd64]\nDepends: nowhere | c:any, virtual\n"),
        paragraph("b", "Depends: a\n"),
        paragraph("c"),
        paragraph("giver", "Provides: other, virtual (= 3)\n"),
        paragraph("unused"),
    )
    assert names(found, "a") == ["a", "b", "c", "giver"]
    assert names(found, "giver", "c") == ["c", "giver"]


def test_closure_prefers_what_is_there_already() -> None:
    found = index(
        paragraph("a", "Depends: mawk | gawk\n"), paragraph("mawk"), paragraph("gawk"),
        paragraph("b", "Depends: awk\n"), paragraph("busy", "Provides: awk\n"),
        paragraph("gawk2", "Provides: awk\n"),
    )  # fmt: skip
    assert names(found, "gawk", "a") == ["a", "gawk"]
    assert names(found, "gawk2", "b") == ["b", "gawk2"]


def test_the_highest_version_wins_across_suites() -> None:
    found = index(paragraph("a", version="1.9-1"), paragraph("a", version="1.10~rc1-1"))
    found.add("http://s/debian-security", paragraph("a", version="1.10-1").encode())
    package = found.package("a")
    assert package is not None
    assert package.version == "1.10-1"
    assert package.wanted.url == "http://s/debian-security/pool/a_1.10-1.deb"


def test_essential_and_unknown_packages() -> None:
    found = index(paragraph("a", "Essential: yes\n"), paragraph("b", "Essential: no\n"))
    assert found.essential() == ["a"]
    with pytest.raises(RootfsError, match="no package nosuch") as error:
        found.closure(["nosuch"])
    assert error.value.hint
    with pytest.raises(RootfsError, match="which a needs"):
        index(paragraph("a", "Depends: x | y\n")).closure(["a"])


@pytest.mark.parametrize(
    "filename",
    ["../../etc/passwd.deb", "/etc/x.deb", "pool/../../x.deb", "http://evil/x.deb", "x.txt", ""],
)
def test_a_path_that_leaves_the_mirror_is_refused(filename: str) -> None:
    text = paragraph("a").replace("pool/a_1.deb", filename)
    with pytest.raises(RootfsError, match="wrongly"):
        index(text).package("a")


def test_a_damaged_index_is_refused() -> None:
    for name in ("Packages.xz", "Packages.gz"):
        with pytest.raises(RootfsError, match="damaged"):
            decompress(b"\x00nonsense", name)
    with pytest.raises(RootfsError, match="paragraph"):
        Index().add("http://m", b"<html>log in first</html>")


# -- unpacking -------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    found = tmp_path / "tree"
    found.mkdir()
    return found


def package(tmp_path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = tmp_path / "one.deb"
    path.write_bytes(deb(entries))
    return path


def test_files_links_and_modes(tree: Path, tmp_path: Path) -> None:
    one = package(
        tmp_path,
        (entry("./", DIRECTORY), b""),
        (entry("./usr/", DIRECTORY, mode=0o555), b""),
        (entry("./usr/su", mode=0o4755, mtime=1_000_000), b"elf"),
        (entry("./usr/hard", HARD, linkname="./usr/su"), b""),
        (entry("./usr/soft", LINK, linkname="/etc/passwd"), b""),
        (entry("./usr/secret", mode=0o440), b"s"),
        (entry("./usr/null", DEVICE, devmajor=1, devminor=3), b""),
        (entry("./usr/" + "long" * 60), b"l"),
    )
    unpack(one, tree, EVERYTHING)
    su = (tree / "usr/su").lstat()
    assert (su.st_mode & 0o7777, su.st_mtime, su.st_nlink) == (0o755, 1_000_000, 2)
    assert (tree / "usr").stat().st_mode & 0o777 == 0o755, "its owner must be able to remove it"
    assert (tree / "usr/secret").stat().st_mode & 0o777 == 0o440
    assert str((tree / "usr/soft").readlink()) == "/etc/passwd"
    assert not (tree / "usr/null").exists()
    unpack(one, tree, EVERYTHING)  # as an interrupted dpkg would: again, over what is there
    assert (tree / "usr/hard").read_bytes() == b"elf"


@pytest.mark.parametrize(
    "entries",
    [
        [(entry("../out"), b"x")],
        [(entry("./a/../../out"), b"x")],
        [(entry("./l", LINK, linkname="../.."), b""), (entry("./l/out"), b"x")],
        [(entry("./l", LINK, linkname="{outside}"), b""), (entry("./l/out"), b"x")],
        [(entry("./l", LINK, linkname="{outside}"), b""), (entry("./l/new/", DIRECTORY), b"")],
        [(entry("./out", LINK, linkname="{outside}/out"), b""), (entry("./out"), b"x")],
        [(entry("./h", HARD, linkname="../outside/victim"), b""), (entry("./h"), b"x")],
        [(entry("./h", HARD, linkname="{outside}/victim"), b""), (entry("./h"), b"x")],
        [(entry("{outside}/out"), b"x")],
    ],
)
def test_no_entry_reaches_outside(
    entries: list[tuple[tarfile.TarInfo, bytes]], tree: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    for info, _ in entries:
        info.name = info.name.replace("{outside}", str(outside))
        info.linkname = info.linkname.replace("{outside}", str(outside))
    # refused, or a link to what the tree does not have
    with suppress(RootfsError, FileNotFoundError):
        unpack(package(tmp_path, *entries), tree, EVERYTHING)
    assert sorted(p.name for p in outside.iterdir()) == ["victim"]
    assert (outside / "victim").read_text() == "safe"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.deb", "outside", "tree"]


def test_a_circle_of_links_and_a_file_in_the_way(tree: Path, tmp_path: Path) -> None:
    circle = package(tmp_path, (entry("./l", LINK, linkname="l"), b""), (entry("./l/x"), b""))
    with pytest.raises(RootfsError, match="circle"):
        unpack(circle, tree, EVERYTHING)
    with pytest.raises(RootfsError, match="below a file"):
        unpack(package(tmp_path, (entry("./f"), b""), (entry("./f/x"), b"")), tree, EVERYTHING)
    (tmp_path / "bad.deb").write_bytes(b"!<arch>\nnonsense")
    with pytest.raises(RootfsError, match="no sound"):
        unpack(tmp_path / "bad.deb", tree, EVERYTHING)


def test_merged_usr_keeps_its_links(tree: Path, tmp_path: Path) -> None:
    merge_usr(tree, "amd64")
    one = package(
        tmp_path,
        (entry("./bin/", DIRECTORY), b""),
        (entry("./bin/sh"), b"sh"),
        (entry("./lib64", LINK, linkname="usr/lib64"), b""),
        (entry("./lib64/ld.so"), b"ld"),
    )
    unpack(one, tree, EVERYTHING)
    assert (tree / "bin").is_symlink()
    assert (tree / "usr/bin/sh").read_bytes() == b"sh"
    assert (tree / "usr/lib64/ld.so").read_bytes() == b"ld"
    merge_usr(tree, "arm64")
    assert not (tree / "lib32").exists()


def test_excluded_paths_stay_packed(tree: Path, tmp_path: Path) -> None:
    paths = PathFilter(["/usr/share/doc/*"], ["/usr/share/doc/*/copyright"])
    one = package(
        tmp_path,
        (entry("./usr/share/doc/a/README"), b""),
        (entry("./usr/share/doc/a/copyright"), b""),
        (entry("./usr/share/docs"), b""),
    )
    unpack(one, tree, paths)
    found = sorted(str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file())
    assert found == ["usr/share/doc/a/copyright", "usr/share/docs"]


def test_writing_a_file_follows_links_inside_only(tree: Path, tmp_path: Path) -> None:
    (tree / "etc").symlink_to(tmp_path)
    (tree / "file").symlink_to(tmp_path / "victim")
    write_file(tree, "/file", "x")
    write_file(tree, "/etc/hosts", "y", mode=0o600)
    assert not (tmp_path / "victim").exists()
    assert not (tmp_path / "hosts").exists()
    inside = tree / str(tmp_path)[1:] / "hosts"
    assert (inside.read_text(), inside.stat().st_mode & 0o777) == ("y", 0o600)


# -- which mirror ----------------------------------------------------------------------------------

SOURCES = """\
# Types: deb
Types: deb-src
URIs: http://source.example/debian
Suites: trixie
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: trixie
Components: main

Types: deb
URIs:
  http://near.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: https://near.example/debian-security
Suites: bookworm-security
Components: main
"""


def apt(tmp_path: Path, **files: str) -> Path:
    parts = tmp_path / "apt" / "sources.list.d"
    parts.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (parts / name.replace("_", ".")).write_text(text)
    return tmp_path / "apt"


def one_recipe(mirror: str | None = None) -> Recipe:
    return Recipe(name="x", suite="trixie", mirror=mirror)


def test_the_order_in_which_a_mirror_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing, host = tmp_path / "nothing", apt(tmp_path, debian_sources=SOURCES)

    def main(recipe: str | None = None, argument: str | None = None, *, where: Path) -> str:
        return mirrors.choose(one_recipe(recipe), mirror=argument, apt=where).main

    assert main(where=nothing) == mirrors.DEFAULT
    assert main(where=host) == "http://near.example/debian"
    monkeypatch.setenv(mirrors.MIRROR_VARIABLE, "http://variable.example/debian/")
    assert main(where=host) == "http://variable.example/debian"
    assert main("http://recipe.example/debian", where=host) == "http://recipe.example/debian"
    both = main("http://recipe.example/debian", "http://argument.example/d", where=host)
    assert both == "http://argument.example/d"


def test_the_security_mirror_goes_with_the_main_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = apt(tmp_path, debian_sources=SOURCES)
    nothing = tmp_path / "nothing"
    assert mirrors.choose(one_recipe(), apt=nothing).security == mirrors.DEFAULT_SECURITY
    own = mirrors.choose(one_recipe(), apt=host)
    assert (own.security, own.security_required) == ("https://near.example/debian-security", True)
    other = mirrors.choose(one_recipe(), mirror="http://o.example/debian", apt=host)
    assert other.security == "http://o.example/debian-security"
    assert not other.security_required
    monkeypatch.setenv(mirrors.SECURITY_VARIABLE, "http://s.example/sec")
    assert mirrors.choose(one_recipe(), apt=host).security == "http://s.example/sec"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb http://a.example/debian stable main", "http://a.example/debian"),
        ("deb [arch=amd64 signed-by=/k.gpg] https://a/debian/ trixie main", "https://a/debian"),
        (
            "deb http://snap/archive/debian/20260520T000000Z trixie main",
            "http://snap/archive/debian/20260520T000000Z",
        ),
        ("# deb http://a.example/debian trixie main", None),
        ("deb-src http://a.example/debian trixie main", None),
        ("deb http://archive.ubuntu.com/ubuntu noble main", None),
        ("deb https://download.docker.com/linux/debian bookworm stable", None),
        ("deb https://packages.microsoft.com/debian/12/prod bookworm main", None),
        ("deb file:/srv/debian trixie main", None),
        ("deb", None),
    ],
)
def test_one_line_sources_of_debian_only(line: str, expected: str | None, tmp_path: Path) -> None:
    assert dict(mirrors.host_sources(apt(tmp_path, x_list=line))).get("main") == expected


@pytest.mark.parametrize("url", ["ftp://x/debian", "x", "http://", "http://a b/debian"])
def test_what_is_no_mirror_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(RootfsError, match="not a mirror") as error:
        mirrors.choose(one_recipe(), mirror=url, apt=tmp_path)
    assert error.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Acquire::Check-Valid-Until "false";', True),
        ("acquire::check-valid-until no;", True),
        ('Acquire::Check-Valid-Until "true";', False),
        ('Acquire::Check-Valid-Until "0";\nAcquire::Check-Valid-Until "1";', False),
        ('// Acquire::Check-Valid-Until "false";', False),
        ("", False),
    ],
)
def test_the_hosts_word_on_valid_until(text: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "apt.conf.d").mkdir()
    (tmp_path / "apt.conf.d" / "99x").write_text(text)
    assert mirrors.ignores_valid_until(tmp_path) == expected


def test_a_password_does_not_show() -> None:
    assert mirrors.public("https://u:p@h:8080/debian?x=1") == "https://h:8080/debian?x=1"


# -- recipes ---------------------------------------------------------------------------------------


def test_the_recipes_that_come_with_the_package_load() -> None:
    assert recipes.names() == ("minimal", "paper", "standard")
    for name in recipes.names():
        recipe = recipes.load(name)
        assert recipe.name == name
        assert recipe.digest.startswith("sha256:")
        assert recipe.keyring.is_file()
    older = recipes.load("paper").older
    assert older is not None
    assert older.suite == "bookworm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks 'name'"),
        ("name = 'x'\nsuite = 'trixie'\npackges = []", "unknown key 'packges'"),
        ("name = 'x'\nsuite = 3", "'suite' must be"),
        ("name = 'x'\nsuite = 'trixie'\npackages = 'git'", "'packages' must be"),
        ("name = 'x'\nsuite = 'trixie'\npip = [1]", "'pip' must be"),
        ("name = 'x'\nsuite = 'trixie'\nupdates = 'yes'", "'updates' must be"),
        ("name = 'x'\nsuite = 'trixie'\n[files]\n'../x' = ''", "not an absolute path"),
        ("name = 'x'\nsuite = 'trixie'\nolder = 'bookworm'", "no table"),
        ("name = 'x'\nsuite = 'trixie'\n[older]\nsuite = 'bookworm'", "lacks 'packages'"),
        ("name = 'X/y'\nsuite = 'trixie'", "not a rootfs name"),
        ("name = ", "no TOML"),
        ("\xff", "no TOML"),
    ],
)
def test_a_wrong_recipe_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SandboxLiteError, match=message):
        recipes.load(str(path))


def test_an_unknown_recipe_names_the_known() -> None:
    with pytest.raises(RootfsError, match="nosuch") as error:
        recipes.load("nosuch")
    assert "standard" in (error.value.hint or "")
