"""A data set hub on loopback: the endpoints that the hub's own client asks."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class HubServer(AbstractContextManager["HubServer"]):
    """Serves the commits of one data set; `branch` says what `main` is."""

    def __init__(self, repository: str, commits: Mapping[str, Mapping[str, bytes]]) -> None:
        self.repository = repository
        self.commits = dict(commits)
        self.branch = next(iter(commits))
        self.card: dict[str, Any] | None = None
        self.requests: list[str] = []
        self.failures: list[int] = []
        """Status codes with which the next requests for files are answered."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self, body=True)

            def do_HEAD(self) -> None:
                server._answer(self, body=False)

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def _answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append(f"{handler.command} {path}")
        information = f"/api/datasets/{self.repository}"
        files = f"/datasets/{self.repository}/resolve/"
        if path == information or path.startswith(f"{information}/revision/"):
            revision = path.removeprefix(information).removeprefix("/revision/") or "main"
            self._information(handler, revision)
        elif path.startswith(files):
            revision, _, name = path.removeprefix(files).partition("/")
            self._file(handler, self._commit(revision), name, body=body)
        else:
            self._refuse(handler, 404, "RepoNotFound")

    def _commit(self, revision: str) -> str:
        return self.branch if revision == "main" else revision

    def _information(self, handler: BaseHTTPRequestHandler, revision: str) -> None:
        commit = self._commit(revision)
        if commit not in self.commits:
            self._refuse(handler, 404, "RevisionNotFound")
            return
        answer = {
            "id": self.repository, "sha": commit, "private": False, "tags": [],
            "siblings": [{"rfilename": name} for name in self.commits[commit]],
        }  # fmt: skip
        if self.card is not None:
            answer["cardData"] = self.card
        self._send(handler, 200, json.dumps(answer).encode(), {"content-type": "application/json"})

    def _file(self, handler: BaseHTTPRequestHandler, commit: str, name: str, *, body: bool) -> None:
        if self.failures:
            self._send(handler, self.failures.pop(0), b"oops")
            return
        data = self.commits.get(commit, {}).get(name)
        if data is None:
            self._refuse(handler, 404, "EntryNotFound")
            return
        headers = {
            "etag": f'"{hashlib.sha1(data).hexdigest()}"',
            "x-repo-commit": commit,
            "content-type": "application/octet-stream",
        }
        self._send(handler, 200, data, headers, body=body)

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._send(handler, status, b"{}", {"x-error-code": code, "x-error-message": code})

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        body: bool = True,
    ) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        if body and handler.command != "HEAD":
            handler.wfile.write(data)
