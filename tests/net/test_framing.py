"""How an answer is framed: read in one way or refused, wherever it is split and wherever it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fetcher.errors import FetcherError, TransportError
from tests.net.framings import BEHIND, CHUNKED, CLOSES, OK, STRICTER, WELL, WRONG
from tests.net.raw_server import Connection, RawServer, Reply, body_reply, bytes_reply, serving
from tests.net.wiring import IDLE_S, body_of, get, loops, run, transport

pytestmark = pytest.mark.usefixtures("both")


SPLIT_BYTES_MAX = 200
"""Longer ones are not split at every byte."""


class Script:
    """A server's next answer, in pieces that come apart, and then the end of the connection."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def __call__(self, connection: Connection) -> None:
        for piece in self.pieces:
            if piece:
                await connection.say(piece)
                for _ in range(4):
                    await asyncio.sleep(0)
        connection.writer.close()


async def outcome(made: Any, server: RawServer) -> bytes | None:
    """The body, or None for an answer that is refused."""
    try:
        return await asyncio.wait_for(body_of(made, get(server)), 20)
    except TransportError:
        return None


@loops
@pytest.mark.parametrize("name", WELL)
def test_a_proper_answer_is_read_whole(name: str, uv: bool) -> None:
    said, body = WELL[name]

    async def main() -> None:
        async with serving(bytes_reply(said, then="fin")) as server, transport() as made:
            assert await outcome(made, server) == body

    run(main, uv=uv)


@pytest.mark.parametrize("name", [name for name, (said, _) in WELL.items() if len(said) <= SPLIT_BYTES_MAX])
def test_split_at_every_byte_it_is_the_same(name: str) -> None:
    said, body = WELL[name]
    script = Script()

    async def main() -> None:
        async with serving(script) as server, transport() as made:
            for at in range(1, len(said)):
                script.pieces = [said[:at], said[at:]]
                assert await outcome(made, server) == body, at
            script.pieces = [said[at : at + 1] for at in range(len(said))]
            assert await outcome(made, server) == body

    run(main)


@pytest.mark.parametrize("name", [name for name, (said, _) in WELL.items() if len(said) <= SPLIT_BYTES_MAX])
def test_ended_after_any_byte_it_is_never_taken_for_whole(name: str) -> None:
    """But for a body that lasts as long as its connection: nothing tells that it was to be longer."""
    said, body = WELL[name]
    head_bytes = said.rindex(b"\r\n\r\n") + 4 if not name.startswith("chunk") else 0
    script = Script()

    async def main() -> None:
        async with serving(script) as server, transport() as made:
            for at in range(len(said)):
                script.pieces = [said[:at]]
                got = await outcome(made, server)
                if "up to the end" in name and at >= head_bytes:
                    assert got == body[: at - head_bytes]
                else:
                    assert got is None, at

    run(main)


@loops
@pytest.mark.parametrize("name", WRONG)
def test_what_can_be_read_in_two_ways_is_refused(name: str, uv: bool) -> None:
    async def main() -> None:
        async with serving(bytes_reply(WRONG[name], then="fin"), body_reply(b"next")) as server, transport() as made:
            with pytest.raises(TransportError, match="not proper HTTP"):
                await body_of(made, get(server))
            assert await body_of(made, get(server)) == b"next"

    run(main, uv=uv)


@loops
@pytest.mark.parametrize("name", STRICTER)
def test_what_only_a_lenient_reader_takes_no_body_comes_from(name: str, uv: bool, both: str) -> None:
    async def main() -> None:
        async with serving(bytes_reply(STRICTER[name], then="fin")) as server, transport() as made:
            got = await outcome(made, server)
            assert (got is None) == (both == "bodies")

    run(main, uv=uv)


@pytest.mark.parametrize("name", [*WRONG, *STRICTER])
def test_refused_it_is_refused_wherever_it_is_split(name: str, both: str) -> None:
    """Of the transport of bodies: a parser that is given pieces may know less at a time."""
    if both == "aiohttp":
        return  # it never ends a body that goes wrong in a later piece; whoever asks it keeps a clock of his own
    said = {**WRONG, **STRICTER}[name]
    script = Script()

    async def main() -> None:
        async with serving(script) as server, transport() as made:
            for at in range(1, min(len(said), SPLIT_BYTES_MAX)):
                script.pieces = [said[:at], said[at:]]
                assert await outcome(made, server) is None, at

    run(main)


@loops
@pytest.mark.parametrize("name", BEHIND)
def test_what_comes_behind_an_answer_is_nobodys(name: str, uv: bool, both: str) -> None:
    said, body = BEHIND[name]

    async def main() -> None:
        async with serving(bytes_reply(said), body_reply(b"next")) as server, transport() as made:
            got = await outcome(made, server)
            assert got == body or (both == "aiohttp" and got is None)
            await asyncio.sleep(0.01)
            assert await body_of(made, get(server)) == b"next"
            assert server.connections == 2, "that connection is not asked again"

    run(main, uv=uv)


@loops
@pytest.mark.parametrize(
    "head",
    [OK + b"Content-Length: 4\r\n\r\n", CHUNKED, OK + b"\r\n", OK + b"Content-Length: 0\r\n\r\n"],
    ids=["length", "chunks", "neither", "nothing"],
)
def test_the_answer_to_a_head_has_no_body_whatever_it_says(head: bytes, uv: bool) -> None:
    async def main() -> None:
        async with serving(bytes_reply(head), body_reply(b"next")) as server, transport() as made:
            request = get(server)
            asked = type(request)("HEAD", request.url)
            response = await made.send(asked, idle_timeout_s=IDLE_S)
            assert await response.read_all(10) == b""
            await response.release()
            assert await body_of(made, get(server)) == b"next"

    run(main, uv=uv)


KEPT = {
    "HTTP/1.1": (OK + b"Content-Length: 4\r\n\r\nbody", 1),
    "HTTP/1.1 that closes": (OK + CLOSES + b"Content-Length: 4\r\n\r\nbody", 2),
    "HTTP/1.1 that closes, among others": (OK + b"Connection: x, Close\r\nContent-Length: 4\r\n\r\nbody", 2),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", 2),
    "HTTP/1.0 that keeps": (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 4\r\n\r\nbody", 1),
    "chunks": (CHUNKED + b"4\r\nbody\r\n0\r\n\r\n", 1),
    "chunks and a trailer": (CHUNKED + b"4\r\nbody\r\n0\r\nX: y\r\n\r\n", 1),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 1),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", 1),
    "announced": (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nbody", 1),
}


@loops
@pytest.mark.parametrize("name", KEPT)
def test_a_connection_is_kept_if_both_sides_may(name: str, uv: bool) -> None:
    said, connections = KEPT[name]

    async def main() -> None:
        async with serving(bytes_reply(said)) as server, transport() as made:
            for _ in range(2):
                assert await body_of(made, get(server)) in (b"body", b"")
            assert server.connections == connections

    run(main, uv=uv)


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "a trailer": (CHUNKED + b"0\r\nX: ", b"y" * 1000),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 100),
    "an extension": (CHUNKED + b"4;", b"y" * 1000),
    "a field": (OK + b"X: ", b"y" * 1000),
    "fields": (OK, b"X: y\r\n" * 100),
    "a reason": (b"HTTP/1.1 200 ", b"y" * 1000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_framing_without_end_is_hung_up_on(name: str, both: str) -> None:
    if both == "aiohttp" and name in ("an extension", "a trailer"):
        return  # only its caller's clock ends that
    said = 0
    first, more = ENDLESS[name]

    async def without_end(connection: Connection) -> None:
        nonlocal said
        await connection.say(first)
        while said < 64 << 20:
            await connection.say(more)
            said += len(more)
            await asyncio.sleep(0)

    async def main() -> None:
        async with serving(without_end) as server, transport() as made:
            with pytest.raises(FetcherError):
                await body_of(made, get(server))

    run(main)
    assert said < 32 << 20


def test_pieces_of_a_reply_come_apart() -> None:
    """What the tests above rest on: both pieces are seen, one after the other."""

    async def main() -> None:
        script: Reply = Script()
        script.pieces = [OK + b"Content-Length: 4\r\n\r\nbo", b"dy"]  # type: ignore[attr-defined]
        async with serving(script) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)
            assert [bytes(await response.read_some(100)) for _ in range(2)] == [b"bo", b"dy"]
            response.abort()

    run(main)
