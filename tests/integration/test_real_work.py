"""What people do all day, in a sandbox of whoever runs the tests, with the package indexes on."""

from __future__ import annotations

import functools
import http.server
import socket
import ssl
import subprocess
import threading
import urllib.request
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Sandbox
from sandbox_lite.jail.rootfs.store import Store
from sandbox_lite.spec import Publish
from tests.conftest import private_mirrors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXPRESS, REDIS = 3000, 6379
WORK = {
    "the paper's libraries": (
        "python -c 'import numpy, scipy, sympy, mpmath, matplotlib, IPython, chardet; print(42)'",
        "42",
    ),
    "apt": (
        "apt-get update -qq && apt-get install -y -qq nodejs npm >/dev/null"
        " && apt-get install -y -qq redis-server default-jre-headless ecj ffmpeg gdb strace jq"
        " openbabel >/dev/null && echo '{\"a\": 5}' | jq .a && obabel -:CCO -ocan",
        "5\nCCO",
    ),
    "pip": (
        "pip install -q pandas rdkit moviepy && python -c 'from rdkit import Chem;"
        ' print(Chem.MolToSmiles(Chem.MolFromSmiles("C1=CC=CC=C1O")))\''
        " && python -c 'import pandas; print(pandas.DataFrame({\"a\": [1, 2, 4]}).a.sum())'",
        "Oc1ccccc1\n7",
    ),
    "venv and uv": (
        "python3 -m venv v && . v/bin/activate && pip install -q six && uv pip install -q idna"
        " && python -c 'import six, idna; print(six.__file__)'; deactivate",
        "/testbed/v/lib",
    ),
    "git": (
        "mkdir r && cd r && git init -q && git config user.email a@example.org"
        " && git config user.name A && echo x >f && git add f && git commit -q -m first"
        " && git log --format=%s; cd ..",
        "first",
    ),
    "gcc": (
        "printf '#include <stdio.h>\\nint main(void) { puts(\"hello\"); }\\n' >hello.c"
        " && gcc hello.c -o hello && ./hello",
        "hello",
    ),
    "useradd": ("useradd -m bob && grep -c ^bob: /etc/passwd && ls /home", "1\nbob"),
    "npm": (
        "mkdir n && cd n && npm init -y >/dev/null"
        " && npm install --no-fund --no-audit express >/dev/null"
        " && node -p 'require(\"express/package.json\").name'; cd ..",
        "express",
    ),
    "Express": (
        "cd n && cat >server.js <<'END'\n"
        'require("express")().get("/", (_, answer) => answer.send("from express"))'
        f'.listen({EXPRESS}, "127.0.0.1")\n'
        "END\n"
        "(node server.js &>log &); cd .. && curl -sS --retry 100 --retry-delay 1 "
        f"--retry-max-time 30 --retry-connrefused http://127.0.0.1:{EXPRESS}/",
        "from express",
    ),
    "redis": (
        "redis-server --daemonize yes >/dev/null"
        " && for i in $(seq 100); do redis-cli ping 2>/dev/null && break; sleep 0.1; done"
        " && redis-cli set shown outside",
        "PONG\nOK",
    ),
    "ffmpeg": (
        "ffmpeg -v error -f lavfi -i testsrc=duration=2:size=64x48:rate=10 clip.mp4"
        " && ffprobe -v error -show_entries stream=codec_name,nb_frames -of csv clip.mp4",
        "stream,h264,20",
    ),
    "moviepy": (
        "python -c 'from moviepy import VideoFileClip;"
        ' VideoFileClip("clip.mp4").subclipped(0, 1).write_videofile("half.mp4", logger=None)\''
        " && ffprobe -v error -show_entries stream=nb_frames -of csv half.mp4",
        "stream,10",
    ),
    # of the JRE alone: the compiler is a Java program as well (Debian's own wrapper names a file
    # that has moved)
    "Java": (
        "printf 'class Sum { public static void main(String[] a) {"
        " System.out.println(java.util.stream.IntStream.range(0, 5).sum()); } }' >Sum.java"
        " && java -cp /usr/share/java/eclipse-jdt-core-compiler-batch.jar"
        " org.eclipse.jdt.internal.compiler.batch.Main -17 Sum.java && java Sum",
        "10",
    ),
    "gdb": (
        "printf 'int add(int a, int b) { return a + b; }\\n"
        "int main(void) { return add(20, 22) != 42; }\\n' >add.c && gcc -g add.c -o add"
        " && gdb -q -batch -ex 'break add' -ex run -ex 'print a' -ex 'print a + b' -ex continue"
        " ./add",
        "$1 = 20\n$2 = 42\n[Inferior 1",
    ),
    "gdb of a running program": (
        "sleep 300 & gdb -q -batch -p $! -ex 'info proc' | grep cmdline; kill $!",
        "cmdline = 'sleep 300'",
    ),
    "strace": (
        "strace -f -e trace=openat -o calls sh -c 'cat /etc/hostname'"
        " && grep -c /etc/hostname calls",
        "sandbox\n1",
    ),
    "curl over TLS": ("curl -sSI https://pypi.org/simple/ | head -1", "HTTP/"),
}


def fetched_from_outside(port: int) -> str:
    """Return what a server inside answers to a plain HTTP client on the host's loopback."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return str(answer.read().decode())


def said_by_redis(port: int) -> bytes:
    """Return what Redis answers on the host's loopback to whoever asks for a key."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET shown\r\nQUIT\r\n")
        return client.makefile("rb").read()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_work_and_an_unchanged_rootfs(
    standard_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    before = Store().info("standard").digest
    # no limits are named: those by default must do
    sandbox = Sandbox(
        "standard", network="packages", allow_private=private_mirrors(),
        publish=[Publish(port=0, inner_port=EXPRESS), Publish(port=0, inner_port=REDIS)],
    )  # fmt: skip
    with sandbox:
        for name, (command, expected) in WORK.items():
            result = sandbox.run(command)
            assert result.ok, (name, result.output[-2000:])
            assert expected in result.stdout, (name, result.output[-2000:])
        express, redis = (one.port for one in sandbox.enforcement.published)
        assert fetched_from_outside(express) == "from express"
        assert said_by_redis(redis) == b"$7\r\noutside\r\n+OK\r\n"
    for port in (express, redis):
        with pytest.raises(OSError, match="refused"):
            said_by_redis(port)
    verified = Store().verify("standard")
    assert verified.ok
    assert verified.actual == before


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server with a repository, behind TLS of a company's own authority."""
    tree = tmp_path / "served"
    work = tmp_path / "work"
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    git = ("git", "-C", str(work), "-c", "user.name=A", "-c", "user.email=a@example.org")
    work.mkdir()
    (work / "file").write_text("from outside\n")
    for words in (
        (*git, "init", "-q", "-b", "main"), (*git, "add", "file"), (*git, "commit", "-qm", "one"),
        ("git", "clone", "-q", "--bare", str(work), str(tree / "repo.git")),
        ("git", "-C", str(tree / "repo.git"), "update-server-info"),
        ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
         "-out", str(certificate)),
    ):  # fmt: skip
        subprocess.run(words, check=True, capture_output=True)
    monkeypatch.setenv("PIP_CERT", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = functools.partial(Quiet, directory=str(tree))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_git_over_https_behind_a_companys_authority(
    standard_home: Path, forge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    allowed = [f"localhost:{forge}"]
    with Sandbox("standard", allow=allowed, allow_private=["localhost"]) as sandbox:
        # what is called localhost is elsewhere looked for inside
        clone = f"env no_proxy= NO_PROXY= git clone -q https://localhost:{forge}/repo.git"
        result = sandbox.run(f"{clone} && cat repo/file")
        assert result.stdout == "from outside\n", result.stderr
        assert {request.verdict for request in sandbox.requests()} == {"allowed"}
        assert "403" in sandbox.run("git clone https://elsewhere.example/r.git").stderr
