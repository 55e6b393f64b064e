"""Process 1: what it is given, and that the shipped programs are those of its source."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail import native
from sandbox_lite.jail.native import first

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_programs_are_those_of_the_source(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "scripts" / "make-native", tmp_path],
        env={**os.environ, "PYTHON": sys.executable, "ZIG_GLOBAL_CACHE_DIR": str(tmp_path / "zig"),
             "ZIG_LOCAL_CACHE_DIR": str(tmp_path / "zig")},
        check=True,
    )  # fmt: skip
    for made in tmp_path.glob("*.*64"):
        shipped = native.path("first").with_name(made.name).read_bytes()
        assert shipped == made.read_bytes(), "run: scripts/make-native"
    assert len(list(tmp_path.glob("*.*64"))) == 4


def test_another_architecture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    with pytest.raises(HostError, match="pdp11"):
        native.descriptor.__wrapped__("first")


def test_its_memory_file_cannot_be_written() -> None:
    with pytest.raises(PermissionError):
        os.pwrite(native.descriptor("first"), b"x", 0)


@pytest.mark.parametrize("words", [(b"a\0b",), ("a\0b",), ("\ud83d",)])
def test_a_word_that_no_program_can_get(words: tuple[str | bytes, ...]) -> None:
    with pytest.raises(SpecError, match=r"NUL|surrogate"):
        [native.encoded(word) for word in words]


def test_a_plan_is_words_and_variables_each_with_a_nul() -> None:
    plan = first.Plan(words=(b"ls", b""), environment={"A": "\u00e4"}, directories=(b"/x",))
    assert plan.encoded()[16:] == b"/x\0\0ls\0\0A=\xc3\xa4\0"
