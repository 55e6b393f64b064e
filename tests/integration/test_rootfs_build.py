"""Whole builds from the mirror of this machine, and what is left of those that fail."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.errors import RootfsError
from sandbox_lite.jail import etc, places
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.jail.rootfs import debian, recipe
from sandbox_lite.jail.rootfs.buildjail import BuildJail
from sandbox_lite.jail.rootfs.recipe import Recipe
from sandbox_lite.jail.rootfs.store import RootfsInfo, Store
from sandbox_lite.jail.sandbox import Sandbox
from tests.debian_mirror import Mirror, deb, entry, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD = """
import sys
from pathlib import Path
from sandbox_lite.jail.rootfs import debian, recipe
from sandbox_lite.jail.rootfs.store import Store

def progress(stage, done, total, unit):
    print(stage, flush=True)

info = debian.build(recipe.load("minimal"), Store(Path(sys.argv[1])), progress=progress)
print(info.digest)
"""


def minimal(home: Path) -> RootfsInfo:
    return Store(home / "data" / "rootfs").info("minimal")


def start(store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BUILD, store], stdout=subprocess.PIPE, text=True)


def wait_for(stage: str, building: subprocess.Popen[str]) -> None:
    assert building.stdout is not None
    for line in building.stdout:
        if line.strip() == stage:
            return
    pytest.fail(f"the build ended before {stage}")


def inside(store: Path) -> list[int]:
    """Pids of processes whose root directory lies in a store."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                mounts = (process / "mountinfo").read_text()
            except OSError:
                continue
            if str(store) in mounts:
                found.append(int(process.name))
    return found


def eventually(what: str, seconds: float, holds: object) -> None:
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def left(store: Path) -> list[str]:
    trees = store / ".trees"
    names = [p.name for p in store.iterdir() if p.name not in {"format", ".lock", ".trees"}]
    return sorted([*names, *(p.name for p in trees.iterdir())] if trees.is_dir() else names)


# -- what comes out --------------------------------------------------------------------------------


def test_minimal_is_small_and_keeps_nothing_of_the_build(rootfs_home: Path) -> None:
    info = minimal(rootfs_home)
    tree = info.tree
    assert info.size_bytes <= 150_000_000
    assert (tree / "etc/resolv.conf").read_text() == ""
    assert list((tree / "var/lib/apt/lists").iterdir()) == [tree / "var/lib/apt/lists/partial"]
    assert list((tree / "var/cache/apt/archives").glob("*.deb")) == []
    for name in ("tmp", "run", "dev", "proc", "testbed", "var/tmp"):
        assert list((tree / name).iterdir()) == [], name
    bundle = (tree / etc.BUNDLE).read_bytes()
    assert bundle.count(b"BEGIN CERTIFICATE") > 100
    for certificate in etc.extra_certificates():
        if certificate not in _distributed(tree):
            assert certificate not in bundle
    assert list((tree / "usr/local/share/ca-certificates").iterdir()) == []
    for path in tree.rglob("*"):
        mode = path.lstat().st_mode
        assert not stat.S_ISREG(mode) or not mode & 0o6000, path
        assert not stat.S_ISSOCK(mode), path
        assert path.lstat().st_uid == os.geteuid(), path


def _distributed(tree: Path) -> bytes:
    return b"".join(p.read_bytes() for p in (tree / "usr/share/ca-certificates").rglob("*.crt"))


def test_what_the_store_knows_of_minimal(rootfs_home: Path) -> None:
    info = minimal(rootfs_home)
    assert info.suite == "trixie"
    assert info.recipe == recipe.load("minimal").digest
    assert "trixie" in info.releases
    assert info.env["LANG"] == "C.UTF-8"
    for name in ("bash", "coreutils", "python3", "ca-certificates", "apt"):
        assert name in info.packages


def test_minimal_works_as_fake_root(sandbox: Sandbox) -> None:
    sandbox.run("dpkg --audit && apt-get check").check()
    assert sandbox.run("python3 -c 'import ssl, sqlite3, lzma; print(6 * 7)'").stdout == "42\n"
    done = sandbox.run(
        "cd /tmp && touch f && chown 5:7 f && chgrp -h 9 f && mkfifo p && [ -p p ] && "
        "mknod d c 1 3 && [ ! -e d ] && install -o 3 -g 3 f g && useradd --create-home bob && "
        "id -u bob"
    )
    assert done.check().stdout == "1000\n"


def test_the_sources_inside_name_the_mirror_and_its_key(rootfs_home: Path) -> None:
    tree = minimal(rootfs_home).tree
    text = (tree / "etc/apt/sources.list.d/debian.sources").read_text()
    assert "Suites: trixie\n" in text
    assert "@" not in text
    (key,) = {line.split()[1] for line in text.splitlines() if line.startswith("Signed-By:")}
    assert (tree / key[1:]).exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_builds_at_once_do_not_clash_and_agree(home: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    both = [start(store) for _ in range(2)]
    digests = set()
    for one in both:
        output, _ = one.communicate()
        assert one.returncode == 0, output
        digests.add(output.split()[-1])
    (info,) = Store(store).list()
    assert digests == {info.digest}, "the same packages make the same tree"
    assert Store(store).verify("minimal").ok
    assert len(left(store)) == 2, "one name and one tree"
    before = minimal(home)
    if (before.packages, before.recipe) == (info.packages, info.recipe):
        assert before.digest == info.digest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_standard_offers_what_the_paper_does(
    standard_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    store = Store()
    assert store.info("standard").size_bytes <= 1_100_000_000
    with Sandbox("standard", network="host") as sandbox:
        sandbox.run(
            "python -c 'import numpy.testing, scipy.optimize, scipy.stats, scipy.signal, sympy, "
            "mpmath, matplotlib.pyplot, mpl_toolkits.mplot3d, IPython, chardet; "
            'sympy.solve(sympy.symbols("x") ** 2 - 2)\''
        ).check()
        sandbox.run(
            "ipython --version && id user && git --version && wget --version && uv --version"
        ).check()
        sandbox.run("echo 'int main(){return 7;}' > h.c && gcc h.c -o h; ./h; [ $? = 7 ]").check()
        done = sandbox.run(
            "pip install -q six && pip install -q -U pip 'numpy>=2.3' && "
            "python -c 'import six, numpy; print(numpy.__file__)'",
            timeout=300,
        ).check()
        assert done.stdout.startswith("/usr/local/")
        sandbox.run("uv pip install -q cowsay && python -c 'import cowsay'", timeout=100).check()
        sandbox.run(
            "python -m venv v && . v/bin/activate && pip install -q six && deactivate", timeout=100
        ).check()
        sandbox.run("git init -q g && cd g && echo a > a && git add a && git commit -qm x").check()
        sandbox.run(
            "apt-get update -qq && apt-get install -qq jq && jq --version", timeout=100
        ).check()
    assert store.verify("standard").ok


# -- what does not ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("stage", ["download", "configure"])
def test_a_killed_build_leaves_nothing(stage: str, home: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with start(store) as building:
        wait_for(stage, building)
        building.kill()
    eventually("the jail ends with its builder", 10, lambda: not inside(store))
    assert len(left(store)) == 1, "a stage"
    assert Store(store).list() == ()
    Store(store).sweep()
    assert left(store) == []


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("stage", ["download", "configure"])
def test_ctrl_c_leaves_nothing(stage: str, home: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with start(store) as building:
        wait_for(stage, building)
        building.send_signal(signal.SIGINT)
        asked = time.monotonic()
        assert building.wait() != 0
    assert time.monotonic() - asked < 10
    assert inside(store) == []
    assert left(store) == []


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_recipe_that_fails_says_what_it_printed(home: Path, tmp_path: Path) -> None:
    wrong = dataclasses.replace(
        recipe.load("minimal"), name="wrong", configure="echo before; nosuchcommand; echo after"
    )
    store = Store(tmp_path / "store")
    with pytest.raises(RootfsError, match="nosuchcommand: command not found") as error:
        debian.build(wrong, store)
    assert "before" in error.value.message
    assert "after" not in error.value.message
    assert error.value.hint
    assert left(store.path) == []
    unknown = dataclasses.replace(recipe.load("minimal"), name="wrong", packages=("nosuchpackage",))
    with pytest.raises(RootfsError, match="nosuchpackage") as error:
        debian.build(unknown, store)
    assert "does not have" in str(error.value.hint)
    assert left(store.path) == []


FULL = """
import sys
from pathlib import Path
from sandbox_lite.errors import RootfsError
from sandbox_lite.jail.rootfs import debian, recipe
from sandbox_lite.jail.rootfs.store import Store
store = Store(Path("/mnt/store"))
try:
    debian.build(recipe.load("minimal"), store)
except RootfsError as error:
    print(error)
print(sorted(p.name for p in store.path.iterdir()))
"""


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("mebibytes", [40, 130, 190])
def test_a_full_disk_is_said_and_leaves_nothing(mebibytes: int, home: Path) -> None:
    done = subprocess.run(
        [find_bwrap(), "--dev-bind", "/", "/", "--size", str(mebibytes << 20), "--tmpfs", "/mnt",
         sys.executable, "-c", FULL],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "No space left on device" in done.stdout
    assert "hint: " in done.stdout
    assert "free some space" in done.stdout
    assert done.stdout.endswith("['.lock', 'format']\n")


# -- an archive of our own -------------------------------------------------------------------------


@pytest.fixture
def own_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(places.HOME_VARIABLE, str(tmp_path / "own"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "own"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as found:
        yield found


def small(mirror: Mirror, tmp_path: Path) -> Recipe:
    return Recipe(name="small", suite="trixie", keyring=mirror.keyring(tmp_path))


def publish(mirror: Mirror) -> str:
    """Publish all that a bootstrap asks for; return the path of one package."""
    paragraphs = [
        mirror.package(name, deb([(entry(f"./usr/{name}"), b"x")]), fields="Essential: yes\n")
        for name in ("apt", "ca-certificates", "base-files")
    ]
    mirror.publish("trixie", paragraphs)
    return "/debian/pool/apt_1_all.deb"


def refused(mirror: Mirror, tmp_path: Path, message: str) -> RootfsError:
    store = Store()
    with pytest.raises(RootfsError, match=message) as error:
        debian.build(small(mirror, tmp_path), store, mirror=mirror.url)
    assert left(store.path) == []
    assert error.value.hint
    return error.value


def test_a_package_that_was_altered(own_home: Path, mirror: Mirror, tmp_path: Path) -> None:
    path = publish(mirror)
    mirror.content[path] = mirror.content[path][:-1] + b"?"
    refused(mirror, tmp_path, "hash of the signed index")


def test_a_signature_by_somebody_else(own_home: Path, mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror)
    store = Store()
    with pytest.raises(RootfsError, match="signature"):
        debian.build(Recipe(name="small", suite="trixie"), store, mirror=mirror.url)
    assert left(store.path) == []


def test_a_mirror_without_the_suite(own_home: Path, mirror: Mirror, tmp_path: Path) -> None:
    error = refused(mirror, tmp_path, "has no suite trixie")
    assert "the argument" in error.message


def test_a_system_that_cannot_start_says_so(own_home: Path, mirror: Mirror, tmp_path: Path) -> None:
    publish(mirror)
    refused(mirror, tmp_path, "could not configure|cannot configure")


def test_security_updates_that_vanish_are_missed(
    own_home: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror)
    from sandbox_lite.jail.rootfs import release

    base = f"{mirror.url}-security"
    monkeypatch.setattr(release, "seen", lambda records, url, suite: url == base)
    refused(mirror, tmp_path, "has no suite trixie-security")


# -- the jail of a build ---------------------------------------------------------------------------


@contextmanager
def copied(home: Path, tmp_path: Path) -> Iterator[BuildJail]:
    tree = tmp_path / "tree"
    shutil.copytree(minimal(home).tree, tree, symlinks=True)
    yield BuildJail(tree)


def test_secrets_reach_the_build_and_neither_ps_nor_the_tree(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "http://someone:s3cr3t-word@index.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", secret)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///srv {secret}")
    monkeypatch.setenv("https_proxy", secret)
    monkeypatch.setenv("PLANTED", "planted-word")
    shown: list[bytes] = []

    def look(line: str) -> None:
        if line != "first":
            return
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    shown.append((process / "cmdline").read_bytes())
                except OSError:
                    continue

        (tmp_path / "tree/testbed/go").touch()

    wait = "echo first; while [ ! -e /testbed/go ]; do sleep 0.01; done; env"
    with copied(home, tmp_path) as jail:
        printed = jail.run(["sh", "-c", wait], doing="look", network=True, on_line=look)
        assert f"PIP_INDEX_URL={secret}" in printed
        assert f"PIP_EXTRA_INDEX_URL={secret}" in printed
        assert f"https_proxy={secret}" in printed
        assert "planted-word" not in printed
        assert any(b"--seccomp" in words for words in shown)
        assert not any(b"s3cr3t-word" in words for words in shown)
        resolvers = jail.run(["cat", "/etc/resolv.conf"], doing="look", network=True)
        assert resolvers.strip() == Path("/etc/resolv.conf").read_text().strip()
        assert jail.run(["cat", "/etc/resolv.conf"], doing="look") == ""
        assert secret not in jail.run(["env"], doing="look")
        assert (jail.tree / "etc/resolv.conf").read_text() == ""


def test_without_network_there_is_none(home: Path, tmp_path: Path) -> None:
    with copied(home, tmp_path) as jail:
        found = jail.run(["cat", "/proc/net/dev"], doing="look").splitlines()[2:]
        assert [line.split(":")[0].strip() for line in found] == ["lo"]
        with pytest.raises(RootfsError, match=r"could not fail \(exit code 7\):\nwhy") as error:
            jail.run(["sh", "-c", "echo why; exit 7"], doing="fail")
        assert error.value.hint
