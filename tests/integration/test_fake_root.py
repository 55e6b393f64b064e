"""What each capability of pretended root is for: without it the same probe fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits, Sandbox
from sandbox_lite.jail import bwrap, nest

if TYPE_CHECKING:
    from pathlib import Path

SETCAP = (
    "import os, struct; words = struct.pack('<IIIII', 0x02000001, 1 << 10, 0, 0, 0);"
    " os.setxattr('t', 'security.capability', words)"
)
"""As setcap(8) does it: version 2 of the attribute, effective, CAP_NET_BIND_SERVICE."""

PROBES = {
    "CAP_DAC_OVERRIDE": (
        "echo a >f && chmod 444 f && echo b >>f && cat f; rm -f f",
        "mkdir -m 0 d; echo in >d/f && cat d/f; rm -rf d",
    ),
    "CAP_SETFCAP": (f'cp /bin/true t && python3 -c "{SETCAP}" && echo set',),
}
ANSWERS = {"CAP_DAC_OVERRIDE": ("a\nb\n", "in\n"), "CAP_SETFCAP": ("set\n",)}
LIMITS = Limits.of(timeout=15)


@pytest.mark.parametrize("capability", PROBES)
def test_capability_closes_a_gap(
    home: Path, monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    with Sandbox("minimal", limits=LIMITS) as sandbox:
        assert capability in sandbox.enforcement.capabilities
        found = tuple(sandbox.run(probe).stdout for probe in PROBES[capability])
        assert found == ANSWERS[capability]
    fewer = tuple(one for one in bwrap.CAPABILITIES if one != capability)
    monkeypatch.setattr(bwrap, "CAPABILITIES", fewer)
    with Sandbox("minimal", limits=LIMITS) as sandbox:
        for probe in PROBES[capability]:
            result = sandbox.run(probe)
            assert result.stdout == ""
            assert "ermission denied" in result.stderr or "not permitted" in result.stderr


BIND = "import socket; socket.socket().bind(('127.0.0.1', 80)); print('bound')"


def test_low_ports_are_opened_by_the_network_not_by_a_capability(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("root", "daemon"):
        with Sandbox("minimal", user=user, limits=LIMITS) as sandbox:
            assert sandbox.exec(["python3", "-c", BIND]).stdout == "bound\n"
    # the network belongs to the outer user namespace, in which nobody inside has a say
    monkeypatch.setattr(nest.Nest, "open_low_ports", lambda *_: int)
    more = (*bwrap.CAPABILITIES, "CAP_NET_BIND_SERVICE")
    monkeypatch.setattr(bwrap, "CAPABILITIES", more)
    with Sandbox("minimal", limits=LIMITS) as sandbox:
        assert "Permission denied" in sandbox.exec(["python3", "-c", BIND]).stderr


def test_what_stays_a_lie(home: Path) -> None:
    with Sandbox("minimal", limits=LIMITS) as sandbox:
        assert sandbox.run("touch f && chown 33:44 f && stat -c %u:%g f").stdout == "0:0\n"
        assert sandbox.run("runuser -u www-data -- id -u").stdout == "0\n"
        assert sandbox.run("mknod n c 1 3 && ! test -e n && echo none").stdout == "none\n"


def test_an_ordinary_user_has_none_of_it(home: Path) -> None:
    with Sandbox("minimal", user="daemon", limits=LIMITS) as sandbox:
        assert sandbox.enforcement.capabilities == ()
        for probes in PROBES.values():
            for probe in probes:
                assert sandbox.run(probe).stdout == ""
        assert not sandbox.run("chown 33 /testbed").ok
