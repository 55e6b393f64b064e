"""The vocabulary refuses what makes no sense before anything is created."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_lite import CommandResult, Limits, Mount, Outcome, SandboxSpec
from sandbox_lite.errors import CommandFailedError, SandboxLiteError, SpecError
from sandbox_lite.spec import GIB, MIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512MiB", 512 * MIB),
        ("512M", 512 * MIB),
        ("1.5g", GIB * 3 // 2),
        ("64 kB", 65536),
        ("7", 7),
        (42, 42),
        ("2T", 2048 * GIB),
    ],
)
def test_sizes_as_people_write_them(text: str | int, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "-1", "0", "1XB", "1..5M", 0, -5])
def test_what_is_no_size(text: str | int) -> None:
    with pytest.raises(SpecError):
        parse_size(text)


def test_sizes_as_people_read_them() -> None:
    assert format_size(512) == "512 B"
    assert format_size(1536) == "1.5 KiB"
    assert format_size(3 * GIB) == "3.0 GiB"
    assert format_size(5 * 1024 * GIB) == "5.0 TiB"


def test_limits_of_human_sizes() -> None:
    limits = Limits.of(timeout=5, output="64KiB", disk="1GiB", shm="8M")
    assert (limits.timeout_seconds, limits.output_bytes) == (5, 65536)
    assert (limits.disk_bytes, limits.shm_bytes) == (GIB, 8 * MIB)
    assert Limits.of(timeout=None).timeout_seconds is None
    for bad in ({"timeout": 0}, {"timeout": -1}):
        with pytest.raises(SpecError):
            Limits.of(**bad)
    with pytest.raises(SpecError):
        Limits(disk_bytes=0)


def test_mounts() -> None:
    assert Mount(target="/data", source=Path("/srv")).mode == "ro_bind"
    for target in ("data", "/a/../b"):
        with pytest.raises(SpecError):
            Mount(target=target, source=Path("/srv"))
    with pytest.raises(SpecError):
        Mount(target="/data")
    with pytest.raises(SpecError):
        Mount(target="/data", source=Path("/srv"), mode="tmpfs")
    assert Mount(target="/data", source=Path("/srv"), mode="overlay").git == "read_only"
    for wrong in ({"target": "/"}, {"target": "/data", "mode": "bind", "git": "writable"}):
        with pytest.raises(SpecError):
            Mount(**{"source": Path("/srv"), "mode": "overlay"} | wrong)  # type: ignore[arg-type]


def test_requests() -> None:
    with pytest.raises(SpecError):
        SandboxSpec(workdir="testbed")
    with pytest.raises(SpecError):
        SandboxSpec(hostname="two words")
    with pytest.raises(SpecError):
        SandboxSpec(env={"not-a-name": "x"})
    with pytest.raises(SpecError):
        SandboxSpec(env={"NUL": "a\0b"})


def result(**changes: object) -> CommandResult:
    fields: dict[str, object] = {
        "command": "false",
        "outcome": Outcome.EXITED,
        "exit_code": 1,
        "stdout_bytes": b"out\xff",
        "stderr_bytes": b"why",
        "merged_bytes": b"out\xffwhy",
    }
    return CommandResult(**{**fields, **changes})  # type: ignore[arg-type]


def test_results() -> None:
    assert result(exit_code=0).ok
    assert not result().ok
    assert not result(exit_code=0, outcome=Outcome.TIMED_OUT).ok
    assert result().stdout == "out\ufffd"
    with pytest.raises(CommandFailedError, match="why") as failed:
        result().check()
    assert failed.value.exit_code == 1
    with pytest.raises(CommandFailedError, match="timed_out"):
        result(exit_code=0, outcome=Outcome.TIMED_OUT).check()


def test_errors_carry_a_hint_and_an_exit_code() -> None:
    error = SandboxLiteError("it broke", hint="mend it")
    assert str(error) == "it broke\nhint: mend it"
    assert error.exit_code == 125
    assert SpecError("no").exit_code == 2
