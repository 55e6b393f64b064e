"""Which commands of sandboxes that do not give way yet may begin."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sandbox_lite.jail.limits.turns import LONGEST_SECONDS, Turn, Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.jail.steps import Wait

A, B, C = "a", "b", "c"


def waits(turn: Turn, *, cancel_fd: int | None = None) -> Wait | None:
    """Begin to wait for a turn; None where it has come."""
    return next(turn.awaited(cancel_fd), None)


@contextlib.contextmanager
def begun(turns: Turns, sandbox: str) -> Iterator[Turn]:
    with Turn(turns, sandbox) as turn:
        assert waits(turn) is None
        yield turn


def held(turns: Turns, sandbox: str) -> bool:
    """Whether a command of that sandbox would have to wait."""
    with Turn(turns, sandbox) as turn:
        return not turns.enter(turn)


def is_told(turn: Turn) -> bool:
    return turn._come >= 0 and bool(os.eventfd_read(turn._come))


def test_so_many_sandboxes_begin_and_the_next_waits_until_one_of_them_ends() -> None:
    turns = Turns(2)
    first = Turn(turns, A)
    assert turns.enter(first)
    with begun(turns, B), Turn(turns, C) as third:
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
    with Turn(turns, B) as one, Turn(turns, B) as two:
        with begun(turns, A):
            assert not turns.enter(one)
            assert not turns.enter(two)
        assert is_told(one)
        assert is_told(two)
        assert held(turns, A)
    assert not held(turns, A)


def test_one_that_gives_way_holds_nobody_back_and_is_not_held() -> None:
    turns = Turns(1)
    with begun(turns, A), Turn(turns, B) as second, Turn(turns, C) as third:
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
        with Turn(turns, B) as second:
            assert not turns.enter(second)
        assert not turns._waiting
    assert not held(turns, C)


def test_a_cancellation_ends_the_wait() -> None:
    turns = Turns(1)
    reader, writer = os.pipe()
    with begun(turns, A), Turn(turns, B) as second:
        steps = second.awaited(reader)
        wait = next(steps)
        os.close(writer)
        wait.block()
        assert next(steps, "over") == "over"
    os.close(reader)


def test_a_command_that_need_not_wait_asks_nobody() -> None:
    with Turn(Turns(0), None) as turn:
        assert waits(turn) is None
