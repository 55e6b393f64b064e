"""The model's client against a scripted server on loopback: what good and bad servers do."""

from __future__ import annotations

import itertools
import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from sandbox_lite.agent import tools
from sandbox_lite.agent.model import ModelSettings
from sandbox_lite.errors import ContextLengthError, ModelError, SpecError
from tests import faces
from tests.model_server import ModelServer, Scripted, refuses, says

if TYPE_CHECKING:
    from sandbox_lite.agent.completion import Completion
    from sandbox_lite.agent.model import Model
    from tests.faces import FaceName

KEY = "sk-planted-secret-0123456789"
SOON = {"retry-after-ms": "1"}
MESSAGES = [{"role": "user", "content": "hello"}]

_names = (f"model-{number}" for number in itertools.count())


@pytest.fixture
def name(face: FaceName) -> str:
    """A model of its own for each test: what a server refused is remembered by model."""
    return f"{face}-{next(_names)}"


def opened(settings: ModelSettings) -> Model:
    """Return the model with the face that its name begins with."""
    return faces.model("async" if settings.model.startswith("async-") else "sync", settings)


def ask(server: ModelServer, name: str, **settings: object) -> Completion:
    return asked(server.base_url, name, **settings)


def asked(base_url: str, name: str, **settings: object) -> Completion:
    chosen = {"api_key": KEY, "timeout": 5.0, "max_retries": 1, **settings}
    asked = ModelSettings(model=name, base_url=base_url, **chosen)  # type: ignore[arg-type]
    with opened(asked) as model:
        return model.complete(MESSAGES, tools.schemas())


def test_text_calls_reasoning_and_usage(name: str) -> None:
    reply = says(
        "thinking aloud",
        ("execute_bash", {"command": "ls"}),
        ("submit", ""),
        reasoning_content="because",
        usage=(7, 3),
    )
    with ModelServer(reply) as server:
        got = ask(server, name, temperature=0.5, max_tokens=99, extra_body={"top_k": 4})
    assert (got.text, got.reasoning, got.finish_reason) == (
        "thinking aloud",
        "because",
        "tool_calls",
    )
    assert [(c.id, c.name, c.arguments) for c in got.calls] == [
        ("call_0", "execute_bash", '{"command": "ls"}'),
        ("call_1", "submit", ""),
    ]
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (7, 3)
    assert got.seconds > 0
    assert got.message["reasoning_content"] == "because"
    assert got.message["tool_calls"][1]["function"]["arguments"] == "{}"
    (request,) = server.requests
    assert request["model"] == name
    assert (request["temperature"], request["max_tokens"], request["top_k"]) == (0.5, 99, 4)
    assert request["tools"][0]["function"]["name"] == "execute_bash"


def test_what_was_not_set_is_not_sent(name: str) -> None:
    with ModelServer(says("x")) as server:
        ask(server, name)
    assert set(server.requests[0]) == {"model", "messages", "tools"}


@pytest.mark.parametrize("arguments", ['{"command": "ls', "[1]", "{{{", "[" * 100_000])
def test_malformed_arguments_enter_history_as_json(name: str, arguments: str) -> None:
    with ModelServer(says(None, ("execute_bash", arguments))) as server:
        got = ask(server, name)
    assert got.calls[0].arguments == arguments
    echoed = got.message["tool_calls"][0]["function"]["arguments"]
    assert echoed.startswith('{"malformed": ')


def test_odd_but_usable_messages(name: str) -> None:
    odd = says([{"type": "text", "text": "a\ud800"}, {"type": "thinking"}])  # type: ignore[arg-type]
    direct = says(None, tool_calls=[{"function": {"name": "bash", "arguments": {"command": "x"}}}])
    empty = says(None, usage=None)
    with ModelServer(odd, direct, empty) as server:
        assert ask(server, name).text == "a?"
        call = ask(server, name).calls[0]
        silent = ask(server, name)
    assert call.arguments == '{"command": "x"}'
    assert call.id
    assert silent.message == {"role": "assistant", "content": ""}
    assert silent.usage.estimated


def test_calls_keep_what_the_server_wants_back(name: str) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "bash", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "abc"}},
    }
    with ModelServer(says(None, tool_calls=[call])) as server:
        got = ask(server, name)
    assert got.message["tool_calls"][0]["extra_content"] == call["extra_content"]


@pytest.mark.parametrize(
    ("error", "dropped", "kept"),
    [
        (
            refuses(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                param="max_tokens",
                code="unsupported_parameter",
            ),
            "max_tokens",
            "max_completion_tokens",
        ),
        (
            refuses(400, "Unsupported value: 'temperature' does not support 0.5 with this model."),
            "temperature",
            "max_tokens",
        ),
        (refuses(400, "Unrecognized request argument supplied: top_k"), "top_k", "temperature"),
        (
            Scripted(
                status=422,
                body=b'{"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs"}]}',
            ),
            "top_k",
            "temperature",
        ),
    ],
)
def test_refused_parameter_is_dropped_and_remembered(
    name: str, error: Scripted, dropped: str, kept: str
) -> None:
    settings = {"temperature": 0.5, "max_tokens": 9, "extra_body": {"top_k": 1}}
    with ModelServer(error, says("a"), says("b")) as server:
        assert ask(server, name, **settings).text == "a"
        assert ask(server, name, **settings).text == "b"  # a new client, one request
    first, second, third = server.requests
    assert dropped in first
    assert dropped not in second
    assert dropped not in third
    assert kept in second


def test_every_parameter_can_be_refused(name: str) -> None:
    optional = ("temperature", "max_tokens", "max_completion_tokens", "reasoning_content")

    def picky(request: dict[str, object]) -> Scripted:
        text = str(request)
        found = next((word for word in optional if f"'{word}'" in text), None)
        return refuses(400, f"unknown field {found}") if found else says("fine")

    with ModelServer(picky) as server:
        settings = ModelSettings(
            model=name, base_url=server.base_url, temperature=1.0, max_tokens=5, api_key=KEY
        )
        with opened(settings) as model:
            history = [{"role": "assistant", "content": "x", "reasoning_content": "y"}]
            assert model.complete(history, []).text == "fine"
            assert model.refused == set(optional)
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "error",
    [
        refuses(400, "too long", code="context_length_exceeded"),
        refuses(
            400,
            "This model's maximum context length is 4096 tokens. However, you requested 5000 "
            "tokens (1000 in the messages, 4000 in the completion).",
        ),
        refuses(
            400,
            "'max_tokens' or 'max_completion_tokens' is too large: 4000. This model's maximum "
            "context length is 4096 tokens and your request has 1000 input tokens",
            param="max_tokens",
        ),
        refuses(400, "The input (9 tokens) is longer than the model's context length (8 tokens)."),
        refuses(400, "the request exceeds the available context size, try increasing it"),
        refuses(400, "max_tokens must be at least 1, got -5."),
    ],
)
def test_full_context_is_told_apart(name: str, error: Scripted) -> None:
    with ModelServer(error) as server, pytest.raises(ContextLengthError):
        ask(server, name, max_tokens=4000)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Scripted(body=b"<html><body>Bad gateway</body></html>", content_type="text/html"), "gate"),
        (Scripted(body=b"{not json"), "no JSON"),
        (Scripted(body=b'{"choices": null, "error": {"message": "overloaded"}}'), "overloaded"),
        (Scripted(body=b'{"choices": []}'), "without a completion"),
        (Scripted(body=b'{"choices": [{"index": 0}]}'), "no message"),
        (Scripted(body=b'{"choices": ["x"]}'), "no message"),
        (Scripted(body=b"[]"), "without a completion"),
        (Scripted(body=b""), "no JSON"),
        (Scripted(body=b'{"cho', close=True), "no connection"),
        (refuses(500, "boom", headers=SOON), "answered 500: boom"),
        (refuses(503, "busy", headers=SOON), "answered 503: busy"),
        (refuses(429, "slow down", headers=SOON), "answered 429: slow down"),
    ],
)
def test_passing_failure_is_tried_again_a_bounded_number_of_times(
    name: str, bad: Scripted, said: str
) -> None:
    with ModelServer(bad, says("at last")) as server:
        assert ask(server, name).text == "at last"
    with ModelServer(bad) as server, pytest.raises(ModelError, match=said) as caught:
        ask(server, name)
    assert len(server.requests) == 2
    assert caught.value.retryable
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_retry_after_is_obeyed(name: str) -> None:
    limited = refuses(429, "slow down", headers={"retry-after": "1"})
    with ModelServer(limited, says("x")) as server:
        assert ask(server, name).seconds >= 1


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (refuses(401, f"Incorrect API key provided: {KEY}"), "OPENAI_API_KEY"),
        (refuses(403, "no"), "not allowed"),
        (refuses(404, "no such model"), "/v1"),
        (refuses(400, "messages: malformed"), "--extra-body"),
        (Scripted(status=404, body=b"<html>no</html>", content_type="text/html"), "/v1"),
    ],
)
def test_lasting_failure_is_not_repeated(name: str, error: Scripted, hint: str) -> None:
    with ModelServer(error) as server, pytest.raises(ModelError) as caught:
        ask(server, name)
    assert len(server.requests) == 1
    assert not caught.value.retryable
    assert hint in (caught.value.hint or "")
    assert KEY not in str(caught.value)


def test_hanging_server_is_left(name: str) -> None:
    started = time.monotonic()
    with ModelServer(Scripted(hang=True)) as server:
        with pytest.raises(ModelError, match="did not answer in time") as caught:
            ask(server, name, timeout=0.3)
        assert caught.value.retryable
    assert len(server.requests) == 2
    assert time.monotonic() - started < 10


def test_server_that_sends_byte_by_byte_is_left(name: str) -> None:
    started = time.monotonic()
    with ModelServer(Scripted(trickle=True)) as server:
        with pytest.raises(ModelError, match="did not answer in time"):
            ask(server, name, timeout=0.4, max_retries=0)
        assert time.monotonic() - started < 8


def test_time_left_bounds_the_call_with_its_retries(name: str) -> None:
    started = time.monotonic()
    with ModelServer(Scripted(hang=True)) as server:
        settings = ModelSettings(model=name, base_url=server.base_url, api_key=KEY)
        with opened(settings) as model, pytest.raises(ModelError, match="time that was left"):
            model.complete(MESSAGES, [], timeout=0.3)
    assert len(server.requests) == 1
    assert time.monotonic() - started < 4
    with ModelServer(refuses(500, "x", headers=SOON), says("second try")) as server:
        settings = ModelSettings(model=name, base_url=server.base_url, api_key=KEY)
        with opened(settings) as model:
            assert model.complete(MESSAGES, [], timeout=10).text == "second try"
    assert "tools" not in server.requests[0]


def test_message_without_key_of_a_server_of_ones_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ModelServer(refuses(404, "there is none")) as server:
        with pytest.raises(ModelError, match="there is none"):
            ask(server, name, api_key=None)
    leak = Scripted(body=json.dumps({"choices": None, "error": f"bad {KEY}"}).encode())
    with ModelServer(leak) as server, pytest.raises(ModelError) as caught:
        ask(server, name, max_retries=0)
    assert KEY not in str(caught.value)


def test_no_server_at_all(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        port = taken.getsockname()[1]
        with pytest.raises(ModelError, match="no connection") as caught:
            asked(f"http://127.0.0.1:{port}/v1", name)
    assert "running" in (caught.value.hint or "")


def test_proxy_of_the_world_outside_is_not_asked_for_loopback(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with ModelServer(says("x")) as server:
        assert ask(server, name).text == "x"


def test_key_is_sent_and_never_shown(name: str) -> None:
    settings = ModelSettings(model=name, api_key=KEY)
    assert KEY not in repr(settings)
    with ModelServer(says("x")) as server:
        ask(server, name)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_own_server_needs_no_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ModelServer(says("x")) as server:
        assert ask(server, name, api_key=None).text == "x"
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ModelError, match="no API key") as caught:
        opened(ModelSettings(model=name))
    assert "OPENAI_API_KEY" in (caught.value.hint or "")


def test_key_that_no_header_can_hold(name: str) -> None:
    with ModelServer(says("x")) as server, pytest.raises(ModelError, match="cannot be sent"):
        ask(server, name, api_key="ключ-от-двери")


@pytest.mark.parametrize(
    "bad",
    [
        {"model": ""},
        {"model": "m", "base_url": "localhost:8000"},
        {"model": "m", "max_tokens": 0},
        {"model": "m", "timeout": 0.0},
        {"model": "m", "timeout": float("nan")},
    ],
)
def test_settings_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        ModelSettings(**bad)  # type: ignore[arg-type]
