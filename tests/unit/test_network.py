"""Rules, addresses, the preset and the host's mirrors: what may be reached, without a network."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite.errors import SpecError
from sandbox_lite.jail import network
from sandbox_lite.jail.egress import addresses, hello, mirrors, outside
from sandbox_lite.jail.egress.rules import Policy, Rule
from sandbox_lite.jail.network import packages
from sandbox_lite.jail.usernet import carriers, refused
from sandbox_lite.spec import Publish, SandboxSpec

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("rule", "method", "host", "port", "admitted"),
    [
        ("example.org", "CONNECT", "example.org", 443, True),
        ("example.org", "GET", "example.org", 80, True),
        ("example.org", "GET", "example.org", 8080, False),
        ("example.org", "GET", "www.example.org", 80, False),
        ("example.org", "GET", "example.org.evil.net", 80, False),
        ("EXAMPLE.org.", "GET", "example.org", 80, True),
        ("*.example.org", "GET", "a.b.example.org", 80, True),
        ("*.example.org", "GET", "example.org", 80, False),
        ("*.example.org", "GET", "evilexample.org", 80, False),
        ("example.org:8443", "CONNECT", "example.org", 8443, True),
        ("example.org:8443", "CONNECT", "example.org", 443, False),
        ("GET,HEAD example.org", "HEAD", "example.org", 80, True),
        ("GET,HEAD example.org", "POST", "example.org", 80, False),
        ("GET example.org", "CONNECT", "example.org", 443, False),
        ("[2001:db8::1]:8080", "GET", "2001:db8::1", 8080, True),
        ("*.example.org", "CONNECT", "2001:db8::1", 443, False),
        ("bücher.example", "GET", "xn--bcher-kva.example", 80, True),
    ],
)
def test_rules(rule: str, method: str, host: str, port: int, admitted: bool) -> None:
    assert Rule.parse(rule).admits(method, host, port) is admitted


@pytest.mark.parametrize(
    "text",
    ["", "*", "http://example.org", "example.org/path", "example.org:0", "example.org:70000",
     "get example.org", "a b c", "*.*.org", "-x.org", "[fe80::1%x.org]", "a" * 64 + ".org",
     "ex ample.org:80", "a..b"],
)  # fmt: skip
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(SpecError):
        Rule.parse(text)


def test_refusals_say_what_is_allowed() -> None:
    policy = Policy(mode="allow", rules=(Rule.parse("example.org"), Rule.parse("GET a.net:81")))
    assert policy.refusal("GET", "example.org", 80) is None
    other = policy.refusal("GET", "evil.net", 80)
    assert other is not None
    assert "evil.net is not on the list" in other
    assert "example.org" in other
    port = policy.refusal("POST", "a.net", 81)
    assert port is not None
    assert "GET a.net:81" in port


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True), ("2606:4700::1111", True),
        ("127.0.0.1", False), ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("255.255.255.255", False), ("203.0.113.5", False),
        ("::1", False), ("::", False), ("fe80::1", False), ("fe80::1%eth0", False),
        ("fd00:ec2::254", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:1.1.1.1", True), ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False), ("168.63.129.16", False), ("fec0::1", False),
        ("2002:7f00:1::", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert addresses.is_public(address) is public


def test_the_hosts_own_addresses_are_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses.is_public("1.2.3.4")
    (family, *_rest), *_ = psutil.net_if_addrs()["lo"]
    own = [psutil.net_if_addrs()["lo"][0]._replace(address="1.2.3.4", family=family)]
    own += [own[0]._replace(address="10.9.9.9")]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth9": own})
    assert [str(one) for one in refused.own()] == ["1.2.3.4/32"]
    assert not addresses.is_public("1.2.3.4")


def client_hello(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def test_the_name_in_a_client_hello() -> None:
    data = client_hello("example.org")
    assert hello.Hello().feed(data) == "example.org"
    assert hello.Hello().feed(client_hello(None)) == ""
    dripping = hello.Hello()
    for at in range(len(data) - 1):
        assert dripping.feed(data[at : at + 1]) is None
    assert dripping.feed(data[-1:]) == "example.org"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x16\x03\x01\x00\x05abcde"]
)
def test_what_is_no_tls(data: bytes) -> None:
    with pytest.raises(hello.NotTLSError):
        hello.Hello().feed(data)


def test_a_name_that_is_no_host_name(capsys: pytest.CaptureFixture[str]) -> None:
    data = client_hello("example.org").replace(b"example.org", b"ex\xffmple.org")
    with pytest.raises(hello.NotTLSError):
        hello.Hello().feed(data)
    assert capsys.readouterr().err == ""


def test_the_hosts_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip, npm, apt = tmp_path / "pip.conf", tmp_path / "npmrc", tmp_path / "sources.list.d"
    pip.write_text(
        "[global]\nindex-url = https://user:secret@pip.corp.example:8443/simple\n"
        "extra-index-url = https://a.example/simple\n  file:///opt/x\n"
    )
    npm.write_text(
        "//x/:_authToken=secret\nregistry=https://npm.corp.example/\n@my:registry=http://b.example:81\n"
    )
    apt.mkdir()
    (apt / "one.sources").write_text("Types: deb\nURIs: http://deb.corp.example/debian\n")
    (apt / "two.list").write_text(
        "# deb http://no.example x\ndeb [arch=amd64] http://c.example y\n"
    )
    (apt / "three.disabled").write_text("deb http://no.example x\n")
    monkeypatch.setattr(mirrors, "_PIP_FILES", (str(pip),))
    monkeypatch.setattr(mirrors, "_NPM_FILES", (str(npm), str(tmp_path / "missing")))
    monkeypatch.setattr(mirrors, "_APT_PLACES", (str(apt),))
    for name in mirrors._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://v.example/simple")
    assert {str(rule) for rule in mirrors.rules()} == {
        "v.example", "pip.corp.example:8443", "a.example", "npm.corp.example", "b.example:81",
        "deb.corp.example", "c.example",
    }  # fmt: skip


def test_policies_of_the_modes() -> None:
    def of(mode: str, **more: tuple[str, ...]) -> Policy | None:
        return network.policy(SandboxSpec(network=mode, **more))  # type: ignore[arg-type]

    assert of("none") is None
    assert of("host") is None
    chosen = of("packages", allow=("example.org",))
    assert chosen is not None
    assert {*packages.preset()} < {*chosen.rules}
    assert chosen.refusal("GET", "example.org", 80) is None
    web = of("web")
    assert web is not None
    assert web.refusal("CONNECT", "anything.example", 443) is None
    assert web.refusal("CONNECT", "anything.example", 25) is not None
    for mode, more in (
        ("none", {"allow": ("example.org",)}), ("host", {"allow_private": ("example.org",)}),
        ("web", {"allow_private": ("example.org:8443",)}), ("allow", {}),
        ("allow", {"allow": ("no rule",)}),
    ):  # fmt: skip
        with pytest.raises(SpecError):
            of(mode, **more)
    with pytest.raises(SpecError):
        network.policy(SandboxSpec(network="host", publish=(Publish(port=1, inner_port=1),)))


@pytest.mark.parametrize(
    ("text", "address", "port", "inner"),
    [
        ("8080", "127.0.0.1", 8080, 8080), ("8000:80", "127.0.0.1", 8000, 80),
        ("0:80", "127.0.0.1", 0, 80), ("0.0.0.0:8000:80", "0.0.0.0", 8000, 80),
        ("[::1]:8000:80", "::1", 8000, 80),
    ],
)  # fmt: skip
def test_published_ports(text: str, address: str, port: int, inner: int) -> None:
    assert Publish.parse(text) == Publish(address=address, port=port, inner_port=inner)


@pytest.mark.parametrize("text", ["", "x", "1:2:3:4", "80:", ":80", "99999", "80:0"])
def test_what_is_no_published_port(text: str) -> None:
    with pytest.raises(SpecError):
        Publish.parse(text)


def test_raw_packets_reach_what_the_proxies_would() -> None:
    for one in refused.NOT_PUBLIC:
        first, last = int(one.network_address), int(one.broadcast_address)
        for number in (first - 1, first, last, last + 1):
            if 0 <= number < 1 << 32:
                address = IPv4Address(number)
                closed = any(address in other for other in refused.NOT_PUBLIC)
                assert addresses.is_public(str(address)) is not closed, address
    for text in (carriers.OWN, carriers.GATEWAY, carriers.DNS):
        assert not addresses.is_public(text)


async def asked(names: addresses.Names, host: str) -> int:
    """Return how often the host's own resolver is asked while a name is looked up."""
    count = 0
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def counted(*words: object, **named: object) -> object:
        nonlocal count
        count += 1
        return await real(*words, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "getaddrinfo", counted)
        assert await names.resolve(host, 80)
    return count


def test_a_name_is_looked_up_anew_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> None:
        names = addresses.Names()
        assert [await asked(names, "localhost") for _ in range(3)] == [1, 0, 0]
        assert await asked(addresses.Names(), "localhost") == 1  # another sandbox's
        names.forget("localhost", 80)
        assert await asked(names, "localhost") == 1
        for number in range(256):
            await names.resolve(f"127.0.0.{number}", 80)
        assert await asked(names, "localhost") == 1  # room was made
        monkeypatch.setattr(addresses, "KEPT_SECONDS", 0.0)
        assert await asked(names, "localhost") == 1

    asyncio.run(look())


def test_a_name_that_leads_nowhere_is_looked_up_anew() -> None:
    async def look() -> None:
        names = addresses.Names()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        with pytest.raises(outside.UnreachableError):
            await outside.connect(names, "localhost", port, private=True)
        assert not names.known("localhost", port)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            streams = await outside.connect(names, "localhost", port, private=True)
            streams[1].close()
            assert names.known("localhost", port)
            # what is kept is looked at again: who may reach it is another question
            with pytest.raises(outside.RefusedError):
                await outside.connect(names, "localhost", port, private=False)

    asyncio.run(look())


def test_what_a_server_said_before_it_hung_up_is_read_though_a_write_failed() -> None:
    async def ask() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            names = addresses.Names()
            reader, writer = await outside.connect(names, "localhost", port, private=True)
            # the loop has no turn from here on, in which it could read before it writes
            writer.write(b"the head, and a part of a body")
            one, _ = server.accept()
            with one:
                one.settimeout(30)
                one.recv(1)
                one.sendall(b"too large")
            # what was not read makes the kernel send a reset when the socket is closed
            hung_up = select.poll()
            hung_up.register(writer.get_extra_info("socket").fileno(), 0)
            assert hung_up.poll(30_000)
            writer.write(b"the rest of the body")
            async with asyncio.timeout(30):
                answer = await reader.read()
            assert isinstance(reader.broken, ConnectionError)
            writer.close()
            return answer

    assert asyncio.run(ask()) == b"too large"
