"""HTTP as the transport sees it: heads and bodies of a server that says anything, over real sockets.

A value, or TransportError or ForbiddenError, in bounded time; never a body longer than was asked for, never one that
claims a length that it does not have.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from fetcher.errors import ForbiddenError, TransportError
from fetcher.net.response import AiohttpResponse
from tests.fuzz.judging import assert_fit_to_be_told
from tests.fuzz.mutating import mutated
from tests.net import wiring
from tests.net.raw_server import Connection, serving

LONG = os.environ.get("FETCHER_TEST_LONG") == "1"
CASES = 20_000 if LONG else 800
BODY_BYTES_MAX = 1 << 16
WALL_S_MAX = 10.0
"""Of one case: a machine may stand still for seconds."""

HEADS = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: "a"\r\n\r\nbody',
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/8\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\nTrailer: x\r\n\r\n",
    b"HTTP/1.0 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    b"HTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
)
WORDS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b": ",
        b" : ",
        b"HTTP/1.1 ",
        b"HTTP/9.9 200 OK",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ),
    *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 4, 4\r\n", b"Content-Length: +4\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: x\r\n"),
    *(
        b"ffffffffffffffff\r\n",
        b"-1\r\n",
        b"0x4\r\n",
        b"4 \r\n",
        b"\x80\xff",
        b"X: \xff\r\n",
        b" folded\r\n",
        b"\0",
        b"999",
    ),
    *(
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"HTTP/1.1 101 Switching\r\n",
        b"A" * 9000,
        b"X: " + b"y" * 20_000,
    ),
)


def replies(cases: list[bytes]) -> Callable[[Connection], Awaitable[None]]:
    async def reply(connection: Connection) -> None:
        await connection.say(cases[-1])
        connection.writer.close()

    return reply


async def ask(case: bytes, waiting: list[bytes], made: object, request: object) -> str:
    waiting.append(case)
    try:
        response = await made.send(request, idle_timeout_s=3.0)  # type: ignore[attr-defined]
    except (TransportError, ForbiddenError) as error:
        assert_fit_to_be_told(error)
        return "no head"
    try:
        assert 100 <= response.status <= 999 and len(response.headers) <= 200
        for name, value in response.headers.items():
            assert name.isascii() and "\r" not in value and "\n" not in value and "\0" not in value, (name, value)
        length = response.content_length
        body = await response.read_all(BODY_BYTES_MAX)
        assert len(body) <= BODY_BYTES_MAX
        if length is not None and request.method == "GET" and response.status not in (204, 304):  # type: ignore[attr-defined]
            assert len(body) == length, f"{len(body)} bytes of {length}"
        await response.release()
        return "whole"
    except (TransportError, ForbiddenError) as error:
        assert_fit_to_be_told(error)
        return "no body"
    finally:
        response.abort()


async def fuzz(count: int, seed: object) -> dict[str, int]:
    dice = random.Random(f"{seed}:heads")
    ended: dict[str, int] = {}
    waiting: list[bytes] = []
    async with serving(replies(waiting)) as server, wiring.transport() as made:
        for _ in range(count):
            case = mutated(dice, HEADS, "text", WORDS)
            waiting.clear()
            began = time.monotonic()
            try:
                outcome = await asyncio.wait_for(ask(case, waiting, made, wiring.get(server)), WALL_S_MAX)
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error}; case {case[:3000]!r}") from error
            assert time.monotonic() - began < WALL_S_MAX, case[:3000]
            ended[outcome] = ended.get(outcome, 0) + 1
    return ended


@pytest.mark.timeout(1800 if LONG else 60)
@pytest.mark.parametrize("name", wiring.BOTH)
def test_answers_of_a_server_that_says_anything(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "under_test", wiring.BOTH[name])
    ended: dict[str, int] = {}

    async def main() -> None:
        ended.update(await fuzz(CASES, seed))

    wiring.run(main)
    print(f"heads, {name}: {ended}")
    assert min(ended.get(kind, 0) for kind in ("no head", "no body", "whole")) > 0


def in_pieces(dice: random.Random, case: bytes) -> list[bytes]:
    cuts = sorted({dice.randrange(len(case) + 1) for _ in range(dice.randrange(5))})
    return [case[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(case)], strict=True) if stop > start]


async def what_is_read(made: object, request: object) -> tuple[int, bytes] | None:
    """Status and body; None for an answer that is refused."""
    try:
        response = await made.send(request, idle_timeout_s=3.0)  # type: ignore[attr-defined]
    except (TransportError, ForbiddenError):
        return None
    try:
        found = response.status, bytes(await response.read_all(BODY_BYTES_MAX))
        await response.release()
        return found
    except (TransportError, ForbiddenError):
        return None
    finally:
        response.abort()


@pytest.mark.timeout(1800 if LONG else 60)
def test_the_transport_of_bodies_reads_what_the_general_one_reads_or_nothing(seed: int) -> None:
    """It may refuse more; where both read an answer they read the same. In pieces it is the same as whole."""
    counts = {"both": 0, "only the general one": 0, "only bodies": 0, "neither": 0}

    async def main() -> None:
        dice = random.Random(f"{seed}:both")
        pieces: list[bytes] = []

        async def reply(connection: Connection) -> None:
            for piece in tuple(pieces):
                await connection.say(piece)
                await asyncio.sleep(0)
            connection.writer.close()

        general, bodies = wiring.BOTH["aiohttp"](wiring.settings()), wiring.BOTH["bodies"](wiring.settings())
        try:
            async with serving(reply) as server:
                for _ in range(CASES // 2):
                    case = mutated(dice, HEADS, "text", WORDS)
                    pieces[:] = [case]
                    request = wiring.get(server)
                    theirs = await asyncio.wait_for(what_is_read(general, request), WALL_S_MAX)
                    whole = await asyncio.wait_for(what_is_read(bodies, request), WALL_S_MAX)
                    pieces[:] = in_pieces(dice, case)
                    ours = await asyncio.wait_for(what_is_read(bodies, request), WALL_S_MAX)
                    assert ours == whole, case[:3000]
                    if theirs is not None and ours is not None:
                        counts["both"] += 1
                        assert ours == theirs, case[:3000]
                    elif ours is not None:
                        counts["only bodies"] += 1
                        # What comes behind an answer makes it a broken one there, if it comes together with it.
                        assert ours[1] in case.replace(b"\r\n", b"") or ours[1] in case, case[:3000]
                    else:
                        counts["neither" if theirs is None else "only the general one"] += 1
        finally:
            await general.close()
            await bodies.close()

    wiring.run(main)
    print(f"both transports: {counts}")
    assert counts["both"] > CASES // 20
    assert counts["only bodies"] < CASES // 10, "it is the stricter one"


def test_it_finds_a_body_that_is_not_as_long_as_it_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: of two lengths that an answer states, the first is believed."""
    monkeypatch.setattr(AiohttpResponse, "content_length", property(lambda self: 4))

    async def main() -> None:
        with pytest.raises(AssertionError, match="bytes of 4"):
            await fuzz(500, seed)

    wiring.run(main)


def test_it_finds_an_error_without_a_name_of_ours(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: errors of bodies that break off are not renamed."""
    monkeypatch.setattr(AiohttpResponse, "_failed", lambda self, error: error)

    async def main() -> None:
        with pytest.raises(AssertionError, match=r"PayloadError|EncodingError"):
            await fuzz(500, seed)

    wiring.run(main)
