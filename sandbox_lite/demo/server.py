"""An OpenAI-compatible server on loopback behind which the script plays the model."""

from __future__ import annotations

import json
import threading
from contextlib import AbstractContextManager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from sandbox_lite.demo import script

if TYPE_CHECKING:
    from sandbox_lite.demo.script import Places, Reply

MODEL = "script"

_TOOLS = {"execute_bash", "str_replace_editor", "submit"}
_MAX_BODY = 64 * 1024 * 1024

Json = dict[str, Any]


class _BadRequestError(Exception):
    """What the server refuses, in words."""


class ScriptServer(AbstractContextManager["ScriptServer"]):
    """Serves `POST /v1/chat/completions` and `GET /v1/models` on a free port of 127.0.0.1."""

    def __init__(self, places: Places) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(places))
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="script-server", daemon=True
        )

    def __enter__(self) -> ScriptServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def base_url(self) -> str:
        """Where a client finds it."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"


def _handler(places: Places) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60  # of an idle connection, so that its thread ends

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "sandbox-lite"}
                self._send(HTTPStatus.OK, {"object": "list", "data": [model]})
            else:
                self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path}")

        def do_POST(self) -> None:
            try:
                body = self._body()
                if self.path != "/v1/chat/completions":
                    self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path}")
                    return
                messages = _messages(body)
            except _BadRequestError as error:
                self.close_connection = True  # of the body, something may be left unread
                self._refuse(HTTPStatus.BAD_REQUEST, str(error))
                return
            self._send(HTTPStatus.OK, _completion(script.reply(messages, places), messages))

        def _body(self) -> bytes:
            length = self.headers.get("content-length", "")
            if not length.isdigit() or int(length) > _MAX_BODY:
                raise _BadRequestError("a request needs a content-length, and a sensible one")
            return self.rfile.read(int(length))

        def _refuse(self, status: HTTPStatus, message: str) -> None:
            self._send(status, {"error": {"message": message, "type": "invalid_request_error"}})

        def _send(self, status: HTTPStatus, answer: Json) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            del format, args  # the command line alone prints

    return Handler


def _messages(body: bytes) -> list[Json]:
    """Return the conversation of a request.

    Raises:
        _BadRequestError: It is no request that an agent of ours would make.
    """
    try:
        request = json.loads(body)
    except ValueError as error:
        raise _BadRequestError(f"the body is no JSON: {error}") from None
    if not isinstance(request, dict):
        raise _BadRequestError("the body must be a JSON object")
    if request.get("model") != MODEL:
        raise _BadRequestError(f"the only model here is {MODEL!r}")
    if request.get("stream"):
        raise _BadRequestError("stream is not supported")
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise _BadRequestError("messages must be a list of objects")
    offered = {
        tool.get("function", {}).get("name")
        for tool in request.get("tools") or ()
        if isinstance(tool, dict)
    }
    if not offered >= _TOOLS:
        raise _BadRequestError(f"the script needs the tools {', '.join(sorted(_TOOLS))}")
    return messages


def _completion(reply: Reply, messages: list[Json]) -> Json:
    message: Json = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
            }
            for call in reply.calls
        ]
    # a script has no tokens; a quarter of the bytes is what a tokenizer would come near
    prompt, completion = (len(json.dumps(part)) // 4 for part in (messages, message))
    return {
        "id": f"script-{len(messages)}",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": "tool_calls" if reply.calls else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }
