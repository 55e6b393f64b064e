"""Rules, addresses, the preset and the host's mirrors: what may be reached, without a network."""

from __future__ import annotations

import ssl
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import psutil
import pytest

from sandbox_lite.errors import SpecError
from sandbox_lite.jail import network
from sandbox_lite.jail.egress import addresses, hello, mirrors
from sandbox_lite.jail.egress.rules import Policy, Rule
from sandbox_lite.jail.network import packages
from sandbox_lite.jail.usernet import helpers, refused
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
