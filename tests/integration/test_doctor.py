"""`doctor` where a host's layers really refuse: which one, the remedy, and what is offered."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import require
from tests.told import INSIDE, sandbox_lite

REFUSING = str(Path(__file__).parents[1] / "refusing.py")
NO_MORE = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
MASKED = 'mount --bind /dev/null /proc/version && exec "$@"'


def unshared(options: str, script: str) -> list[str]:
    require(shutil.which("unshare") is not None, "unshare")
    return ["unshare", options, "--mount-proc", "sh", "-c", script, "sh"]


def refusing(what: str) -> list[str]:
    return [sys.executable, REFUSING, what]


def test_all_that_holds_a_sandbox_is_read_inside(tmp_path: Path) -> None:
    told = sandbox_lite(tmp_path, [], "doctor", "--json")
    assert told.code == 0, told.text
    assert told.data["inside"] == INSIDE
    modes = {one["mode"]: one["ok"] for one in told.data["network"]}
    assert (
        modes.items() >= dict.fromkeys(("none", "packages", "web", "allow", "host"), True).items()
    )
    assert told.data["upper"] in ("tmpfs", "directory")


def test_filters_of_the_outside_are_not_counted_as_ours(tmp_path: Path) -> None:
    told = sandbox_lite(tmp_path, [*refusing("overlay"), *refusing("overlay")], "doctor", "--json")
    assert told.data["inside"] == INSIDE


def test_container_filter(tmp_path: Path) -> None:
    told = sandbox_lite(tmp_path, refusing("userns"), "doctor", "--json")
    assert told.code == 125
    assert told.jail()["layer"] == "seccomp"
    assert "seccomp profile" in told.jail()["hint"]
    assert not told.data["inside"]
    assert (
        "No sandbox can be made here." in sandbox_lite(tmp_path, refusing("userns"), "doctor").text
    )


def test_namespaces_that_are_switched_off(tmp_path: Path) -> None:
    told = sandbox_lite(tmp_path, unshared("-Urmpf", NO_MORE), "doctor", "--json")
    assert told.code == 125
    assert told.jail()["layer"] == "namespaces-limit"
    assert told.jail()["hint"] == "sudo sysctl user.max_user_namespaces=15000"
    assert "/etc/sysctl.d/" in told.jail()["paste"]


def test_masked_proc(tmp_path: Path) -> None:
    told = sandbox_lite(tmp_path, unshared("-Urmpf", MASKED), "doctor", "--json")
    assert told.code == 125
    assert told.jail()["layer"] == "masked-proc"
    assert "systempaths=unconfined" in told.jail()["hint"]
    # the control: nothing else of that box is in the way
    whole = sandbox_lite(tmp_path, unshared("-Urmpf", 'exec "$@"'), "doctor", "--json")
    assert whole.data["upper"] == "tmpfs"


def test_capabilities_that_bwrap_does_not_take(tmp_path: Path) -> None:
    require(os.getuid() != 0, "an ordinary user")
    prefix = ["unshare", "--map-current-user", "--keep-caps"]
    told = sandbox_lite(tmp_path, prefix, "doctor", "--json")
    assert told.code == 125
    assert told.jail()["layer"] == "capabilities"
    without = [*prefix, "setpriv", "--inh-caps=-all", "--ambient-caps=-all"]
    assert sandbox_lite(tmp_path, without, "doctor", "--json").jail()["verdict"] == "ok"


@pytest.mark.timeout(120)
def test_copy_is_offered_by_name_and_taken_only_so(tmp_path: Path) -> None:
    # what was found where nothing is refused holds there alone
    assert sandbox_lite(tmp_path, [], "exec", "--rootfs", "host", "--", "true").code == 0
    told = sandbox_lite(tmp_path, refusing("overlay"), "doctor", "--json")
    assert told.code == 1
    assert told.jail()["layer"] == "overlay"
    offer = next(one for one in told.data["weaker"] if one["lacks"] == "overlay")
    assert told.data["upper"] == "copy"
    text = sandbox_lite(tmp_path, refusing("overlay"), "doctor").text
    assert offer["option"] in text
    assert "a weaker sandbox can be made" in text
    words = ("exec", "--rootfs", "host", "--json")
    refused = sandbox_lite(tmp_path, refusing("overlay"), *words, "--", "true")
    assert refused.code == 125
    assert offer["option"] in refused.errors
    # the same under the same refusal, with the very words that were offered
    words = (*words, *offer["option"].split(), "--", "sh", "-c")
    for _ in range(2):  # what one sandbox removes is its own copy's
        given = sandbox_lite(
            tmp_path, refusing("overlay"), *words, "test -s /etc/hosts && rm /etc/hosts"
        )
        assert given.code == 0, given.errors
    assert not list((tmp_path / "run").iterdir())
    # one look has seen that too: what holds it is what holds any other
    assert told.data["inside"] == INSIDE


def test_overlay_is_kept_where_it_can_be_had(tmp_path: Path) -> None:
    words = ("exec", "--rootfs", "host", "--allow-weaker", "overlay", "--", "cat")
    told = sandbox_lite(tmp_path, [], *words, "/proc/self/mountinfo")
    assert " / / rw,relatime - overlay " in told.text


def test_rung_that_is_required(tmp_path: Path) -> None:
    # of the two versions no host gives both whole
    told = [
        sandbox_lite(tmp_path, ["env", f"SANDBOX_LITE_REQUIRE={name}"], "doctor", "--json")
        for name in ("cgroup1", "cgroup2")
    ]
    for one in told:
        lacks = [weaker["lacks"] for weaker in one.data["weaker"]]
        assert one.code == (1 if "SANDBOX_LITE_REQUIRE" in lacks else 0)
    assert 1 in [one.code for one in told]
