"""What the transport has seen of where an operator's requests went: what comes from where no job may ask is not
everybody's."""

from __future__ import annotations

from contextlib import suppress

import pytest

from fetcher.errors import FetcherError, ForbiddenError
from fetcher.net.request import Request, origin_of
from tests.net.raw_server import body_reply, serving
from tests.net.test_transport_proxied import Wired, of_operator, wired
from tests.net.wiring import IDLE_S, body_of, run, transport

pytestmark = pytest.mark.usefixtures("both")

NAME = "http://origin.example"


def named(url: str) -> Request:
    return Request("GET", url, trusted_origins=frozenset({origin_of(url)}))


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("host", ["127.0.0.1", "origin.example"], ids=["literal", "name"])
@pytest.mark.parametrize(("allow_net", "inner"), [((), True), (("127.0.0.0/8",), False)], ids=["closed", "allowed"])
def test_where_a_job_may_not_ask_is_inside(host: str, allow_net: tuple[str, ...], inner: bool, uv: bool) -> None:
    async def main() -> None:
        async def lookup(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        async with serving(body_reply(b"x")) as server, transport(allow_net=allow_net, lookup=lookup) as made:
            url = f"http://{host}:{server.port}/f"
            assert not made.inner([origin_of(url)]), "nothing was asked yet"
            await body_of(made, named(url))
            assert made.inner(["https://elsewhere.example:443", origin_of(url)]) is inner
            assert not made.inner(["https://elsewhere.example:443"])

    run(main, uv=uv)


def test_a_name_that_comes_to_lead_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way from it was held to be everybody's."""
    monkeypatch.setattr("fetcher.net.lanes.DNS_KEPT_S", 0)
    monkeypatch.setattr("fetcher.net.body.dial.DNS_KEPT_S", 0)
    answers = ["127.0.0.2"]

    async def main() -> None:
        async def lookup(host: str, port: int) -> list[str]:
            return list(answers)

        async with serving(body_reply(b"x")) as server:
            async with transport(allow_net=("127.0.0.2/32",), lookup=lookup) as made:
                request = named(f"{NAME}:{server.port}/f")
                with pytest.raises(Exception, match=r"refused|connection"):  # nobody listens there
                    await made.send(request, idle_timeout_s=IDLE_S)
                answers[:] = ["127.0.0.1"]
                with pytest.raises(ForbiddenError, match="led to a public address before"):
                    await made.send(request, idle_timeout_s=IDLE_S, fresh_connection=True)
            assert server.connections == 0

    run(main)


def test_a_name_that_came_to_lead_outside_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetcher.net.lanes.DNS_KEPT_S", 0)
    monkeypatch.setattr("fetcher.net.body.dial.DNS_KEPT_S", 0)
    answers = ["127.0.0.1"]

    async def main() -> None:
        async def lookup(host: str, port: int) -> list[str]:
            return list(answers)

        async with serving(body_reply(b"x")) as server:
            async with transport(allow_net=("127.0.0.2/32",), lookup=lookup) as made:
                request = named(f"{NAME}:{server.port}/f")
                await body_of(made, request)
                answers[:] = ["127.0.0.2"]
                with pytest.raises(Exception, match=r"refused|connection"):
                    await made.send(request, idle_timeout_s=IDLE_S, fresh_connection=True)
                assert made.inner([request.origin])

    run(main)


@pytest.mark.parametrize(
    ("url", "filters", "inner"),
    [
        ("https://origin.example/f", False, True),
        ("https://origin.example/f", True, False),
        ("http://origin.example/f", True, True),
        ("https://1.1.1.1/f", False, False),
    ],
)
def test_through_a_proxy_only_one_that_filters_tells(url: str, filters: bool, inner: bool) -> None:
    async def main(wire: Wired) -> None:
        made = await (await wire.open()).transport(proxy_filters=filters)
        with suppress(FetcherError):  # what it is worth is seen before it is known whether it comes
            await body_of(made, of_operator(url))
        assert wire.proxy.connections == 1
        assert made.inner([origin_of(url)]) is inner

    wired(main)
