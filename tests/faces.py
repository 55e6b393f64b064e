"""Both faces of the sandbox under one list of tests: the one for asyncio, driven from outside.

A test is written once, against the names of `Sandbox`. Over `AsyncSandbox` each call becomes a
coroutine on one loop in a thread of its own, and an interrupt of the caller its cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import threading
from typing import TYPE_CHECKING, Any, Literal, cast

from sandbox_lite.agent import tools
from sandbox_lite.agent.aio import AsyncAgent
from sandbox_lite.agent.loop import Agent
from sandbox_lite.agent.model import AsyncModel, Model, ModelSettings
from sandbox_lite.agent.replay import ReplayReport, replay, replay_async
from sandbox_lite.agent.work import follow
from sandbox_lite.jail.aio import AsyncSandbox
from sandbox_lite.jail.async_files import AsyncFiles
from sandbox_lite.jail.async_shell import AsyncInteraction, AsyncShell
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.rl.env import AsyncSandboxEnv, SandboxEnv
from tests.fake_sandbox import AsyncFakeSandbox, FakeSandbox

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from sandbox_lite.agent.tools import Observation, ToolCall, ToolContext
    from sandbox_lite.agent.trajectory import Trajectory
    from sandbox_lite.rl.env import EnvSettings, Source

FaceName = Literal["sync", "async"]
FACES: tuple[FaceName, ...] = ("sync", "async")

_ASYNC = (
    AsyncSandbox,
    AsyncFiles,
    AsyncShell,
    AsyncInteraction,
    AsyncModel,
    AsyncSandboxEnv,
    AsyncFakeSandbox,
)


@functools.cache
def _loop(pid: int) -> asyncio.AbstractEventLoop:
    """Return the loop of this process, which runs in a thread from now on."""
    del pid
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="loop of the tests", daemon=True).start()
    return loop


class _Call:
    """A coroutine on the loop, for a caller in another thread who may be interrupted anywhere."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self._loop = _loop(os.getpid())
        self._task: asyncio.Task[None] | None = None
        self._done = threading.Event()
        self._end: tuple[Any, BaseException | None] = None, asyncio.CancelledError()

    def answer(self) -> Any:
        try:
            self._loop.call_soon_threadsafe(self._start)
            self._done.wait()
        except BaseException:
            # behind the start, if it came to that
            self._loop.call_soon_threadsafe(self._cancel)
            if not self._done.wait(30):
                raise AssertionError("a cancelled call does not end") from None
            raise
        value, error = self._end
        if error is not None:
            raise error
        return value

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(lambda _: self._finish())

    async def _run(self) -> None:
        try:
            self._end = await self._work, None
        except BaseException as error:  # noqa: BLE001  # a future would make another of some
            self._end = None, error

    def _cancel(self) -> None:
        if self._task is None:
            self._finish()
        else:
            self._task.cancel()

    def _finish(self) -> None:
        self._work.close()
        self._done.set()


def wait_for(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the loop of the tests; what interrupts the caller cancels it."""
    return _Call(work).answer()


class _Driven:
    """An object for asyncio with the calls of its twin, which wait."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return functools.partial(_called, found) if inspect.ismethod(found) else _shown(found)

    def __enter__(self) -> Any:
        return _shown(wait_for(self._inner.__aenter__()))

    def __exit__(self, *_: object) -> None:
        wait_for(self._inner.__aexit__(*_))


def _called(method: Any, *args: Any, **named: Any) -> Any:
    answer = method(*args, **named)
    if hasattr(answer, "__aenter__") and not isinstance(answer, _ASYNC):
        return _block(answer)
    return _shown(wait_for(answer) if inspect.iscoroutine(answer) else answer)


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(one) for one in value]
    return _Driven(value) if isinstance(value, _ASYNC) else value


@contextlib.contextmanager
def _block(block: Any) -> Iterator[Any]:
    value = wait_for(block.__aenter__())
    try:
        yield _shown(value)
    except BaseException as error:
        if not wait_for(block.__aexit__(type(error), error, error.__traceback__)):
            raise
    else:
        wait_for(block.__aexit__(None, None, None))


def made(face: FaceName, *args: Any, **named: Any) -> Sandbox:
    """Return a sandbox with that face, to be opened."""
    if face == "sync":
        return Sandbox(*args, **named)
    return cast("Sandbox", _Driven(AsyncSandbox(*args, **named)))


def env(face: FaceName, settings: EnvSettings, source: Source | None = None) -> SandboxEnv:
    """Return an environment with that face; use it with `with`."""
    if face == "sync":
        return SandboxEnv(settings, source=source)
    return cast("SandboxEnv", _Driven(AsyncSandboxEnv(settings, source=source)))


def model(face: FaceName, settings: ModelSettings) -> Model:
    """Return a model with that face; use it with `with`."""
    return Model(settings) if face == "sync" else cast("Model", _Driven(AsyncModel(settings)))


def agent(face: FaceName, sandbox: Any, asked: Any, *args: Any, **named: Any) -> Agent:
    """Return an agent with that face, for a sandbox and a model of the same."""
    if face == "sync":
        return Agent(sandbox, asked, *args, **named)
    return cast("Agent", _Driven(AsyncAgent(_inner(sandbox), _inner(asked), *args, **named)))


def called(sandbox: Any, call: ToolCall, context: ToolContext | None = None) -> Observation:
    """Return what a tool answers, in a sandbox with either face."""
    if not isinstance(sandbox, _Driven):
        return tools.call(sandbox, call, context)
    found: Observation = wait_for(follow(tools.call_work(_inner(sandbox), call, context)))
    return found


def replayed(record: Trajectory, sandbox: Any) -> ReplayReport:
    """Return what a replay says, in a sandbox with either face."""
    if not isinstance(sandbox, _Driven):
        return replay(record, sandbox)
    found: ReplayReport = wait_for(replay_async(record, _inner(sandbox)))
    return found


def _inner(part: Any) -> Any:
    if isinstance(part, FakeSandbox):
        return AsyncFakeSandbox(part)
    return part._inner if isinstance(part, _Driven) else part
