"""Which proxy a request is handed to: settings and environment in, a proxy or none out. Opens and resolves nothing.

What an operator states as ``proxy`` counts for every request, whatever the variables say. Where he states nothing, the
environment's variables count as curl and Go's net/http read them; where the two differ, the row says whose rule it is.

===========================  ===================================================================================
``https_proxy``              for https; the lower-case name wins, an empty variable is not set (Go)
``http_proxy``               for http; ``HTTP_PROXY`` is not read where ``REQUEST_METHOD`` is set, because in a CGI
                             program whoever sends a header ``Proxy:`` sets it
``all_proxy``                for both, where the variable of the scheme is not set (curl)
``no_proxy``                 names, addresses and networks that are asked directly; of a stated proxy, too (curl)
loopback                     names and addresses of this machine are never handed to a proxy of the environment (Go)
===========================  ===================================================================================

``no_proxy`` is a list, separated by commas or blanks: ``*`` for everything; ``example.com`` for that name and all below
it, ``.example.com`` and ``*.example.com`` for those below it only (Go); an address, or a network as a CIDR, for hosts
written as addresses (names are not resolved for this); each name or address perhaps with a port.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fetcher.errors import UsageError
from fetcher.model.proxy import DIRECTLY, Proxy, ProxySetting, parse_proxy
from fetcher.net.request import Address

CURE = "set FETCHER_PROXY to an http:// or https:// proxy, or to none to go without"


@dataclass(frozen=True, slots=True, repr=False)
class _Stated:
    """A variable and what it says, which may hold a password; so it has no repr of its own fields."""

    place: str
    text: str

    def __repr__(self) -> str:
        return f"<{self.place}>"


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies in use, and for what. Variables are read when a request needs them: a wrong one hurts nobody else."""

    always: Proxy | None = None
    by_scheme: tuple[tuple[str, _Stated], ...] = ()
    exempt: tuple[str, ...] = ()
    """Items of ``no_proxy``."""

    def for_address(self, address: Address) -> Proxy | None:
        """The proxy for a request to ``address``; None: directly.

        Raises UsageError, naming the variable and the cure, for a proxy that is not usable.
        """
        if self.always is None:
            stated = next((stated for scheme, stated in self.by_scheme if scheme == address.scheme), None)
            if stated is None or _is_loopback(address.host) or self._is_exempt(address):
                return None
            try:
                return parse_proxy(stated.text, stated.place)
            except ValueError as error:
                raise UsageError(f"{stated.place} {error}", hint=CURE) from None
        return None if self._is_exempt(address) else self.always

    def stated(self) -> tuple[str, ...]:
        """The proxies, for people: where each is named, and its address if it can be read."""
        if self.always is not None:
            return (f"{self.always} ({self.always.place})",)
        found = []
        for scheme, stated in self.by_scheme:
            try:
                found.append(f"{scheme} through {parse_proxy(stated.text)} ({stated.place})")
            except ValueError as error:
                found.append(f"{scheme} through nothing: {stated.place} {error}")
        return tuple(found)

    def _is_exempt(self, address: Address) -> bool:
        host = address.host.removesuffix(".")
        literal = _literal(host)
        return any(_covers(item, host, literal, address.port) for item in self.exempt)


def proxies_of(setting: ProxySetting, environ: Mapping[str, str]) -> Proxies:
    """The proxies that a setting and an environment state."""
    if setting == DIRECTLY:
        return Proxies()
    no_proxy = _variable(environ, "no_proxy")
    exempt = () if no_proxy is None else tuple(item for item in re.split(r"[,\s]+", no_proxy.text.lower()) if item)
    if isinstance(setting, Proxy):
        return Proxies(always=setting, exempt=exempt)
    found = []
    for scheme in ("https", "http"):
        stated = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
        if stated is not None:
            found.append((scheme, stated))
    return Proxies(by_scheme=tuple(found), exempt=exempt)


def _variable(environ: Mapping[str, str], name: str) -> _Stated | None:
    for place in (name, name.upper()):
        if place == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
            continue
        if text := environ.get(place, "").strip():
            return _Stated(place, text)
    return None


_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def _literal(host: str) -> _IPAddress | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _is_loopback(host: str) -> bool:
    host = host.removesuffix(".")
    literal = _literal(host)
    return literal.is_loopback if literal is not None else host == "localhost" or host.endswith(".localhost")


def _covers(item: str, host: str, literal: _IPAddress | None, port: int) -> bool:
    """Whether one item of ``no_proxy`` (lower case) is about ``host``, and about ``port`` if it names one."""
    if item == "*":
        return True
    if "/" in item:
        try:
            return literal is not None and literal in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::([0-9]+))?", item)
    plain = re.fullmatch(r"([^:]*):([0-9]+)", item)
    name, named_port = (match[1], match[2]) if (match := bracketed or plain) else (item, None)
    if named_port is not None and int(named_port) != port:
        return False
    if literal is not None:
        return _literal(name) == literal
    name = name.removesuffix(".").removeprefix("*")
    if name.startswith("."):
        return host.endswith(name) and len(name) > 1
    return bool(name) and (host == name or host.endswith(f".{name}"))
