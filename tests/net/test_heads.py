"""How many heads one answer may have: a server that only ever announces one is hung up on, however soon it speaks."""

from __future__ import annotations

import pytest

from fetcher.errors import TransportError
from fetcher.net.lanes import HEADS_MAX
from tests.net.raw_server import Connection, body_reply, bytes_reply, serving
from tests.net.wiring import body_of, contexts, get, loops, run, tls, transport

pytestmark = pytest.mark.usefixtures("both")

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@loops
@tls
def test_an_answer_may_be_announced_a_few_times_and_the_next_one_again(secure: bool, uv: bool) -> None:
    async def main() -> None:
        server_tls, options = contexts(secure)
        async with serving(bytes_reply(EARLY * (HEADS_MAX - 1) + WHOLE), tls=server_tls) as server:
            async with transport(**options) as made:
                for _ in range(3):
                    assert await body_of(made, get(server)) == b"ok"
            assert server.connections == 1  # it is kept: each request counts anew

    run(main, uv=uv)


@loops
@tls
def test_one_more_is_too_many(secure: bool, uv: bool) -> None:
    async def main() -> None:
        server_tls, options = contexts(secure)
        replies = bytes_reply(EARLY * HEADS_MAX + WHOLE), body_reply(b"well")
        async with serving(*replies, tls=server_tls) as server, transport(**options) as made:
            with pytest.raises(TransportError):
                await body_of(made, get(server))
            assert await body_of(made, get(server)) == b"well"
            assert server.connections == 2

    run(main, uv=uv)


@loops
def test_nobody_listens_to_announcements_without_end(uv: bool) -> None:
    said = 0

    async def without_end(connection: Connection) -> None:
        nonlocal said
        while said < 100_000:
            await connection.say(EARLY * 10)
            said += 10

    async def main() -> None:
        async with serving(without_end) as server, transport() as made:
            with pytest.raises(TransportError):
                await body_of(made, get(server))

    run(main, uv=uv)
    assert said < 100_000
