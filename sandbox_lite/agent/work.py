"""One agent, two faces: work that asks others for something, and whoever drives it waits.

A `Work` is a generator. It yields what a call has returned and is sent the answer: that very value
where sandbox and model wait themselves (`finish`), and what it comes to where they are asyncio's
and it is a coroutine (`follow`). What goes wrong is raised in the work, at the same place in both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

_T = TypeVar("_T")
Work = Generator[Any, Any, _T]


def answer(asked: Awaitable[_T] | _T) -> Work[_T]:
    """Return the work of waiting for one answer."""
    got: _T = yield asked
    return got


def finish(work: Work[_T]) -> _T:
    """Do all the work, where every call gives its answer by itself."""
    asked: object = None
    while True:
        try:
            asked = work.send(asked)
            while isinstance(asked, Awaitable):
                getattr(asked, "close", int)()  # nobody will await it
                asked = work.throw(TypeError("this sandbox or model is asyncio's: use AsyncAgent"))
        except StopIteration as ended:
            result: _T = ended.value
            return result


async def follow(work: Work[_T]) -> _T:
    """Do all the work, where every call gives a coroutine; the loop goes on meanwhile."""
    got: object = None
    error: BaseException | None = None
    while True:
        try:
            asked = work.send(got) if error is None else work.throw(error)
        except StopIteration as ended:
            result: _T = ended.value
            return result
        got = error = None
        if not isinstance(asked, Awaitable):
            error = TypeError("this sandbox or model is not asyncio's: use Agent")
            continue
        try:
            got = await asked
        except GeneratorExit:
            # the loop is gone, and nothing can be waited for any more
            work.close()
            raise
        except BaseException as caught:  # noqa: BLE001  # the work decides what becomes of it
            error = caught
