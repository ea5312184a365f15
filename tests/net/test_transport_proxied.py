"""The transport through a real proxy: what goes through, what is refused before anything is sent, and what is said when
the proxy is at fault."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fetcher.errors import FetcherError, ForbiddenError, TransportError, UsageError
from fetcher.model.proxy import parse_proxy
from fetcher.model.secret import AWSKeys, Login, Secret
from fetcher.net.aiohttp_transport import AiohttpTransport
from fetcher.net.request import Request, origin_of
from tests.net.forward_proxy import ORIGIN, ForwardProxy, forwarding, server_context
from tests.net.raw_server import RawServer, body_reply, bytes_reply, serving
from tests.net.wiring import CERTIFICATE, IDLE_S, body_of, run, settings

LOGIN = "user:hunter2"
TARGET = "/a%27b/%28c%29~%7E?X-Amz=%2B+%20&s=a%27b&e=&=&f"


class Wired:
    """A proxy, the origins behind it, and a transport that goes through it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.proxy: ForwardProxy
        self.plain: RawServer
        self.tls: RawServer

    async def open(self, *, tls_proxy: bool = False, reply: Any = None, **fields: Any) -> Wired:
        reply = reply or body_reply(b"ok")
        self.plain = await self._stack.enter_async_context(serving(reply))
        self.tls = await self._stack.enter_async_context(serving(reply, tls=server_context()))
        routes = {
            f"{ORIGIN}:80": ("127.0.0.1", self.plain.port),
            **{f"{ORIGIN}:{port}": ("127.0.0.1", self.tls.port) for port in (443, 8443)},
            "1.1.1.1:443": ("127.0.0.1", self.tls.port),
        }
        self.proxy = await self._stack.enter_async_context(forwarding(tls=tls_proxy, routes=routes, **fields))
        return self

    async def transport(self, environ: dict[str, str] | None = None, **changes: Any) -> AiohttpTransport:
        changes = {"allow_net": (), **changes}
        if environ is None:
            changes.setdefault("proxy", parse_proxy(self.proxy.url))
        made = AiohttpTransport(
            settings(**changes), environ, lookup=_nobody, ssl_context=ssl.create_default_context(cafile=CERTIFICATE)
        )
        self._stack.push_async_callback(made.close)
        return made

    @property
    def untouched(self) -> bool:
        return self.proxy.connections == self.plain.connections == self.tls.connections == 0


async def _nobody(host: str, port: int) -> list[str]:
    """Only the proxy resolves names; the proxy itself is an address here."""
    raise AssertionError(f"{host} was looked up here")


def wired(main: Any, *, uv: bool = False) -> None:
    async def whole() -> None:
        async with AsyncExitStack() as stack:
            await main(Wired(stack))

    run(whole, uv=uv)


def of_operator(url: str, **more: Any) -> Request:
    return Request("GET", url, trusted_origins=frozenset({origin_of(url)}), **more)


def of_job(url: str, **more: Any) -> Request:
    return Request("GET", url, **more)


BOTH_LOOPS = pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])


@BOTH_LOOPS
@pytest.mark.parametrize("tls_proxy", [False, True], ids=["http-proxy", "https-proxy"])
@pytest.mark.parametrize("login", [None, LOGIN])
@pytest.mark.parametrize("by", ["setting", "environment"])
def test_an_operators_requests_go_through(uv: bool, tls_proxy: bool, login: str | None, by: str) -> None:
    async def main(it: Wired) -> None:
        await it.open(tls_proxy=tls_proxy, login=login)
        url = it.proxy.url.replace("://", f"://{login}@") if login else it.proxy.url
        made = await (it.transport(proxy=parse_proxy(url)) if by == "setting" else it.transport({"ALL_PROXY": url}))
        for origin, server in ((f"http://{ORIGIN}", it.plain), (f"https://{ORIGIN}", it.tls)):
            assert await body_of(made, of_operator(origin + TARGET)) == b"ok"
            assert server.head_lines()[0] == f"GET {TARGET} HTTP/1.1"
            assert server.header("Host") == ORIGIN
            assert server.header("Proxy-Authorization") is None
        absolute, tunnel = it.proxy.heads
        assert absolute.startswith(f"GET http://{ORIGIN}{TARGET} HTTP/1.1\r\n")
        assert tunnel.startswith(f"CONNECT {ORIGIN}:443 HTTP/1.1\r\n") and "X-Amz" not in tunnel
        basic = f"Proxy-Authorization: Basic {base64.b64encode(LOGIN.encode()).decode()}\r\n"
        assert [basic in head for head in it.proxy.heads] == [login is not None] * 2

    wired(main, uv=uv)


@pytest.mark.parametrize(
    "credential", [Secret("hf_canary"), Login("u", Secret("canary")), AWSKeys("AK", Secret("canary"))]
)
def test_a_credential_goes_through_a_tunnel_unseen(credential: Any) -> None:
    async def main(it: Wired) -> None:
        made = await (await it.open()).transport()
        url = f"https://{ORIGIN}/x"
        request = of_operator(url, credential=credential, credential_origin=origin_of(url))
        assert await body_of(made, request) == b"ok"
        assert it.tls.header("Authorization")
        assert not any("uthorization" in head or "canary" in head for head in it.proxy.heads)

    wired(main)


def test_a_credential_over_plain_http_goes_through_to_an_allowed_address_only() -> None:
    async def main(it: Wired) -> None:
        await it.open()
        made = await it.transport(allow_net=("127.0.0.1/32",))
        allowed = f"http://127.0.0.1:{it.plain.port}/"
        for url in (allowed, f"http://{ORIGIN}/", "http://127.0.0.2:1/", "http://1.1.1.1/", "http://[::1]/"):
            for more in (
                {"credential": Secret("hf_canary"), "credential_origin": origin_of(url)},
                {"secret_query": True},
            ):
                request = of_operator(url, **more)
                if url == allowed:
                    assert await body_of(made, request) == b"ok"
                    continue
                with pytest.raises(ForbiddenError, match="token is not sent") as caught:
                    await made.send(request, idle_timeout_s=IDLE_S)
                assert "NO_PROXY" in str(caught.value.hint) and it.proxy.url in caught.value.message
        assert len(it.proxy.heads) == 2

    wired(main)


GUARDED = [f"https://{ORIGIN}/", f"http://{ORIGIN}/", "https://1.1.1.1/", "https://a.example:8443/"]


@pytest.mark.parametrize("by", ["setting", "HTTPS_PROXY", "all_proxy"])
def test_a_guarded_request_takes_no_proxy(by: str) -> None:
    async def main(it: Wired) -> None:
        await it.open()
        made = await (it.transport() if by == "setting" else it.transport({by: it.proxy.url}))
        for url in (f"https://{ORIGIN}/", "https://1.1.1.1/", "https://a.example:8443/"):
            with pytest.raises(ForbiddenError) as caught:
                await made.send(of_job(url), idle_timeout_s=IDLE_S)
            assert caught.value.exit_code == 25
            assert it.proxy.url in caught.value.message
            assert ("FETCHER_PROXY" if by == "setting" else by) in caught.value.message
            assert "FETCHER_PROXY_FILTERS" in str(caught.value.hint)
        assert it.untouched

    wired(main)


def test_a_guarded_request_goes_through_a_proxy_that_filters() -> None:
    async def main(it: Wired) -> None:
        made = await (await it.open()).transport(proxy_filters=True)
        for url in (f"https://{ORIGIN}/", f"https://{ORIGIN}:8443/"):
            assert await body_of(made, of_job(url)) == b"ok"
        assert it.proxy.targets == [f"CONNECT {ORIGIN}:443", f"CONNECT {ORIGIN}:8443"]

    wired(main)


@pytest.mark.parametrize(
    "url",
    [
        *("https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/", "https://169.254.169.254/", "http://1.1.1.1/"),
        *("https://[::ffff:10.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://127.1/", "https://2130706433/"),
        *("https://0x7f.1/", "https://localhost/", "https://LOCALHOST./", "https://a.localhost/", "https://x:22/"),
        *(f"http://{ORIGIN}/", f"https://{ORIGIN}:25/", "ftp://a/", "https://u:p@a/", "https://a%2e/", "https://a\\b/"),
    ],
)
def test_what_can_be_judged_is_judged_also_of_a_proxy_that_filters(url: str) -> None:
    async def main(it: Wired) -> None:
        made = await (await it.open()).transport(proxy_filters=True)
        with pytest.raises(ForbiddenError):
            await made.send(of_job(url), idle_timeout_s=IDLE_S)
        assert it.untouched

    wired(main)


def test_an_allowed_address_may_be_plain_http_through_a_proxy_that_filters() -> None:
    async def main(it: Wired) -> None:
        await it.open()
        made = await it.transport(proxy_filters=True, allow_net=("127.0.0.1/32",))
        assert await body_of(made, of_job(f"http://127.0.0.1:{it.plain.port}/")) == b"ok"
        with pytest.raises(ForbiddenError):
            await made.send(of_job(f"http://127.0.0.2:{it.plain.port}/"), idle_timeout_s=IDLE_S)

    wired(main)


@pytest.mark.parametrize("rest", ["#@127.0.0.2/", "?@127.0.0.2/", "/#@127.0.0.2/", "/@127.0.0.2/", "#"])
def test_a_proxy_is_told_one_address_only(rest: str) -> None:
    """What it reads first is what was judged, then a slash or the end: nothing could be taken for user info."""

    async def main(it: Wired) -> None:
        await it.open()
        made = await it.transport(proxy_filters=True, allow_net=("127.0.0.1/32",))
        assert await body_of(made, of_job(f"http://127.0.0.1:{it.plain.port}{rest}")) == b"ok"
        (head,) = it.proxy.heads
        assert re.match(rf"GET http://127\.0\.0\.1:{it.plain.port}(/[^\s#]*)? HTTP/1\.1\r\n", head)

    wired(main)


def test_what_goes_directly_is_judged_as_ever() -> None:
    async def main(it: Wired) -> None:
        await it.open()
        for environ in ({"ALL_PROXY": it.proxy.url}, {"ALL_PROXY": it.proxy.url, "NO_PROXY": "*"}, {}):
            made = await it.transport(environ, proxy="none" if not environ else None, proxy_filters=True)
            with pytest.raises(ForbiddenError, match="loopback"):
                await made.send(of_job(f"http://127.0.0.1:{it.plain.port}/"), idle_timeout_s=IDLE_S)
            assert await body_of(made, of_operator(f"http://127.0.0.1:{it.plain.port}/")) == b"ok"
        assert it.proxy.connections == 0

    wired(main)


@BOTH_LOOPS
def test_lanes_share_no_connection(uv: bool) -> None:
    """Of one origin: an operator's and a job's, and a direct one, each on a connection of its own; kept by each."""

    async def main(it: Wired) -> None:
        await it.open()
        made = await it.transport(proxy_filters=True)
        url = f"https://{ORIGIN}:8443/"
        for request in (of_operator(url), of_job(url), of_operator(url), of_job(url)):
            assert await body_of(made, request) == b"ok"
        assert it.proxy.connections == it.tls.connections == 2
        direct = await it.transport({})
        assert await body_of(direct, of_operator(f"http://127.0.0.1:{it.plain.port}/")) == b"ok"
        assert it.proxy.connections == 2

    wired(main, uv=uv)


# --- the proxy's own faults


FAULTS = [
    ({"answers": 407}, ForbiddenError, "wants a user name and password"),
    ({"login": "other:password"}, ForbiddenError, "wants another user name and password"),
    ({"answers": 403}, ForbiddenError, "refuses to connect there"),
    ({"answers": 502}, TransportError, "answered 502"),
    ({"answers": 504}, TransportError, "answered 504"),
]


@pytest.mark.parametrize(("fields", "kind", "words"), FAULTS)
def test_a_proxy_at_fault_is_named(fields: dict[str, Any], kind: type[FetcherError], words: str) -> None:
    async def main(it: Wired) -> None:
        await it.open(**fields)
        url = it.proxy.url.replace("://", f"://{LOGIN}@") if "login" in fields else it.proxy.url
        made = await it.transport({"ALL_PROXY": url})
        targets = [f"https://{ORIGIN}/"]
        if kind is ForbiddenError and "403" not in str(fields):  # in plain http only a 407 is surely the proxy's own
            targets.append(f"http://{ORIGIN}/")
        for target in targets:
            with pytest.raises(kind, match=words) as caught:
                await made.send(of_operator(target), idle_timeout_s=IDLE_S)
            assert f"{it.proxy.url} (ALL_PROXY)" in caught.value.message and ORIGIN in caught.value.message
            assert caught.value.hint and "hunter2" not in f"{caught.value} {caught.value.hint}"

    wired(main)


def test_an_origin_that_answers_407_is_not_taken_for_the_proxy() -> None:
    async def main(it: Wired) -> None:
        made = await (await it.open(reply=body_reply(b"", status="407 Odd"))).transport()
        response = await made.send(of_operator(f"https://{ORIGIN}/"), idle_timeout_s=IDLE_S)
        assert response.status == 407
        response.abort()

    wired(main)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(scheme: str) -> None:
    async def main(it: Wired) -> None:
        await it.open()
        for url in ("http://127.0.0.1:9", "http://user:hunter2@nowhere.invalid:3128"):
            made = AiohttpTransport(settings(proxy=parse_proxy(url)), lookup=_no_such_name)
            try:
                with pytest.raises(TransportError, match="the proxy http://") as caught:
                    await made.send(of_operator(f"{scheme}://{ORIGIN}/"), idle_timeout_s=IDLE_S)
                assert "FETCHER_PROXY" in str(caught.value.hint) and "hunter2" not in str(caught.value)
            finally:
                await made.close()

    wired(main)


async def _no_such_name(host: str, port: int) -> list[str]:
    raise OSError("no such name")


def test_a_proxy_with_a_certificate_that_nobody_trusts() -> None:
    async def main(it: Wired) -> None:
        await it.open(tls_proxy=True)
        made = AiohttpTransport(settings(proxy=parse_proxy(it.proxy.url)))
        try:
            with pytest.raises(ForbiddenError, match=r"the proxy https://127\.0\.0\.1.*certificate"):
                await made.send(of_operator(f"http://{ORIGIN}/"), idle_timeout_s=IDLE_S)
        finally:
            await made.close()

    wired(main)


@BOTH_LOOPS
@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 200\r\n" + b"a: b\r\n" * 9999]
)
def test_a_proxy_that_speaks_no_http_is_an_error_of_ours(uv: bool, said: bytes) -> None:
    async def main() -> None:
        async with serving(bytes_reply(said, then="fin")) as server:
            made = AiohttpTransport(settings(proxy=parse_proxy(server.origin), connect_timeout_s=5.0))
            try:
                for scheme in ("http", "https"):
                    with pytest.raises(TransportError):
                        await made.send(of_operator(f"{scheme}://{ORIGIN}/"), idle_timeout_s=IDLE_S)
            finally:
                await made.close()

    run(main, uv=uv)


def test_a_proxy_that_says_nothing_is_named() -> None:
    async def main() -> None:
        async with serving(bytes_reply(b"", then="stall")) as server:
            made = AiohttpTransport(settings(proxy=parse_proxy(server.origin), connect_timeout_s=0.3))
            try:
                with pytest.raises(TransportError, match="no connection through the proxy"):
                    await made.send(of_operator(f"https://{ORIGIN}/"), idle_timeout_s=IDLE_S)
            finally:
                await made.close()

    run(main)


def test_a_proxy_that_nobody_can_use_hurts_only_who_would_take_it() -> None:
    async def main(it: Wired) -> None:
        await it.open()
        made = await it.transport({"HTTPS_PROXY": "socks5://user:hunter2@127.0.0.1:1080", "NO_PROXY": "1.1.1.1"})
        assert await body_of(made, of_operator(f"http://127.0.0.1:{it.plain.port}/")) == b"ok"
        with pytest.raises(UsageError, match="HTTPS_PROXY is a SOCKS proxy") as caught:
            await made.send(of_operator(f"https://{ORIGIN}/"), idle_timeout_s=IDLE_S)
        assert "hunter2" not in f"{caught.value} {caught.value.hint}"

    wired(main)


def test_a_transport_without_an_environment_knows_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, or it has none: the process's environment is read by whoever makes it."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def main() -> None:
        async with serving(body_reply(b"ok")) as server:
            made = AiohttpTransport(settings(), lookup=lookup)
            try:
                assert await body_of(made, of_operator(f"http://{ORIGIN}:{server.port}/")) == b"ok"
            finally:
                await made.close()

    run(main)


def test_many_at_once_through_one_proxy() -> None:
    async def main(it: Wired) -> None:
        made = await (await it.open()).transport(proxy_filters=True)
        sends = (body_of(made, of_job(f"https://{ORIGIN}/{number}")) for number in range(16))
        assert await asyncio.gather(*sends) == [b"ok"] * 16

    wired(main)
