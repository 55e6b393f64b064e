"""Which subordinate ids a user has, and what is said where there are too few."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Sandbox
from sandbox_lite.errors import SpecError
from sandbox_lite.jail import subids
from sandbox_lite.jail.subids import IdRange
from tests.conftest import require, require_subordinate_ids

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
# a comment
alice:100000:65536
bob:165536:1000
broken:line
1001:400000:65536
bob:300000:65536
alice:0:x
"""


def test_ranges_of_a_user_by_name_and_by_number() -> None:
    assert subids.ranges(TEXT, "alice", 1000) == (IdRange(start=100000, count=65535),)
    assert subids.ranges(TEXT, "carol", 1001) == (IdRange(start=400000, count=65535),)
    # several are put one behind the other, as far as they are needed
    several = (IdRange(start=165536, count=1000), IdRange(start=300000, count=64535))
    assert subids.ranges(TEXT, "bob", 5) == several
    assert subids.ranges(TEXT, "nobody", 65534) == ()
    assert subids.ranges("", "alice", 1000) == ()


def test_first_id_that_nobody_has() -> None:
    assert subids.free_start(TEXT) == 465536
    assert subids.free_start("") == 100000


def test_words_for_newuidmap() -> None:
    given = subids.ranges(TEXT, "bob", 5)
    assert subids.mapping(1000, given) == (
        "0", "1000", "1", "1", "165536", "1000", "1001", "300000", "64535",
    )  # fmt: skip


def test_too_few_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = tmp_path / "subuid"
    short.write_text(f"somebody:200000:65536\n{os.getuid()}:300000:10\n")
    programs = dict.fromkeys(("newuidmap", "newgidmap"), short)
    monkeypatch.setattr(subids, "_PROGRAMS", programs)
    monkeypatch.setattr(subids, "_programs_missing", lambda: None)
    problem = subids.missing()
    assert problem is not None
    assert f"in {short} and {short}" in problem.message
    assert problem.hint is not None
    assert "usermod --add-subuids 300010-365545 --add-subgids 300010-365545" in problem.hint
    assert ":300010:65536'" in problem.hint
    short.write_text(f"{os.getuid()}:300000:65535\n")
    assert subids.missing() is None


def test_programs_that_lack_or_have_no_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subids, "_FOLDERS", str(tmp_path))
    problem = subids.missing()
    assert problem is not None
    assert "newuidmap, which is not on this machine" in problem.message
    assert "uidmap" in (problem.hint or "")
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / name).write_text("#!/bin/true\n")
        (tmp_path / name).chmod(0o755)
    problem = subids._programs_missing()
    if os.getuid() == 0:
        assert problem is None, "root needs no rights of a program's"
    else:
        assert problem is not None
        assert "neither set-user-ID root nor" in problem.message
        assert f"chmod u+s {tmp_path}/newuidmap" in (problem.hint or "")


NO_NEW_PRIVILEGES = """
import ctypes
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
from sandbox_lite.jail import subids
problem = subids.missing()
print(problem and problem.message)
"""


def test_no_new_privileges_of_our_own_process() -> None:
    require(os.getuid() != 0, "an ordinary user")
    require_subordinate_ids()
    words = [sys.executable, "-c", NO_NEW_PRIVILEGES]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "no_new_privs" in done.stdout


def test_requests_that_make_no_sense() -> None:
    with pytest.raises(SpecError, match="ids is one of own, subordinate"):
        Sandbox("host", ids="all")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="do not go together") as caught:
        Sandbox("host", ids="subordinate", user="user")
    assert "runuser -u user" in (caught.value.hint or "")
