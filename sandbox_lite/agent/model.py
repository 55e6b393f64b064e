"""One chat completion from any OpenAI-compatible server.

The openai client retries what a server or the network gets wrong (its own `max_retries`, and no
second layer of ours). What it does not see is caught here: a 200 that holds no completion, and a
parameter that a server refuses. Knows nothing of tools but their schemas.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from sandbox_lite.agent import client
from sandbox_lite.agent.client import DEADLINE, OutOfTimeError, host_of
from sandbox_lite.agent.completion import REASONING, completion_of
from sandbox_lite.agent.server_errors import TOKEN_NAMES, described, refused_name
from sandbox_lite.agent.work import answer, finish, follow
from sandbox_lite.errors import ModelError, SpecError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    import openai

    from sandbox_lite.agent.completion import Completion, Message
    from sandbox_lite.agent.work import Work


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


class AsyncChat(Protocol):
    """What the loop needs of a model that is asyncio's."""

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        *,
        max_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Awaitable[Completion]:
        """Return the next message; see `Model.complete`."""


class _Server:
    """A model behind an OpenAI-compatible server: what `Model` and `AsyncModel` have in common."""

    def __init__(self, settings: ModelSettings, client: openai.OpenAI | openai.AsyncOpenAI) -> None:
        self.settings = settings
        self._openai = client
        self._base_url = str(client.base_url)

    def _pause(self, seconds: float) -> Awaitable[None] | None:
        raise NotImplementedError

    @property
    def refused(self) -> frozenset[str]:
        """Names of parameters that this model's server refused, so that they are not sent."""
        return _refused.get((self._base_url, self.settings.model), frozenset())

    def _complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        max_tokens: int | None,
        timeout: float | None,
    ) -> Work[Completion]:
        started = time.monotonic()
        DEADLINE.set(None if timeout is None else started + timeout)
        for attempt in range(self.settings.max_retries + 1):
            created = yield from self._create(messages, tools, max_tokens)
            try:
                return completion_of(created, messages, time.monotonic() - started)
            except ModelError as error:
                if not error.retryable or attempt == self.settings.max_retries:
                    raise self._without_key(error) from None
            yield from answer(self._pause(min(8.0, 0.25 * 2**attempt)))
        raise AssertionError("unreachable")

    def _create(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        max_tokens: int | None,
    ) -> Work[object]:
        """Ask once, or again without what the server will not take."""
        import httpx2
        import openai

        while True:
            parameters = self._parameters(messages, tools, max_tokens)
            try:
                return (yield from answer(self._openai.chat.completions.create(**parameters)))
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
            except OutOfTimeError as error:
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
        names = TOKEN_NAMES[::-1] if host_of(self._base_url) == "api.openai.com" else TOKEN_NAMES
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
        for secret in (self.settings.api_key, self._openai.api_key):
            if secret and len(secret) >= 8:
                found.message = found.message.replace(secret, "***")
        return found


class Model(_Server, AbstractContextManager["Model"]):
    """A model behind an OpenAI-compatible server."""

    def __init__(self, settings: ModelSettings) -> None:
        self._client = client.blocking(**_of_server(settings))
        super().__init__(settings, self._client)

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

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
        return finish(self._complete(messages, tools, max_tokens, timeout))

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)


class AsyncModel(_Server, AbstractAsyncContextManager["AsyncModel"]):
    """`Model` for asyncio, for any number of conversations at once on one loop."""

    def __init__(self, settings: ModelSettings) -> None:
        self._client = client.asynchronous(**_of_server(settings))
        super().__init__(settings, self._client)

    async def __aexit__(self, *args: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        *,
        max_tokens: int | None = None,
        timeout: float | None = None,
    ) -> Completion:
        """Return the model's next message; see `Model.complete`."""
        return await follow(self._complete(messages, tools, max_tokens, timeout))

    def _pause(self, seconds: float) -> Awaitable[None]:
        import asyncio

        return asyncio.sleep(seconds)


def _of_server(settings: ModelSettings) -> dict[str, Any]:
    return {
        "base_url": settings.base_url, "api_key": settings.api_key, "timeout": settings.timeout,
        "max_retries": settings.max_retries,
    }  # fmt: skip
