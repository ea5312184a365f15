"""What the transport of bodies does beside the contract: how long it keeps connections, and what it knows of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest

from fetcher.errors import TransportError
from fetcher.net.body import dial
from fetcher.net.body import transport as body_transport
from fetcher.net.body.connection import Connection
from fetcher.net.body.transport import BodyTransport
from fetcher.net.body.wire import Stage
from fetcher.net.door import Door, Lane
from fetcher.net.request import Address, Request
from fetcher.net.roads import Roads
from tests.net import wiring
from tests.net.raw_server import Connection as Peer
from tests.net.raw_server import body_reply, serving
from tests.net.wiring import IDLE_S, body_of, get, loops, run

WAIT_S = 20.0


@loops
def test_what_nobody_uses_is_closed_after_a_while(uv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_transport, "KEPT_ALIVE_S", 0.2)

    async def main() -> None:
        async with serving(body_reply(b"body")) as server:
            made = BodyTransport(wiring.settings())
            try:
                await asyncio.gather(*(body_of(made, get(server)) for _ in range(5)))
                assert 1 <= len(made._open) <= 5
                async with asyncio.timeout(20):
                    while made._open:  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.02)
                assert not made._idle and made._sweeper is None
                assert await body_of(made, get(server)) == b"body"
            finally:
                await made.close()
            assert not made._open

    run(main, uv=uv)


@loops
def test_the_one_that_was_used_last_is_asked_first(uv: bool) -> None:
    """Its congestion window is open."""
    numbers: list[int] = []

    async def reply(connection: Peer) -> None:
        numbers.append(connection.number)
        await asyncio.sleep(0.01)
        await connection.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def main() -> None:
        async with serving(reply) as server:
            made = BodyTransport(wiring.settings())
            try:
                await asyncio.gather(*(body_of(made, get(server)) for _ in range(3)))
                numbers.clear()
                for _ in range(5):
                    await body_of(made, get(server))
                assert len(set(numbers)) == 1
            finally:
                await made.close()

    run(main, uv=uv)


def test_a_server_that_speaks_before_it_is_asked_has_ended_the_connection() -> None:
    """Whatever the order in which the loop sees it: no error of ours escapes its name."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(Talker, "127.0.0.1", 0)
        try:
            port = listener.sockets[0].getsockname()[1]
            _, connection = await loop.create_connection(lambda: Connection(loop), "127.0.0.1", port)
            async with asyncio.timeout(20):
                while connection.stage is not Stage.CLOSED:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.001)
            assert not connection.reusable
            request = Request("GET", f"http://127.0.0.1:{port}/")
            with pytest.raises(TransportError, match="closed before the answer"):
                made = body_transport.BodyTransport(wiring.settings())
                await made._ask(connection, request, b"GET / HTTP/1.1\r\n\r\n", IDLE_S)
        finally:
            listener.close()
            await listener.wait_closed()

    run(main)


@loops
@pytest.mark.parametrize("more", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"], ids=["closes", "speaks"])
def test_what_the_loop_has_not_come_to_yet_is_seen_before_a_connection_is_asked_again(more: bytes, uv: bool) -> None:
    """The next request goes out in the same turn of the loop, which all the while had no time for the socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(WAIT_S)
    go_on, said = threading.Event(), threading.Event()
    answers: list[bytes] = []

    def serve() -> None:
        for body in (b"mine", b"next"):
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(WAIT_S)
                if not accepted.recv(1 << 16):
                    return
                accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)
                answers.append(body)
                if body == b"mine":
                    go_on.wait(WAIT_S)
                    accepted.sendall(more)
                    if not more:
                        accepted.shutdown(socket.SHUT_WR)
                    said.set()
                with contextlib.suppress(OSError):
                    accepted.recv(1 << 16)  # until the other side is gone

    async def main() -> None:
        made = BodyTransport(wiring.settings())
        try:
            request = Request("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/")
            assert await body_of(made, request) == b"mine"
            go_on.set()
            assert said.wait(WAIT_S)
            assert await body_of(made, request) == b"next"
        finally:
            await made.close()

    server = threading.Thread(target=serve)
    server.start()
    try:
        run(main, uv=uv)
    finally:
        go_on.set()
        listener.close()
        server.join()
    assert answers == [b"mine", b"next"]


class Talker(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_what_no_proxy_carries_takes_our_own_road_and_other_methods_the_general_one() -> None:
    async def main() -> None:
        async with serving(body_reply(b"")) as server:
            roads = Roads(wiring.settings())
            try:
                seen = []
                for request in (
                    get(server, purpose="api"),
                    get(server, purpose="body"),
                    Request("HEAD", server.origin + "/", purpose="body"),
                    Request("DELETE", server.origin + "/", purpose="api"),
                ):
                    assert (roads._general is not None) is (len(seen) > 3), "aiohttp is loaded when it is needed"
                    response = await roads.send(request, idle_timeout_s=IDLE_S)
                    seen.append(type(response).__name__)
                    response.abort()
                assert seen == ["BodyResponse"] * 3 + ["AiohttpResponse"]
                assert roads._general is not None
                assert roads._door is roads._bodies._door is roads._general._door
            finally:
                await roads.close()

    run(main)


def test_what_a_proxy_carries_takes_the_general_road() -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as proxy:
            roads = Roads(wiring.settings(proxy_filters=True), {"http_proxy": proxy.origin})
            try:
                request = Request(
                    "GET", "http://origin.example/x", trusted_origins=frozenset({"http://origin.example:80"})
                )
                response = await roads.send(request, idle_timeout_s=IDLE_S)
                assert type(response).__name__ == "AiohttpResponse"
                response.abort()
                assert proxy.head_lines()[0].startswith("GET http://origin.example/x")
            finally:
                await roads.close()

    run(main)


def test_whose_turn_it_is_among_addresses_is_known_of_a_bounded_number_of_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jobs name hosts at will, for as long as the process lives."""
    monkeypatch.setattr(dial, "TURNS_MAX", 3)
    machines = ["127.0.0.1", "127.0.0.2"]

    async def lookup(host: str, port: int) -> list[str]:
        return machines

    async def main() -> None:
        made = dial.Addresses(lookup, Door(wiring.settings()))
        lane = Lane(guarded=True, scheme="http", bare_credential=False, proxy=None)

        async def first(number: int) -> str:
            return (await made.of(lane, Address("http", f"host-{number}.example", 80), anew=False))[0]

        for number in range(1, 20):
            assert await first(0) == machines[(number - 1) % 2], "asked again and again, so its turn is known"
            assert await first(number) == machines[0]
        assert len(made._turns) == 3
        assert await first(1) == machines[0], "asked long ago: its turn was forgotten"
        await made.close()

    run(main)
