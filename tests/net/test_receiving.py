"""A body into the receiver's own memory: whatever rooms it has and when, whatever it raises, and whoever ends it."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fetcher.errors import TransportError
from fetcher.net.transport import Response
from tests.net.raw_server import Connection, RawServer, Reply, body_reply, bytes_reply, serving
from tests.net.wiring import CERTIFICATE, IDLE_S, SILENCE_S, body_of, contexts, get, loops, run, tls, transport

pytestmark = pytest.mark.usefixtures("both")

BODY = bytes(range(251)) * 9000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(body: bytes, length: int) -> bytes:
    pieces = [body[at : at + length] for at in range(0, len(body), length)]
    return CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


FRAMED: dict[str, Callable[[bytes], Reply]] = {
    "length": lambda body: body_reply(body),
    "chunks": lambda body: bytes_reply(chunked(body, 10_007)),
    "up to the end": lambda body: bytes_reply(b"HTTP/1.1 200 OK\r\n\r\n" + body, then="fin"),
}


class Memory:
    """A receiver that has rooms of the lengths it is told; a zero among them is a pause, ended by ``later``."""

    def __init__(self, rooms: Iterator[int], response: Any) -> None:
        self.got = bytearray()
        self.pauses = 0
        self.waiting = False
        self._rooms = rooms
        self._response = response
        self._buffer = memoryview(bytearray(1 << 20))
        self._given = 0

    def get_buffer(self) -> memoryview | None:
        if self.waiting:
            return None
        if not self._given:
            self._given = next(self._rooms)
            if not self._given:
                self.pauses += 1
                self.waiting = True
                self.later()
                return None
        return self._buffer[: self._given]

    def later(self) -> None:
        asyncio.get_running_loop().call_later(random.choice((0.0, 0.0, 0.001)), self.go_on)

    def go_on(self) -> None:
        self.waiting = False
        self._response.resume()

    def buffer_updated(self, count: int) -> None:
        assert 0 < count <= self._given
        self.got += self._buffer[:count]
        self._given -= count  # the rest of the room, as a slab that fills


def without_end(*lengths: int) -> Iterator[int]:
    while True:
        yield from lengths


def by_chance(dice: random.Random) -> Iterator[int]:
    while True:
        yield dice.choice((0, 1, 7, 4096, 65_536, 65_537, 1 << 20))


async def open_answer(made: Any, server: RawServer, idle_timeout_s: float = IDLE_S) -> Any:
    return await made.send(get(server), idle_timeout_s=idle_timeout_s)


ROOMS: dict[str, Callable[[random.Random], Iterator[int]]] = {
    "large": lambda dice: without_end(1 << 20),
    "small": lambda dice: without_end(1000),
    "prime": lambda dice: without_end(65_521),
    "now and then": lambda dice: without_end(0, 100_000),
    "twice nothing": lambda dice: without_end(0, 0, 65_536),
    "by chance": by_chance,
}


@loops
@pytest.mark.parametrize("framed", FRAMED)
@pytest.mark.parametrize("rooms", ROOMS)
def test_all_of_it_comes_into_any_rooms(rooms: str, framed: str, uv: bool, rng: random.Random) -> None:
    async def main() -> None:
        async with serving(FRAMED[framed](BODY), body_reply(b"next")) as server, transport() as made:
            response = await open_answer(made, server)
            memory = Memory(ROOMS[rooms](rng), response)
            await asyncio.wait_for(response.receive(memory), 40)
            assert memory.got == BODY
            await response.release()
            assert await body_of(made, get(server)) == b"next"
            assert server.connections == (2 if framed == "up to the end" else 1)

    run(main, uv=uv)


@loops
@pytest.mark.parametrize("framed", FRAMED)
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537])
def test_small_bodies_that_come_with_their_head(size: int, framed: str, uv: bool) -> None:
    async def main() -> None:
        async with serving(FRAMED[framed](BODY[:size])) as server, transport() as made:
            for _ in range(3):
                response = await open_answer(made, server)
                await asyncio.sleep(0.001)
                memory = Memory(without_end(0, 30_000), response)
                await response.receive(memory)
                assert memory.got == BODY[:size]
                await response.release()

    run(main, uv=uv)


@loops
def test_a_body_over_tls(uv: bool) -> None:
    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        async with serving(body_reply(BODY * 4), tls=context) as server, transport(ssl_context=trusting) as made:
            for rooms in (without_end(1 << 20), without_end(0, 50_000, 3)):
                response = await open_answer(made, server)
                memory = Memory(rooms, response)
                await response.receive(memory)
                assert memory.got == BODY * 4
                await response.release()
            assert server.connections == 1

    run(main, uv=uv)


@loops
@pytest.mark.parametrize("framed", ["length", "chunks"])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_body_that_breaks_off(framed: str, secure: bool, uv: bool) -> None:
    """Over TLS also without a word of farewell."""
    whole = (
        chunked(BODY, 10_007) if framed == "chunks" else b"HTTP/1.1 200 OK\r\nContent-Length: 2259000\r\n\r\n" + BODY
    )

    async def half(connection: Connection) -> None:
        await connection.say(whole[:1_000_000])
        await asyncio.sleep(0.05)
        connection.writer.transport.abort()

    async def main() -> None:
        server_tls, options = None, {}
        if secure:
            server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server_tls.load_cert_chain(CERTIFICATE)
            options = {"ssl_context": ssl.create_default_context(cafile=str(CERTIFICATE))}
        async with serving(half, tls=server_tls) as server, transport(**options) as made:
            response = await open_answer(made, server)
            memory = Memory(without_end(1 << 20), response)
            with pytest.raises(TransportError, match="connection closed after"):
                await response.receive(memory)
            assert memory.got == BODY[: len(memory.got)]
            response.abort()

    run(main, uv=uv)


# --- what the receiver raises ----------------------------------------------------------------------------------------


class Broken(Memory):
    def __init__(self, where: str, after: int, response: Any) -> None:
        super().__init__(without_end(50_000), response)
        self.where, self.after = where, after

    def get_buffer(self) -> memoryview | None:
        if self.where == "get_buffer" and len(self.got) >= self.after:
            raise LookupError("no memory for that")
        return super().get_buffer()

    def buffer_updated(self, count: int) -> None:
        super().buffer_updated(count)
        if self.where == "buffer_updated" and len(self.got) >= self.after:
            raise LookupError("no memory for that")


@loops
@pytest.mark.parametrize("framed", FRAMED)
@pytest.mark.parametrize("where", ["get_buffer", "buffer_updated"])
@pytest.mark.parametrize("after", [0, 60_000, 1_000_000])
def test_what_the_receiver_raises_ends_it_and_is_raised(where: str, after: int, framed: str, uv: bool) -> None:
    async def main() -> None:
        async with serving(FRAMED[framed](BODY), body_reply(b"next")) as server, transport() as made:
            response = await open_answer(made, server)
            with pytest.raises(LookupError, match="no memory for that"):
                await asyncio.wait_for(response.receive(Broken(where, after, response)), 20)
            response.abort()
            assert await body_of(made, get(server)) == b"next"
            assert server.connections == 2

    run(main, uv=uv)


@loops
def test_what_it_raises_for_the_very_last_byte_is_raised_too(uv: bool) -> None:
    async def main() -> None:
        async with serving(body_reply(BODY)) as server, transport() as made:
            response = await open_answer(made, server)
            with pytest.raises(LookupError):
                await asyncio.wait_for(response.receive(Broken("buffer_updated", len(BODY), response)), 20)
            response.abort()

    run(main, uv=uv)


# --- when it has no room ---------------------------------------------------------------------------------------------


class Full(Memory):
    """Has room for so much, and then none."""

    def __init__(self, size: int, response: Any) -> None:
        super().__init__(iter((size,)), response)

    def get_buffer(self) -> memoryview | None:
        return super().get_buffer() if self._given or not self.got else None


def endless(said: list[int]) -> Reply:
    async def reply(connection: Connection) -> None:
        await connection.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await connection.say(bytes(1 << 18))
            said[0] += 1 << 18

    return reply


async def still(said: list[int]) -> int:
    """What was said, once nothing more is."""
    before = -1
    while said[0] != before:
        before = said[0]
        await asyncio.sleep(0.15)
    return before


@loops
@tls
def test_without_room_the_server_has_to_wait(secure: bool, uv: bool) -> None:
    said = [0]

    async def main() -> None:
        server_tls, options = contexts(secure)
        async with serving(endless(said), tls=server_tls) as server, transport(**options) as made:
            response = await open_answer(made, server)
            memory = Full(1000, response)
            receiving = asyncio.create_task(response.receive(memory))
            assert await still(said) < 32 << 20, "no more than the buffers between hold"
            assert len(memory.got) == 1000
            response.abort()
            with pytest.raises(TransportError):
                await receiving

    run(main, uv=uv)


@loops
@pytest.mark.parametrize("framed", FRAMED)
def test_who_waits_for_room_is_woken_by_an_abort(framed: str, uv: bool) -> None:
    async def main() -> None:
        async with serving(FRAMED[framed](BODY)) as server, transport() as made:
            for size in (1, 100_000):
                response = await open_answer(made, server)
                memory = Full(size, response)
                receiving = asyncio.create_task(response.receive(memory))
                while len(memory.got) < size:  # noqa: ASYNC110 - the receiver tells nobody
                    await asyncio.sleep(0.001)
                response.abort()
                with pytest.raises(TransportError):
                    await asyncio.wait_for(receiving, 20)
                response.resume()  # of an answer that is over: no harm

    run(main, uv=uv)


@loops
def test_who_waits_for_bytes_is_woken_by_an_abort(uv: bool) -> None:
    async def main() -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
        async with serving(bytes_reply(head, then="stall")) as server, transport() as made:
            response = await open_answer(made, server)
            memory = Memory(without_end(50), response)
            receiving = asyncio.create_task(response.receive(memory))
            while len(memory.got) < 4:  # noqa: ASYNC110 - the receiver tells nobody
                await asyncio.sleep(0.001)
            response.abort()
            with pytest.raises(TransportError, match="closed after 4 of 100 bytes"):
                await asyncio.wait_for(receiving, 20)
            assert memory.got == b"half"

    run(main, uv=uv)


@loops
def test_a_pause_is_no_silence(uv: bool) -> None:
    async def main() -> None:
        async with serving(body_reply(BODY)) as server, transport() as made:
            response = await open_answer(made, server, SILENCE_S)
            memory = Memory(iter((1000, 0, *[1 << 20] * 9)), response)
            memory.later = lambda: None  # type: ignore[method-assign]
            receiving = asyncio.create_task(response.receive(memory))
            await asyncio.sleep(3 * SILENCE_S)
            assert not receiving.done()
            memory.go_on()
            await receiving
            assert memory.got == BODY
            await response.release()

    run(main, uv=uv)


@loops
def test_silence_is_told_while_there_is_room(uv: bool) -> None:
    async def main() -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
        async with serving(bytes_reply(head, then="stall")) as server, transport() as made:
            response = await open_answer(made, server, SILENCE_S)
            with pytest.raises(TransportError, match=r"no answer within 0\.3 s"):
                await asyncio.wait_for(response.receive(Memory(without_end(50), response)), 20)
            response.abort()

    run(main, uv=uv)


@loops
@tls
@pytest.mark.parametrize("framed", FRAMED)
def test_cancelled_at_any_moment_the_memory_is_its_owners_again(framed: str, secure: bool, uv: bool) -> None:
    async def main() -> None:
        server_tls, options = contexts(secure)
        async with serving(FRAMED[framed](BODY), tls=server_tls) as server, transport(**options) as made:
            for moment in range(40):
                response: Response = await open_answer(made, server)
                memory = Memory(without_end(0, 70_000), response)
                receiving = asyncio.create_task(response.receive(memory))
                for _ in range(moment):
                    await asyncio.sleep(0)
                receiving.cancel()
                await asyncio.wait([receiving])
                got = bytes(memory.got)
                await asyncio.sleep(0.002)
                assert memory.got == got, "nothing is written to it any more"
                response.abort()
            assert await body_of(made, get(server)) == BODY

    run(main, uv=uv)
