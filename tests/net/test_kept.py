"""Connections over many requests: asked again, hung up on, spoken on without being asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fetcher.errors import TransportError
from fetcher.net.request import Request
from tests.net.raw_server import Connection, RawServer, Reply, body_reply, bytes_reply, serving
from tests.net.wiring import IDLE_S, body_of, contexts, get, loops, run, tls, transport

pytestmark = pytest.mark.usefixtures("both")


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


# --- hung up on ------------------------------------------------------------------------------------------------------


@loops
@tls
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_kept_connection_that_is_closed_as_it_is_asked_costs_nothing(how: str, secure: bool, uv: bool) -> None:
    """The server may not even have seen the request; it is sent once more, on a new connection."""

    async def main() -> None:
        server_tls, options = contexts(secure)
        replies = body_reply(b"one"), bytes_reply(b"", then=how), body_reply(b"two")
        async with serving(*replies, tls=server_tls) as server, transport(**options) as made:
            assert await body_of(made, get(server)) == b"one"
            assert await body_of(made, get(server)) == b"two"
            assert (len(server.heads), server.connections) == (3, 2)

    run(main, uv=uv)


@loops
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_it_is_sent_again_once_and_never_on_a_new_connection(how: str, uv: bool, both: str) -> None:
    async def main() -> None:
        async with serving(body_reply(b"one"), bytes_reply(b"", then=how)) as server, transport() as made:
            assert await body_of(made, get(server)) == b"one"
            with pytest.raises(TransportError):
                await body_of(made, get(server))
            assert len(server.heads) == 3
            with pytest.raises(TransportError):
                await body_of(made, get(server), fresh_connection=True)
            assert len(server.heads) == 4 + (both == "aiohttp"), "that one tries a new connection twice"

    run(main, uv=uv)


@loops
@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 200 OK\r\n", ANSWER, ANSWER + b"bo"])
def test_a_server_that_began_to_answer_is_not_asked_again(said: bytes, uv: bool, both: str) -> None:
    if both == "aiohttp" and b"\r\n\r\n" not in said:
        return  # it asks again as long as there is no whole head

    async def main() -> None:
        async with serving(body_reply(b"one"), bytes_reply(said, then="fin")) as server, transport() as made:
            assert await body_of(made, get(server)) == b"one"
            with pytest.raises(TransportError):
                await body_of(made, get(server))
            assert len(server.heads) == 2

    run(main, uv=uv)


@loops
@tls
def test_one_that_was_closed_meanwhile_is_not_tried(secure: bool, uv: bool) -> None:
    async def main() -> None:
        server_tls, options = contexts(secure)
        async with serving(body_reply(b"body", then="fin"), tls=server_tls) as server, transport(**options) as made:
            for count in range(1, 4):
                assert await body_of(made, get(server)) == b"body"
                await asyncio.sleep(0.05)
                assert (len(server.heads), server.connections) == (count, count)

    run(main, uv=uv)


@asynccontextmanager
async def listening(speak: bytes | None) -> AsyncIterator[RawServer]:
    """A server that says something to whoever connects, or nothing, and hangs up."""
    server = RawServer()
    writers: list[asyncio.StreamWriter] = []

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        writers.append(writer)
        if speak is None:
            writer.close()
        else:
            writer.write(speak)

    listener = await asyncio.start_server(attend, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()
        await listener.wait_closed()


@loops
def test_a_server_that_hangs_up_at_once(uv: bool) -> None:
    async def main() -> None:
        async with listening(None) as server, transport() as made:
            for _ in range(30):
                with pytest.raises(TransportError):
                    await body_of(made, get(server))

    run(main, uv=uv)


# --- spoken on without being asked -----------------------------------------------------------------------------------


@loops
@pytest.mark.parametrize("speak", [b"220 mail.example ESMTP\r\n", b"\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"\0" * 100])
def test_a_server_that_speaks_first_is_none_of_ours(speak: bytes, uv: bool, both: str) -> None:
    # aiohttp passes over empty lines, and waits for an answer until its time is over.
    tries = 2 if (both, speak) == ("aiohttp", b"\r\n\r\n") else 10

    async def main() -> None:
        async with listening(speak) as server, transport() as made:
            for _ in range(tries):
                with pytest.raises(TransportError):
                    await body_of(made, get(server), idle_timeout_s=1.0)

    run(main, uv=uv)


def saying_more(more: bytes, after_s: float) -> Reply:
    async def reply(connection: Connection) -> None:
        await connection.say(ANSWER + b"mine")
        await asyncio.sleep(after_s)
        await connection.say(more)

    return reply


@loops
@tls
@pytest.mark.parametrize("more", [ANSWER + b"evil", b"x", b"\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_what_comes_between_two_requests_answers_none(more: bytes, secure: bool, uv: bool) -> None:
    async def main() -> None:
        server_tls, options = contexts(secure)
        replies = saying_more(more, 0.01), body_reply(b"next")
        async with serving(*replies, tls=server_tls) as server, transport(**options) as made:
            assert await body_of(made, get(server)) == b"mine"
            await asyncio.sleep(0.1)
            assert await body_of(made, get(server)) == b"next"
            assert server.connections == 2

    run(main, uv=uv)


@loops
@pytest.mark.parametrize("more", [ANSWER + b"evil", b"x" * 10])
@pytest.mark.parametrize("read", ["all", "received"])
def test_what_comes_behind_a_body_answers_nothing(more: bytes, read: str, uv: bool, both: str) -> None:
    class Once:
        got = memoryview(bytearray(100))
        count = 0

        def get_buffer(self) -> memoryview:
            return self.got[self.count :]

        def buffer_updated(self, count: int) -> None:
            self.count += count

    async def main() -> None:
        async with serving(saying_more(more, 0.0), body_reply(b"next")) as server, transport() as made:
            response = None
            try:
                response = await made.send(get(server), idle_timeout_s=IDLE_S)
                if read == "all":
                    assert await response.read_all(100) == b"mine"
                else:
                    memory = Once()
                    await response.receive(memory)
                    assert bytes(memory.got[: memory.count]) == b"mine"
                await asyncio.sleep(0.02)
                await response.release()
            except TransportError:
                assert both == "aiohttp"
                if response is not None:
                    response.abort()
            await asyncio.sleep(0.02)
            assert await body_of(made, get(server)) == b"next"
            assert server.connections == 2

    run(main, uv=uv)


# --- closed ----------------------------------------------------------------------------------------------------------


@loops
@tls
def test_closed_with_answers_open(secure: bool, uv: bool) -> None:
    async def main() -> None:
        server_tls, options = contexts(secure)
        stalled = bytes_reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", then="stall")
        async with serving(stalled, tls=server_tls) as server, transport(**options) as made:
            responses = [await made.send(get(server), idle_timeout_s=60.0) for _ in range(3)]
            for response in responses:
                assert await response.read_some(10) == b"half"
            waiting = [asyncio.create_task(response.read_some(10)) for response in responses]
            await asyncio.sleep(0.01)
            await made.close()
            for task in waiting:
                with pytest.raises(TransportError):
                    await asyncio.wait_for(task, 20)
            for response in responses:
                response.abort()

    run(main, uv=uv)


@loops
def test_many_at_once(uv: bool) -> None:
    async def main() -> None:
        async with serving(body_reply(b"body" * 10_000)) as server, transport() as made:
            for _ in range(2):
                bodies = await asyncio.gather(*(body_of(made, get(server)) for _ in range(100)))
                assert all(body == b"body" * 10_000 for body in bodies)
            assert server.connections == 100

    run(main, uv=uv)


# --- which address ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def at_any_address(seen: list[str]) -> AsyncIterator[int]:
    """A server at all of 127.0.0.0/8; gives its port, and writes down where each connection came to."""
    writers = []

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        seen.append(writer.get_extra_info("sockname")[0])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER + b"bo")

    listener = await asyncio.start_server(attend, sock=socket.create_server(("0.0.0.0", 0)))
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()
        await listener.wait_closed()


@pytest.mark.parametrize("fresh", [False, True], ids=["any", "fresh"])
def test_all_addresses_of_a_name_are_used_in_turn(fresh: bool) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "127.0.0.2", "127.0.0.3"]

    async def main() -> None:
        seen: list[str] = []
        async with at_any_address(seen) as port, transport(lookup=lookup) as made:
            request = Request("GET", f"http://many.test:{port}/")
            responses = [await made.send(request, idle_timeout_s=IDLE_S, fresh_connection=fresh) for _ in range(6)]
            for response in responses:
                response.abort()
            assert set(seen) == {"127.0.0.1", "127.0.0.2", "127.0.0.3"}

    run(main)


@loops
def test_a_dead_address_beside_a_live_one(uv: bool) -> None:
    async def main() -> None:
        async with serving(body_reply(b"body")) as server:  # at 127.0.0.1 only

            async def lookup(host: str, port: int) -> list[str]:
                return ["127.0.0.9", "127.0.0.8", "127.0.0.1"]

            async with transport(lookup=lookup) as made:
                for _ in range(4):
                    request = Request("GET", f"http://half.test:{server.port}/")
                    assert await body_of(made, request, fresh_connection=True) == b"body"

    run(main, uv=uv)
