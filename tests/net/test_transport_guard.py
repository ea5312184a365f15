"""The guard at work: what the transport connects to, and what it does not, on real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fetcher.errors import ForbiddenError
from fetcher.model.secret import Secret
from fetcher.net.guard import Guard
from fetcher.net.request import Request, origin_of, redirected
from tests.net.raw_server import body_reply, serving
from tests.net.wiring import IDLE_S, body_of, get, run, transport

pytestmark = pytest.mark.usefixtures("both")


def test_a_literal_is_judged_before_a_connection_is_made() -> None:
    async def main() -> None:
        async with serving(body_reply(b"secret")) as server, transport(allow_net=()) as made:
            for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]"):
                with pytest.raises(ForbiddenError):
                    await made.send(Request("GET", f"http://{host}:{server.port}/"), idle_timeout_s=IDLE_S)
            assert server.connections == 0

    run(main)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "127.0.0.1.",
        "0",
        "127.0.0.1%2f",
        "a@127.0.0.1",
        "127.0.0.1\\@a",
        "0x7f000001",
        "127.0.0.01",
        "%31%32%37.0.0.1",
        "127。0。0。1",
        "[::1%25lo]",
        "[::ffff:127.1]",
        "a:b@127.0.0.1",
    ],
)
def test_odd_notations_reach_nobody(host: str) -> None:
    async def main() -> None:
        async with serving(body_reply(b"secret")) as server, transport(allow_net=()) as made:
            for url in (f"http://{host}:{server.port}/", f"HTTP://{host}:{server.port}/"):
                with pytest.raises(ForbiddenError):
                    await made.send(Request("GET", url), idle_timeout_s=IDLE_S)
            assert server.connections == 0

    run(main)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["::1"], ["1.1.1.1", "127.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%1"], ["rubbish"]]
)
def test_a_name_is_judged_by_every_address_it_has(answers: list[str], uv: bool) -> None:
    async def main() -> None:
        async def lookup(host: str, port: int) -> list[str]:
            return answers

        async with serving(body_reply(b"secret")) as server, transport(allow_net=(), lookup=lookup) as made:
            for scheme in ("http", "https"):
                with pytest.raises(ForbiddenError, match=r"rebind\.example") as caught:
                    await made.send(Request("GET", f"{scheme}://rebind.example:{server.port}/"), idle_timeout_s=IDLE_S)
                assert "FETCHER_ALLOW_NET" in str(caught.value.hint)
            assert server.connections == 0

    run(main, uv=uv)


def test_all_who_wait_for_one_look_up_are_refused() -> None:
    async def main() -> None:
        asked = 0

        async def lookup(host: str, port: int) -> list[str]:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.05)
            return ["127.0.0.1"]

        async with serving(body_reply(b"secret")) as server, transport(allow_net=(), lookup=lookup) as made:
            request = Request("GET", f"https://rebind.example:{server.port}/")
            sends = (made.send(request, idle_timeout_s=IDLE_S) for _ in range(8))
            errors = await asyncio.gather(*sends, return_exceptions=True)
            assert all(isinstance(error, ForbiddenError) for error in errors), errors
            assert asked == 1 and server.connections == 0

    run(main)


def test_an_address_that_changes_between_look_ups_is_judged_each_time() -> None:
    async def main() -> None:
        asked = 0

        async def lookup(host: str, port: int) -> list[str]:
            nonlocal asked
            asked += 1
            return ["127.0.0.1"] if asked == 1 else ["127.0.0.2"]

        # Allowed is the first address only; kept connections and look-ups must not carry the second one past the guard.
        async with serving(body_reply(b"ok", then="fin")) as server:
            for _ in range(2):
                async with transport(allow_net=("127.0.0.1",), lookup=lookup) as made:
                    request = Request("GET", f"http://rebind.example:{server.port}/")
                    if asked == 0:
                        assert await body_of(made, request) == b"ok"
                    else:
                        with pytest.raises(ForbiddenError, match=r"127\.0\.0\.2"):
                            await made.send(request, idle_timeout_s=IDLE_S)
            assert server.connections == 1 and asked == 2

    run(main)


def test_a_kept_connection_leads_where_it_was_judged_to_lead() -> None:
    """A name that has changed its mind does not change where a connection leads; the next one is judged anew."""
    answers = ["127.0.0.1"]

    async def lookup(host: str, port: int) -> list[str]:
        return list(answers)

    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport(allow_net=("127.0.0.1",), lookup=lookup) as made:
            request = Request("GET", f"http://rebind.example:{server.port}/")
            assert await body_of(made, request) == b"ok"
            answers[:] = ["127.0.0.2"]
            assert await body_of(made, request) == b"ok"
            assert server.connections == 1
            with pytest.raises(ForbiddenError, match=r"127\.0\.0\.2"):
                await made.send(request, idle_timeout_s=IDLE_S, fresh_connection=True)

    run(main)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_a_job_gets_no_connection_that_was_made_for_an_operator(uv: bool) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport(allow_net=(), lookup=lookup) as made:
            url = f"http://mirror.example:{server.port}/"
            assert await body_of(made, Request("GET", url, trusted_origins=frozenset({origin_of(url)}))) == b"ok"
            with pytest.raises(ForbiddenError):
                await made.send(Request("GET", url), idle_timeout_s=IDLE_S)
            assert len(server.heads) == server.connections == 1

    run(main, uv=uv)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_the_last_belt_judges_the_socket_address_itself(uv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the judgement of names were skipped altogether."""
    from fetcher.net import lanes
    from fetcher.net.body import dial

    async def unjudged(self: Any, host: str, port: int = 0, family: Any = 0) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": ip, "port": port, "family": 2, "proto": 6, "flags": 0} for ip in addresses]

    async def unjudged_as_well(self: Any, lane: Any, address: Any, *, anew: bool) -> list[str]:
        return list(addresses)

    monkeypatch.setattr(lanes.Resolver, "resolve", unjudged)
    monkeypatch.setattr(dial.Addresses, "of", unjudged_as_well)
    addresses: list[str] = []

    async def main() -> None:
        async with serving(body_reply(b"secret")) as server, transport(allow_net=()) as made:
            for addresses[:] in (["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
                with pytest.raises(ForbiddenError, match="loopback"):
                    await made.send(
                        Request("GET", f"http://x{len(addresses)}.example:{server.port}/"), idle_timeout_s=2
                    )
            assert server.connections == 0

    run(main, uv=uv)


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:{port}/",
        "//127.0.0.2:{port}/x",
        "http://[::1]:{port}/",
    ],
)
def test_a_redirect_of_a_trusted_origin_is_judged(target: str) -> None:
    async def main() -> None:
        async with serving(body_reply(b"internal")) as internal:
            location = target.format(port=internal.port)
            redirect = body_reply(b"", f"Location: {location}", status="302 Found")
            async with serving(redirect) as hub, transport(allow_net=()) as made:
                request = get(hub, trusted_origins=frozenset({origin_of(hub.origin)}))
                response = await made.send(request, idle_timeout_s=IDLE_S)
                following = redirected(request, response)
                await response.release()
                assert following is not None
                with pytest.raises(ForbiddenError):
                    await made.send(following, idle_timeout_s=IDLE_S)
                assert internal.connections == 0

    run(main)


def test_a_trusted_origin_is_the_exact_one() -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, serving(body_reply(b"no")) as other:
            async with transport(allow_net=()) as made:
                trusted = frozenset({origin_of(server.origin)})
                assert await body_of(made, get(server, trusted_origins=trusted)) == b"ok"
                with pytest.raises(ForbiddenError):
                    await made.send(get(other, trusted_origins=trusted), idle_timeout_s=IDLE_S)
                with pytest.raises(ForbiddenError):
                    await made.send(get(server), idle_timeout_s=IDLE_S)

    run(main)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://a/b",
        "file:///etc/passwd",
        "http://",
        "http:///a",
        "https://u:p@a/",
        "https://a:0/",
        "https://a:99999/",
        "https://a b/",
        "https://a/\r\nX: y",
        "https://a/\x00",
        "https://ä/",
        "https://a/ä",
        "https://a/" + "x" * 20000,
        "javascript:alert(1)",
        "unix:///var/run/docker.sock",
        "http+unix://x/",
        "https://[::1",
        "https://a\\b/",
    ],
)
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    async def main() -> None:
        async with transport() as made:
            with pytest.raises(ForbiddenError):
                await made.send(Request("GET", url), idle_timeout_s=IDLE_S)

    run(main)


# --- tokens in clear text


def with_token(url: str, *, trusted: bool = True) -> Request:
    origin = origin_of(url)
    trusted_origins = frozenset({origin}) if trusted else frozenset()
    return Request("GET", url, credential=Secret("hf_x"), credential_origin=origin, trusted_origins=trusted_origins)


@pytest.mark.parametrize("ip", ["93.184.216.34", "2606:2800::1", "169.254.1.1", "100.64.0.1", "64:ff9b::5db8:d822"])
def test_a_token_is_not_sent_over_plain_http_to_strangers(ip: str) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1", ip]

    async def main() -> None:
        async with transport(allow_net=(), lookup=lookup) as made:
            literal = f"[{ip}]" if ":" in ip else ip
            for host in ("hub.example", literal):
                with pytest.raises(ForbiddenError, match="token is not sent") as caught:
                    await made.send(with_token(f"http://{host}:1/"), idle_timeout_s=IDLE_S)
                assert caught.value.hint is not None and ip in caught.value.hint and "hf_x" not in str(caught.value)

    run(main)


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_a_name_that_changes_its_mind_does_not_get_the_token(uv: bool) -> None:
    """Without a token an operator's origin is asked; the connection that was made for that is not used for a token."""
    answers = ["127.0.0.1"]

    async def lookup(host: str, port: int) -> list[str]:
        return list(answers)

    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport(allow_net=(), lookup=lookup) as made:
            url = f"http://hub.example:{server.port}/"
            plain = Request("GET", url, trusted_origins=frozenset({origin_of(url)}))
            assert await body_of(made, plain) == b"ok"
            answers[:] = ["93.184.216.34"]
            with pytest.raises(ForbiddenError, match="token is not sent"):
                await made.send(with_token(url), idle_timeout_s=IDLE_S)
            assert len(server.heads) == 1

    run(main, uv=uv)


@pytest.mark.parametrize(
    ("allow_net", "host"), [((), "127.0.0.1"), ((), "hub.example"), (("127.0.0.0/8",), "hub.example")]
)
@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
def test_a_token_is_sent_over_plain_http_to_near_and_allowed_addresses(
    allow_net: tuple[str, ...], host: str, uv: bool
) -> None:
    async def lookup(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport(allow_net=allow_net, lookup=lookup) as made:
            assert await body_of(made, with_token(f"http://{host}:{server.port}/")) == b"ok"
            assert server.header("Authorization") == "Bearer hf_x"

    run(main, uv=uv)


@pytest.mark.parametrize(
    ("ip", "allowed"),
    [
        ("127.0.0.9", True),
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("192.168.1.1", True),
        ("::1", True),
        ("fd12::1", True),
        ("::ffff:10.1.2.3", True),
        ("203.0.113.7", True),
        ("::ffff:203.0.113.7", True),
        ("203.0.113.8", False),
        ("1.1.1.1", False),
        ("172.32.0.1", False),
        ("2606:4700::1111", False),
        ("fe80::1", False),
        ("2002:7f00:1::", False),
        ("::ffff:1.1.1.1", False),
        ("nonsense", False),
    ],
)
def test_where_a_token_may_go_in_clear_text(ip: str, allowed: bool) -> None:
    guard = Guard(("203.0.113.7/32",))
    if allowed:
        guard.check_token("h", [ip], 80)
    else:
        with pytest.raises(ForbiddenError):
            guard.check_token("h", ["127.0.0.1", ip], 80)
