"""Which commands of sandboxes that do not give way yet may begin."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.jail.limits.turns import LONGEST_SECONDS, Turn, Turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite.jail.steps import Wait

A, B, C = "a", "b", "c"


def turn(turns: Turns, sandbox: str) -> Turn:
    return Turn(turns, sandbox, lambda: True)


def waits(one: Turn) -> Wait | None:
    """Begin to wait for a turn; None where it has come."""
    return next(one.awaited(), None)


@contextlib.contextmanager
def begun(turns: Turns, sandbox: str) -> Iterator[Turn]:
    with turn(turns, sandbox) as one:
        assert waits(one) is None
        yield one


def held(turns: Turns, sandbox: str) -> bool:
    """Whether a command of that sandbox would have to wait."""
    with turn(turns, sandbox) as one:
        return not turns.enter(one)


def is_told(one: Turn) -> bool:
    return one._come >= 0 and bool(os.eventfd_read(one._come))


def test_so_many_sandboxes_begin_and_the_next_waits_until_one_of_them_ends() -> None:
    turns = Turns(2)
    first = turn(turns, A)
    assert turns.enter(first)
    with begun(turns, B), turn(turns, C) as third:
        steps = third.awaited()
        wait = next(steps)
        assert wait.seconds == LONGEST_SECONDS
        first.__exit__()
        wait.block()  # returns at once, else after the longest time
        assert next(steps, "over") == "over"
        assert is_told(third)
        assert held(turns, A)
    assert not held(turns, A)


def test_further_commands_of_a_sandbox_under_way_need_not_wait() -> None:
    turns = Turns(1)
    with begun(turns, A), begun(turns, A):
        assert held(turns, B)


def test_all_commands_of_one_sandbox_come_together_and_count_once() -> None:
    turns = Turns(1)
    with turn(turns, B) as one, turn(turns, B) as two:
        with begun(turns, A):
            assert not turns.enter(one)
            assert not turns.enter(two)
        assert is_told(one)
        assert is_told(two)
        assert held(turns, A)
    assert not held(turns, A)


def test_one_that_gives_way_holds_nobody_back_and_is_not_held() -> None:
    turns = Turns(1)
    with begun(turns, A), turn(turns, B) as second, turn(turns, C) as third:
        assert not turns.enter(second)
        assert not turns.enter(third)
        turns.gives_way(C)
        assert is_told(third)
        turns.gives_way(A)
        assert is_told(second)
        assert held(turns, A)
    assert not held(turns, A)


def test_one_that_has_waited_for_the_longest_time_leaves_nothing_behind() -> None:
    turns = Turns(1)
    with begun(turns, A):
        with turn(turns, B) as second:
            assert not turns.enter(second)
        assert not turns._waiting
    assert not held(turns, C)


def test_a_cancellation_ends_the_wait() -> None:
    turns = Turns(1)
    reader, writer = os.pipe()
    with begun(turns, A), turn(turns, B) as second:
        steps = second.awaited(reader)
        wait = next(steps)
        os.close(writer)
        wait.block()
        with pytest.raises(CancelledError):
            next(steps)
    assert not turns._waiting
    os.close(reader)


def test_a_command_that_need_not_wait_asks_nobody() -> None:
    with Turn(Turns(0), A, lambda: False) as one:
        assert waits(one) is None


def test_what_gave_way_just_before_it_asked_is_not_held() -> None:
    turns, answers = Turns(0), [True, False]
    with Turn(turns, A, lambda: answers.pop(0)) as one:
        assert waits(one) is None
    assert not answers


def test_the_next_command_of_one_that_has_waited_for_the_longest_time_begins_at_once() -> None:
    turns = Turns(1)
    with begun(turns, A), turn(turns, B) as second:
        assert not turns.enter(second)
        assert held(turns, B)
        second.since -= LONGEST_SECONDS
        with begun(turns, B):
            assert not held(turns, B)
    assert not turns._under_way
    assert not turns._waiting


def test_a_descriptor_that_epoll_does_not_take_is_ready(tmp_path: Path) -> None:
    turns = Turns(1)
    with (
        (tmp_path / "file").open("w") as file,
        begun(turns, A),
        turn(turns, B) as second,
    ):
        assert next(second.awaited(file.fileno()), None) is None


def test_a_turn_that_is_abandoned_in_the_middle_of_another_s_end() -> None:
    turns = Turns(1)
    with begun(turns, A), turn(turns, B) as second:
        assert not turns.enter(second)
        with turns._lock:  # as the garbage collector does it, in the same thread
            second.__exit__()
            second.since = 0.0
        assert not turns._waiting
