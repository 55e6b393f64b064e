"""Head and tail of a stream in bounded memory, whatever the sizes of its pieces."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.jail.capture import SPOOL_BYTES, Capture, Output, Spool

if TYPE_CHECKING:
    from pathlib import Path


def pieces(data: bytes, seed: int) -> list[bytes]:
    draw = random.Random(seed)
    cut = []
    while data:
        size = draw.choice([1, 2, 7, 100, 5000])
        cut.append(data[:size])
        data = data[size:]
    return cut


@pytest.mark.parametrize("limit", [1, 2, 9, 10, 1000, 4999])
@pytest.mark.parametrize("seed", range(3))
def test_head_and_tail_are_exact(limit: int, seed: int) -> None:
    data = random.Random(seed).randbytes(20_000)
    capture = Capture(limit)
    for piece in pieces(data, seed):
        capture.feed(piece)
    text = capture.text(None)
    head, tail = (limit + 1) // 2, limit // 2
    assert capture.missing_bytes == len(data) - limit
    assert text.startswith(data[:head])
    assert text.endswith(data[len(data) - tail :])
    assert f"{len(data) - limit} bytes left out".encode() in text


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_what_fits_is_whole(size: int) -> None:
    data = random.Random(size).randbytes(size)
    capture = Capture(1000)
    for piece in pieces(data, 1):
        assert capture.fits(piece)
        capture.feed(piece)
    assert not capture.fits(b"x" * (1001 - size))
    assert capture.text("/somewhere") == data
    assert capture.missing_bytes == 0


def spool(path: Path) -> Spool:
    return Spool("/inside", lambda: os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def test_spool_holds_the_whole_once_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    output = Output(100, spool(path))
    for number in range(60):
        output.feed("stdout" if number % 2 else "stderr", b"%02d " % number)
    whole = b"".join(b"%02d " % number for number in range(60))
    assert path.read_bytes() == whole
    assert b"/inside" in output.text("merged")
    assert output.text("stdout") == b"".join(b"%02d " % n for n in range(1, 60, 2))
    output.spool.close()


def test_short_output_makes_no_file(tmp_path: Path) -> None:
    output = Output(100, spool(tmp_path / "spool"))
    output.feed("stdout", b"short")
    assert not (tmp_path / "spool").exists()
    assert output.text("merged") == b"short"
    output.spool_all()
    output.feed_late(b", and more")
    assert (tmp_path / "spool").read_bytes() == b"short, and more"
    output.spool.close()


def test_spool_stops_at_its_cap_and_at_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    one = spool(path)
    one.write(b"x" * (SPOOL_BYTES - 10))
    one.write(b"y" * 100)
    one.write(b"z")
    assert path.stat().st_size == SPOOL_BYTES
    one.close()
    full = Spool("/inside", lambda: os.open("/dev/full", os.O_WRONLY))
    full.write(b"x")
    full.write(b"y")
    full.close()
    unopened = Spool("/inside", lambda: os.open(tmp_path / "no" / "such", os.O_WRONLY))
    unopened.write(b"x")
    unopened.close()


def test_callback_sees_everything(tmp_path: Path) -> None:
    seen: list[tuple[str, bytes]] = []
    output = Output(4, spool(tmp_path / "s"), lambda stream, data: seen.append((stream, data)))
    output.feed("stdout", b"abcdefgh")
    output.feed("stderr", b"x")
    assert seen == [("stdout", b"abcdefgh"), ("stderr", b"x")]
    output.spool.close()
