"""Ctrl-C, SIGTERM and SIGHUP: each unwinds the program, so that every `with` block is left."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import FrameType

_received: list[int] = []


def install() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # one that is ignored stays so: nohup relies on it
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    _received.append(number)
    raise KeyboardInterrupt


def received() -> bool:
    """Return whether one of them has come."""
    return bool(_received)


def exit_code() -> int:
    """Return 128 + the signal that ended us, as a shell has it; 130 for Ctrl-C."""
    return 128 + (_received[0] if _received else signal.SIGINT)


@contextlib.contextmanager
def told(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """Let the first such signal call `stop` on a loop, in place of unwinding what runs there.

    A second one unwinds the program.
    """
    caught = False

    def tell(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        del frame
        _received.append(number)
        if caught:
            raise KeyboardInterrupt
        caught = True
        loop.call_soon_threadsafe(stop)

    with _handled(tell):
        yield


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.getsignal(n) for n in numbers}
    for number, known in before.items():
        if known is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@contextlib.contextmanager
def held(message: str) -> Iterator[None]:
    """Let the block finish in spite of one such signal; a second one breaks it off.

    Args:
        message: What is being done, printed at the first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = False

    def wait(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        _received.append(number)
        if caught:
            raise KeyboardInterrupt
        caught = True
        del frame
        print(f"\n{message}; press Ctrl-C again to give up", file=sys.stderr, flush=True)

    with _handled(wait):
        yield
    if caught:
        raise KeyboardInterrupt
