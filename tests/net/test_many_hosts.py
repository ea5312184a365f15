"""A document may name any number of hosts: what is kept open for the next request is bounded all the same."""

from __future__ import annotations

import os
import time

import pytest

from fetcher.net import door
from fetcher.net.request import Request
from tests.net.raw_server import body_reply, serving
from tests.net.wiring import body_of, run, settings, transport

pytestmark = pytest.mark.usefixtures("both")


def sockets() -> int:
    """Open sockets of this process."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def test_connections_are_kept_to_a_bounded_number_of_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "ORIGINS_KEPT_MAX", 3)

    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport(lookup=lookup) as made:
            before = sockets()
            for number in range(12):
                request = Request("GET", f"http://host-{number}.example:{server.port}/")
                assert await body_of(made, request) == b"ok"
            assert sockets() - before <= 2 * 3 + 2, "both ends are here; one may be about to close"
            connections = server.connections
            again = Request("GET", f"http://host-0.example:{server.port}/")
            assert await body_of(made, again) == b"ok"
            assert server.connections == connections, "the first ones are kept"

    run(main)


def test_who_was_not_asked_for_long_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "ORIGINS_KEPT_MAX", 1)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made = door.Door(settings())
    assert made.may_keep("https://a:443") and not made.may_keep("https://b:443")
    now = 20.0
    assert made.may_keep("https://a:443")
    now = 45.0
    assert not made.may_keep("https://b:443"), "the other one was asked 25 s ago"
    now = 51.0
    assert made.may_keep("https://b:443") and not made.may_keep("https://a:443")
