"""A directory of the user's on an overlay: what a real sandbox changes, and what is applied."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import AsyncSandbox, Limits, Mount, Sandbox
from sandbox_lite.errors import HostError, SandboxClosedError, SpecError
from sandbox_lite.jail import places
from sandbox_lite.jail.workspace.saved import SavedChanges, save
from sandbox_lite.spec import Outcome, SandboxSpec, UpperKind
from tests.conftest import require, require_subordinate_ids

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.workspace.changeset import ChangeSet

BUSY = r"""
set -e
echo more >> src/main.py                 # content
chmod 600 docs/guide                     # mode alone
chmod 700 docs
rm src/old.py                            # deleted
mv docs/long docs/renamed                # one gone, one new
rm -rf gone                              # a directory
rm -rf again; mkdir again; echo new > again/new   # opaque
rm -rf was-a-directory; echo file > was-a-directory
rm was-a-file; mkdir was-a-file; echo in > was-a-file/in
ln -sfn src link                         # another target
ln -s main.py src/alias
head -c 300000 /dev/urandom > binary
printf 'odd' > $'odd \xff\nname'
touch -r src/same stamp; cat src/same > copy; cat copy > src/same
touch -r stamp src/same; rm stamp copy
chmod 755 src/same; chmod 644 src/same
mkdir -p deep/er/est; echo d > deep/er/est/file
mkdir closed; echo c > closed/file; chmod 400 closed/file; chmod 500 closed
ln binary binary2
"""
CHANGED = {
    "again/new": "added", "again/old": "deleted", "binary": "added", "binary2": "added",
    "closed": "added", "closed/file": "added",
    "deep": "added", "deep/er": "added", "deep/er/est": "added", "deep/er/est/file": "added",
    "docs": "changed", "docs/guide": "changed", "docs/long": "deleted", "docs/renamed": "added",
    "gone": "deleted", "gone/a": "deleted", "gone/b": "deleted", "gone/b/c": "deleted",
    "link": "changed", os.fsdecode(b"odd \xff\nname"): "added",
    "src/alias": "added", "src/main.py": "changed", "src/old.py": "deleted",
    "was-a-directory": "changed", "was-a-directory/x": "deleted",
    "was-a-file": "changed", "was-a-file/in": "added",
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    top = tmp_path / "project"
    for path, text in {
        "src/main.py": "print(1)\n", "src/old.py": "old\n", "src/same": "the same\n",
        "docs/guide": "guide\n", "docs/long": "x\n" * 2000, "gone/a": "a", "gone/b/c": "c",
        "again/old": "old\n", "was-a-directory/x": "x", "was-a-file": "f", "kept": "kept\n",
    }.items():  # fmt: skip
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    (top / "link").symlink_to("docs")
    return top


def tree(top: Path, *, times: bool = False) -> dict[str, tuple[object, ...]]:
    """Return what is in a directory of the host: kind, mode, content, and where asked all times."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            mode = stat.S_IMODE(status.st_mode)
            path.chmod(mode | 0o400) if not mode & 0o400 else None
            content = path.read_bytes() if not times else status.st_size
            path.chmod(mode) if not mode & 0o400 else None
        elif stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        more = (
            (status.st_ino, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
            if times
            else ()
        )
        found[str(path.relative_to(top))] = (status.st_mode, content, *more)
    return found


def opened(
    project: Path, *, upper: UpperKind = "auto", limits: Limits | None = None, **mount: str
) -> Sandbox:
    return Sandbox(
        SandboxSpec(
            rootfs="minimal", upper=upper, limits=limits or Limits.of(timeout=30),
            mounts=(Mount(source=project, target="/testbed", mode="overlay", **mount),),  # type: ignore[arg-type]
        )
    )  # fmt: skip


@pytest.fixture
def sandbox(home: Path, project: Path) -> Iterator[Sandbox]:
    with opened(project) as sb:
        yield sb


def kinds(changes: ChangeSet) -> dict[str, str]:
    return {one.path: one.kind for one in changes.changes()}


def done(sb: Sandbox, line: str) -> str:
    result = sb.run(line)
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0), result.stderr
    return result.stdout


@pytest.mark.parametrize("upper", ["tmpfs", "directory"])
def test_all_kinds_of_changes_are_listed_and_the_host_is_untouched(
    home: Path, project: Path, upper: UpperKind
) -> None:
    paths = [project, *project.rglob("*")]
    for path in paths:
        # long ago, so that any reading would renew it, see relatime
        os.utime(path, ns=(10**18, path.lstat().st_mtime_ns), follow_symlinks=False)
    before = {path: path.lstat() for path in paths}
    with opened(project, upper=upper) as sb:
        done(sb, f"find . -type f -exec cat {{}} + > /dev/null; {BUSY}")
        workspace = sb.workspace()
        assert kinds(workspace) == CHANGED
        assert b"".join(workspace.patch())
        found = {one.path: one for one in workspace.changes()}
        assert found["docs/guide"].aspects == ("mode",)
        assert (found["docs"].old_mode, found["docs"].mode) == (0o755, 0o700)
        assert found["was-a-directory"].old_type == "directory"
        assert found["binary"].size_bytes == 300000
    for path, status in before.items():
        now = path.lstat()
        # for links readlink(2) knows nothing like O_NOATIME
        atime = () if path.is_symlink() else ("st_atime_ns",)
        for name in ("st_mode", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", *atime):
            assert getattr(now, name) == getattr(status, name), (path, name)


def inside(sb: Sandbox, target: Path) -> dict[str, tuple[object, ...]]:
    """Return what the sandbox has, by another way: cp inside, and its files outside."""
    target.mkdir()
    copied = sb.exec(["tar", "-C", "/testbed", "-cf", "-", "."], timeout=30)
    assert copied.exit_code == 0
    assert copied.dropped_bytes == 0
    subprocess.run(["tar", "-C", target, "-xpf", "-"], input=copied.stdout_bytes, check=True)
    return tree(target)


def test_all_is_applied_and_a_second_time_nothing_is_to_do(
    sandbox: Sandbox, project: Path, tmp_path: Path
) -> None:
    done(sandbox, BUSY)
    expected = inside(sandbox, tmp_path / "expected")
    report = sandbox.workspace().apply()
    assert report.complete
    assert set(report.applied) == set(CHANGED)
    assert tree(project) == expected
    assert kinds(sandbox.workspace()) == {}
    again = sandbox.workspace().apply()
    assert again.complete
    assert again.applied == again.already == ()
    # the sandbox goes on, and what it changes of what was applied is no conflict
    done(sandbox, "echo yet more >> src/main.py; rm deep/er/est/file; mv binary2 binary3")
    assert sandbox.workspace().apply().applied == (
        "binary2", "binary3", "deep/er/est/file", "src/main.py",
    )  # fmt: skip
    assert (project / "src/main.py").read_text() == "print(1)\nmore\nyet more\n"


def test_changes_outlive_the_sandbox_and_are_applied_later(
    sandbox: Sandbox, project: Path, tmp_path: Path
) -> None:
    done(sandbox, BUSY)
    expected = inside(sandbox, tmp_path / "expected")
    before = kinds(sandbox.workspace())
    patch = list(sandbox.workspace().patch())
    assert save(sandbox.workspace(), tmp_path / "kept") is not None
    sandbox.close()
    saved = SavedChanges(tmp_path / "kept")
    assert kinds(saved) == before
    assert list(saved.patch()) == patch
    assert saved.apply().complete
    assert tree(project) == expected
    again = saved.apply()
    assert (again.complete, again.applied, set(again.already)) == (True, (), set(CHANGED))
    saved.discard()
    assert not (tmp_path / "kept").exists()
    with pytest.raises(SpecError, match="there are no changes in"):
        SavedChanges(tmp_path / "kept")


@pytest.mark.parametrize("later", [False, True])
def test_what_the_user_changed_meanwhile_is_a_conflict_and_stays(
    sandbox: Sandbox, project: Path, tmp_path: Path, later: bool
) -> None:
    done(sandbox, BUSY + "echo theirs > both; chmod 755 src/same; rm kept")
    (project / "src/main.py").write_text("mine 01\n")
    os.utime(project / "src/main.py", ns=(1, 1))
    (project / "src/old.py").write_text("mine\n")
    (project / "docs/guide").unlink()
    (project / "both").write_text("mine\n")
    (project / "gone/b/mine").write_text("mine\n")
    (project / "was-a-directory/mine").write_text("mine\n")
    (project / "src/same").chmod(0o600)
    (project / "kept").unlink()
    changes: ChangeSet = sandbox.workspace()
    if later:
        saved = save(sandbox.workspace(), tmp_path / "saved")
        assert saved is not None
        changes = saved
    report = changes.apply()
    assert {one.path: one.reason for one in report.conflicts} == {
        "both": "made meanwhile",
        "docs/guide": "removed meanwhile",
        "gone": "it is not empty",
        "gone/b": "it is not empty",
        "src/main.py": "changed meanwhile",
        "src/old.py": "changed meanwhile",
        "src/same": "changed meanwhile",
        "was-a-directory": "it is not empty",
    }
    assert (project / "src/main.py").read_text() == "mine 01\n"
    assert (project / "both").read_text() == "mine\n"
    assert (project / "gone/b/mine").read_text() == "mine\n"
    assert (project / "was-a-directory/mine").read_text() == "mine\n"
    assert not (project / "docs/guide").exists()
    assert not (project / "gone/a").exists()
    assert (project / "docs/renamed").exists()
    assert not list(project.rglob(".sandbox-lite*"))
    with pytest.raises(SpecError, match="named to be overwritten"):
        changes.apply(overwrite=True)
    paths = ["src", "docs/guide", "was-a-directory"]
    report = changes.apply(paths, overwrite=True)
    assert [one.path for one in report.conflicts] == ["was-a-directory"]
    assert (project / "src/main.py").read_text() == "print(1)\nmore\n"
    assert (project / "docs/guide").exists()
    assert not (project / "src/old.py").exists()
    assert (project / "both").read_text() == "mine\n"


def test_put_back_to_what_it_was_is_no_conflict_later(
    sandbox: Sandbox, project: Path, tmp_path: Path
) -> None:
    done(sandbox, "echo more >> src/main.py; rm src/old.py")
    saved = save(sandbox.workspace(), tmp_path / "saved")
    assert saved is not None
    for name in ("src/main.py", "src/old.py"):
        content = (project / name).read_bytes()
        (project / name).unlink()
        (project / name).write_bytes(content)
    assert saved.apply().applied == ("src/main.py", "src/old.py")


def test_what_its_owner_may_not_even_read(sandbox: Sandbox, project: Path) -> None:
    done(sandbox, "mkdir no; echo n > no/file; chmod 000 no/file no; echo more >> src/main.py")
    done(sandbox, "chmod 000 src/main.py")
    workspace = sandbox.workspace()
    assert workspace.apply().applied == ("no", "no/file", "src/main.py")
    assert stat.S_IMODE((project / "no").stat().st_mode) == 0
    (project / "no").chmod(0o700)
    for path, text in (("no/file", "n\n"), ("src/main.py", "print(1)\nmore\n")):
        assert stat.S_IMODE((project / path).stat().st_mode) == 0
        (project / path).chmod(0o600)
        assert (project / path).read_text() == text
    assert done(sandbox, "stat -c %a no no/file src/main.py") == "0\n0\n0\n"


OPERATIONS = (
    "echo {n} > {a}", "echo {n} >> {a}", "rm -rf {a}", "mkdir -p {a}", "mv -T {a} {b}",
    "ln -sfn {b} {a}", "ln -f {a} {b}", "chmod {m} {a}", "cp -a {a} {b}", "cp -p {a} {b}/",
    "rm -rf {a}; mkdir {a}; echo {n} > {a}/x", "mkfifo {a}", ": > {a}", "truncate -s 3 {a}",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_whatever_was_done_the_list_is_what_two_trees_differ_in(
    sandbox: Sandbox, project: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    names = [*(str(path.relative_to(project)) for path in project.rglob("*")), "new", "src/new"]
    lines = []
    for number in range(150):
        a, b = (chance.choice(names) + chance.choice(("", "", "/x")) for _ in "ab")
        operation = chance.choice(OPERATIONS)
        mode = chance.choice(("500", "750", "755", "700"))
        # to open a FIFO waits for its other end
        guard = f"[ -p {a} ] || [ -p {b} ] || "
        lines.append(guard + f"{{ {operation.format(a=a, b=b, n=number, m=mode)}; }}")
    assert sandbox.run("\n".join(lines)).outcome is Outcome.EXITED
    before, after = tree(project), inside(sandbox, tmp_path / "inside")
    expected = {path: "added" for path in after if path not in before}
    expected |= {path: "deleted" for path in before if path not in after}
    expected |= {path: "changed" for path in after if before.get(path, after[path]) != after[path]}
    assert len(expected) > 5
    assert kinds(sandbox.workspace()) == expected
    report = sandbox.workspace().apply(outward_links=True)
    assert not report.conflicts
    pipes = {path for path, (mode, *_) in after.items() if stat.S_ISFIFO(mode)}  # type: ignore[arg-type]
    assert {one.path for one in report.skipped} <= pipes
    applied = tree(project)
    for path in set(after) - pipes:
        assert applied[path] == after[path]
    assert set(applied) - pipes == set(after) - pipes


def test_chosen_paths(sandbox: Sandbox, project: Path) -> None:
    done(sandbox, BUSY)
    workspace = sandbox.workspace("/testbed")
    report = workspace.apply(["deep/er/est/file", "/testbed/gone", str(project / "link")])
    assert report.applied == (
        "deep", "deep/er", "deep/er/est", "deep/er/est/file",
        "gone", "gone/a", "gone/b", "gone/b/c", "link",
    )  # fmt: skip
    assert set(kinds(workspace)) == set(CHANGED) - set(report.applied)
    for wrong in ("nowhere", "../outside", "src/mai"):
        with pytest.raises(SpecError, match="nothing was changed at"):
            workspace.apply([wrong])
    with pytest.raises(SpecError, match="no one workspace"):
        sandbox.workspace("/elsewhere")


def test_discarded_the_sandbox_has_what_the_user_has(
    sandbox: Sandbox, project: Path, tmp_path: Path
) -> None:
    done(sandbox, BUSY + "chmod 700 closed")
    assert sandbox.workspace().discard(["src", "deep"]).complete
    assert not {path for path in kinds(sandbox.workspace()) if path.startswith(("src", "deep"))}
    (project / "docs/guide").write_text("of the host, meanwhile\n")
    assert sandbox.workspace().discard().complete
    assert kinds(sandbox.workspace()) == {}
    assert inside(sandbox, tmp_path / "inside") == tree(project)
    done(sandbox, "echo more >> docs/guide")
    assert sandbox.workspace().apply().applied == ("docs/guide",)


def test_links_are_made_and_never_followed(sandbox: Sandbox, project: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    done(sandbox, f"ln -s {outside} way; mkdir w; ln -s ../../x w/up; ln -s ../kept w/in; mkfifo f")
    report = sandbox.workspace().apply()
    assert [one.path for one in report.skipped] == ["f", "w/up", "way"]
    assert report.applied == ("w", "w/in")
    assert str((project / "w/in").readlink()) == "../kept"
    assert sandbox.workspace().apply(["way"], outward_links=True).applied == ("way",)
    # the user's own link in the place of a directory leads nowhere either
    done(sandbox, "echo x > docs/guide; echo y > docs/new")
    shutil.move(project / "docs", outside / "docs")
    (project / "docs").symlink_to(outside / "docs")
    report = sandbox.workspace().apply(["docs"])
    assert {"docs/guide", "docs/new"} <= {one.path for one in report.conflicts}
    assert report.applied == ()
    assert (outside / "docs/guide").read_text() == "guide\n"


def test_a_link_that_is_changed_after_it_was_looked_at(
    sandbox: Sandbox, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(sandbox, "ln -s kept l")
    workspace = sandbox.workspace()
    link = workspace.link

    def late(change: Change) -> bytes:
        text = link(change)
        done(sandbox, "ln -sfn /etc/passwd l")
        return text

    monkeypatch.setattr(workspace, "link", late)
    assert workspace.apply().applied == ("l",)
    assert str((project / "l").readlink()) == "kept"


def test_the_patch_is_what_git_takes(sandbox: Sandbox, project: Path, tmp_path: Path) -> None:
    require(shutil.which("git") is not None, "git")
    done(
        sandbox,
        r"""
        sed -i 1i#first src/main.py; printf 'no newline' > src/new; rm src/old.py; : > empty
        chmod 755 docs/guide; sed -i '5d;900s/x/y/' docs/long; chmod +x docs/long
        ln -sfn src link; rm was-a-file; ln -s kept was-a-file; printf 'q' > $'t"ab\t\xc3\xa9'
        printf 'a\fb\rc\n' > feeds; rm -r gone
        """,
    )
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    patch = b"".join(sandbox.workspace().patch())
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    applied = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"], cwd=copy, input=patch, capture_output=True,
        check=False,
    )  # fmt: skip
    assert applied.returncode == 0, applied.stderr
    shutil.rmtree(copy / ".git")
    assert sandbox.workspace().apply().complete
    assert tree(copy) == tree(project)
    done(sandbox, r"printf 'a\0b' > binary; yes | head -n 50000 > large")
    patch = b"".join(sandbox.workspace().patch())
    assert b"Binary files /dev/null and b/binary differ" in patch
    assert b"Large files /dev/null and b/large differ" in patch


@pytest.mark.parametrize("upper", ["tmpfs", "directory"])
def test_what_is_written_counts_for_the_disk(home: Path, project: Path, upper: UpperKind) -> None:
    limits = Limits.of(disk="32MiB", timeout=30)
    with opened(project, upper=upper, limits=limits) as sb:
        assert done(sb, "df -k --output=size . | tail -n 1")
        result = sb.run("head -c 16777216 /dev/zero > a; head -c 33554432 /dev/zero > b")
        assert "disk" in result.limits_hit
        done(sb, "rm a b")
        if upper == "tmpfs":
            assert int(done(sb, "df -k --output=size . | tail -n 1")) == 32 * 1024


def test_where_no_overlay_can_be(home: Path, project: Path, tmp_path: Path) -> None:
    from pathlib import Path as HostPath

    with pytest.raises(HostError, match="is mounted below it"):
        opened(HostPath("/")).open()
    with pytest.raises(HostError, match="cannot open"):
        opened(tmp_path / "nothing").open()
    with pytest.raises(HostError, match="no overlay") as caught:
        opened(project, upper="copy").open()
    assert caught.value.hint
    with pytest.raises(SpecError, match="takes no word about git"):
        Mount(source=project, target="/x", git="writable")
    with pytest.raises(SpecError, match="cannot be mounted at /"):
        Mount(source=project, target="/", mode="overlay")


def test_closed_and_moved_away(home: Path, project: Path) -> None:
    with opened(project) as sb:
        done(sb, "touch new")
        workspace = sb.workspace()
        project.rename(project.with_name("moved"))
        with pytest.raises(HostError, match="cannot open"):
            workspace.apply()
        project.mkdir()
        with pytest.raises(HostError, match="another directory"):
            workspace.apply()
    with pytest.raises(SandboxClosedError):
        workspace.changes()
    assert not list(project.iterdir())
    with Sandbox("minimal") as plain, pytest.raises(SpecError, match="no one workspace"):
        plain.workspace()


def test_two_of_them_and_mounts_below(home: Path, project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x").write_text("x")
    mounts = (
        Mount(source=project, target="/testbed", mode="overlay"),
        Mount(source=other, target="/other", mode="overlay"),
        Mount(source=other, target="/testbed/data", mode="ro_bind"),
    )
    with Sandbox("minimal", mounts=mounts) as sb:
        done(sb, "cat data/x; echo y >> /other/x; touch new")
        assert kinds(sb.workspace("/testbed")) == {"new": "added"}
        assert kinds(sb.workspace("/other")) == {"x": "changed"}
        with pytest.raises(SpecError, match="no one workspace") as caught:
            sb.workspace()
        assert "/testbed, /other" in str(caught.value.hint)
    assert (other / "x").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "project"]


@pytest.mark.parametrize("upper", ["tmpfs", "directory"])
def test_files_of_other_ids(home: Path, project: Path, upper: UpperKind) -> None:
    require_subordinate_ids()
    mounts = (Mount(source=project, target="/testbed", mode="overlay"),)
    spec = SandboxSpec(rootfs="minimal", ids="subordinate", mounts=mounts, upper=upper)
    before = set(places.run_dir().glob("*"))
    with Sandbox(spec) as sb:
        done(sb, "echo x > mine; echo y > theirs; chown 33:33 theirs; chmod 600 theirs")
        done(sb, "mkdir closed; echo z > closed/file; chown -R 34 closed; chmod 700 closed")
        report = sb.workspace().apply()
        assert "mine" in report.applied
        if os.geteuid() != 0:
            assert {one.path: one.reason for one in report.skipped} == {
                "closed": "Permission denied", "theirs": "Permission denied",
            }  # fmt: skip
            assert not (project / "theirs").exists()
    assert (project / "mine").read_text() == "x\n"
    assert set(places.run_dir().glob("*")) <= before


def test_the_same_for_asyncio(home: Path, project: Path) -> None:
    mounts = (Mount(source=project, target="/testbed", mode="overlay"),)

    async def episode() -> None:
        async with AsyncSandbox("minimal", mounts=mounts) as sb:
            await sb.run("echo more >> kept; rm was-a-file; touch new")
            workspace = sb.workspace()
            assert [one.path for one in await workspace.changes()] == ["kept", "new", "was-a-file"]
            assert b"+more" in b"".join(await workspace.patch(["kept"]))
            assert (await workspace.discard(["was-a-file"])).complete
            assert (await workspace.apply()).applied == ("kept", "new")

    asyncio.run(episode())
    assert (project / "kept").read_text() == "kept\nmore\n"
    assert (project / "was-a-file").exists()


def test_what_belongs_to_another_user_is_read_and_not_written(home: Path, project: Path) -> None:
    require(os.geteuid() == 0, "root")
    os.chown(project / "kept", 1234, 1234)
    os.chown(project / "was-a-file", 1234, 1234)
    (project / "was-a-file").chmod(0o600)
    with opened(project) as sb:
        assert done(sb, "cat kept") == "kept\n"
        assert sb.run("echo more >> kept").exit_code != 0
        assert sb.run("cat was-a-file").exit_code != 0
        assert kinds(sb.workspace()) == {}
    assert (project / "kept").stat().st_uid == 1234


# -- git ----------------------------------------------------------------------------------------


def git(directory: Path, *words: str) -> str:
    person = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", *person, *words], cwd=directory, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repository(project: Path) -> Path:
    require(shutil.which("git") is not None, "git")
    git(project, "init", "-q", "-b", "main")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "first")
    part = project / "part"
    part.mkdir()
    (part / ".git").write_text("gitdir: ../.git/modules/part\n")
    nested = project / "nested"
    (nested / "repo").mkdir(parents=True)
    git(nested / "repo", "init", "-q")
    return project


def on_standard(home: Path, project: Path, **mount: str) -> Sandbox:
    mounts = (Mount(source=project, target="/tree", mode="overlay", **mount),)  # type: ignore[arg-type]
    return Sandbox("standard", workdir="/tree", mounts=mounts, limits=Limits.of(timeout=60))


def test_git_works_and_cannot_be_changed(
    standard_home: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    before = tree(repository / ".git", times=True)
    with on_standard(standard_home, repository) as sb:
        done(sb, "git config --global user.name t; git config --global user.email t@example.org")
        assert done(sb, "git log --format=%s") == "first\n"
        done(sb, "echo more >> src/main.py; rm src/old.py")
        assert " M src/main.py\n D src/old.py\n" in done(sb, "git status --short")
        assert "+more" in done(sb, "git diff")
        refused = sb.run("git commit -qam second")
        assert refused.exit_code == 128
        assert "Read-only file system" in refused.stderr
        for path in (
            ".git/hooks/pre-commit",
            ".git/config",
            "nested/repo/.git/config",
            "part/.git",
        ):
            result = sb.run(f"echo planted >> {path}")
            assert result.exit_code != 0, path
            assert "Read-only file system" in result.stderr
        for path in (".git", "nested/repo/.git", "part/.git"):
            assert sb.run(f"rm -rf {path}").exit_code != 0
            assert sb.run(f"mv {path} elsewhere").exit_code != 0
        # a directory that holds one is copied, for it cannot be renamed, and stays
        assert sb.run("mv nested other").exit_code != 0
        done(sb, "rm -rf other; ls nested/repo/.git/config")
        assert sb.run("mount -o remount,rw .git; umount .git").exit_code != 0
        told = done(sb, "cat /proc/self/mountinfo").splitlines()
        assert str(repository) not in "\n".join(line for line in told if "part" not in line)
        # a repository that the model makes, and the ways to write its name
        done(sb, "git init -q made; mkdir .GIT src/.git; touch .GIT/config; ln -s made/.git x")
        workspace = sb.workspace()
        report = workspace.apply()
        assert {one.path for one in report.skipped} == {".GIT", "made/.git", "src/.git"}
        assert {"made", "src/main.py", "src/old.py", "x"} <= set(report.applied)
    assert tree(repository / ".git", times=True) == before
    assert (repository / "part/.git").read_text() == "gitdir: ../.git/modules/part\n"
    assert not (repository / "made/.git").exists()


def test_git_is_writable_where_asked_for(
    standard_home: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    with on_standard(standard_home, repository, git="writable") as sb:
        done(sb, "git config --global user.name t; git config --global user.email t@example.org")
        done(sb, "echo more >> src/main.py; git commit -qam second")
        assert git(repository, "log", "--format=%s") == "first\n"
        assert sb.workspace().apply().complete
    assert git(repository, "log", "--format=%s") == "second\nfirst\n"
    assert "src" not in git(repository, "status", "--short")
    assert "dangling" not in git(repository, "fsck")


def test_no_directory_becomes_a_repository_of_the_models(
    home: Path, project: Path, tmp_path: Path
) -> None:
    """Git takes any directory with HEAD, objects and refs for one, and does as its config says."""
    require(shutil.which("git") is not None, "git")
    planted = tmp_path / "planted"
    own = project / "bare.git"
    git(project, "init", "-q", "--bare", str(own))
    settings = (
        f'[core]\\n\\trepositoryformatversion = 0\\n\\tfsmonitor = "touch {planted}; false"\\n'
    )
    (project / "docs/HEAD").write_text("a heading\n")
    make = f"echo 'ref: refs/heads/main' >HEAD; printf '{settings}\\tworktree = .\\n' >config"
    with opened(project) as sb:
        # at once; in two passes; and where the user has one of the names already
        done(sb, f"mkdir -p src/objects src/refs; cd src; {make}; echo x >more")
        done(sb, f"cd ../docs; mkdir objects refs; {make}")
        done(sb, f"cd ../bare.git; {make}; echo x >hooks/post-update")
        workspace = sb.workspace()
        first = workspace.apply(["src/objects", "src/refs", "src/config"])
        assert first.complete
        report = workspace.apply()
        skipped = {one.path for one in report.skipped}
        assert {"src/HEAD", "docs/HEAD", "docs/objects", "docs/refs"} <= skipped
        assert {"bare.git/config", "bare.git/hooks/post-update"} <= skipped
        assert "src/more" in report.applied
    for place in (project / "src", project / "docs", own):
        subprocess.run(["git", "status"], cwd=place, capture_output=True, check=False)
    assert not planted.exists()
