"""What may be reached: rules, and the policy of one sandbox. Pure; knows no sockets."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

WEB_PORTS = (80, 443)
_RULE = re.compile(r"(?:([A-Z,]+) )?(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?")
_NAME = re.compile(
    r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
_HINT = "such as example.org, *.example.org, example.org:8443 or 'GET,HEAD example.org:80'"
_SHOWN = 12


def canonical(host: str) -> str:
    """Return a host name as it is compared: in ASCII, small, without the dot at the end.

    Raises:
        ValueError: It is none.
    """
    host = host.strip("[]").rstrip(".").lower()
    if "%" in host:
        raise ValueError("an address with a zone")  # whatever stands behind it is accepted
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        name = host.encode("idna").decode() if not host.isascii() else host
    if _NAME.fullmatch(name) is None or len(name) > 253:
        raise ValueError(f"not a host name: {host!r}")
    return name


def is_address(host: str) -> bool:
    """Return whether a canonical host is an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that may be reached."""

    host: str
    """A name, `*.name` for all below it, an address, or `*` for every public host."""
    ports: tuple[int, ...] = WEB_PORTS
    methods: frozenset[str] | None = None
    """Of plain HTTP; None is every method, and what goes through a tunnel (HTTPS)."""

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Return the rule of `[METHOD,METHOD ]HOST[:PORT]`.

        Raises:
            SpecError: It is none.
        """
        match = _RULE.fullmatch(text.strip())
        if match is None:
            raise SpecError(f"not a rule for the network: {text!r}", hint=_HINT)
        methods, host, port = match.groups()
        if port is not None and not 0 < int(port) < 1 << 16:
            raise SpecError(f"not a port: {port}", hint=_HINT)
        try:
            name = canonical(host)
        except ValueError as error:
            raise SpecError(f"not a rule for the network: {text!r}: {error}", hint=_HINT) from None
        return cls(
            host=name,
            ports=WEB_PORTS if port is None else (int(port),),
            methods=None if methods is None else frozenset(methods.split(",")),
        )

    def names(self, host: str) -> bool:
        """Return whether a canonical host is meant."""
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and not is_address(host)
        return self.host in ("*", host)

    def admits(self, method: str, host: str, port: int) -> bool:
        """Return whether a request is allowed by this rule."""
        return (
            self.names(host)
            and port in self.ports
            and (self.methods is None or method in self.methods)
        )

    def __str__(self) -> str:
        methods = "" if self.methods is None else f"{','.join(sorted(self.methods))} "
        ports = "" if self.ports == WEB_PORTS else f":{','.join(map(str, self.ports))}"
        return f"{methods}{self.host}{ports}"


def parse_all(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Return the rules of several texts.

    Raises:
        SpecError: One of them is none.
    """
    return tuple(Rule.parse(text) for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one sandbox may reach; grants make another one of it."""

    mode: str
    rules: tuple[Rule, ...]
    private: tuple[Rule, ...] = ()
    """Names whose addresses may be private: a company's own mirror has such a one."""

    def refusal(self, method: str, host: str, port: int) -> str | None:
        """Return why a request is refused, for whoever made it; None where it is not."""
        if any(rule.admits(method, host, port) for rule in self.rules):
            return None
        near = [str(rule) for rule in self.rules if rule.names(host)]
        if near:
            return (
                f"{method} to {host} port {port} is not allowed in this sandbox "
                f"(network {self.mode}: {', '.join(near)})"
            )
        return f"{host} is not on the list of this sandbox (network {self.mode}: {self.summary()})"

    def may_be_private(self, host: str) -> bool:
        """Return whether a canonical host may have an address that is not public."""
        return any(rule.names(host) for rule in self.private)

    def summary(self) -> str:
        """Return what is allowed, in one line."""
        if any(rule.host == "*" for rule in self.rules):
            return "every public host"
        names = list(dict.fromkeys(str(rule) for rule in self.rules))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more
