"""Real sandboxes for all tests: root file systems are built once, leaks looked for at the end."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Limits
from sandbox_lite.jail import nests, subids
from sandbox_lite.jail.egress.addresses import is_public
from sandbox_lite.jail.network import packages
from sandbox_lite.jail.rootfs import debian, recipe
from sandbox_lite.jail.rootfs.store import Store
from sandbox_lite.jail.sandbox import Sandbox
from tests.faces import FACES, made

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faces import FaceName

MUST_WORK = os.environ.get("SANDBOX_LITE_MUST_WORK") == "1"
"""Set in CI: what the host lacks is then a failure, never a skip."""

collect_ignore = [] if importlib.util.find_spec("trl") else ["rl"]
"""They have a stage of their own in the gate: tests/rl/run."""

collect_ignore += [] if importlib.util.find_spec("verl") else ["verl"]
"""And these are run by hand: tests/verl/run."""

ALLOWED_SKIPS: dict[str, str] = {
    "an ordinary user": "root may read and write everything; CI runs every test as a user as well",
    "numbers of x86-64": "the filters of both machines are tested by an interpreter as well",
    "root": "only root can become another user; CI runs every test as root as well",
    "cgroup1": "a host has one version, and an ordinary user is given none of the first",
    "cgroup2": "the same; emulated hosts have it, see tests/limits/run-everywhere",
    "another rung than the one under test": "on an emulated host, one is named",
    "subordinate ids": "an administrator gives them, and no test may; useradd did to CI's user",
    "an open /dev/net/tun": "root's alone on some hosts; CI runs every test as root as well",
    "transformers": "a gigabyte of torch; run once by hand, see tests/live",
}
"""Things that CI's host may lack, each with its reason."""

_unknown_skips: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a skip that is not on the list."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ").removeprefix("this host lacks ")
        if reason not in ALLOWED_SKIPS:
            _unknown_skips.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that skipped what it must not."""
    if MUST_WORK and _unknown_skips:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which skips failed the run."""
    for line in _unknown_skips if MUST_WORK else []:
        terminalreporter.write_line(f"CI must not skip {line}", red=True)


def require(present: bool, thing: str) -> None:
    """Skip a test on a host without `thing`; fail it in CI, unless that lack is known."""
    if present:
        return
    if MUST_WORK and thing not in ALLOWED_SKIPS:
        pytest.fail(f"this host lacks {thing}, and CI must not skip it")
    pytest.skip(f"this host lacks {thing}")


def require_subordinate_ids() -> None:
    """Skip a test where this user has none, or no newuidmap."""
    problem = subids.missing()
    require(problem is None, "subordinate ids")


def private_mirrors() -> tuple[str, ...]:
    """Return the package indexes whose addresses are not public here, as a company's are."""
    found = []
    for rule in packages.preset():
        with contextlib.suppress(OSError):
            answers = socket.getaddrinfo(rule.host, 443, type=socket.SOCK_STREAM)
            if not any(is_public(str(one[4][0])) for one in answers):
                found.append(rule.host)
    return tuple(found)


def _home(name: str, factory: pytest.TempPathFactory) -> Path:
    """Return a SANDBOX_LITE_HOME that holds the rootfs: a prepared one, or built here and now."""
    prepared = os.environ.get("SANDBOX_LITE_TEST_HOME")
    home = Path(prepared) if prepared else factory.getbasetemp() / "home"
    store = Store(home / "data" / "rootfs")
    if name not in {info.name for info in store.list()}:
        before = os.environ.get("SANDBOX_LITE_HOME")
        os.environ["SANDBOX_LITE_HOME"] = str(home)
        try:
            debian.build(recipe.load(name), store)
        finally:
            if before is None:
                del os.environ["SANDBOX_LITE_HOME"]
            else:
                os.environ["SANDBOX_LITE_HOME"] = before
    return home


@pytest.fixture(scope="session")
def rootfs_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SANDBOX_LITE_HOME with the rootfs `minimal`."""
    return _home("minimal", tmp_path_factory)


@pytest.fixture(scope="session")
def standard_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SANDBOX_LITE_HOME with the rootfs `standard`."""
    return _home("standard", tmp_path_factory)


@pytest.fixture
def home(rootfs_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, in force for this test."""
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(rootfs_home))
    return rootfs_home


@pytest.fixture
def sandbox(home: Path) -> Iterator[Sandbox]:
    """An open sandbox on `minimal`."""
    with Sandbox("minimal", limits=Limits.of(timeout=15)) as opened:
        yield opened


@pytest.fixture(params=FACES, scope="module")
def face(request: pytest.FixtureRequest) -> FaceName:
    """Which face of the sandbox: every test that asks for it runs over both."""
    name: FaceName = request.param
    return name


@pytest.fixture
def either(home: Path, face: FaceName) -> Iterator[Sandbox]:
    """An open sandbox on `minimal`, with either face."""
    with made(face, "minimal", limits=Limits.of(timeout=15)) as opened:
        yield opened


def _ours() -> set[int]:
    """Pids of bwraps whose ancestor is this very process."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if "bwrap" in child.name():
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(autouse=True, scope="session")
def _nothing_left() -> Iterator[None]:
    yield
    # as at the end of any program; sandboxes that are still open would keep theirs
    nests.SHARED.close()
    left = _ours()
    assert not left, f"sandboxes were left running: {left}"
