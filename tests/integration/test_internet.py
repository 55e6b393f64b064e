"""Network `internet` with real carriers: what is reached, what is not, and what is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite import Sandbox
from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail.usernet import carriers, carrying
from tests.conftest import require, require_subordinate_ids
from tests.raw_network import (
    GROUP,
    HOST,
    LAN,
    METADATA,
    OUTSIDE,
    PORT,
    Host,
    await_end,
    host_with_internet,
    unpack_carriers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("home")

CARRIERS = ("pasta", "slirp4netns")
_TUN = Path("/dev/net/tun")


def _tun_opens() -> bool:
    return os.access(_TUN, os.R_OK | os.W_OK)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one for each carrier."""
    require(_tun_opens(), "an open /dev/net/tun")
    require(shutil.which("apt-get") is not None, "apt-get")
    return unpack_carriers(tmp_path_factory.mktemp("carriers"))


@pytest.fixture
def carrier(
    request: pytest.FixtureRequest, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The directory of one carrier, in front of PATH, and the other one nowhere."""
    path = unpacked / str(request.param)
    if request.param != carriers.CARRIERS[0].name:
        first = carriers.CARRIERS[0].name
        require(shutil.which(first) is None, f"a PATH without {first}, which would be taken")
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    found, _ = carriers.find()
    assert found.name == request.param
    return path


@pytest.fixture(params=[OUTSIDE, "127.0.0.53"])
def resolver(request: pytest.FixtureRequest) -> str:
    """Where the host's own names are resolved: elsewhere, or by a stub on its loopback."""
    return str(request.param)


@pytest.fixture
def host(tmp_path: Path, resolver: str) -> Iterator[Host]:
    require(os.getuid() == 0, "root")
    require(shutil.which("ip") is not None, "iproute2")
    with host_with_internet(tmp_path, resolver) as made:
        yield made


# Runs inside: tries all at once, and prints what each said.
PROBE = """
import json, socket, sys, threading
found = {}
def attempt(text):
    kind, host, port, bound = text.split()
    stream = kind == "tcp"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as one:
        one.settimeout(2)
        try:
            if bound == "bound":
                names = [name for _, name in socket.if_nameindex() if name in ("tap0", "up0")]
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, names[0].encode())
            if stream:
                one.connect((host, int(port)))
                found[text] = one.recv(100).decode()
            else:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                one.sendto(b"?", (host, int(port)))
                found[text] = one.recvfrom(100)[0].decode()
        except OSError as error:
            found[text] = type(error).__name__
threads = [threading.Thread(target=attempt, args=(text,)) for text in sys.argv[1:]]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(found))
"""

# Runs on the host: serves on every address of its own, and has the probes made in a sandbox.
SCRIPT = """
import json, socket, subprocess, sys, threading
from sandbox_lite import Sandbox
mode, user, probe, without, *probes = sys.argv[1:]
server = socket.create_server(("0.0.0.0", 8090))
def serve():
    while True:
        one, _ = server.accept()
        one.sendall(b"host")
        one.close()
threading.Thread(target=serve, daemon=True).start()
publish = {} if mode == "host" else {0: 8000}
with Sandbox("minimal", network=mode, user=user, publish=publish) as sandbox:
    enforcement = sandbox.enforcement
    if without:
        subprocess.run(["nsenter", "-t", str(sandbox._supervisor.pid), "-n",
                        sys.executable, "-c", without], check=True)
    found = sandbox.exec(["python3", "-c", probe, *probes])
    assert found.ok, found.stderr
    print(found.stdout)
    print(json.dumps(sandbox.files.read("/etc/resolv.conf").decode()))
    print(json.dumps(enforcement.carrier))
    print(json.dumps(sandbox.run("cat /proc/net/fib_trie /proc/net/route").stdout))
    if publish:
        sandbox.run("cd /tmp; echo inside > it; python3 -m http.server -b 127.0.0.1 8000 "
                    ">/dev/null 2>&1 & until (: < /dev/tcp/127.0.0.1/8000); do :; done 2>/dev/null")
        import urllib.request
        where = f"http://127.0.0.1:{enforcement.published[0].port}/it"
        print(json.dumps(urllib.request.urlopen(where, timeout=10).read().decode()))
"""

REACHED = (
    f"tcp {OUTSIDE} {PORT} any", f"udp {OUTSIDE} {PORT} any", f"tcp public.example {PORT} any",
    f"tcp {OUTSIDE} {PORT} bound", f"udp {OUTSIDE} {PORT} bound",
)  # fmt: skip
_CLOSED = (
    f"tcp {HOST} 8090", f"tcp {METADATA} {PORT}", f"udp {METADATA} {PORT}", f"tcp {LAN} {PORT}",
    f"tcp private.example {PORT}", f"tcp 192.0.0.2 {PORT}", f"udp 192.0.0.2 {PORT}",
    f"tcp 192.0.0.3 {PORT}", f"udp 192.0.0.3 {PORT}",
)  # fmt: skip
CLOSED = (
    *(f"{one} any" for one in _CLOSED), *(f"{one} bound" for one in _CLOSED),
    f"udp {GROUP} {PORT} any", f"udp {GROUP} {PORT} bound", f"udp 255.255.255.255 {PORT} bound",
    "tcp 127.0.0.1 8090 any", "tcp 192.0.0.2 8090 any", "tcp 192.0.0.2 8090 bound",
)  # fmt: skip
"""`bound`: by a socket that is tied to the interface, which routes do not stop."""
NEVER = {"tcp 192.0.0.2 8090 any", "tcp 192.0.0.2 8090 bound"}
"""What the host does not reach either; it is where a carrier might lead to its loopback."""


@pytest.mark.parametrize("resolver", [OUTSIDE], indirect=True)
def test_the_probes_reach_what_they_try(host: Host, tmp_path: Path) -> None:
    said = host.run(SCRIPT, "host", "root", PROBE, "", *REACHED, *CLOSED, path=tmp_path)
    found = json.loads(said.splitlines()[0])
    assert {text for text, answer in found.items() if answer not in ("outside", "host")} == NEVER


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("carrier", CARRIERS, indirect=True)
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_the_internet_is_reached_and_nothing_of_the_host(
    host: Host, carrier: Path, resolver: str, user: str
) -> None:
    said = host.run(SCRIPT, "internet", user, PROBE, "", *REACHED, *CLOSED, path=carrier)
    found, resolving, named, routes, served = (
        json.loads(line) for line in said.split("\n") if line
    )
    assert {found.pop(text) for text in REACHED} == {"outside"}
    assert {text: answer for text, answer in found.items() if not answer.endswith("Error")} == {}
    assert resolving == "nameserver 192.0.0.3\n"
    assert named == f"{carrier.name} at {carrier / carrier.name}"
    assert HOST not in routes
    assert socket.inet_aton(HOST)[::-1].hex().upper() not in routes
    assert served == "inside\n"


# NFT_MSG_DELTABLE of the one table
WITHOUT_FILTER = """
import struct
from sandbox_lite.jail import netlink
frame = struct.pack("!BBH", 0, 0, 10)
table = struct.pack("!BBH", 1, 0, 0) + netlink.attribute(1, b"sandbox-lite\\0")
netlink.talk(12, [(0x10, 0, frame), (10 << 8 | 2, 0, table), (0x11, 0, frame)])
"""


@pytest.mark.parametrize("resolver", [OUTSIDE], indirect=True)
@pytest.mark.parametrize("carrier", ["pasta"], indirect=True)
def test_without_the_filter_the_routes_alone_do_not_hold(host: Host, carrier: Path) -> None:
    said = host.run(SCRIPT, "internet", "root", PROBE, WITHOUT_FILTER, *CLOSED, path=carrier)
    found = json.loads(said.splitlines()[0])
    assert found[f"tcp {HOST} 8090 any"] == "host"
    for address in (METADATA, LAN):
        assert found[f"tcp {address} {PORT} any"] == "OSError"  # EHOSTUNREACH, at once
        assert found[f"tcp {address} {PORT} bound"] == "outside"


# Each by the kernel's own interface, for the rootfs has no `ip`: RTM_DELROUTE of 10.0.0.0/8,
# RTM_NEWLINK that takes tap0 down, NFT_MSG_DELTABLE.
CHANGES = """
import socket, struct, sys
def told(family, kind, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as kernel:
        kernel.settimeout(5)
        try:
            kernel.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 1, 0) + body)
            return -struct.unpack_from("=i", kernel.recv(4096), 16)[0]
        except OSError as error:
            return error.errno
index = socket.if_nametoindex("tap0")
route = struct.pack("=8BI", 2, 8, 0, 0, 254, 0, 0, 7, 0) + struct.pack("=HH4B", 8, 1, 10, 0, 0, 0)
print(told(0, 25, route), told(0, 16, struct.pack("=BxHiII", 0, 0, index, 0, 1)), told(12, 16,
      struct.pack("!BBH", 0, 0, 10)))
"""


@pytest.mark.parametrize("carrier", CARRIERS, indirect=True)
def test_nothing_inside_can_change_the_network(carrier: Path) -> None:
    with Sandbox("minimal", network="internet") as sandbox:
        routes = "cat /proc/net/route; grep tap0 /proc/net/dev"
        before = sandbox.run(routes).stdout
        assert "0000000A" in before
        assert sandbox.exec(["python3", "-c", CHANGES]).stdout == "1 1 1\n"  # EPERM
        assert sandbox.run(routes).stdout.split("\n")[:5] == before.split("\n")[:5]
        # the same words, by one who may
        jail = sandbox._supervisor
        assert jail is not None
        said = subprocess.run(
            ["nsenter", f"--user=/proc/{jail.holder}/ns/user", f"--net=/proc/{jail.pid}/ns/net",
             "--preserve-credentials", sys.executable, "-c", CHANGES],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert said.stdout.split()[:2] == ["0", "0"]
        assert "0000000A" not in sandbox.run(routes).stdout


@pytest.mark.parametrize("carrier", CARRIERS, indirect=True)
def test_root_with_other_ids_below_it(carrier: Path) -> None:
    require_subordinate_ids()
    with Sandbox("minimal", network="internet", ids="subordinate") as sandbox:
        assert sandbox.enforcement.carrier.startswith(carrier.name)
        # it is in the user namespace that its network belongs to, but for the right to change that
        assert sandbox.exec(["python3", "-c", CHANGES]).stdout == "1 1 1\n"


def _carriers() -> list[psutil.Process]:
    """Processes of ours that were told the interface's name: a carrier in any of its stages."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "tap0" in one.cmdline():
                found.append(one)
    return found


def _directories() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("sandbox-lite-net-*"))


@pytest.mark.parametrize("carrier", CARRIERS, indirect=True)
def test_nothing_is_left_when_it_closes(carrier: Path) -> None:
    with Sandbox("minimal"):
        pass  # what serves all sandboxes is there now
    fds = len(list(Path("/proc/self/fd").iterdir()))
    with Sandbox("minimal", network="internet") as sandbox:
        assert sandbox.enforcement.carrier.startswith(carrier.name)
        (process,) = _carriers()
    assert not process.is_running()
    assert _carriers() == []
    assert len(list(Path("/proc/self/fd").iterdir())) == fds
    assert _directories() == set()


@pytest.mark.parametrize("carrier", CARRIERS, indirect=True)
def test_nothing_is_left_when_its_program_is_killed(carrier: Path) -> None:
    code = (
        "import sys\nfrom sandbox_lite import Sandbox\n"
        "with Sandbox('minimal', network='internet') as sandbox:\n"
        "    print(sandbox.enforcement.carrier, flush=True)\n    sys.stdin.read()\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline().startswith(carrier.name)
        pids = [one.pid for one in psutil.Process(program.pid).children(recursive=True)]
        assert any("tap0" in psutil.Process(pid).cmdline() for pid in pids)
    finally:
        program.send_signal(signal.SIGKILL)
        program.communicate()
    assert await_end(pids)
    assert _directories() == set()


# -- what a host lacks -----------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands where pasta would; the device is one that opens for everybody."""
    monkeypatch.setattr(carriers, "_TUN", Path("/dev/null"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "pasta"
    path.touch(mode=0o755)
    return path


def test_a_carrier_that_fails_is_told_of_and_leaves_nothing(fake: Path) -> None:
    fake.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    with pytest.raises(HostError, match=r"pasta, which carries .*, ended: it is broken\nhint"):
        Sandbox("minimal", network="internet").open()
    assert _carriers() == []
    assert _directories() == set()


def test_a_carrier_that_is_never_ready_is_ended(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "START_SECONDS", 0.5)
    fake.write_text("#!/bin/sh\nkill -STOP $$\n")
    with pytest.raises(HostError, match="not ready in time"):
        Sandbox("minimal", network="internet").open()
    assert _carriers() == []
    assert _directories() == set()


def test_a_network_that_cannot_be_closed_is_refused(fake: Path) -> None:
    fake.write_text('#!/bin/sh\nfor last; do :; done\necho 1 > "$last"\nkill -STOP $$\n')
    with pytest.raises(HostError, match=r"could not be closed.*no interface with this name"):
        Sandbox("minimal", network="internet").open()
    assert _carriers() == []


def test_a_host_without_carriers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = carriers.missing()
    assert found is not None
    assert "neither is installed: install one: apt-get" in found
    with pytest.raises(HostError, match="neither is installed") as refused:
        Sandbox("minimal", network="internet").open()
    assert "apt-get install passt" in str(refused.value.hint)


def test_a_host_without_the_device(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carriers, "_TUN", fake.parent / "tun")
    with pytest.raises(HostError, match="tun, which cannot be opened: No such file") as found:
        Sandbox("minimal", network="internet").open()
    assert "modprobe tun" in str(found.value.hint)


def test_a_device_that_is_closed(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(os.getuid() != 0, "an ordinary user")
    closed = fake.parent / "tun"
    closed.touch(mode=0)
    monkeypatch.setattr(carriers, "_TUN", closed)
    with pytest.raises(HostError, match="tun, which cannot be opened: Permission denied") as found:
        Sandbox("minimal", network="internet").open()
    assert "chmod 0666" in str(found.value.hint)


def test_there_is_no_list_to_add_to() -> None:
    for words in ({"allow": ["example.org"]}, {"allow_private": ["example.org"]}):
        with pytest.raises(SpecError, match="no list"):
            Sandbox("minimal", network="internet", **words)  # type: ignore[arg-type]
