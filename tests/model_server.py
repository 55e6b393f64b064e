"""A scripted OpenAI-compatible server on loopback: it plays a list of replies, good and bad."""

from __future__ import annotations

import json
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """One reply."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    """Never answer, until the server is closed."""
    trickle: bool = False
    """Send one byte now and then, until the server is closed."""
    close: bool = False
    """Close the connection in the middle of the body."""


def says(
    text: str | None = None,
    *calls: tuple[str, object],
    finish_reason: str | None = None,
    usage: tuple[int, int] | None = (100, 10),
    **members: object,
) -> Scripted:
    """Return a chat completion with that text and those calls; `members` go into its message."""
    message: Json = {"role": "assistant", "content": text, **members}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": given if isinstance(given, str) else json.dumps(given),
                },
            }
            for number, (name, given) in enumerate(calls)
        ]
    reason = finish_reason or ("tool_calls" if calls else "stop")
    completion: Json = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }
    if usage is not None:
        completion["usage"] = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
        }
    return Scripted(body=json.dumps(completion).encode())


def refuses(
    status: int, message: str, *, headers: Mapping[str, str] | None = None, **members: object
) -> Scripted:
    """Return an error as OpenAI writes it; `members` are `code`, `param`, `type`."""
    body = json.dumps({"error": {"message": message, **members}}).encode()
    return Scripted(body=body, status=status, headers=headers or {})


class ModelServer(AbstractContextManager["ModelServer"]):
    """Plays its replies one after the other, the last one for ever; keeps every request."""

    def __init__(self, *replies: Scripted | Callable[[Json], Scripted]) -> None:
        self.requests: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self._replies: Sequence[Scripted | Callable[[Json], Scripted]] = replies
        self._closing = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers["content-length"])
        request = json.loads(handler.rfile.read(length))
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self.headers.append({k.lower(): v for k, v in handler.headers.items()})
        reply = self._replies[min(number, len(self._replies) - 1)]
        if not isinstance(reply, Scripted):
            reply = reply(request)
        if reply.hang:
            self._closing.wait(30)
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        handler.send_header("content-type", reply.content_type)
        handler.send_header(
            "content-length", str(len(reply.body) + 10**6 * (reply.close or reply.trickle))
        )
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        while reply.trickle and not self._closing.wait(0.05):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return
        handler.wfile.write(reply.body)
        handler.close_connection = reply.close or handler.close_connection
