"""The transport against real sockets: what every way of failing is called, TLS included."""

from __future__ import annotations

import asyncio
import ssl
import traceback

import pytest

from fetcher.errors import FetcherError, ForbiddenError, TransportError
from fetcher.net.request import Request
from tests.net.raw_server import Connection, Reply, body_reply, bytes_reply, serving
from tests.net.wiring import CERTIFICATE, IDLE_S, SILENCE_S, body_of, get, run, transport

pytestmark = pytest.mark.usefixtures("both")

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
SECRET_PATH = "/repo/file?Signature=topsecret"
FAULTS: dict[str, tuple[Reply, type[FetcherError], str]] = {
    "closed before the head": (bytes_reply(b"", then="fin"), TransportError, "closed"),
    "reset before the head": (bytes_reply(b"", then="rst"), TransportError, "reset"),
    "closed within the head": (bytes_reply(b"HTTP/1.1 200 OK\r\nConte", then="fin"), TransportError, "closed"),
    "reset within the head": (bytes_reply(b"HTTP/1.1 200 OK\r\nConte", then="rst"), TransportError, "reset"),
    "closed after the head": (bytes_reply(HEAD, then="fin"), TransportError, "closed after 0 of 10 bytes"),
    "reset after the head": (bytes_reply(HEAD, then="rst"), TransportError, "closed after 0 of 10 bytes"),
    "short body": (bytes_reply(HEAD + b"123456789", then="fin"), TransportError, "closed after 9 of 10 bytes"),
    "reset within the body": (bytes_reply(HEAD + b"12345", then="rst"), TransportError, "closed after . of 10 bytes"),
    "silent before the head": (bytes_reply(b"", then="stall"), TransportError, "no answer within 0.3 s"),
    "silent within the head": (bytes_reply(b"HTTP/1.1 200", then="stall"), TransportError, "no answer within 0.3 s"),
    "silent after the head": (bytes_reply(HEAD, then="stall"), TransportError, "no answer within 0.3 s"),
    "silent within the body": (bytes_reply(HEAD + b"12345", then="stall"), TransportError, "no answer within 0.3 s"),
    "not HTTP": (bytes_reply(b"220 mail.example ESMTP\r\n\r\n", then="fin"), TransportError, "not proper HTTP"),
    "HTTP/0.9": (bytes_reply(b"<html>hello</html>\r\n\r\n", then="fin"), TransportError, "not proper HTTP"),
    "odd status": (bytes_reply(b"HTTP/1.1 two hundred\r\n\r\n", then="fin"), TransportError, "not proper HTTP"),
    "status that is none": (
        bytes_reply(b"HTTP/1.1 003 Early Hints\r\n\r\n", then="fin"),
        TransportError,
        "not proper HTTP",
    ),
    "two lengths": (
        bytes_reply(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", then="fin"),
        TransportError,
        "not proper HTTP",
    ),
    "negative length": (
        bytes_reply(b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", then="fin"),
        TransportError,
        "not proper HTTP",
    ),
    "odd chunk": (
        bytes_reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", then="fin"),
        TransportError,
        "not proper HTTP",
    ),
    "chunks without end": (
        bytes_reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", then="fin"),
        TransportError,
        "closed after 3 bytes",
    ),
    "a huge header": (
        bytes_reply(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", then="stall"),
        TransportError,
        "not proper HTTP",
    ),
    "a thousand headers": (
        bytes_reply(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", then="stall"),
        TransportError,
        "not proper HTTP",
    ),
}


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_a_typed_error_that_tells_it(name: str, uv: bool) -> None:
    reply, kind, words = FAULTS[name]
    idle_timeout_s = SILENCE_S if name.startswith("silent") else IDLE_S

    async def main() -> None:
        async with serving(reply) as server, transport() as made:
            with pytest.raises(kind, match=words) as caught:
                await body_of(made, get(server, SECRET_PATH), idle_timeout_s=idle_timeout_s)
            assert f"127.0.0.1:{server.port}" in caught.value.message
            assert "topsecret" not in "".join(traceback.format_exception(caught.value))

    run(main, uv=uv)


def test_headers_without_end_are_bounded() -> None:
    async def main() -> None:
        sent = 0

        async def endless(connection: Connection) -> None:
            nonlocal sent
            await connection.say(b"HTTP/1.1 200 OK\r\n")
            while True:
                await connection.say(b"X-Endless: " + b"y" * 100 + b"\r\n")
                sent += 100
                await asyncio.sleep(0)

        async with serving(endless) as server, transport() as made:
            with pytest.raises((TransportError, ForbiddenError)):
                await body_of(made, get(server))
        assert sent < 64 << 20

    run(main)


def test_a_head_byte_by_byte_has_an_end() -> None:
    async def main() -> None:
        async def drip(connection: Connection) -> None:
            await connection.say(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                await connection.say(b"x")
                await asyncio.sleep(0.05)

        async with serving(drip) as server, transport(connect_timeout_s=0.5) as made:
            with pytest.raises(TransportError, match="no answer"):
                await made.send(get(server), idle_timeout_s=0.2)

    run(main)


def test_nobody_listens() -> None:
    async def main() -> None:
        async with serving(body_reply(b"")) as server:
            request = get(server)
        async with transport() as made:
            with pytest.raises(TransportError, match=r"connection refused|connect call failed") as caught:
                await made.send(request, idle_timeout_s=IDLE_S)
            assert caught.value.retryable

    run(main)


def test_no_connection_in_time() -> None:
    async def main() -> None:
        async def slow(host: str, port: int) -> list[str]:
            await asyncio.sleep(60)
            return []

        async with transport(connect_timeout_s=0.1, lookup=slow) as made:
            with pytest.raises(TransportError, match=r"no connection within 0\.1 s"):
                await made.send(Request("GET", "https://slow.example/"), idle_timeout_s=IDLE_S)

    run(main)


def test_a_name_nobody_knows() -> None:
    async def main() -> None:
        async def unknown(host: str, port: int) -> list[str]:
            raise OSError(-2, "Name or service not known")

        async def empty(host: str, port: int) -> list[str]:
            return []

        for lookup in (unknown, empty):
            async with transport(lookup=lookup) as made:
                with pytest.raises(TransportError, match=r"unknown\.example.*can't be resolved"):
                    await made.send(Request("GET", "https://unknown.example/a?b=secret"), idle_timeout_s=IDLE_S)

    run(main)


# --- TLS


def server_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


async def origin_test(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def test_a_trusted_certificate_serves() -> None:
    async def main() -> None:
        context = ssl.create_default_context(cafile=str(CERTIFICATE))
        async with serving(body_reply(b"ok"), tls=server_tls()) as server:
            async with transport(ssl_context=context, lookup=origin_test) as made:
                request = Request("GET", f"https://origin.test:{server.port}/")
                assert await body_of(made, request) == b"ok"
                assert server.header("Host") == f"origin.test:{server.port}"

    run(main)


def test_an_untrusted_certificate_is_final() -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok"), tls=server_tls()) as server, transport(lookup=origin_test) as made:
            with pytest.raises(ForbiddenError, match="certificate is not trusted") as caught:
                await made.send(Request("GET", f"https://origin.test:{server.port}/"), idle_timeout_s=2)
            assert "SSL_CERT_FILE" in str(caught.value.hint)
            assert not server.heads

    run(main)


def test_a_certificate_for_another_name_is_final() -> None:
    async def main() -> None:
        context = ssl.create_default_context(cafile=str(CERTIFICATE))
        async with serving(body_reply(b"ok"), tls=server_tls()) as server:
            async with transport(ssl_context=context, lookup=origin_test) as made:
                with pytest.raises(ForbiddenError, match="certificate is not trusted"):
                    await made.send(Request("GET", f"https://other.test:{server.port}/"), idle_timeout_s=2)

    run(main)


def test_no_tls_at_the_other_end() -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport(connect_timeout_s=0.5) as made:
            with pytest.raises(TransportError):
                await made.send(Request("GET", f"https://127.0.0.1:{server.port}/"), idle_timeout_s=IDLE_S)

    run(main)
