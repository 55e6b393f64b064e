"""The openai client for one server, of either kind, with a bound on the time of a whole answer.

Time-outs bound each part of one: a server that sends one byte now and then would hold a call for
ever.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from sandbox_lite.errors import HostError, ModelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx2
    import openai

DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)
"""Until when the call of this thread, or of this task, must have its answer."""


class OutOfTimeError(BaseException):
    """No `Exception`: the openai client would wait and try again after any of those."""


def blocking(
    *, base_url: str | None, api_key: str | None, timeout: float, max_retries: int
) -> openai.OpenAI:
    """Return a client whose calls wait.

    Raises:
        HostError: The openai package is not installed.
        ModelError: No key is set, and the server is OpenAI's.
    """
    _require_openai()
    import openai

    host = host_of(base_url or "")
    options = _options(base_url, api_key, timeout, max_retries)
    try:
        return openai.OpenAI(http_client=_http_client(host), **options)
    except openai.OpenAIError as error:
        raise _no_key() from error


def asynchronous(
    *, base_url: str | None, api_key: str | None, timeout: float, max_retries: int
) -> openai.AsyncOpenAI:
    """Return a client whose calls are coroutines; raises as `blocking`."""
    _require_openai()
    import openai

    host = host_of(base_url or "")
    options = _options(base_url, api_key, timeout, max_retries)
    try:
        return openai.AsyncOpenAI(http_client=_async_http_client(host), **options)
    except openai.OpenAIError as error:
        raise _no_key() from error


def _require_openai() -> None:
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise HostError(
            "the openai package is not installed", hint="pip install 'sandbox-lite[agent]'"
        ) from error


def _no_key() -> ModelError:
    return ModelError(
        "no API key is set",
        hint="set OPENAI_API_KEY, or name a server of your own with --base-url",
    )


def _options(
    base_url: str | None, api_key: str | None, timeout: float, max_retries: int
) -> dict[str, Any]:
    import httpx2

    if base_url is not None and api_key is None:
        import os

        api_key = os.environ.get("OPENAI_API_KEY") or "none"  # the client insists on one
    times = httpx2.Timeout(timeout, connect=min(10.0, timeout))
    return {
        "api_key": api_key, "base_url": base_url, "timeout": times, "max_retries": max_retries,
    }  # fmt: skip


def _shorten(request: httpx2.Request) -> None:
    """Let one try take no longer than is left of the whole call."""
    at = DEADLINE.get()
    if at is None:
        return
    left = at - time.monotonic()
    if left <= 0:
        raise OutOfTimeError
    times = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        name: left if seconds is None else min(seconds, left) for name, seconds in times.items()
    }


class _End:
    """When the answer to a request must be complete."""

    def __init__(self, request: httpx2.Request) -> None:
        seconds = request.extensions.get("timeout", {}).get("read")
        self._at = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        import httpx2

        if self._at is not None and time.monotonic() > self._at:
            raise httpx2.ReadTimeout("the answer was not complete in time")


# a proxy for the world outside would be asked for this machine's own server
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _http_client(host: str) -> httpx2.Client:
    import httpx2
    import openai

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, stream: httpx2.SyncByteStream, end: _End) -> None:
            self._stream = stream
            self._end = end

        def __iter__(self) -> Iterator[bytes]:
            for part in self._stream:
                self._end.check()
                yield part

        def close(self) -> None:
            self._stream.close()

    def bound(response: httpx2.Response) -> None:
        stream = cast("httpx2.SyncByteStream", response.stream)
        response.stream = Bounded(stream, _End(response.request))

    return openai.DefaultHttpxClient(
        trust_env=host not in _LOOPBACK, event_hooks={"request": [_shorten], "response": [bound]}
    )


def _async_http_client(host: str) -> httpx2.AsyncClient:
    import httpx2
    import openai

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream, end: _End) -> None:
            self._stream = stream
            self._end = end

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self._stream:
                self._end.check()
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def shorten(request: httpx2.Request) -> None:
        _shorten(request)

    async def bound(response: httpx2.Response) -> None:
        stream = cast("httpx2.AsyncByteStream", response.stream)
        response.stream = Bounded(stream, _End(response.request))

    return openai.DefaultAsyncHttpxClient(
        trust_env=host not in _LOOPBACK, event_hooks={"request": [shorten], "response": [bound]}
    )


def host_of(url: str) -> str:
    """Return the host that a URL names; empty where it names none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
