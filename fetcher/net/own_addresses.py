"""Whether an address is this machine's own, whatever range it is from. Sends nothing into any network.

A machine with a public address reaches that address over its loopback, past the firewall that keeps strangers out: what
listens on every address answers. So a job has no more business there than at 127.0.0.1.
"""

from __future__ import annotations

import errno
import socket
import struct

_NOBODYS = {
    socket.AF_INET: ("192.0.2.1", "198.51.100.1", "203.0.113.1"),
    socket.AF_INET6: ("2001:db8::1", "3fff::1"),
}
"""Documentation addresses (RFC 5737, 3849, 9637). A test bed may have one of them, no machine has all."""

_MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4 address in IPv6 notation begins with."""
_REQUEST = struct.Struct("=IHHII BBBBBBBBI HH")
"""Netlink's head, that of a route, and that of the one attribute that follows it (rtnetlink(7))."""
_ROUTE_TYPE_AT = 16 + 7
_GET_ROUTE, _NEW_ROUTE = 26, 24
_DESTINATION = 1
_HERE = (2, 3, 4)
"""Types of routes that end at this machine: local, broadcast, anycast."""


def is_own(ip: str) -> bool:
    """Whether the system takes ``ip`` for one of its own. False for what is no literal.

    Nearly always a socket that can't be bound to it tells that it is not. One that can tells nothing where sockets may
    be bound to any address (``ip_nonlocal_bind``, as where addresses move between machines): the table of routes does.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        packed = socket.inet_pton(family, ip)
    except (OSError, ValueError):
        return False  # bind() would look it up as a name
    if packed.startswith(_MAPPED):  # an IPv4 connection, whatever it is called
        family, packed = socket.AF_INET, packed[len(_MAPPED) :]
        ip = socket.inet_ntop(family, packed)
    bound = _can_bind(family, ip)
    if bound is False:
        return False
    try:
        return _ends_here(family, packed)
    except OSError:  # no netlink, in some sandboxes
        return bool(bound) and not all(_can_bind(family, other) for other in _NOBODYS[family])


def _can_bind(family: socket.AddressFamily, ip: str) -> bool | None:
    """None: something else than the address was in the way."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind((ip, 0))
    except OSError as error:
        return False if error.errno == errno.EADDRNOTAVAIL else None
    return True


def _ends_here(family: socket.AddressFamily, packed: bytes) -> bool:
    """Whether the route to an address ends at this machine. Raises OSError where the kernel is not to be asked."""
    request = _REQUEST.pack(
        *(_REQUEST.size + len(packed), _GET_ROUTE, 1, 1, 0),
        *(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0),
        *(4 + len(packed), _DESTINATION),
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0) as kernel:
        kernel.sendto(request + packed, (0, 0))
        answer = kernel.recv(16 << 10)  # it is there when sendto() returns
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind != _NEW_ROUTE:
        number = -struct.unpack_from("=i", answer, 16)[0]
        if number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return False  # there is no route, or one that says so
        raise OSError(number, "the route is not told")
    return answer[_ROUTE_TYPE_AT] in _HERE
