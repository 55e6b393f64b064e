"""A Debian archive of our own on loopback: signed by a key made here, with packages made here."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pysequoia

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Handler = BaseHTTPRequestHandler
DATE = datetime(2026, 9, 12, 7, 55, 41, tzinfo=UTC)


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    found.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(found, key, value)
    return found


def deb(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return a package with those entries; the control part is empty."""

    def archive(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for info, content in members:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return lzma.compress(out.getvalue(), preset=0)

    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": archive([(entry("./control"), b"Package: x\n")]),
        "data.tar.xz": archive(entries),
    }
    out = b"!<arch>\n"
    for name, content in parts.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


@dataclass
class Mirror:
    """What the server answers, by path; `faults` come first."""

    key: pysequoia.Tsk = field(default_factory=lambda: pysequoia.Tsk.generate(user_id="a mirror"))
    content: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Callable[[Handler], None]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def keyring(self, directory: Path) -> Path:
        path = directory / "mirror.pgp"
        path.write_bytes(bytes(self.key.extract_certificate()))
        return path

    def sign(self, text: str) -> bytes:
        signer = self.key.signer()
        return pysequoia.sign(signer, text.encode(), mode=pysequoia.SignatureMode.CLEAR)

    def publish(
        self,
        suite: str,
        paragraphs: Sequence[str] = (),
        *,
        date: datetime = DATE,
        codename: str | None = None,
        more: str = "",
    ) -> None:
        index = lzma.compress("\n\n".join(paragraphs).encode())
        digest = hashlib.sha256(index).hexdigest()
        name = "main/binary-amd64/Packages.xz"
        text = (
            f"Suite: stable\nCodename: {codename or suite}\n"
            f"Date: {date:%a, %d %b %Y %H:%M:%S} UTC\n{more}"
            f"Acquire-By-Hash: yes\nSHA256:\n {digest} {len(index)} {name}\n"
        )
        base = f"/debian/dists/{suite}"
        self.content[f"{base}/InRelease"] = self.sign(text)
        self.content[f"{base}/main/binary-amd64/by-hash/SHA256/{digest}"] = index

    def package(self, name: str, content: bytes, *, fields: str = "", version: str = "1") -> str:
        """Put a package into the pool; return its paragraph."""
        path = f"pool/{name}_{version}_all.deb"
        self.content[f"/debian/{path}"] = content
        return (
            f"Package: {name}\nVersion: {version}\n{fields}Filename: {path}\n"
            f"Size: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}"
        )


@contextmanager
def serve() -> Iterator[Mirror]:
    """Yield a mirror that answers on loopback."""
    mirror = Mirror()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            mirror.requests.append(self.path)
            if fault := mirror.faults.get(self.path):
                fault(self)
                return
            body = mirror.content.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        mirror.url = f"http://127.0.0.1:{server.server_port}/debian"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()
