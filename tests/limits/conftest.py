"""The same tests on every rung that a host has; `run-everywhere` brings hosts of other kinds."""

from __future__ import annotations

import os

import pytest

from sandbox_lite.jail import limits
from tests.conftest import require

ONLY_RUNG = os.environ.get("SANDBOX_LITE_TEST_RUNG")
"""Set where it is known which one a host must have: then none is skipped."""

SLACK_SECONDS = float(os.environ.get("SANDBOX_LITE_TEST_SLACK", "0.5"))
"""Beyond its bound a command may take so long to end; an emulated host is slow."""


@pytest.fixture(params=["cgroup2", "cgroup1", "sampling"])
def rung(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A rung that this host has, in force for this test."""
    name = str(request.param)
    if ONLY_RUNG and name != ONLY_RUNG:
        pytest.skip("another rung than the one under test")
    usable = next(one for one in limits.BACKENDS if one.name == name).probe().usable
    if ONLY_RUNG:
        assert usable, f"this host must have {name}"
    require(usable, name)
    monkeypatch.setenv(limits.REQUIRE_VARIABLE, name)
    return name


@pytest.fixture
def rootfs(request: pytest.FixtureRequest) -> str:
    """The rootfs of these tests: `minimal`, or `host` where none can be built."""
    if os.environ.get("SANDBOX_LITE_TEST_ROOTFS") == "host":
        return "host"
    request.getfixturevalue("home")
    return "minimal"
