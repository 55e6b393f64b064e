"""Network modes: one file each, one line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.errors import SpecError
from sandbox_lite.jail.egress import PORT
from sandbox_lite.jail.egress.rules import WEB_PORTS, Policy, parse_all
from sandbox_lite.jail.network import allow, host, internet, none, packages, web

if TYPE_CHECKING:
    from sandbox_lite.jail.network.mode import Mode
    from sandbox_lite.spec import SandboxSpec

_ALL = (none.MODE, packages.MODE, web.MODE, allow.MODE, internet.MODE, host.MODE)
MODES = {mode.name: mode for mode in _ALL}


def find(name: str) -> Mode:
    """Return the mode of that name.

    Raises:
        SpecError: There is none.
    """
    if name not in MODES:
        raise SpecError(
            f"no network mode {name!r}", hint=f"one of: {', '.join(MODES)}; `none` is the default"
        )
    return MODES[name]


def policy(spec: SandboxSpec) -> Policy | None:
    """Return what a sandbox may reach; None where its mode has no proxy.

    Raises:
        SpecError: A rule is none, or the mode can have none.
    """
    mode = find(spec.network)
    rules, private = parse_all(spec.allow), parse_all(spec.allow_private)
    if any(rule.ports != WEB_PORTS or rule.methods for rule in private):
        raise SpecError(
            "allow_private takes hosts alone",
            hint="which ports of them may be reached stands in allow",
        )
    if spec.publish and mode.shares_host:
        raise SpecError(
            f"network {mode.name} publishes nothing: its servers are on the host already",
            hint="leave publish out",
        )
    if mode.rules is None:
        if rules or private:
            raise SpecError(
                f"network {mode.name} has no list to add to",
                hint="use network allow, packages or web",
            )
        return None
    if not rules and mode is allow.MODE:
        raise SpecError("network allow needs a list", hint="name what may be reached: allow")
    return Policy(mode=mode.name, rules=(*mode.rules(), *rules), private=private)


def environment() -> dict[str, str]:
    """Return the variables by which programs inside find the proxy."""
    url = f"http://127.0.0.1:{PORT}"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    local = "localhost,127.0.0.1,::1"
    return {
        **dict.fromkeys(names, url), "no_proxy": local, "NO_PROXY": local,
        # Node.js looks at the others only when told to, from version 22 on
        "NODE_USE_ENV_PROXY": "1",
    }  # fmt: skip
