"""One chat completion from any OpenAI-compatible server.

The openai client retries what a server or the network gets wrong (its own `max_retries`, and no
second layer of ours). What it does not see is caught here: a 200 that holds no completion, and a
parameter that a server refuses. Knows nothing of tools but their schemas.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

from sandbox_lite.agent.completion import REASONING, completion_of
from sandbox_lite.agent.server_errors import TOKEN_NAMES, described, refused_name
from sandbox_lite.errors import HostError, ModelError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import httpx2
    import openai

    from sandbox_lite.agent.completion import Completion, Message


_refused: dict[tuple[str, str], frozenset[str]] = {}
"""Parameters that a model on a server would not take; kept for the life of the process."""
_refused_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which model, where, and how it is asked."""

    model: str
    base_url: str | None = None
    """None is the client's default: `OPENAI_BASE_URL`, else OpenAI's own server."""
    api_key: str | None = field(default=None, repr=False)
    """None is `OPENAI_API_KEY`; a server of one's own usually needs none."""
    temperature: float | None = None
    """None leaves it to the server."""
    max_tokens: int | None = None
    """Of one completion; None leaves it to the server."""
    timeout: float = 600.0
    """Seconds for one try."""
    max_retries: int = 4
    extra_body: Mapping[str, object] = field(default_factory=dict)
    """Further members of the request."""

    def __post_init__(self) -> None:
        if not self.model:
            raise SpecError("no model is named", hint="give --model NAME or set it in the config")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise SpecError(f"max_tokens must be positive, not {self.max_tokens}")
        if not self.timeout > 0 or self.max_retries < 0:
            raise SpecError("timeout must be positive and max_retries not negative")
        if self.base_url is not None and urlsplit(self.base_url).scheme not in ("http", "https"):
            raise SpecError(
                f"not a base URL: {self.base_url!r}",
                hint="write it with its scheme, such as http://127.0.0.1:8000/v1",
            )


class Chat(Protocol):
    """What the loop needs of a model."""

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        *,
        max_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Completion:
        """Return the next message; see `Model.complete`."""


class _OutOfTimeError(BaseException):
    """No `Exception`: the openai client would wait and try again after any of those."""


class _Deadline(threading.local):
    """Until when the call of this thread must have its answer."""

    at: float | None = None

    def left(self) -> float | None:
        return None if self.at is None else self.at - time.monotonic()


class Model(AbstractContextManager["Model"]):
    """A model behind an OpenAI-compatible server."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self._deadline = _Deadline()
        self._client = _client(settings, self._deadline)
        self._base_url = str(self._client.base_url)

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def refused(self) -> frozenset[str]:
        """Names of parameters that this model's server refused, so that they are not sent."""
        return _refused.get((self._base_url, self.settings.model), frozenset())

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        *,
        max_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Completion:
        """Return the model's next message.

        Args:
            messages: The conversation.
            tools: Schemas of what the model may call.
            max_tokens: Bound of this completion; None takes that of the settings.
            timeout: Seconds left for the caller, retries included.

        Raises:
            ContextLengthError: Conversation and completion do not fit the model.
            ModelError: The server failed, after retries where those could help.
        """
        started = time.monotonic()
        self._deadline.at = None if timeout is None else started + timeout
        for attempt in range(self.settings.max_retries + 1):
            answer = self._create(messages, tools, max_tokens)
            try:
                return completion_of(answer, messages, time.monotonic() - started)
            except ModelError as error:
                if not error.retryable or attempt == self.settings.max_retries:
                    raise self._without_key(error) from None
            time.sleep(min(8.0, 0.25 * 2**attempt))
        raise AssertionError("unreachable")

    def _create(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        max_tokens: int | None,
    ) -> object:
        """Ask once, or again without what the server will not take."""
        import httpx2
        import openai

        while True:
            parameters = self._parameters(messages, tools, max_tokens)
            try:
                return self._client.chat.completions.create(**parameters)
            except openai.APIStatusError as error:
                name = refused_name(error, parameters)
                if name is None:
                    raise self._mapped(error) from error
                self._refuse(name)
            except (
                openai.OpenAIError,
                httpx2.HTTPError,
                httpx2.InvalidURL,
                UnicodeEncodeError,
            ) as error:
                raise self._mapped(error) from error
            except _OutOfTimeError as error:
                raise ModelError(
                    f"{self._base_url} did not answer in the time that was left",
                    hint="give the run more time",
                    retryable=True,
                ) from error
            except ValueError as error:  # a 200 that says JSON and is none
                return f"no JSON ({error})"

    def _parameters(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        max_tokens: int | None,
    ) -> dict[str, Any]:
        refused = self.refused
        wanted: dict[str, Any] = {"temperature": self.settings.temperature}
        names = TOKEN_NAMES[::-1] if _host(self._base_url) == "api.openai.com" else TOKEN_NAMES
        for name in names:
            if name not in refused:
                wanted[name] = max_tokens or self.settings.max_tokens
                break
        hidden = refused.intersection(REASONING)
        return {
            "model": self.settings.model,
            "messages": [
                {key: value for key, value in message.items() if key not in hidden}
                for message in messages
            ],
            **({"tools": list(tools)} if tools else {}),
            **{k: v for k, v in wanted.items() if v is not None and k not in refused},
            "extra_body": {k: v for k, v in self.settings.extra_body.items() if k not in refused},
        }

    def _refuse(self, name: str) -> None:
        with _refused_lock:
            key = (self._base_url, self.settings.model)
            _refused[key] = _refused.get(key, frozenset()) | {name}

    def _mapped(self, error: Exception) -> ModelError:
        """Return the error as ours, in one line, with the remedy, without the key."""
        found = described(
            error, self._base_url, model=self.settings.model, timeout=self.settings.timeout
        )
        return self._without_key(found)

    def _without_key(self, found: ModelError) -> ModelError:
        for secret in (self.settings.api_key, self._client.api_key):
            if secret and len(secret) >= 8:
                found.message = found.message.replace(secret, "***")
        return found


def _client(settings: ModelSettings, deadline: _Deadline) -> openai.OpenAI:
    try:
        import openai
    except ImportError as error:
        raise HostError(
            "the openai package is not installed", hint="pip install 'sandbox-lite[agent]'"
        ) from error
    key = settings.api_key
    if settings.base_url is not None and key is None:
        import os

        key = os.environ.get("OPENAI_API_KEY") or "none"  # the client insists on one
    try:
        return openai.OpenAI(
            api_key=key,
            base_url=settings.base_url,
            timeout=_timeouts(settings.timeout),
            max_retries=settings.max_retries,
            http_client=_http_client(_host(settings.base_url or ""), deadline),
        )
    except openai.OpenAIError as error:
        raise ModelError(
            "no API key is set",
            hint="set OPENAI_API_KEY, or name a server of your own with --base-url",
        ) from error


def _timeouts(seconds: float) -> httpx2.Timeout:
    import httpx2

    return httpx2.Timeout(seconds, connect=min(10.0, seconds))


def _http_client(host: str, deadline: _Deadline) -> httpx2.Client:
    """Return a client that bounds the time of a whole answer, where time-outs bound each part.

    A server that sends one byte now and then would else hold a call for ever.
    """
    import httpx2
    import openai

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, stream: httpx2.SyncByteStream, seconds: float | None) -> None:
            self._stream = stream
            self._end = None if seconds is None else time.monotonic() + seconds

        def __iter__(self) -> Iterator[bytes]:
            for part in self._stream:
                if self._end is not None and time.monotonic() > self._end:
                    raise httpx2.ReadTimeout("the answer was not complete in time")
                yield part

        def close(self) -> None:
            self._stream.close()

    def shorten(request: httpx2.Request) -> None:
        left = deadline.left()
        if left is not None:
            if left <= 0:
                raise _OutOfTimeError
            times = request.extensions.get("timeout", {})
            request.extensions["timeout"] = {
                name: left if seconds is None else min(seconds, left)
                for name, seconds in times.items()
            }

    def bound(response: httpx2.Response) -> None:
        seconds = response.request.extensions.get("timeout", {}).get("read")
        response.stream = Bounded(cast("httpx2.SyncByteStream", response.stream), seconds)

    return openai.DefaultHttpxClient(
        # a proxy for the world outside would be asked for this machine's own server
        trust_env=host not in ("localhost", "127.0.0.1", "::1"),
        event_hooks={"request": [shorten], "response": [bound]},
    )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
