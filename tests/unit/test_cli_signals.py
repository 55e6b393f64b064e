"""Signals unwind the program; one alone does not cut off the saving."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.cli import signals

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signals._received.clear()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_each_unwinds_with_its_own_code(number: signal.Signals, code: int) -> None:
    signals.install()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert signals.received()
    assert signals.exit_code() == code


def test_one_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.install()
    with signals.held("saving"):
        signal.raise_signal(signal.SIGHUP)
    assert not signals.received()


def test_held_finishes_the_block_first(capsys: pytest.CaptureFixture[str]) -> None:
    signals.install()
    done = []

    def save() -> None:
        with signals.held("saving the output"):
            signal.raise_signal(signal.SIGINT)
            done.append("saved")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert done == ["saved"]
    assert "saving the output; press Ctrl-C again to give up" in capsys.readouterr().err


def test_a_second_one_breaks_it_off() -> None:
    signals.install()
    done = []

    def save() -> None:
        with signals.held("saving"):
            signal.raise_signal(signal.SIGINT)
            done.append("begun")
            signal.raise_signal(signal.SIGINT)
            done.append("saved")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert done == ["begun"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
