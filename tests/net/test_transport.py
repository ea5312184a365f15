"""The transport against real sockets: what goes over the wire, what comes back, which connections are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.secret import Secret
from fetcher.net.request import origin_of, redirected
from fetcher.net.response import AiohttpResponse
from tests.net.raw_server import Connection, body_reply, bytes_reply, serving
from tests.net.wiring import IDLE_S, body_of, contexts, get, run, transport

pytestmark = pytest.mark.usefixtures("both")

SIGNED = "/a%27b/%28c%29~%7E/d%2Fe?X-Amz=%2B+%20&s=a%27b%28c%29~%7E*!$,;:@/?&n=%C3%A4&e=&=&f"


# --- what goes out


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_the_url_goes_out_byte_for_byte(uv: bool) -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport() as made:
            assert await body_of(made, get(server, SIGNED)) == b"ok"
            assert server.head_lines()[0] == f"GET {SIGNED} HTTP/1.1"

    run(main, uv=uv)


def test_a_location_is_followed_byte_for_byte() -> None:
    async def main() -> None:
        redirect = body_reply(b"moved", f"Location: {SIGNED}", status="302 Found")
        async with serving(redirect, body_reply(b"ok")) as server, transport() as made:
            request = get(server)
            response = await made.send(request, idle_timeout_s=IDLE_S)
            following = redirected(request, response)
            await response.release()
            assert following is not None
            assert await body_of(made, following) == b"ok"
            assert server.head_lines()[0] == f"GET {SIGNED} HTTP/1.1"
            assert server.connections == 1

    run(main)


def test_what_is_sent_is_plain_and_says_who_asks() -> None:
    async def main() -> None:
        async with serving(body_reply(b"", "Set-Cookie: a=b; Path=/")) as server, transport() as made:
            for _ in range(2):
                await body_of(made, get(server, headers=(("Range", "bytes=0-9"),)))
            names = {line.partition(":")[0].lower() for line in server.head_lines()[1:] if line}
            assert names == {"host", "user-agent", "accept", "accept-encoding", "range"}
            assert server.header("Accept-Encoding") == "identity"
            assert server.header("Range") == "bytes=0-9"
            agent = server.header("User-Agent") or ""
            assert agent.startswith("fetcher/") and "; python/3." in agent

    run(main)


def test_netrc_and_proxy_variables_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport() as made:
            assert await body_of(made, get(server)) == b"ok"
            assert server.header("Authorization") is None

    run(main)


def test_the_token_goes_to_its_origin_and_nowhere_else() -> None:
    async def main() -> None:
        async with serving(body_reply(b"")) as hub, serving(body_reply(b"")) as other, transport() as made:
            token = Secret("hf_secret")
            own = get(hub, credential=token, credential_origin=origin_of(hub.origin))
            await body_of(made, own)
            assert hub.header("Authorization") == "Bearer hf_secret"
            await body_of(made, get(other, credential=token, credential_origin=origin_of(hub.origin)))
            assert other.header("Authorization") is None
            await body_of(made, get(hub, credential=token))
            assert hub.header("Authorization") is None
            assert "hf_secret" not in repr(own) + repr(made)

    run(main)


def test_a_redirect_drops_the_token_when_it_leaves() -> None:
    async def main() -> None:
        async with serving(body_reply(b"")) as other:
            redirect = body_reply(b"", f"Location: {other.origin}/x", status="302 Found")
            async with serving(redirect) as hub, transport() as made:
                request = get(
                    hub,
                    credential=Secret("hf_secret"),
                    credential_origin=origin_of(hub.origin),
                    headers=(("Authorization", "Basic x"), ("Cookie", "a=b"), ("X-Kept", "1")),
                )
                response = await made.send(request, idle_timeout_s=IDLE_S)
                following = redirected(request, response)
                await response.release()
                assert following is not None and following.credential is None
                await body_of(made, following)
                assert other.header("Authorization") is None and other.header("Cookie") is None
                assert other.header("X-Kept") == "1"

    run(main)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\x00", '"\udcff"', "ä"])
def test_a_header_that_can_not_be_sent_is_refused(value: str) -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport() as made:
            with pytest.raises(ForbiddenError):
                await made.send(get(server, headers=(("If-Range", value),)), idle_timeout_s=IDLE_S)
            assert not server.heads

    run(main)


# --- what comes back


def test_heads_may_come_in_pieces_and_after_early_hints() -> None:
    async def main() -> None:
        async def piecemeal(connection: Connection) -> None:
            text = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
            text += b'HTTP/1.1 206 Partial\r\nContent-Length: 4\r\nContent-Range: bytes 0-3/9\r\nETag: "a"\r\n\r\nbody'
            for index in range(len(text)):
                await connection.say(text[index : index + 1])
                if index % 16 == 0:
                    await asyncio.sleep(0)

        async with serving(piecemeal) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)
            assert response.status == 206
            assert response.headers["content-range"] == "bytes 0-3/9"
            assert response.headers.get("LINK") is None
            assert response.content_length == 4 and response.content_encoding is None
            assert await response.read_all(4) == b"body"
            await response.release()

    run(main)


def test_repeated_fields_are_joined() -> None:
    async def main() -> None:
        async with serving(body_reply(b"", "Link: <a>", "link: <b>", "X: 1")) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)
            assert response.headers["Link"] == "<a>, <b>"
            await response.release()

    run(main)


def test_a_compressed_body_is_handed_on_as_it_is() -> None:
    async def main() -> None:
        data = b"\x1f\x8b not really gzip"
        async with serving(body_reply(data, "Content-Encoding: GZip")) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)
            assert response.content_encoding == "gzip"
            assert await response.read_all(100) == data
            await response.release()

    run(main)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_pieces_are_never_longer_than_asked_and_add_up(uv: bool) -> None:
    async def main() -> None:
        data = bytes(range(251)) * 9000
        async with serving(body_reply(data)) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)
            got = bytearray()
            limits = (1, 7, 65536, 1 << 20)
            while piece := await response.read_some(limits[len(got) % 4]):
                assert len(piece) <= limits[len(got) % 4]
                got += piece
            assert got == data
            assert await response.read_some(10) == b""
            await response.release()

    run(main, uv=uv)


def test_a_chunked_body_has_no_length() -> None:
    async def main() -> None:
        text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n3\r\nend\r\n0\r\n\r\n"
        async with serving(bytes_reply(text)) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)
            assert response.content_length is None
            assert await response.read_all(7) == b"bodyend"
            await response.release()

    run(main)


def test_read_all_has_a_bound_with_and_without_a_length() -> None:
    async def main() -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\n12345\r\n" * 3 + b"0\r\n\r\n"
        for reply in (body_reply(b"x" * 15), bytes_reply(chunked)):
            async with serving(reply) as server, transport() as made:
                response = await made.send(get(server), idle_timeout_s=IDLE_S)
                with pytest.raises(ForbiddenError, match="longer than 14 bytes"):
                    await response.read_all(14)
                assert len(await body_of(made, get(server))) == 15

    run(main)


# --- connections


def test_connections_are_kept_unless_a_fresh_one_is_asked_for() -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport() as made:
            for _ in range(3):
                await body_of(made, get(server))
            assert server.connections == 1
            await body_of(made, get(server), fresh_connection=True)
            await body_of(made, get(server), fresh_connection=True)
            assert server.connections == 3
            await body_of(made, get(server))
            assert server.connections == 3

    run(main)


def test_guarded_and_trusted_requests_share_no_connection() -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport() as made:
            trusted = frozenset({origin_of(server.origin)})
            for origins in (trusted, frozenset[str](), trusted, frozenset[str]()):
                await body_of(made, get(server, trusted_origins=origins))
            assert server.connections == 2

    run(main)


@pytest.mark.parametrize(("rest", "connections"), [(0, 1), (50_000, 1), (5_000_000, 2)])
def test_release_drains_little_and_closes_for_more(rest: int, connections: int) -> None:
    async def main() -> None:
        async with serving(body_reply(b"x" * rest)) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=IDLE_S)
            await response.release()
            await response.release()
            (await made.send(get(server), idle_timeout_s=IDLE_S)).abort()
            assert server.connections == connections

    run(main)


def test_release_does_not_wait_for_a_rest_that_never_comes() -> None:
    async def main() -> None:
        text = b"HTTP/1.1 302 Found\r\nContent-Length: 100\r\n\r\nhalf"
        async with serving(bytes_reply(text, then="stall")) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=30)
            began = asyncio.get_running_loop().time()
            await response.release()
            assert asyncio.get_running_loop().time() - began < 5

    run(main)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_abort_wakes_the_reader_and_closes_at_once(uv: bool) -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def half(connection: Connection) -> None:
            await connection.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            while await connection.reader.read(100):
                pass
            gone.set()

        async with serving(half) as server, transport() as made:
            response = await made.send(get(server), idle_timeout_s=30)
            assert await response.read_some(100) == b"half"
            reading = asyncio.create_task(response.read_some(100))
            await asyncio.sleep(0.01)
            response.abort()
            response.abort()
            with pytest.raises(TransportError, match="closed after 4 of 100 bytes"):
                await reading
            await asyncio.wait_for(gone.wait(), 20)

    run(main, uv=uv)


def test_a_cancelled_request_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with serving(bytes_reply(b"", then="stall")) as server, transport() as made:
            task = asyncio.create_task(made.send(get(server), idle_timeout_s=30))
            async with asyncio.timeout(20):
                while not server.heads:  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main)


def test_a_closed_transport_says_so() -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport() as made:
            await made.close()
            with pytest.raises(TransportError, match="closed"):
                await made.send(get(server), idle_timeout_s=IDLE_S)

    run(main)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_little_is_read_ahead_of_whoever_reads(secure: bool, uv: bool) -> None:
    """What lies here unread is fetched again after a kill."""
    body = bytes(16 << 20)

    def taken(response: Any) -> int:
        if isinstance(response, AiohttpResponse):
            return int(response._response.content.total_bytes)
        return int(response._connection.received)

    async def main() -> None:
        server_tls, options = contexts(secure)
        async with serving(body_reply(body), tls=server_tls) as server, transport(**options) as made:
            response = await made.send(get(server), idle_timeout_s=5.0)
            total = -1
            while taken(response) != total or not total:
                total = taken(response)
                await asyncio.sleep(0.05)
            assert 0 < total <= 512 << 10
            assert len(await response.read_all(len(body))) == len(body)
            await response.release()

    run(main, uv=uv)
