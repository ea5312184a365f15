"""Whether an address is this machine's own, whatever range it is from. Sends nothing.

A machine with a public address reaches that address over its loopback, past the firewall that keeps strangers out: what
listens on every address answers. So a job has no more business there than at 127.0.0.1.
"""

from __future__ import annotations

import socket
from functools import cache

_NOBODYS = {
    socket.AF_INET: ("192.0.2.1", "198.51.100.1", "203.0.113.1"),
    socket.AF_INET6: ("2001:db8::1", "3fff::1"),
}
"""Documentation addresses (RFC 5737, 3849, 9637). A test bed may have one of them, no machine has all."""


def is_own(ip: str) -> bool:
    """Whether the system takes ``ip`` for one of its own: only then can a socket be bound to it. Where it lets sockets
    be bound to any address at all (``ip_nonlocal_bind``), that tells nothing: False, as for what is no literal."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        socket.inet_pton(family, ip)
    except (OSError, ValueError):
        return False  # bind() would look it up as a name
    return _can_bind(family, ip) and not _binds_anything(family)


@cache
def _binds_anything(family: socket.AddressFamily) -> bool:
    return all(_can_bind(family, ip) for ip in _NOBODYS[family])


def _can_bind(family: socket.AddressFamily, ip: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True
