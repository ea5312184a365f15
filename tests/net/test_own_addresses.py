"""What the system takes for its own, also where sockets may be bound to anything."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from fetcher.net import own_addresses
from tests.support.cli import CHECKOUT

OWN = ("8.8.4.4", "9.9.9.1", "9.9.9.9", "2600::5", "::ffff:8.8.4.4", "127.0.0.1", "::1", "5.5.5.5")
OTHERS = ("8.8.8.8", "9.9.9.2", "2600::6", "::ffff:8.8.8.8", "4.4.4.4", "192.0.2.1", "2001:db8::1")
NETWORK = """
set -e
ip link set lo up
ip addr add 8.8.4.4/32 dev lo
ip addr add 9.9.9.1/32 dev lo
ip addr add 9.9.9.9/32 dev lo
ip route add local 5.5.5.0/24 dev lo
ip route add blackhole 4.4.4.0/24
ip -6 addr add 2600::5/128 dev lo
for version in 4 6; do echo {nonlocal_bind} > /proc/sys/net/ipv$version/ip_nonlocal_bind; done
exec {python} -c 'import json, sys
from fetcher.net.own_addresses import is_own
print(json.dumps([ip for ip in sys.argv[1:] if is_own(ip)]))' {addresses}
"""


@pytest.mark.needs("root", "netns", "debian:ip")
@pytest.mark.parametrize("nonlocal_bind", [0, 1])
def test_its_own_are_known_where_sockets_may_be_bound_to_any(nonlocal_bind: int) -> None:
    script = NETWORK.format(nonlocal_bind=nonlocal_bind, python=sys.executable, addresses=" ".join((*OWN, *OTHERS)))
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script],
        cwd=CHECKOUT,
        env={**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(OWN)


def test_without_netlink_a_bound_socket_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(family: socket.AddressFamily, packed: bytes) -> bool:
        raise OSError(errno.EAFNOSUPPORT, "no netlink here")

    monkeypatch.setattr(own_addresses, "_ends_here", refused)
    assert own_addresses.is_own("127.0.0.1")
    assert not own_addresses.is_own("8.8.8.8")
    monkeypatch.setattr(own_addresses, "_can_bind", lambda family, ip: True)
    assert not own_addresses.is_own("8.8.8.8")  # nothing is known, and nothing made up


def test_where_nothing_may_be_bound_the_routes_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_addresses, "_can_bind", lambda family, ip: None)
    assert own_addresses.is_own("127.0.0.1")
    assert not own_addresses.is_own("192.88.99.77")
