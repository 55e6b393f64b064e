"""One chat completion from any OpenAI-compatible server.

The openai client retries what a server or the network gets wrong (its own `max_retries`, and no
second layer of ours). What it does not see is caught here: a 200 that holds no completion, and a
parameter that a server refuses. Knows nothing of tools but their schemas.
"""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

from sandbox_lite.agent.tools.tool import ToolCall
from sandbox_lite.errors import ContextLengthError, HostError, ModelError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import httpx2
    import openai

Message = dict[str, Any]
"""A chat message as JSON has it; it goes to the server as it stands."""

_CONTEXT = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|(?:prompt|input) is too long"
    r"|too many (?:input )?tokens|reduce the length|longer than the model|exceeds? the maximum"
    r" number of tokens|must be at least 1, got|inputs.{0,40}must be <=|max_model_len",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra|invalid|additional"
    r"|deprecated|must be|should be|no longer|only",
    re.IGNORECASE,
)
_TOKEN_NAMES = ("max_tokens", "max_completion_tokens")
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one completion."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """The server gave no counts; these are a quarter of the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the model answered."""

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Usage
    seconds: float
    """Until the answer was there, retries included."""
    message: Message
    """To be appended to the conversation."""


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


class Model(AbstractContextManager["Model"]):
    """A model behind an OpenAI-compatible server."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self._client = _client(settings)
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
            timeout: Seconds left for the caller; a try never takes longer.

        Raises:
            ContextLengthError: Conversation and completion do not fit the model.
            ModelError: The server failed, after retries where those could help.
        """
        started = time.monotonic()
        for attempt in range(self.settings.max_retries + 1):
            left = None if timeout is None else timeout - (time.monotonic() - started)
            answer = self._create(messages, tools, max_tokens, left)
            try:
                return _completion(answer, messages, time.monotonic() - started)
            except ModelError as error:
                if not error.retryable or attempt == self.settings.max_retries:
                    raise
            time.sleep(min(8.0, 0.25 * 2**attempt))
        raise AssertionError("unreachable")

    def _create(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        max_tokens: int | None,
        left: float | None,
    ) -> object:
        """Ask once, or again without what the server will not take."""
        import httpx2
        import openai

        client = self._client
        if left is not None and left < self.settings.timeout:
            # retries of the client would each take the whole time again
            client = client.with_options(timeout=_timeouts(max(0.1, left)), max_retries=0)
        while True:
            parameters = self._parameters(messages, tools, max_tokens)
            try:
                return client.chat.completions.create(**parameters)
            except openai.APIStatusError as error:
                name = _refused_name(error, parameters)
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
        names = _TOKEN_NAMES[::-1] if _host(self._base_url) == "api.openai.com" else _TOKEN_NAMES
        for name in names:
            if name not in refused:
                wanted[name] = max_tokens or self.settings.max_tokens
                break
        hidden = refused.intersection(_REASONING)
        return {
            "model": self.settings.model,
            "messages": [
                {key: value for key, value in message.items() if key not in hidden}
                for message in messages
            ],
            "tools": list(tools) or None,
            **{k: v for k, v in wanted.items() if v is not None and k not in refused},
            "extra_body": {k: v for k, v in self.settings.extra_body.items() if k not in refused},
        }

    def _refuse(self, name: str) -> None:
        with _refused_lock:
            key = (self._base_url, self.settings.model)
            _refused[key] = _refused.get(key, frozenset()) | {name}

    def _mapped(self, error: Exception) -> ModelError:
        """Return the error as ours, in one line, with the remedy, without the key."""
        found = _described(error, self.settings, self._base_url)
        for secret in (self.settings.api_key, self._client.api_key):
            if secret and len(secret) >= 4:
                found.message = found.message.replace(secret, "***")
        return found


def _client(settings: ModelSettings) -> openai.OpenAI:
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
            http_client=_http_client(_host(settings.base_url or "")),
        )
    except openai.OpenAIError as error:
        raise ModelError(
            "no API key is set",
            hint="set OPENAI_API_KEY, or name a server of your own with --base-url",
        ) from error


def _timeouts(seconds: float) -> httpx2.Timeout:
    import httpx2

    return httpx2.Timeout(seconds, connect=min(10.0, seconds))


def _http_client(host: str) -> httpx2.Client:
    """Return a client that bounds the time of a whole answer, as its `read` time-out bounds a part.

    A server that sends one byte now and then would hold a call for ever.
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

    def bound(response: httpx2.Response) -> None:
        seconds = response.request.extensions.get("timeout", {}).get("read")
        response.stream = Bounded(cast("httpx2.SyncByteStream", response.stream), seconds)

    return openai.DefaultHttpxClient(
        # a proxy for the world outside would be asked for this machine's own server
        trust_env=host not in ("localhost", "127.0.0.1", "::1"),
        event_hooks={"response": [bound]},
    )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _one_line(text: str) -> str:
    text = re.sub(r"<[^>]{0,500}>", " ", text) if "<html" in text.lower() else text
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:400] + " ..."


def _error_text(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        text = body.get("message") or body.get("detail") or body
        return text if isinstance(text, str) else json.dumps(text, default=str)
    return str(body or error.message)


def _is_context(error: openai.APIStatusError) -> bool:
    if error.code in ("context_length_exceeded", "exceed_context_size_error"):
        return True
    return error.status_code in (400, 413, 422) and bool(_CONTEXT.search(_error_text(error)))


def _refused_name(error: openai.APIStatusError, parameters: Mapping[str, Any]) -> str | None:
    """Return the parameter that the server will not take; None where that is not the trouble."""
    if error.status_code not in (400, 422) or _is_context(error):
        return None
    names = {"temperature", *_TOKEN_NAMES}.intersection(parameters)
    names.update(parameters["extra_body"])
    names.update(key for m in parameters["messages"] for key in m if key in _REASONING)
    text = _error_text(error)
    param = (error.param or "").rpartition(".")[2]
    if param in names:
        return str(param)
    if not _REFUSAL.search(text):
        return None
    hits = ((re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text), name) for name in names)
    found = sorted((hit.start(), name) for hit, name in hits if hit is not None)
    return found[0][1] if found else None


def _described(error: Exception, settings: ModelSettings, base_url: str) -> ModelError:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return ModelError(
            f"{base_url} did not answer in time",
            hint=f"one try may take {settings.timeout:g} s; raise the timeout if it is slow",
            retryable=True,
        )
    if isinstance(error, openai.APIStatusError):
        return _described_status(error, settings, base_url)
    if isinstance(error, openai.APIConnectionError):
        cause = _one_line(str(error.__cause__ or error.message))
        return ModelError(
            f"no connection to {base_url}: {cause}",
            hint="is the server running, and is the base URL right?",
            retryable=True,
        )
    if isinstance(error, UnicodeEncodeError):
        return ModelError(
            "the request holds characters that cannot be sent",
            hint="an API key is plain ASCII: was another text pasted in its place?",
        )
    return ModelError(
        f"{base_url} could not be asked: {_one_line(str(error))}",
        hint="is the base URL right? It usually ends in /v1",
    )


def _described_status(
    error: openai.APIStatusError, settings: ModelSettings, base_url: str
) -> ModelError:
    code, text = error.status_code, _one_line(_error_text(error))
    message = f"{base_url} answered {code}: {text}"
    if _is_context(error):
        return ContextLengthError(message, hint="give the model less, or one with more context")
    hints = {
        401: "check the API key (OPENAI_API_KEY)",
        403: "the key is not allowed to use this model",
        404: f"does the server know the model {settings.model!r}? A base URL usually ends in /v1",
        429: "the rate or the quota is used up; wait, or choose another key or model",
    }
    hint = hints.get(code, "the server failed; try again later" if code >= 500 else None)
    return ModelError(message, hint=hint, retryable=code in (408, 409, 429) or code >= 500)


def _completion(answer: object, messages: Sequence[Message], seconds: float) -> Completion:
    """Return the parts of a server's answer, of which no member is certain.

    Raises:
        ModelError: It is no chat completion.
    """
    choices = getattr(answer, "choices", None)
    if isinstance(answer, str) or not isinstance(choices, list) or not choices:
        extra = getattr(answer, "model_extra", None)
        text = answer if isinstance(answer, str) else json.dumps(extra or None, default=str)
        raise ModelError(
            f"the server answered 200 without a completion: {_one_line(text) or 'nothing'}",
            hint="is this an OpenAI-compatible server? Its base URL usually ends in /v1",
            retryable=True,
        )
    raw = getattr(choices[0], "message", None)
    if raw is None or not hasattr(raw, "model_dump"):
        raise ModelError(
            "the server's completion holds no message",
            hint="is this an OpenAI-compatible server?",
            retryable=True,
        )
    data = cast("Message", raw.model_dump(exclude_none=True, mode="json", warnings=False))
    text = _plain(data.get("content"))
    reasoning = next((_plain(data[key]) for key in _REASONING[:2] if data.get(key)), "")
    wire_calls = [item for item in data.get("tool_calls") or () if isinstance(item, dict)]
    calls = tuple(_call(item, number) for number, item in enumerate(wire_calls))
    # "" rather than null: local servers' chat templates print a null as "None"
    message: Message = {"role": "assistant", "content": text}
    if wire_calls:
        message["tool_calls"] = [
            _echo(item, call) for item, call in zip(wire_calls, calls, strict=True)
        ]
    message |= {key: data[key] for key in _REASONING if data.get(key)}
    return Completion(
        text=text or _plain(data.get("refusal")),
        reasoning=reasoning,
        calls=calls,
        finish_reason=str(getattr(choices[0], "finish_reason", None) or ""),
        usage=_usage(getattr(answer, "usage", None), messages, message),
        seconds=seconds,
        message=message,
    )


def _plain(content: object) -> str:
    """Return content as text that can be sent again; some servers give a list of parts."""
    if isinstance(content, list):
        parts = (part.get("text") or "" for part in content if isinstance(part, dict))
        return "".join(map(_plain, parts))
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def _call(item: Message, number: int) -> ToolCall:
    function = item.get("function") or item.get("custom") or {}
    arguments = function.get("arguments", function.get("input"))
    if not isinstance(arguments, str):  # some servers send the object itself
        arguments = "" if arguments is None else json.dumps(arguments)
    return ToolCall(
        id=str(item.get("id") or f"call_{number}_{time.monotonic_ns()}"),
        name=str(function.get("name") or ""),
        arguments=arguments,
    )


def _echo(item: Message, call: ToolCall) -> Message:
    """Return a call as history holds it: servers' chat templates parse its arguments, so they
    are always a JSON object, whatever the model wrote.
    """
    try:
        good = isinstance(json.loads(call.arguments), dict)
    except (ValueError, RecursionError):
        good = False
    arguments = call.arguments if good else "{}"
    if not good and call.arguments.strip():
        arguments = json.dumps({"malformed": call.arguments[:2000]})
    rest = {k: v for k, v in item.items() if k not in ("index", "function", "custom")}
    return {
        **rest,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name or "unknown", "arguments": arguments},
    }


def _usage(usage: object, messages: Sequence[Message], message: Message) -> Usage:
    prompt = getattr(usage, "prompt_tokens", None)
    completion = getattr(usage, "completion_tokens", None)
    if isinstance(prompt, int) and isinstance(completion, int):
        return Usage(prompt_tokens=prompt, completion_tokens=completion)
    return Usage(
        prompt_tokens=len(json.dumps(list(messages), default=str)) // 4,
        completion_tokens=len(json.dumps(message, default=str)) // 4,
        estimated=True,
    )
