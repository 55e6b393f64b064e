"""Each network mode on real sandboxes: what is reached, what is not, and who is told why."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from sandbox_lite import Sandbox
from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail.network import MODES
from sandbox_lite.spec import CommandResult, Publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("home")

BODY = bytes(range(256)) * 4096
"""One MiB."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(16):
                self.wfile.write(b"10000\r\n" + BODY[:65536] + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        text = BODY if self.path == "/big" else f"{self.headers['Host']} {self.path}".encode()
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        if self.headers["X-Mine"] or not self.headers["Content-Length"]:
            self.send_error(500 if self.headers["X-Mine"] else 411)
            return
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(server: http.server.HTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a real server on the host's loopback."""
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[int]:
    """The same with TLS, for the name `localhost`."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        yield port


ASK = """
import http.client, sys
method, url, *body = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 3128, timeout=30)
connection.request(method, url, body=body[0] if body else None)
answer = connection.getresponse()
print(answer.status, answer.read().decode("latin-1")[:400])
"""


def ask(sandbox: Sandbox, method: str, url: str, *body: str) -> CommandResult:
    """Ask the sandbox's proxy, from inside, whatever `no_proxy` says."""
    return sandbox.exec(["python3", "-c", ASK, method, url, *body])


def test_a_list_of_ones_own(web: int) -> None:
    rule = f"GET,HEAD localhost:{web}"
    with Sandbox("minimal", allow=[rule], allow_private=["localhost"]) as sandbox:
        assert sandbox.enforcement.network == "allow"
        assert sandbox.enforcement.reachable == rule
        found = ask(sandbox, "GET", f"http://localhost:{web}/a?b=c")
        assert found.stdout == f"200 localhost:{web} /a?b=c\n"
        assert found.refused == ()
        refused = ask(sandbox, "POST", f"http://localhost:{web}/", "x")
        assert refused.stdout.startswith("403 sandbox-lite: POST to localhost")
        elsewhere = ask(sandbox, "GET", "http://elsewhere.example/")
        assert elsewhere.stdout.startswith("403 sandbox-lite: elsewhere.example is not on the list")
        assert [one.host for one in elsewhere.refused] == ["elsewhere.example"]
        assert rule in elsewhere.refused[0].reason
        verdicts = [(one.method, one.verdict) for one in sandbox.requests()]
        assert verdicts == [("GET", "allowed"), ("POST", "refused"), ("GET", "refused")]
        assert sandbox.requests()[0].received_bytes == len(f"localhost:{web} /a?b=c")
        assert sandbox.requests(2)[0].host == "elsewhere.example"


def test_a_grant_while_it_runs(web: int) -> None:
    with Sandbox("minimal", allow=["example.org"], allow_private=["localhost"]) as sandbox:
        assert ask(sandbox, "GET", f"http://localhost:{web}/").stdout.startswith("403")
        sandbox.egress.grant(f"localhost:{web}")
        assert ask(sandbox, "GET", f"http://localhost:{web}/").stdout.startswith("200")
        with pytest.raises(SpecError):
            sandbox.egress.grant("not a rule")
    with Sandbox("minimal") as closed, pytest.raises(SpecError, match="no list"):
        closed.egress.grant("example.org")


def test_private_addresses_are_refused_although_the_name_is_allowed(web: int) -> None:
    with Sandbox("minimal", allow=[f"localhost:{web}", f"127.0.0.1:{web}"]) as sandbox:
        for host in ("localhost", "127.0.0.1"):
            found = ask(sandbox, "GET", f"http://{host}:{web}/")
            assert found.stdout.startswith(f"403 sandbox-lite: {host} has no public address")
            assert "allow_private" in found.stdout


def own_address() -> str:
    """An address of this host that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))  # sends nothing
        return str(one.getsockname()[0])


RAW = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()
    print("connected")
except OSError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("mode", sorted(MODES.keys() - {"internet"}))  # see test_internet.py
def test_the_host_is_out_of_reach(mode: str, web: int) -> None:
    named = ["example.org"] if mode == "allow" else []
    with Sandbox("minimal", network=mode, allow=named) as sandbox:
        straight = sandbox.exec(["python3", "-c", RAW, "127.0.0.1", str(web)])
        if mode == "host":
            assert straight.stdout == "connected\n"  # the same probe, where it was asked for
            return
        assert straight.stdout.startswith("refused")
        places = [f"127.0.0.1:{web}", f"localhost:{web}", "169.254.169.254", "[::1]"]
        with contextlib.suppress(OSError):
            places.append(own_address())
        for place in places:
            host, _, port = place.partition(":") if "[" not in place else (place, "", "")
            raw = sandbox.exec(["python3", "-c", RAW, host.strip("[]"), port or "80"])
            assert raw.stdout.startswith("refused"), place
            if mode != "none":
                assert ask(sandbox, "GET", f"http://{place}/").stdout.startswith("403"), place


def test_web_lets_no_other_ports_out() -> None:
    with Sandbox("minimal", network="web") as sandbox:
        found = ask(sandbox, "GET", "http://example.org:25/")
        assert found.stdout.startswith("403 sandbox-lite: GET to example.org port 25")
        # it is no refusal where the name is nobody's
        nobody = ask(sandbox, "GET", "http://nobody.invalid/")
        assert nobody.stdout.startswith("502")
        assert nobody.refused[0].verdict == "failed"


def test_bodies_pass_unchanged_on_one_connection(web: int) -> None:
    code = f"""
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 3128, timeout=30)
body = bytes(range(256)) * 4096
for method, path, data in (("GET", "/big", None), ("POST", "/", body), ("GET", "/chunked", None)):
    connection.request(method, "http://localhost:{web}" + path, body=data)
    socket = connection.sock
    answer = connection.getresponse()
    assert answer.read() == body, path
    assert connection.sock is socket is not None, "it was kept"
print("all")
"""
    with Sandbox("minimal", allow=[f"localhost:{web}"], allow_private=["localhost"]) as sandbox:
        found = sandbox.exec(["python3", "-c", code])
        assert found.stdout == "all\n", found.stderr
        sent = [(one.sent_bytes, one.received_bytes) for one in sandbox.requests()]
        assert sent == [(0, len(BODY)), (len(BODY), len(BODY)), (0, len(BODY))]


TUNNEL = """
import socket, ssl, sys
port, name = int(sys.argv[1]), sys.argv[2]
one = socket.create_connection(("127.0.0.1", 3128), timeout=30)
one.sendall(b"CONNECT localhost:%d HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n" % port)
head = b""
while b"\\r\\n\\r\\n" not in head:
    head += one.recv(1)
print(head.decode().splitlines()[0])
if name == "plain":
    one.sendall(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
else:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        one = context.wrap_socket(one, server_hostname=None if name == "none" else name)
    except OSError as error:
        print("broken off")
        sys.exit()
    one.sendall(b"GET /x HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
data = b""
while piece := one.recv(4096):
    data += piece
print(data.decode().splitlines()[-1] if data else "broken off")
"""


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("localhost", "localhost /x", ""),
        ("LOCALHOST", "localhost /x", ""),
        ("other.example", "broken off", "TLS asks for 'other.example'"),
        ("none", "broken off", "TLS asks for no host"),
        ("plain", "broken off", "must be TLS"),
    ],
)
def test_a_tunnel_leads_where_it_says(tls: int, name: str, answer: str, reason: str) -> None:
    with Sandbox("minimal", allow=[f"localhost:{tls}"], allow_private=["localhost"]) as sandbox:
        found = sandbox.exec(["python3", "-c", TUNNEL, str(tls), name])
        assert found.stdout.splitlines() == ["HTTP/1.1 200 Connected", answer], found.stderr
        (request,) = sandbox.requests()
        assert request.method == "CONNECT"
        assert reason in request.reason
        assert request.verdict == ("refused" if reason else "allowed")
        assert found.refused == ((request,) if reason else ())


def test_refused_tunnels_say_why_in_the_line_that_clients_show() -> None:
    with Sandbox("minimal", network="packages") as sandbox:
        code = "import urllib.request; urllib.request.urlopen('https://elsewhere.example/')"
        found = sandbox.exec(["python3", "-c", code])
        assert "elsewhere.example is not on the list of this sandbox" in found.stderr


def test_so_many_connections_and_no_more(web: int) -> None:
    code = """
import socket
held = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(64)]
for one in held:
    one.sendall(b"GET http://")
last = socket.create_connection(("127.0.0.1", 3128))
print(last.recv(100).split(b"\\r\\n")[0].decode()[:50])
"""
    with Sandbox("minimal", network="web") as sandbox:
        found = sandbox.exec(["python3", "-c", code])
        assert found.stdout.startswith("HTTP/1.1 503 Service Unavailable"), found.stderr
        # those have gone with their program
        deadline = time.monotonic() + 10
        while not ask(sandbox, "GET", "http://127.0.0.1/").stdout.startswith("403"):
            assert time.monotonic() < deadline


SAY = """
import socket, sys
one = socket.create_connection(("127.0.0.1", 3128), timeout=30)
one.sendall(sys.stdin.buffer.read())
print(one.recv(4096).decode("latin-1").split("\\r\\n")[0])
"""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://[x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://" + b"a" * 64 + b".com/ HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"CONNECT [2001:db8::1%.example.org]:443 HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"GET http://example.org:0/ HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"A" * 60000 + b" http://example.org/ HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"CONNECT example.org HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://example.org/ HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_what_is_no_request(
    request_: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with Sandbox("minimal", allow=["*.example.org"]) as sandbox:
        found = sandbox.exec(["python3", "-c", SAY], input=request_)
        assert found.stdout.startswith(f"HTTP/1.1 {status} "), found.stdout
        (request,) = sandbox.requests()
        assert request.verdict == "refused"
        assert len(request.reason) + len(request.method) < 1000
    assert capfd.readouterr().err == ""


def test_a_body_has_one_length(web: int) -> None:
    head = f"POST http://localhost:{web}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    body = (
        "Transfer-Encoding: chunked\r\nConnection: close, x-mine\r\nX-Mine: 1\r\n\r\n"
        "3\r\nabc\r\n0\r\n\r\n"
    )
    with Sandbox("minimal", allow=[f"localhost:{web}"], allow_private=["localhost"]) as sandbox:
        found = sandbox.exec(["python3", "-c", SAY], input=(head + body).encode())
        # a server that knows no pieces is told of no length either
        assert found.stdout.startswith("HTTP/1.1 411 "), found.stdout


@pytest.mark.parametrize("hangs_up", [False, True])
def test_answer_that_comes_before_the_body_was_read(home: Path, hangs_up: bool) -> None:
    done = threading.Event()

    def serve(listening: socket.socket) -> None:
        one, _ = listening.accept()
        with one:
            while b"\r\n\r\n" not in one.recv(64, socket.MSG_PEEK):
                one.recv(16)
            one.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            # either it reads nothing more and stays, or the kernel sends a reset behind its answer
            done.wait(0 if hangs_up else 30)

    head = "POST http://localhost:{}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        serving = threading.Thread(target=serve, args=(listening,), daemon=True)
        serving.start()
        allowed = [f"localhost:{port}"]
        with Sandbox("minimal", allow=allowed, allow_private=["localhost"]) as sandbox:
            # without a body it waits for one, and has an answer meanwhile
            found = sandbox.exec(["python3", "-c", SAY], input=head.format(port).encode())
            assert found.stdout.startswith("HTTP/1.1 413 "), found.stdout
        done.set()
        serving.join(10)


ALL = """
import socket, sys
one = socket.create_connection(("127.0.0.1", 3128), timeout=30)
one.sendall(sys.stdin.buffer.read())
for piece in iter(lambda: one.recv(4096), b""):
    sys.stdout.buffer.write(piece)
    sys.stdout.flush()
"""


def test_answer_that_breaks_off_does_not_look_whole(home: Path) -> None:
    def serve(listening: socket.socket) -> None:
        one, _ = listening.accept()
        with one:
            while b"\r\n\r\n" not in one.recv(64, socket.MSG_PEEK):
                one.recv(16)
            one.sendall(b"HTTP/1.1 200 OK\r\n\r\npart")
            taken.wait(30)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    taken = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        text = f"GET http://localhost:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        allowed = [f"localhost:{port}"]
        with Sandbox("minimal", allow=allowed, allow_private=["localhost"]) as sandbox:
            found = sandbox.exec(
                ["python3", "-c", ALL], input=text,
                on_output=lambda _, piece: taken.set() if b"part" in piece else None,
            )  # fmt: skip
            assert "part" in found.stdout
            assert "\r\n0\r\n" not in found.stdout, "the piece that says that all has come"
            (request,) = sandbox.requests()
            assert request.verdict == "failed"


UNCLOSED = """
import sys
from sandbox_lite import Sandbox
from sandbox_lite.spec import Publish
ports = [Publish(port=0, inner_port=80)]
sandbox = Sandbox(sys.argv[1], network="web", publish=ports).open()
if sys.argv[2] == "dropped":
    import gc
    del sandbox
    gc.collect()
print("end")
"""


@pytest.mark.parametrize("how", ["left open", "dropped"])
def test_a_program_ends_although_nobody_closed_its_sandbox(how: str) -> None:
    argv = [sys.executable, "-c", UNCLOSED, "minimal", how]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "end\n"


# -- the host's own proxy --------------------------------------------------------------------------


class Upstream(http.server.BaseHTTPRequestHandler):
    """The proxy of a company: wants a password, knows where names lead."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[str]] = []

    def _let_in(self) -> bool:
        self.seen.append(f"{self.command} {self.path}")
        if self.headers["Proxy-Authorization"] == "Basic dXNlcjpwYXNz":
            return True
        self.send_error(407)
        return False

    def do_CONNECT(self) -> None:
        if self._let_in():
            with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as out:
                self.connection.sendall(b"HTTP/1.1 200 OK\r\nX-More: 1\r\n\r\n")
                back = threading.Thread(target=_carry, args=(out, self.connection))
                back.start()
                _carry(self.connection, out)
                back.join()
        self.close_connection = True

    def do_GET(self) -> None:
        if self._let_in():
            text = b"by way of the company"
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_behind_a_proxy_of_the_hosts(tls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Upstream.seen.clear()
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)) as port:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://user:pass@127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY", "all_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        allow = [f"localhost:{tls}", "company.example", "127.0.0.1", "*.localhost", "2130706433"]
        with Sandbox("minimal", allow=allow, allow_private=["localhost"]) as sandbox:
            # what is known here to be private does not go by way of the company either
            for host in ("127.0.0.1", "x.localhost", "2130706433"):
                assert ask(sandbox, "GET", f"http://{host}/").stdout.startswith("403"), host
            assert ask(sandbox, "TRACE", "http://company.example/").stdout.startswith("403")
            found = sandbox.exec(["python3", "-c", TUNNEL, str(tls), "localhost"])
            assert found.stdout.splitlines()[-1] == "localhost /x", found.stderr
            plain = ask(sandbox, "GET", "http://company.example/a")
            assert plain.stdout == "200 by way of the company\n"
            assert sandbox.run("env").stdout.count("pass@") == 0
    assert Upstream.seen == [f"CONNECT localhost:{tls}", "GET http://company.example/a"]


LOW_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def test_servers_inside_may_use_low_ports() -> None:
    before = LOW_PORTS.read_text()
    code = "import socket; socket.create_server(('127.0.0.1', 80)); print('bound')"
    with Sandbox("minimal") as sandbox:
        assert sandbox.exec(["python3", "-c", code]).stdout == "bound\n"
    with Sandbox("minimal", network="host") as shared:
        assert shared.run(f"cat {LOW_PORTS}").stdout == before
    assert LOW_PORTS.read_text() == before


UNANSWERED = "refused|reset|closed|without response"


# -- the way in ------------------------------------------------------------------------------------


def fetched(port: int) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/file", timeout=10) as answer:
        return bytes(answer.read())


def eventually(action: Callable[[], bytes]) -> bytes:
    deadline = time.monotonic() + 20
    while True:
        try:
            return action()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.mark.parametrize("mode", ["none", "web"])
def test_a_published_server(mode: str) -> None:
    ports = [Publish(port=0, inner_port=8000)]
    with Sandbox("minimal", network=mode, publish=ports) as sandbox:
        (published,) = sandbox.enforcement.published
        assert (published.address, published.inner_port) == ("127.0.0.1", 8000)
        with pytest.raises(OSError, match=UNANSWERED):
            fetched(published.port)  # nobody listens inside yet
        sandbox.files.write("/srv/file", BODY)
        sandbox.run("cd /srv; setsid -f python3 -m http.server -b 127.0.0.1 8000 &> /dev/null")
        assert eventually(lambda: fetched(published.port)) == BODY
        results: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: results.append(fetched(published.port)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert results == [BODY] * 8
    with pytest.raises(OSError, match=UNANSWERED):
        fetched(published.port)


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_a_port_that_is_taken(web: int) -> None:
    before = descriptors()
    with pytest.raises(HostError, match=f"port {web} of 127.0.0.1") as caught:
        Sandbox("minimal", publish={web: 80}).open()
    assert "0 for any that is free" in str(caught.value.hint)
    assert len(descriptors() - before) <= 3  # what the thread keeps


def test_nothing_is_left_open(web: int) -> None:
    def once() -> None:
        allow = [f"localhost:{web}"]
        ports = [Publish(port=0, inner_port=8000)]
        with Sandbox("minimal", allow=allow, allow_private=["localhost"], publish=ports) as sandbox:
            assert ask(sandbox, "GET", f"http://localhost:{web}/").stdout.startswith("200")

    once()
    before = len(descriptors())
    for _ in range(5):
        once()
    assert len(descriptors()) <= before
