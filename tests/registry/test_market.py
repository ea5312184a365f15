"""The embedded market endpoint: both spellings, every shape, and each way of not doing its duty, seen from a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from fetcher.testing.faults import OnRequest, Status
from fetcher.testing.market import DOCUMENTS, MODES, Market, market_in_thread
from tests.hub.raw import fetch

ADDRESS = "7AtiXMSH6R1jjBxrcYjehCkkSF7zvYWte63gwEDBcGHq"
LIST = DOCUMENTS["all"]


@pytest.fixture
def market() -> Iterator[Market]:
    with market_in_thread() as market:
        market.set(ADDRESS, LIST)
        yield market


def test_both_spellings_give_the_same_list(market: Market) -> None:
    for template in (market.template, market.api_template):
        answer = fetch(template.format(market=ADDRESS))
        assert (answer.status, answer.json) == (200, LIST)
        assert answer.headers["content-type"].startswith("application/json")
    assert market.url(ADDRESS) == market.template.replace("{market}", ADDRESS)
    assert [(record.route, record.path) for record in market.requests] == [("market", ADDRESS)] * 2
    assert market.count("api", path=ADDRESS, status=200) == 2


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_shape_is_sent_as_it_is(market: Market, name: str) -> None:
    market.set("nvidia-3090", DOCUMENTS[name])
    assert fetch(market.url("nvidia-3090")).json == DOCUMENTS[name]
    assert fetch(market.url(ADDRESS)).json == LIST


def test_a_list_grows_shrinks_and_goes(market: Market) -> None:
    market.set(ADDRESS, DOCUMENTS["ollama"])
    assert fetch(market.url(ADDRESS)).json == DOCUMENTS["ollama"]
    market.set(ADDRESS, b"  [1]")
    assert fetch(market.url(ADDRESS)).body == b"  [1]"
    market.remove(ADDRESS)
    missing = fetch(market.url(ADDRESS))
    assert (missing.status, missing.json["name"]) == (404, "NotFoundError")


def test_what_is_not_there_is_refused(market: Market) -> None:
    for path in ("/", "/markets", f"/markets/{ADDRESS}", f"/markets/{ADDRESS}/required-images", "/markets//"):
        assert fetch(market.endpoint + path).status == 404, path
    assert market.count("other") == 5
    assert fetch(market.url(ADDRESS), method="POST").status == 405
    head = fetch(market.url(ADDRESS), method="HEAD")
    assert (head.status, head.body) == (200, b"")


def test_an_authorization_header_is_seen_but_not_kept(market: Market) -> None:
    fetch(market.url(ADDRESS), headers={"Authorization": "Bearer of-bad-news"})
    (record,) = market.requests
    assert record.authorization and "of-bad-news" not in repr(record)


@pytest.mark.parametrize("status", [301, 308])
def test_it_moves_to_the_other_spelling(market: Market, status: int) -> None:
    market.move("/api/markets/{market}/required-resources", status)
    answer = fetch(market.url(ADDRESS))
    assert (answer.status, answer.headers["location"]) == (status, f"/api/markets/{ADDRESS}/required-resources")
    assert fetch(market.endpoint + answer.headers["location"]).json == LIST
    market.move(None)
    assert fetch(market.url(ADDRESS)).json == LIST


def test_it_moves_to_another_host(market: Market) -> None:
    with market_in_thread() as other:
        other.set(ADDRESS, DOCUMENTS["ollama"])
        market.move(other.template)
        answer = fetch(market.url(ADDRESS))
        assert answer.status == 308
        assert fetch(answer.headers["location"]).json == DOCUMENTS["ollama"]


def test_down_and_failing(market: Market) -> None:
    market.behave("down")
    assert fetch(market.url(ADDRESS)).status == 503
    market.behave("failing")
    answer = fetch(market.url(ADDRESS))
    assert (answer.status, set(answer.json)) == (500, {"name", "message"})
    market.behave(None)
    assert fetch(market.url(ADDRESS)).json == LIST


def test_closed_and_cut(market: Market) -> None:
    market.behave("closed")
    answer = fetch(market.url(ADDRESS))
    assert (answer.status, answer.ended, answer.received_bytes) == (None, "rst", 0)
    market.behave("cut")
    answer = fetch(market.url(ADDRESS))
    assert (answer.status, answer.ended, answer.received_bytes) == (None, "fin", 20)


def test_slow_trickle_and_silent(market: Market) -> None:
    market.set(ADDRESS, DOCUMENTS["empty"])
    market.behave("slow")
    assert fetch(market.url(ADDRESS)).seconds >= 2.0
    market.behave("trickle")
    answer = fetch(market.url(ADDRESS))
    assert answer.json == DOCUMENTS["empty"] and answer.seconds > 1.5
    market.behave("silent")
    answer = fetch(market.url(ADDRESS), timeout_s=0.3)
    assert (answer.ended, answer.received_bytes) == ("silence", 0)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.startswith("garbage-")])
def test_garbage_is_no_list(market: Market, mode: str) -> None:
    market.behave(mode)
    answer = fetch(market.url(ADDRESS))
    assert answer.status == 200
    try:
        document = json.loads(answer.body)
        images = document["required_images"]
        assert not isinstance(images, list)
    except (ValueError, RecursionError, KeyError, TypeError):
        pass
    assert list(market.faults.fired.values()) == [1]


def test_single_requests_can_be_spoiled(market: Market) -> None:
    market.faults.add(Status(502).on("market", nth=2), OnRequest(lambda exchange: None).on("market", path="nobody"))
    assert [fetch(market.url(ADDRESS)).status for _ in range(3)] == [200, 502, 200]
    assert market.faults.fired == {"Status-502": 1}


def test_a_failure_of_its_own_is_raised_when_it_is_left() -> None:
    def burst(exchange: object) -> None:
        raise ZeroDivisionError("planned")

    with pytest.raises(ZeroDivisionError), market_in_thread() as market:
        market.faults.add(OnRequest(burst))
        assert fetch(market.url(ADDRESS)).status == 500


def test_as_a_context_manager_of_ones_own_loop() -> None:
    async def use() -> int | None:
        async with Market() as market:
            market.set("a", DOCUMENTS["empty"])
            return (await asyncio.to_thread(fetch, market.url("a"))).status

    assert asyncio.run(use()) == 200
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = Market().endpoint
