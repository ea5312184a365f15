"""Which addresses a guarded request may reach. Judges addresses; knows no HTTP and opens no connection.

The rule, for requests that come out of a Job Definition and for redirects of anybody:

- A *public* address may be reached over https only, on port 443 or any port from 1024 on. (Mail, shells, directory
  services and the like live below 1024; plain http to strangers is neither private nor authentic.)
- A *special* address (loopback, private, link-local, metadata services, and everything else that IANA's registries do
  not call global unicast) may not be reached at all, nor may an address that is this machine's own.
- An address inside ``FETCHER_ALLOW_NET`` may be reached on any port, over plain http too.

Requests to an origin that an operator named are not judged, with one exception: a token goes over plain http only to
an address inside ``FETCHER_ALLOW_NET``, a loopback or a private one. On the way to others, strangers could read it.

Every address that a name resolves to is judged, and one that is refused condemns the name: a name that mixes public and
special addresses is an attack or a mistake, and trying its good half would hide both. Judged again are: the socket
address at the moment of connecting (so a name that changes its mind between look-up and connection gains nothing), and
each redirect, because it is a request like any other.

Sources: IANA IPv4/IPv6 Special-Purpose Address Registries; RFC 6890, 4291, 6052, 3056, 4380.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Literal

from fetcher.errors import ForbiddenError
from fetcher.net.own_addresses import is_own

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Host and port → addresses as text, all of them; raises OSError."""

# First match wins, so the narrow ones come first.
_SPECIAL_V4: tuple[tuple[ipaddress.IPv4Network, str], ...] = tuple(
    (ipaddress.IPv4Network(network), reason)
    for network, reason in (
        ("169.254.169.254/32", "a cloud metadata service"),
        ("169.254.170.2/32", "a cloud metadata service"),
        ("100.100.100.200/32", "a cloud metadata service"),
        ("192.0.0.192/32", "a cloud metadata service"),
        ("168.63.129.16/32", "a cloud metadata service"),  # Azure's wire server, the only one on a public address
        ("0.0.0.0/32", "the unspecified address"),
        ("0.0.0.0/8", "this host on this network"),
        ("127.0.0.0/8", "loopback"),
        ("10.0.0.0/8", "private"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
        ("100.64.0.0/10", "shared address space (carrier-grade NAT)"),
        ("169.254.0.0/16", "link-local"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "documentation"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("192.31.196.0/24", "reserved for protocols"),
        ("192.52.193.0/24", "reserved for protocols"),
        ("192.175.48.0/24", "reserved for protocols"),
        ("192.88.99.0/24", "6to4 relay"),
        ("198.18.0.0/15", "benchmarking"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_SPECIAL_V6: tuple[tuple[ipaddress.IPv6Network, str], ...] = tuple(
    (ipaddress.IPv6Network(network), reason)
    for network, reason in (
        ("fd00:ec2::254/128", "a cloud metadata service"),
        ("fd20:ce::254/128", "a cloud metadata service"),
        ("::/128", "the unspecified address"),
        ("::1/128", "loopback"),
        ("::/96", "an IPv4-compatible address"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
        ("2001::/32", "a Teredo tunnel"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),
        ("2002::/16", "a 6to4 tunnel"),
        ("64:ff9b:1::/48", "a local NAT64 prefix"),
        ("2620:4f:8000::/48", "reserved for protocols"),
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""The only block IANA assigns global unicast addresses from; whatever is outside is special, named above or not."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Well-known prefix (RFC 6052): on IPv6-only hosts every IPv4 address is seen through it, so what is inside is
judged."""

_ISATAP = 0x0000_5EFE
"""Interface id 0000:5efe or 0200:5efe, then the IPv4 address; two of its bits say who gave it out."""

_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?", re.IGNORECASE)

KNOWN_MAX = 4096
HTTPS_PORT = 443
PORT_UNPRIVILEGED_MIN = 1024


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


async def look_up(host: str, port: int) -> list[str]:
    """All addresses of ``host`` as the operating system resolves it, in its order of preference. Raises OSError."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    found = dict.fromkeys(str(sockaddr[0]) for family, _, _, _, sockaddr in answers if family in _FAMILIES)
    return list(found)


@lru_cache(maxsize=1024)
def canonical_literal(host: str) -> str | None:
    """``host`` as a plain IP address, or None if it is a name.

    Raises ForbiddenError for a notation that different programs read differently: ``127.1``, ``2130706433``,
    ``0x7f.0.0.1``, ``017700000001``, ``127.0.0.1.``, zone ids, and anything that is neither address nor name.
    """
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise _odd(host) from None
        if address.scope_id is not None:
            raise _odd(host)
        return str(address)
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    if _NUMBER.fullmatch(host.rstrip(".")) or not _HOST.fullmatch(host.removesuffix(".")) or ".." in host:
        raise _odd(host)
    return None


def _odd(host: str) -> ForbiddenError:
    return ForbiddenError(
        f"{host[:120]!r} is neither a host name nor an IP address in its usual notation",
        hint="write the address as 192.0.2.1 or [2001:db8::1]",
    )


class Guard:
    """Judges addresses by the rule above. ``allow_net``: CIDRs, valid ones (the settings have seen to it)."""

    def __init__(self, allow_net: Iterable[str] = ()) -> None:
        self._allowed: tuple[IPNetwork, ...] = tuple(ipaddress.ip_network(network) for network in allow_net)
        self._known: dict[str, bool] = {}

    def __repr__(self) -> str:
        return f"<Guard allowing {', '.join(map(str, self._allowed)) or 'public addresses only'}>"

    def allows(self, ip: str) -> bool:
        """Whether ``FETCHER_ALLOW_NET`` holds the address (an IPv4 address also in its IPv6-mapped form)."""
        found = self._known.get(ip)
        if found is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            found = any(candidate in network for candidate in _forms(ip) for network in self._allowed)
            self._known[ip] = found
        return found

    def judge(self, ip: str) -> str | None:
        """Why the address may not be reached, or None. ``ip`` may be any text; what is no address is refused."""
        if self._allowed and self.allows(ip):
            return None
        return special(ip)

    def judge_endpoint(self, ip: str, port: int, scheme: Literal["http", "https"]) -> str | None:
        """Why ``ip`` may not be reached on ``port`` with ``scheme``, or None."""
        if self._allowed and self.allows(ip):
            return None
        reason = special(ip)
        if reason is None and is_own(ip):
            reason = "one of this machine's own"
        return reason or _public_endpoint(port, scheme)

    def check(self, host: str, addresses: Iterable[str], port: int, scheme: Literal["http", "https"]) -> None:
        """Return if all ``addresses`` of ``host`` may be reached; raises ForbiddenError naming the first that may
        not."""
        for ip in addresses:
            reason = self.judge_endpoint(ip, port, scheme)
            if reason is not None:
                raise refusal(host, ip, port, reason)

    def check_unresolved(self, host: str, port: int, scheme: Literal["http", "https"]) -> None:
        """Return if a name may be handed to a proxy that judges addresses itself; raises ForbiddenError else.

        What the name leads to only the proxy will know, so it is treated as a public address, unless it is a name of
        the machine that resolves it (RFC 6761, 6.3).
        """
        name = host.lower().removesuffix(".")
        is_local = name == "localhost" or name.endswith(".localhost")
        if (reason := "loopback" if is_local else _public_endpoint(port, scheme)) is not None:
            hint = "through a proxy that is for addresses inside FETCHER_ALLOW_NET, written as addresses"
            raise ForbiddenError(f"a request to {host}, port {port}, is refused: it is {reason}", hint=hint)

    def check_token(self, host: str, addresses: Iterable[str], port: int) -> None:
        """Return if a token may go to all ``addresses`` of ``host`` in clear text; raises ForbiddenError else."""
        for ip in addresses:
            if not self.allows(ip) and not _is_near(ip):
                where = ip if host == ip else f"{host} ({ip})"
                raise ForbiddenError(
                    f"the token is not sent to {where}, port {port}: over plain http others could read it on the way",
                    hint=f"use https, or allow it with FETCHER_ALLOW_NET={ip}",
                )

    def check_proxied_token(self, host: str, literal: str | None, proxy: str) -> None:
        """Return if a token may be handed to a proxy in clear text: only where it ends at an allowed address, written
        as one. Raises ForbiddenError else."""
        if literal is None or not self.allows(literal):
            raise ForbiddenError(
                f"the token is not sent to {host} over plain http through the proxy {proxy}: others could read it "
                "on the way",
                hint="use https, or exempt the host with NO_PROXY",
            )


def _public_endpoint(port: int, scheme: Literal["http", "https"]) -> str | None:
    """Why ``port`` of a public address may not be spoken to with ``scheme``, or None."""
    if scheme != "https":
        return "public, and only https may be spoken there"
    if port != HTTPS_PORT and port < PORT_UNPRIVILEGED_MIN:
        return "public, and only ports 443 and 1024 and above may be used there"
    return None


class Barred(OSError):
    """A refusal on its way through a library that only expects OSErrors of connecting; ``refusal`` is what it means.

    All have one text: where several addresses are tried at once, only errors that read the same keep their identity.
    """

    def __init__(self, refusal: ForbiddenError) -> None:
        super().__init__("refused by the guard")
        self.refusal = refusal


def refusal(host: str, ip: str, port: int, reason: str) -> ForbiddenError:
    """The error for an address that may not be reached."""
    where = ip if host == ip else f"{host} ({ip})"
    return ForbiddenError(
        f"a request to {where}, port {port}, is refused: the address is {reason}",
        hint=f"an operator can allow it with FETCHER_ALLOW_NET={ip}",
    )


@lru_cache(maxsize=4096)
def special(ip: str) -> str | None:
    """What is special about an address, or None for a global unicast one."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return "not an address"
    if isinstance(address, ipaddress.IPv4Address):
        return next((reason for network, reason in _SPECIAL_V4 if address in network), None)
    if address.scope_id is not None:
        return "link-local"
    embedded = embedded_v4(address)
    if embedded is not None:
        inner = special(str(embedded))
        return inner and f"{embedded} in disguise, {inner}"
    known = next((reason for network, reason in _SPECIAL_V6 if address in network), None)
    if known or address not in _GLOBAL_V6:
        return known or "reserved"
    # ISATAP (RFC 5214): below any prefix, and a tunnel to the IPv4 address at the end, from a host that has one.
    is_isatap = int(address) >> 32 & 0xFCFF_FFFF == _ISATAP
    if is_isatap and (inner := special(str(ipaddress.IPv4Address(address.packed[-4:])))):
        return f"an ISATAP tunnel to {inner}"
    return None


def embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a connection to ``address`` really reaches: IPv4-mapped, or through NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


_NEAR = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)


def _is_near(ip: str) -> bool:
    """Whether ``ip`` is this machine's or of a private network (in its IPv6-mapped form too)."""
    return any(candidate in network for candidate in _forms(ip) for network in _NEAR)


def _forms(ip: str) -> tuple[IPAddress, ...]:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ()
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:  # compared without its zone, or no network would hold it
            address = ipaddress.IPv6Address(int(address))
        embedded = embedded_v4(address)
        if embedded is not None:
            return (address, embedded)
    return (address,)
