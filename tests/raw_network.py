"""What tests of raw packets need: the carriers, never installed, and a host with an internet.

The host is a network namespace with a file system view of its own; its internet is another one,
joined to it by a pair of interfaces, with a server on each address that is tried.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import select
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OUTSIDE, HOST = "192.88.99.2", "192.88.99.1"
"""Of a range that was given back (RFC 7526): public by the rules, and nobody's."""
LAN, METADATA = "10.1.2.3", "169.254.169.254"
GROUP = "239.1.2.3"
PORT = 8080

_SERVER = f"""
import socket, struct, sys, threading

def tcp():
    server = socket.create_server(("0.0.0.0", {PORT}))
    while True:
        one, _ = server.accept()
        one.sendall(b"outside")
        one.close()

def udp():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", {PORT}))
    both = socket.inet_aton("{GROUP}") + socket.inet_aton("{OUTSIDE}")
    server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, both)
    print("joined", flush=True)
    while True:
        _, sender = server.recvfrom(100)
        server.sendto(b"outside", sender)

def dns():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((sys.argv[1], 53))
    names = {{b"\\6public\\7example\\0": "{OUTSIDE}", b"\\7private\\7example\\0": "{LAN}"}}
    while True:
        query, sender = server.recvfrom(512)
        end = query.index(b"\\0", 12) + 1
        address = names.get(query[12:end])
        kind = query[end : end + 2]
        found = address is not None and kind == b"\\0\\1"
        answer = query[:2] + (b"\\x81\\x80" if address else b"\\x81\\x83") + b"\\0\\1"
        answer += struct.pack("!3H", found, 0, 0) + query[12 : end + 4]
        if found:
            answer += b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton(address)
        server.sendto(answer, sender)

if len(sys.argv) == 1:
    print("begun", flush=True)
    sys.stdin.readline()  # the interface is there
    threading.Thread(target=tcp, daemon=True).start()
    threading.Thread(target=udp, daemon=True).start()
else:
    threading.Thread(target=dns, daemon=True).start()
    print("bound", flush=True)
while sys.stdin.readline():
    pass
"""


def unpack_carriers(place: Path) -> Path:
    """Return a directory for PATH below `place` for each of `pasta` and `slirp4netns`."""
    root = place / "root"
    packages = ["passt", "slirp4netns", "libslirp0"]
    if ctypes.util.find_library("glib-2.0") is None:
        packages.append("libglib2.0-0")
    options: list[str] = []
    try:
        _apt(place, options, "download", *packages)
    except subprocess.CalledProcessError:
        # a fresh machine has no lists, and an ordinary user may not fetch them for all
        (place / "lists" / "partial").mkdir(parents=True)
        options = ["-o", f"Dir::State::lists={place}/lists"]
        _apt(place, options, "update")
        _apt(place, options, "download", *packages)
    for package in place.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    programs = root / "usr" / "bin"
    libraries = next((root / "usr" / "lib").glob("*/libslirp.so.0")).parent
    for name in ("pasta", "slirp4netns"):
        (place / name).mkdir()
        starter = place / name / name
        starter.write_text(
            f"#!/bin/sh\nexport LD_LIBRARY_PATH={shlex.quote(str(libraries))}\n"
            f'exec {shlex.quote(str(programs / name))} "$@"\n'
        )
        starter.chmod(0o755)
    return place


def _apt(place: Path, options: Sequence[str], *words: str) -> None:
    argv = ["apt-get", *options, "-o", "APT::Sandbox::User=", *words]
    subprocess.run(argv, cwd=place, check=True, capture_output=True, timeout=120)


@dataclass(frozen=True)
class Host:
    """A host of the test's own."""

    pid: int

    def run(self, code: str, *arguments: str, path: Path, timeout: float = 60) -> str:
        """Run Python there, with that directory in front of PATH; return what it prints."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "-m", sys.executable, "-c", code, *arguments],
            env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


def _ip(pid: int, words: str) -> None:
    subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "ip", *words.split()], check=True, capture_output=True
    )


@contextlib.contextmanager
def _process(*argv: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 10)[0], f"{expected}: nothing in ten seconds"
    assert process.stdout.readline() == f"{expected}\n"


@contextlib.contextmanager
def host_with_internet(place: Path, resolver: str) -> Iterator[Host]:
    """Make both; the host's resolver has that address, its own or one of the internet."""
    configuration = place / "resolv.conf"
    configuration.write_text(f"nameserver {resolver}\nsearch secret.example\n")
    mounted = f"mount --bind {shlex.quote(str(configuration))} /etc/resolv.conf && echo mounted"
    with contextlib.ExitStack() as stack:
        outside = stack.enter_context(_process("unshare", "-n", sys.executable, "-c", _SERVER))
        inside = stack.enter_context(
            _process("unshare", "-n", "-m", "sh", "-c", f"{mounted} && exec cat")
        )
        _line(outside, "begun")
        _line(inside, "mounted")
        _ip(inside.pid, f"link add up0 type veth peer name down0 netns {outside.pid}")
        for pid, name, address in ((inside.pid, "up0", HOST), (outside.pid, "down0", OUTSIDE)):
            _ip(pid, "link set lo up")
            _ip(pid, f"link set {name} up")
            _ip(pid, f"address add {address}/24 dev {name}")
        _ip(inside.pid, f"route add default via {OUTSIDE}")
        for address in (LAN, METADATA, "192.0.0.2", "192.0.0.3"):
            _ip(outside.pid, f"address add {address}/32 dev lo")
        assert outside.stdin is not None
        outside.stdin.write("\n")
        outside.stdin.flush()
        _line(outside, "joined")
        where = inside if resolver.startswith("127.") else outside
        argv = ("nsenter", "-t", str(where.pid), "-n", sys.executable, "-c", _SERVER, resolver)
        _line(stack.enter_context(_process(*argv)), "bound")
        yield Host(pid=inside.pid)


def await_end(pids: Sequence[int], seconds: float = 10) -> bool:
    """Wait until no process has any of these pids; return whether that came in time."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
