"""Bodies into a receiver's memory: it may be out of room when the answer ends, or is ended; connections that end, or
speak, before anything was asked; and what a request says once."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.secret import Secret
from fetcher.net.body.connection import AHEAD_BYTES_MAX
from fetcher.net.body.transport import BodyTransport
from fetcher.net.request import Request
from tests.net.raw_server import body_reply, bytes_reply, serving
from tests.net.wiring import CERTIFICATE, IDLE_S, body_of, get, loops, run, settings, transport

WAIT_S = 20.0

both = pytest.mark.usefixtures("both")


class Room:
    """Takes what comes, up to ``room`` bytes; then it has none."""

    def __init__(self, size: int, room: int) -> None:
        self.memory = memoryview(bytearray(size))
        self.filled = 0
        self.room = room
        self.full = asyncio.Event()

    def get_buffer(self) -> memoryview | None:
        if self.filled >= len(self.memory):
            raise AssertionError("asked for room behind the end")
        if self.filled >= self.room:
            self.full.set()
            return None
        return self.memory[self.filled : self.room]

    def buffer_updated(self, count: int) -> None:
        self.filled += count


FRAMINGS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n",
    "to the end": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000,
}


@loops
@both
@pytest.mark.parametrize("then", ["keep", "fin"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_aborted_without_room_for_what_has_come_it_waits_no_longer(framing: str, then: str, uv: bool) -> None:
    async def main() -> None:
        async with serving(bytes_reply(FRAMINGS[framing], then=then)) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)
            room = Room(1000, 10)
            receiving = asyncio.ensure_future(response.receive(room))
            await asyncio.wait_for(room.full.wait(), WAIT_S)
            await asyncio.sleep(0.05)  # the end of the connection is seen, or not: either is the same
            response.abort()
            with pytest.raises(TransportError):
                await asyncio.wait_for(receiving, WAIT_S)
            assert room.filled == 10

    run(main, uv=uv)


@loops
@both
def test_room_that_comes_behind_the_end_costs_no_connection(uv: bool) -> None:
    """Its last block is with the disk when an earlier one comes back."""
    size = 4 * AHEAD_BYTES_MAX

    async def main() -> None:
        async with serving(body_reply(bytes(size))) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)

            class Resuming(Room):
                def buffer_updated(self, count: int) -> None:
                    super().buffer_updated(count)
                    if self.filled == size:
                        asyncio.get_running_loop().call_soon(response.resume)

            room = Resuming(size, size)
            await asyncio.wait_for(response.receive(room), WAIT_S)
            await response.release()
            assert await body_of(made, get(server)) == bytes(size)
            assert server.connections == 1

    run(main, uv=uv)


@contextmanager
def hasty(said: bytes, version: ssl.TLSVersion | None) -> Iterator[int]:
    """A server that says something, or nothing, as soon as it is connected to, and closes. Its last words of the
    handshake of TLS 1.2 and what it says then come together."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(WAIT_S)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    if version is not None:
        context.maximum_version = version

    def talk(accepted: socket.socket) -> None:
        if version is None:
            accepted.sendall(said)
            return
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                accepted.sendall(outgoing.read())
                heard = accepted.recv(1 << 16)
                if not heard:
                    return
                incoming.write(heard)
        if said:
            secured.write(said)
        else:
            try:
                secured.unwrap()
            except ssl.SSLWantReadError:
                pass
        accepted.sendall(outgoing.read())

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted:
                try:
                    accepted.settimeout(WAIT_S)
                    talk(accepted)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@loops
@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2], ids=["plain", "TLS 1.2"])
@pytest.mark.parametrize("said", [b"", b"SSH-2.0-x\r\n"], ids=["closes", "speaks"])
def test_a_connection_that_ends_before_it_is_asked_is_a_broken_one(
    said: bytes, version: ssl.TLSVersion | None, uv: bool
) -> None:
    async def main() -> None:
        made = BodyTransport(settings(), ssl_context=ssl.create_default_context(cafile=str(CERTIFICATE)))
        with hasty(said, version) as port:
            url = f"{'http' if version is None else 'https'}://127.0.0.1:{port}/"
            try:
                for _ in range(5):
                    with pytest.raises(TransportError):
                        await made.send(Request("GET", url), idle_timeout_s=IDLE_S)
                for _ in range(100):
                    await asyncio.sleep(0.01 * bool(made._open))
                assert not made._open, "what is gone is kept account of"
            finally:
                await made.close()

    run(main, uv=uv)


@both
def test_what_a_request_accepts_is_said_once() -> None:
    async def main() -> None:
        async with serving(body_reply(b"")) as server, transport() as made:
            await body_of(made, get(server, headers=(("Accept", "application/json"),)))
            await body_of(made, get(server))
            said = [[line for line in server.head_lines(index) if line.startswith("Accept:")] for index in (0, 1)]
            assert said == [["Accept: application/json"], ["Accept: */*"]]

    run(main)


@both
@pytest.mark.parametrize("token", ["abc\r\nX-Smuggled: y", "abc\n", "t\u00f6ken"])
def test_a_token_that_is_no_field_value_is_refused_and_not_shown(token: str) -> None:
    async def main() -> None:
        async with serving(body_reply(b"")) as server, transport() as made:
            request = get(server, credential=Secret(token), credential_origin=server.origin)
            with pytest.raises(ForbiddenError, match="can't be sent") as caught:
                await made.send(request, idle_timeout_s=IDLE_S)
            assert token not in str(caught.value)
            assert server.heads == []

    run(main)


def test_chunks_of_a_byte_take_no_more_memory_than_their_bytes() -> None:
    count = 40_000
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * count + b"0\r\n\r\n"

    async def main() -> None:
        async with serving(bytes_reply(said)) as server:
            made = BodyTransport(settings())
            try:
                response: Any = await made.send(get(server), idle_timeout_s=IDLE_S)
                pieces = 0
                total = 0
                while piece := await response.read_some(1 << 20):
                    pieces += 1
                    total += len(piece)
                await response.release()
                assert total == count
                assert pieces < 500
            finally:
                await made.close()

    run(main)


def test_closed_during_a_look_up_a_request_fails_and_is_not_cancelled() -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def never(host: str, port: int) -> list[str]:
            asked.set()
            await asyncio.sleep(3600)
            return []

        made = BodyTransport(settings(), lookup=never)
        sending = asyncio.ensure_future(made.send(Request("GET", "https://origin.test/"), idle_timeout_s=IDLE_S))
        await asyncio.wait_for(asked.wait(), WAIT_S)
        await made.close()
        with pytest.raises(TransportError, match="closed"):
            await asyncio.wait_for(sending, WAIT_S)

    run(main)


def test_a_failed_look_up_that_nobody_waits_for_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        asked, fail = asyncio.Event(), asyncio.Event()

        async def failing(host: str, port: int) -> list[str]:
            asked.set()
            await fail.wait()
            raise OSError("no such name")

        made = BodyTransport(settings(), lookup=failing)
        sending = asyncio.ensure_future(made.send(Request("GET", "https://origin.test/"), idle_timeout_s=IDLE_S))
        await asyncio.wait_for(asked.wait(), WAIT_S)
        sending.cancel()
        await asyncio.wait([sending])
        fail.set()
        await asyncio.sleep(0.01)
        await made.close()

    run(main)
    assert "never retrieved" not in caplog.text
