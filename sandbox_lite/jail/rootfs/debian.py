"""Building a Debian rootfs as an ordinary user, with nothing of Debian on the host.

The signed Release file vouches for the indexes, the indexes for the packages. The essential set is
unpacked here; from then on the tree's own dpkg and apt work in a jail on it, as fake root and
without a network: what they want is fetched and checked here and laid where apt looks for it.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, RootfsError
from sandbox_lite.jail import host, places, programs
from sandbox_lite.jail.rootfs import mirror as mirrors
from sandbox_lite.jail.rootfs import release as releases
from sandbox_lite.jail.rootfs.buildjail import BuildJail
from sandbox_lite.jail.rootfs.download import Downloads, Wanted
from sandbox_lite.jail.rootfs.info import installed
from sandbox_lite.jail.rootfs.layout import CLEAN, base_files
from sandbox_lite.jail.rootfs.packages import Index, decompress
from sandbox_lite.jail.rootfs.store import explained
from sandbox_lite.jail.rootfs.unpack import PathFilter, merge_usr, unpack, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.jail.rootfs.packages import Package
    from sandbox_lite.jail.rootfs.recipe import Recipe
    from sandbox_lite.jail.rootfs.release import Release
    from sandbox_lite.jail.rootfs.store import Progress, RootfsInfo, Store, Unit

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}
"""Defaults in every sandbox; a recipe adds to it."""

_ARCHIVES = "var/cache/apt/archives"
_LISTS = "var/lib/apt/lists"
_APT = (
    "apt-get", "-qq", "-y", "--no-install-recommends",
    "-o", "Dpkg::Use-Pty=0", "-o", "APT::Get::Always-Include-Phased-Updates=true",
)  # fmt: skip
# dpkg keeps the status descriptor from its children: were it stdout, their output would fail
_STATUS = ("bash", "-c", 'exec "$0" "$@" 3>&1')
_URI = re.compile(r"'([^']+)' (\S+\.deb) (\d+) SHA256:([0-9a-f]{64})")


def build(
    recipe: Recipe,
    store: Store,
    *,
    progress: Progress | None = None,
    mirror: str | None = None,
) -> RootfsInfo:
    """Build a rootfs and put it in force under the recipe's name, whole or not at all.

    Args:
        recipe: What to make.
        store: Where to keep it.
        progress: Told how far each stage is.
        mirror: Address of a Debian mirror; see `mirror.choose` for what is taken else.

    Raises:
        RootfsError: The mirror, a signature, a hash, a package or the disk fails.
        HostError: This machine cannot run the result.
    """
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise HostError(
            f"no Debian rootfs for the architecture {platform.machine()!r}",
            hint="supported are x86_64 and aarch64",
        )
    # before minutes of work: what could not be configured here could not be used here either
    host.upper_kind(programs.find_bwrap())
    chosen = mirrors.choose(recipe, mirror=mirror)
    with (
        explained(f"build rootfs {recipe.name!r}"),
        store.stage(recipe.name) as stage,
        Downloads(places.cache_dir() / "debs") as downloads,
    ):
        making = _Build(
            recipe=recipe,
            mirrors=chosen,
            architecture=architecture,
            tree=stage.tree,
            downloads=downloads,
            progress=progress or _silent,
        )
        used = making.run()
        info = stage.commit(
            recipe=recipe.digest,
            suite=recipe.suite,
            env={**ENVIRONMENT, **recipe.env},
            packages=making.versions(),
            releases={release.suite: release.date.isoformat() for release in used},
            progress=progress,
        )
        for release in used:
            releases.remember(release, _records())
        return info


def _silent(stage: str, done: int, total: int | None, unit: Unit) -> None:
    """Draw nothing."""


def _records() -> Path:
    return places.cache_dir() / "releases"


@dataclass(slots=True, kw_only=True)
class _Build:
    """One build under way."""

    recipe: Recipe
    mirrors: mirrors.Mirrors
    architecture: str
    tree: Path
    downloads: Downloads
    progress: Progress
    pip_versions: dict[str, str] = field(default_factory=dict)

    @property
    def jail(self) -> BuildJail:
        return BuildJail(self.tree)

    def run(self) -> list[Release]:
        """Fill the tree; return the Release files it was made from."""
        own = self._releases(self.recipe.suite)
        older = self._releases(self.recipe.older.suite) if self.recipe.older else []
        index = self._indexes(own, older)
        first = index.closure(
            [*index.essential(), "apt", "ca-certificates", *self.recipe.bootstrap]
        )
        self._bootstrap(first, own, older)
        self._script(self.recipe.prepare, "run the recipe's `prepare`")
        self._install()
        self._script(self.recipe.configure, "run the recipe's `configure`")
        self._pip()
        self._script(self.recipe.finish, "run the recipe's `finish`")
        self._clean()
        return [*own, *older]

    # -- what the mirror has -------------------------------------------------------------------

    def _releases(self, suite: str) -> list[Release]:
        wanted = [(self.mirrors.main, suite, True)]
        if self.recipe.updates:
            wanted.append((self.mirrors.main, f"{suite}-updates", False))
        if self.recipe.security:
            required = self.mirrors.security_required
            wanted.append((self.mirrors.security, f"{suite}-security", required))
        found = []
        ignore = mirrors.ignores_valid_until()
        for number, (base, name, required) in enumerate(wanted, 1):
            release = releases.fetch(self.downloads, base, name, self.recipe.keyring)
            if release is not None:
                releases.check_date(release, _records(), ignore_valid_until=ignore)
                found.append(release)
            # silence where security updates were before is how one would hold them back
            elif required or releases.seen(_records(), base, name):
                raise RootfsError(
                    f"the mirror {mirrors.public(base)} (from {self.mirrors.chosen_by}) "
                    f"has no suite {name}",
                    hint=f"use another mirror: --mirror URL, {mirrors.MIRROR_VARIABLE} "
                    f"or {mirrors.SECURITY_VARIABLE}",
                )
            self.progress("release", number, len(wanted), "steps")
        return found

    def _indexes(self, own: Sequence[Release], older: Sequence[Release]) -> Index:
        places_ = [
            (release, component, *release.index(component, self.architecture))
            for release in (*own, *older)
            for component in self.recipe.components
        ]
        wanted = [one for _, _, _, one in places_]
        paths = self.downloads.files(wanted, tell=self._counter("index", _sum(wanted)))
        lists = self.tree / _LISTS
        lists.mkdir(parents=True)
        index = Index()
        for (release, component, name, _), path in zip(places_, paths, strict=True):
            text = decompress(path.read_bytes(), name)
            if release in own:
                index.add(release.mirror, text)
            # where `apt-get update` would have put them, had the jail a network
            stem = f"{_list_name(release.mirror)}_dists_{release.suite.replace('/', '_')}"
            (lists / f"{stem}_InRelease").write_bytes(release.signed)
            place = f"{stem}_{component}_binary-{self.architecture}_Packages"
            (lists / place).write_bytes(text)
        return index

    # -- the first system ----------------------------------------------------------------------

    def _bootstrap(
        self, packages: Sequence[Package], own: Sequence[Release], older: Sequence[Release]
    ) -> None:
        debs = self._fetch([package.wanted for package in packages])
        paths = PathFilter(self.recipe.exclude, self.recipe.include)
        merge_usr(self.tree, self.architecture)
        # base-files brings the directories and links that all others expect
        order = sorted(range(len(packages)), key=lambda n: packages[n].name != "base-files")
        for number, which in enumerate(order, 1):
            unpack(debs[which], self.tree, paths)
            self.progress("unpack", number, len(packages), "packages")
        files = base_files(self.recipe, own, older)
        for path, (text, mode) in files.items():
            write_file(self.tree, path, text, mode=mode)
        for path, text in self.recipe.files.items():
            write_file(self.tree, path, text)
        status = self.tree / "var/lib/dpkg/status"
        status.parent.mkdir(parents=True, exist_ok=True)
        status.touch()
        (self.tree / "testbed").mkdir(exist_ok=True)
        names = [f"{package.name}.deb" for package in packages]
        self._lay_out(zip(names, debs, strict=True))
        done: set[str] = set()

        def on_line(line: str) -> None:
            match = re.fullmatch(r"status: ([^:]+)(?::\w+)?: installed", line.strip())
            if match:
                done.add(match[1])
                self.progress("configure", len(done), len(packages), "packages")

        self.jail.run(
            [*_STATUS, "dpkg", "--force-depends", "--status-fd", "3", "--install",
             *(f"/{_ARCHIVES}/{name}" for name in names)],
            doing="configure the essential packages",
            on_line=on_line,
        )  # fmt: skip
        self.jail.run(["apt-get", "check"], doing="check the essential packages")
        self._empty_archives()

    # -- the rest ------------------------------------------------------------------------------

    def _install(self) -> None:
        older = self.recipe.older.packages if self.recipe.older else ()
        if not (names := [*self.recipe.packages, *older]):
            return
        printed = self.jail.run(
            [*_APT, "--print-uris", "-o", "Acquire::ForceHash=sha256", "install", *names],
            doing=f"resolve the packages {' '.join(names)}",
            tail_lines=None,
        )
        bases = {mirrors.public(base): base for base in (self.mirrors.main, self.mirrors.security)}
        wanted, files = [], []
        for match in _URI.finditer(printed):
            url, name, size, digest = match.groups()
            # with the password that the sources inside do not have
            base = next((b for b in bases if url.startswith(f"{b}/")), "")
            url = bases.get(base, base) + url[len(base) :]
            wanted.append(Wanted(url=url, sha256=digest, size_bytes=int(size)))
            files.append(name.rpartition("/")[2])
        self._lay_out(zip(files, self._fetch(wanted), strict=True))

        def on_line(line: str) -> None:
            match = re.match(r"pmstatus:[^:]*(?::\w+)?:([0-9.]+):", line)
            if match:
                done = int(float(match[1]) * len(wanted) / 100)
                self.progress("install", done, len(wanted), "packages")

        self.jail.run(
            [*_STATUS, *_APT, "--no-download", "-o", "APT::Status-Fd=3", "install", *names],
            doing=f"install the packages {' '.join(names)}",
            on_line=on_line,
        )
        self._empty_archives()

    def _pip(self) -> None:
        if not self.recipe.pip:
            return
        pip = [self.recipe.python, "-m", "pip"]
        self.progress("pip", 0, len(self.recipe.pip), "packages")
        collected = 0

        def on_line(line: str) -> None:
            nonlocal collected
            if line.startswith("Collecting "):
                collected = min(collected + 1, len(self.recipe.pip))
                self.progress("pip", collected, len(self.recipe.pip), "packages")

        self.jail.run(
            [*pip, "install", "--no-cache-dir", "--no-input", "--progress-bar", "off",
             *self.recipe.pip],
            doing=f"install the pip packages {' '.join(self.recipe.pip)}",
            network=True,
            env={"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"},
            on_line=on_line,
        )  # fmt: skip
        listed = self.jail.run([*pip, "list", "--format", "freeze"], doing="list the pip packages")
        for line in listed.splitlines():
            name, equals, version = line.partition("==")
            if equals:
                self.pip_versions[f"pip:{name.strip().lower()}"] = version.strip()

    def _script(self, text: str, doing: str) -> None:
        if text.strip():
            self.jail.run(["bash", "-euc", text], doing=doing)

    def _clean(self) -> None:
        self.progress("clean", 0, 1, "steps")
        # inside, where a link of the tree cannot lead the removal to files of the host
        patterns = " ".join(_quoted(pattern) for pattern in self.recipe.remove)
        removal = f"shopt -s nullglob dotglob globstar\nrm -rf -- {patterns}\n"
        self.jail.run(["bash", "-euc", CLEAN + removal], doing="clean up")
        self.progress("clean", 1, 1, "steps")

    def versions(self) -> Mapping[str, str]:
        """Return the version of every package in the tree, those of pip as `pip:NAME`."""
        return {**installed(self.tree), **self.pip_versions}

    # -- packages on their way -----------------------------------------------------------------

    def _fetch(self, wanted: Sequence[Wanted]) -> list[Path]:
        return self.downloads.files(wanted, tell=self._counter("download", _sum(wanted)))

    def _counter(self, stage: str, total: int) -> Callable[[int], None]:
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            self.progress(stage, done, total, "bytes")

        return tell

    def _lay_out(self, files: Iterable[tuple[str, Path]]) -> None:
        archives = self.tree / _ARCHIVES
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        for name, source in files:
            target = archives / name
            try:
                target.hardlink_to(source)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, target)

    def _empty_archives(self) -> None:
        for path in (self.tree / _ARCHIVES).glob("*.deb"):
            path.unlink()


def _sum(wanted: Iterable[Wanted]) -> int:
    return sum(one.size_bytes for one in wanted)


def _list_name(url: str) -> str:
    """Return what apt calls the lists of a mirror: URItoFileName in its strutl.cc."""
    bare = mirrors.public(url).partition("://")[2]
    quoted = re.sub(r'[\\|{}\[\]<>"^~_=!@#$%&*]', lambda m: f"%{ord(m[0]):02x}", bare)
    return quoted.replace("/", "_")


def _quoted(pattern: str) -> str:
    """Return a pattern for bash in which only the wildcards keep a meaning."""
    return re.sub(r"[^*?\[\]]+", lambda part: shlex.quote(part[0]), "/" + pattern.lstrip("/"))
