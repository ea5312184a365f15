"""What a market requires, made present over real sockets: lists of every shape and mood, pins, and what is kept."""

from __future__ import annotations

import asyncio
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fetcher import (
    DeniedError,
    Fetcher,
    FetcherError,
    ImageError,
    NotFoundError,
    OfflineError,
    RateLimitedError,
    ResourceError,
    TransportError,
)
from fetcher.engine.market_lists import MarketSource
from fetcher.engine.prefetch import PrefetchReport
from fetcher.model.events import Progress
from fetcher.model.resource import HF, Ollama
from fetcher.plan.fetch_plan import FetchPlan
from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import FlipByte, RedirectTo, StallAfter, Status
from fetcher.testing.hub import Token, hub_in_thread
from fetcher.testing.market import DOCUMENTS, MODES, Market, market_in_thread
from fetcher.testing.registry import Registry, registry_in_thread
from fetcher.testing.s3 import S3, s3_in_thread
from tests.e2e.support import HURRIED, MIB, assert_whole, bytes_below, repo_bytes, tree_of, until
from tests.images.stub import StubEngine, layer, line, says, stub_engine
from tests.support.servers import images
from tests.support.servers.docker_registry import DockerRegistry
from tests.support.servers.engine import Engine

MARKET = "97G9NnvBDQ2WpKu6fasoMsAKmfj63C9rhysJnkeWodAf"
PIN = f"market:{MARKET}"
ONE, TWO = "acme/one", "acme/two"
SECRETS = {
    "hub": "hf_marketMarketMarketMarket01",
    "key": "AKIAMARKETMARKET",
    "secret": "market-secret/+market-secret",
    "password": "market-password-of-the-registry",
    "query": "query-secret-0123456789",
}


@dataclass
class World:
    """The origins of a market, and a client of them."""

    hub: Hub
    registry: Registry
    market: Market
    cache_dir: Path
    environ: dict[str, str] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    plans: list[FetchPlan] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def requires(self, *resources: Any, images: Sequence[Any] = ()) -> None:
        self.market.set(MARKET, {"required_images": list(images), "required_remote_resources": list(resources)})

    def fetcher(self, **more: Any) -> Fetcher:
        settings = {
            **HURRIED,
            "cache_dir": str(self.cache_dir),
            "hf_endpoint": self.hub.endpoint,
            "ollama_url": self.registry.endpoint,
            "market_url": self.market.template,
            "backoff_max_s": 0.05,
            "api_time_max_s": 2.0,
            "api_timeout_s": 0.7,
            **self.more,
            **more,
        }
        return Fetcher(environ=self.environ, on_event=self.events.append, **settings)

    def run(self, main: Callable[[Fetcher], Any], **more: Any) -> Any:
        async def entered() -> Any:
            async with self.fetcher(**more) as fetcher:
                return await main(fetcher)

        return asyncio.run(entered())

    def list(self, name: str = MARKET, **more: Any) -> MarketSource:
        found: MarketSource = self.run(lambda fetcher: fetcher.market_list(name), **more)
        return found

    def prefetch(
        self, *, images: bool = False, pin: str | None = PIN, name: str = MARKET, **more: Any
    ) -> PrefetchReport:
        async def main(fetcher: Fetcher) -> PrefetchReport:
            source = await fetcher.market_list(name)
            return await fetcher.prefetch(source, pin=pin, images=images, on_plan=self.plans.append)

        report: PrefetchReport = self.run(main, **more)
        return report

    def plan(self, **more: Any) -> PrefetchReport:
        async def main(fetcher: Fetcher) -> PrefetchReport:
            return await fetcher.plan_prefetch(await fetcher.market_list(MARKET, keep=False), images=True)

        report: PrefetchReport = self.run(main, **more)
        return report

    def pinned(self, name: str = PIN) -> int:
        with self.fetcher().cache as cache:
            return sum(pin.name == name for pin in cache.pins())

    def here(self) -> set[str]:
        with self.fetcher().cache as cache:
            return {snapshot.uri for snapshot in cache.snapshots()}


@pytest.fixture
def world(hub: Hub, cache_dir: Path) -> Iterator[World]:
    hub.add_repo(ONE, files={"one.bin": Synthetic(3 * MIB + 1, 1), "config.json": b"{}"})
    hub.add_repo(TWO, files={"two.bin": Synthetic(2 * MIB + 1, 2), "two.json": b"{}"})
    with registry_in_thread() as registry, market_in_thread() as market:
        registry.add_model("library/tiny")
        yield World(hub, registry, market, cache_dir)


def statuses(report: PrefetchReport) -> list[str]:
    return [item.status for item in report.items]


def hf(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "HF", "url": name, **more}


OLLAMA = {"type": "Ollama", "model": "tiny"}


# --- one list --------------------------------------------------------------------------------------------------------


def test_a_market_is_made_present(world: World) -> None:
    world.requires(hf(ONE), OLLAMA, {"type": "HF", "repo": TWO, "files": ["two.json"]})
    report = world.prefetch()
    assert [(item.kind, item.resource, item.status, item.error) for item in report.items] == [
        ("HF", f"hf://{ONE}@main", "done", None),
        ("Ollama", "ollama://tiny:latest", "done", None),
        ("HF", f"hf://{TWO}@main", "done", None),
    ]
    assert report.failed == ()
    (plan,) = world.plans
    assert [item.resource for item in plan.resources] == [item.resource for item in report.items]
    assert plan.bytes_to_fetch == sum(item.bytes or 0 for item in report.items), "sizes are known before the first byte"
    assert world.pinned() == 3
    sent = world.hub.body_bytes_sent()
    assert statuses(world.prefetch()) == ["hit"] * 3
    assert world.hub.body_bytes_sent() == sent
    phases = [event.phase for event in world.events if isinstance(event, Progress)]
    assert phases.count("done") == 2, "once for each call, at its end"


def test_items_are_told_in_their_order_and_for_themselves(world: World) -> None:
    world.requires(hf("acme/none"), OLLAMA, 7, hf(ONE), {"type": "Ollama", "model": "missing"}, images=[5])
    report = world.prefetch()
    assert statuses(report) == ["failed", "done", "failed", "done", "failed", "failed"]
    kinds = [item.error.kind if item.error else None for item in report.items]
    assert kinds == ["not_found", None, "resource", None, "not_found", "resource"]
    for item in report.failed:
        assert item.error is not None
        assert (item.error.resource, item.reason) == (item.resource, item.error.message)
        assert item.error.at is not None and item.error.at.startswith(item.at)


def test_the_same_repo_with_other_files_is_another_item(world: World) -> None:
    world.requires(hf(ONE, files=["config.json"]), hf(ONE, files=["one.bin"]), hf(ONE, files=["nothing"]))
    world.prefetch(pin=None)
    world.hub.add_repo(ONE, files={"one.bin": Synthetic(5 * MIB, 8), "config.json": b"{}"})
    planned = world.plan(refresh=True)
    assert [(item.status, item.bytes) for item in planned.items][:2] == [("skipped", 2), ("skipped", 5 * MIB)]
    assert planned.items[2].status == "failed"
    assert [(item.status, item.bytes) for item in world.plan().items][:2] == [("hit", 2), ("hit", 3 * MIB + 1)]


def test_one_stalls_one_is_wrong_one_is_good(world: World) -> None:
    world.requires(hf(TWO), OLLAMA, hf(ONE))
    world.hub.faults.add(StallAfter(0).on(path="two.bin"), FlipByte(5).on(path="one.bin"))
    report = world.prefetch(no_progress_timeout_s=4.0)
    assert [(item.status, item.error.kind if item.error else None) for item in report.items] == [
        ("failed", "transport"),
        ("done", None),
        ("failed", "integrity"),
    ]
    for item in report.failed:
        assert item.error is not None and item.error.resource == item.resource
        assert item.error.at == item.at
    world.hub.faults.clear()
    assert statuses(world.prefetch()) == ["done", "hit", "done"]


def test_a_list_as_a_value(world: World) -> None:
    document = {"required_remote_resources": [hf(ONE)]}
    report: PrefetchReport = world.run(lambda fetcher: fetcher.prefetch(document))
    assert (statuses(report), world.pinned()) == (["done"], 0)
    report = world.run(lambda fetcher: fetcher.prefetch(json.dumps(document).encode()))
    assert statuses(report) == ["hit"]
    with pytest.raises(ResourceError):
        world.run(lambda fetcher: fetcher.prefetch("[]"))


def test_a_list_of_a_programs_own(world: World) -> None:
    items: list[Any] = [
        f"hf://{ONE}",
        {"type": "HF", "repo": TWO, "target": "/x"},
        HF(ONE),
        "nonsense",
        7,
        Ollama.of("tiny"),
    ]
    report: PrefetchReport = world.run(lambda fetcher: fetcher.prefetch(items, pin="mine"))
    assert statuses(report) == ["done", "done", "done", "failed", "failed", "done"]
    assert [item.at for item in report.failed] == ["$[3]", "$[4]"]
    assert world.hub.body_bytes_sent() == repo_bytes(world.hub, ONE) + repo_bytes(world.hub, TWO)
    assert world.pinned("mine") == 3
    planned: PrefetchReport = world.run(lambda fetcher: fetcher.plan_prefetch(items))
    assert statuses(planned) == ["hit", "hit", "hit", "failed", "failed", "hit"]


def test_a_list_of_nothing(world: World) -> None:
    report: PrefetchReport = world.run(lambda fetcher: fetcher.prefetch({"required_images": []}, pin="x"))
    assert (report.items, report.plan.bytes_to_fetch) == ((), 0)


# --- the operator's token --------------------------------------------------------------------------------------------


def test_items_get_their_own_credential_else_the_operators(cache_dir: Path, isolated_environment: Any) -> None:
    own, operators = SECRETS["hub"], "hf_operatorOperatorOperator01"
    tokens = {own: Token("market", frozenset({ONE})), operators: Token("me", frozenset({TWO}))}
    with hub_in_thread(tokens=tokens) as hub, registry_in_thread() as registry, market_in_thread() as market:
        for name in (ONE, TWO, "acme/three"):
            hub.add_repo(name, files={"a.bin": Synthetic(MIB, 1)}, private=True)
        world = World(hub, registry, market, cache_dir, {"HF_TOKEN": operators})
        world.requires(hf(ONE, accessToken=own), hf(TWO), hf("acme/three"), hf(ONE))
        report = world.prefetch()
        assert statuses(report) == ["done", "done", "failed", "failed"]
        assert hub.body_bytes_sent() == 2 * MIB


# --- pins ------------------------------------------------------------------------------------------------------------


def test_a_market_that_grows_and_shrinks(world: World) -> None:
    world.requires(hf(ONE))
    world.prefetch()
    world.requires(hf(ONE), hf(TWO))
    report = world.prefetch()
    assert (statuses(report), report.unpinned, world.pinned()) == (["hit", "done"], 0, 2)
    world.requires(hf(TWO))
    report = world.prefetch()
    assert (statuses(report), report.unpinned, world.pinned()) == (["hit"], 1, 1)
    world.requires()
    report = world.prefetch()
    assert (report.items, report.unpinned, world.pinned()) == ((), 1, 0)


@pytest.mark.parametrize(
    "document", [{"required_images": []}, {"required_images": [], "required_remote_resources": None}]
)
def test_a_list_that_says_nothing_of_resources_lets_go_of_none(world: World, document: dict[str, Any]) -> None:
    world.requires(hf(ONE))
    world.prefetch()
    world.market.set(MARKET, document)
    report = world.prefetch()
    assert (report.items, report.unpinned, world.pinned()) == ((), 0, 1)
    assert report.holds_on == "the list does not say which resources are required"


def test_what_is_pinned_outlives_its_time_and_what_was_dropped_goes(world: World) -> None:
    world.requires(hf(ONE), hf(TWO))
    world.prefetch(keep_for_s=0.2)
    time.sleep(0.3)
    with world.fetcher().cache as cache:
        cache.gc()
        assert cache.prune_plan().execute().snapshots == ()
        assert cache.prune_plan(max_bytes=0).execute().snapshots == ()
    assert world.here() == {f"hf://{ONE}@main", f"hf://{TWO}@main"}
    world.requires(hf(TWO))
    world.prefetch()
    with world.fetcher().cache as cache:
        cache.gc()
    assert world.here() == {f"hf://{TWO}@main"}


def test_pins_of_other_names_are_not_touched(world: World) -> None:
    world.requires(hf(ONE))
    world.prefetch(pin="mine")
    world.prefetch()
    world.requires()
    world.prefetch()
    assert (world.pinned("mine"), world.pinned()) == (1, 0)


def test_what_fails_is_pinned_for_the_day_when_it_comes(world: World) -> None:
    world.requires(hf("acme/later"))
    assert statuses(world.prefetch()) == ["failed"]
    world.hub.add_repo("acme/later", files={"a": b"1"})
    world.run(lambda fetcher: fetcher.fetch("hf://acme/later"))
    with world.fetcher().cache as cache:
        assert cache.prune_plan(max_bytes=0).execute().snapshots == ()


@pytest.mark.parametrize("items", [[7, None], [hf(ONE), 7]], ids=["all", "some"])
def test_a_list_that_can_not_be_read_to_its_end_lets_go_of_nothing(world: World, items: list[Any]) -> None:
    world.requires(hf(ONE), hf(TWO))
    world.prefetch()
    world.requires(*items)
    report = world.prefetch()
    assert (report.unpinned, world.pinned()) == (0, 2)
    assert report.holds_on == "not all items of the list can be read"
    world.market.behave("down")
    kept = {item.label for item in world.list().list.resources}
    readable = {f"hf://{ONE}@main"} | ({f"hf://{TWO}@main"} if items[0] == 7 else set())
    assert kept == readable, "a list of which nothing can be read does not replace a good one"
    report = world.prefetch()  # the kept list has less than is pinned, and does not say why
    assert (report.unpinned, world.pinned()) == (0, 2)
    assert report.holds_on == (None if items[0] == 7 else "the list is not current")


# --- endpoints in every mood -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_last_good_list_stands_in(world: World, mode: str) -> None:
    world.requires(hf(ONE), OLLAMA)
    world.prefetch()
    world.market.behave(mode)
    began = time.monotonic()
    report = world.prefetch(api_timeout_s=0.4)
    assert time.monotonic() - began < 25
    assert (statuses(report), report.unpinned, world.pinned()) == (["hit", "hit"], 0, 2)
    source = world.list(api_timeout_s=0.4)
    assert source.kept_since is not None and time.time() - source.kept_since < 60
    assert source.reason
    assert source.name == MARKET
    assert [item.label for item in source.list.resources] == [f"hf://{ONE}@main", "ollama://tiny:latest"]
    world.market.behave(None)
    assert world.list().kept_since is None


@pytest.mark.parametrize(
    ("mode", "error"), [(mode, TransportError) for mode in MODES] + [("429", RateLimitedError), ("403", DeniedError)]
)
def test_without_a_last_good_list_the_reason_is_told(world: World, mode: str, error: type[FetcherError]) -> None:
    world.requires(hf(ONE))
    if mode.isdigit():
        world.market.faults.add(Status(int(mode)).on("market"))
    else:
        world.market.behave(mode)
    with pytest.raises(error) as caught:
        world.list(api_timeout_s=0.4)
    assert MARKET in caught.value.message
    assert caught.value.hint


def test_an_unknown_market(world: World) -> None:
    with pytest.raises(NotFoundError, match="no such market"):
        world.list()


def test_an_endpoint_that_moved_is_followed(world: World) -> None:
    world.requires(hf(ONE))
    world.market.move("/api/markets/{market}/required-resources")
    source = world.list()
    assert source.url is not None and "/api/markets/" in source.url
    with market_in_thread() as elsewhere:
        elsewhere.set(MARKET, {"required_remote_resources": [hf(TWO)]})
        world.market.move(elsewhere.template, 301)
        assert [item.label for item in world.list().list.resources] == [f"hf://{TWO}@main"]
    # Gone from there too, and the old address still points at it.
    assert world.list().kept_since is not None


def test_a_login_page_on_an_address_of_its_own(world: World) -> None:
    """What a network in between redirects to is judged, and refused; it is no answer of the market's."""
    world.requires(hf(ONE))
    world.prefetch()
    world.market.faults.add(RedirectTo("http://10.1.2.3/login").on("market"))
    source = world.list()
    assert source.kept_since is not None and source.reason


def test_addresses_are_tried_in_order(world: World) -> None:
    world.requires(hf(ONE))
    with market_in_thread() as first:
        templates = f"{first.template},{world.market.template}"
        first.set(MARKET, {"required_remote_resources": [hf(TWO)]})
        assert [item.label for item in world.list(market_url=templates).list.resources] == [f"hf://{TWO}@main"]
        assert world.market.count() == 0
        for mode in ("down", "closed", "garbage-html", "garbage-wrong-shape"):
            first.behave(mode)
            source = world.list(market_url=templates)
            assert source.kept_since is None, "another address answers: nothing old is needed"
            assert [item.label for item in source.list.resources] == [f"hf://{ONE}@main"]
        first.behave(None)
        first.remove(MARKET)
        assert [item.label for item in world.list(market_url=templates).list.resources] == [f"hf://{ONE}@main"]
        world.market.remove(MARKET)
        for path in (world.cache_dir / "markets-v1").iterdir():
            path.unlink()
        with pytest.raises(NotFoundError, match="none of 2 addresses"):
            world.list(market_url=templates)


@pytest.mark.parametrize("shape", DOCUMENTS)
def test_every_published_shape_is_kept_and_read_again(world: World, shape: str) -> None:
    world.market.set(MARKET, DOCUMENTS[shape])
    fresh = world.list().list
    world.market.behave("down")
    kept = world.list().list
    assert [(item.label, item.kind, item.had_credential, item.fault) for item in kept.resources] == [
        (item.label, item.kind, item.had_credential, None) for item in fresh.resources
    ]
    assert [(image.label, image.had_credential) for image in kept.images] == [
        (image.label, image.had_credential) for image in fresh.images
    ]


def test_offline_uses_the_kept_list_and_what_is_here(world: World) -> None:
    with pytest.raises(OfflineError):
        world.list(offline=True)
    world.requires(hf(ONE), hf(TWO))
    world.hub.faults.add(Status(404).on("resolve", path="two.bin"))
    world.prefetch()
    asked = len(world.hub.requests), len(world.market.requests)
    report = world.prefetch(offline=True, images=True)
    assert [(item.status, item.error.kind if item.error else None) for item in report.items] == [
        ("hit", None),
        ("failed", "offline"),
    ]
    assert (len(world.hub.requests), len(world.market.requests)) == asked


# --- what is kept ----------------------------------------------------------------------------------------------------


def with_secrets() -> dict[str, Any]:
    keys = {"access_key_id": SECRETS["key"], "secret_access_key": SECRETS["secret"]}
    login = {"username": "market-user", "password": SECRETS["password"]}
    return {
        "required_images": [{"name": "registry.invalid/org/model:v2", **login}],
        "required_remote_resources": [
            hf(ONE, accessToken=SECRETS["hub"]),
            hf(TWO, accessToken=SECRETS["hub"]),
            {"type": "S3", "url": "http://127.0.0.1:9/bucket/models", "files": ["a"], "IAM": keys},
            {"type": "S3", "url": f"http://127.0.0.1:9/bucket/x?X-Amz-Signature={SECRETS['query']}", "files": ["a"]},
        ],
    }


def private_world(cache_dir: Path) -> Iterator[World]:
    tokens = {SECRETS["hub"]: Token("market")}
    with hub_in_thread(tokens=tokens) as hub, registry_in_thread() as registry, market_in_thread() as market:
        for index, name in enumerate((ONE, TWO)):
            hub.add_repo(name, files={"a.bin": Synthetic(MIB + 5, index), "b.json": b"{}"}, private=True)
        world = World(hub, registry, market, cache_dir, {"HOME": str(cache_dir.parent)})
        world.more = {"state_dir": str(cache_dir.parent / "state")}
        yield world


secret_world = pytest.fixture(private_world, name="secret_world")


def test_no_secret_of_a_list_is_on_the_disk(secret_world: World) -> None:
    world = secret_world
    world.market.set(MARKET, with_secrets())
    report = world.prefetch()
    assert statuses(report)[:2] == ["done", "done"]
    world.prefetch(name=f"{world.market.url(MARKET)}?token={SECRETS['query']}", pin="by-url")
    held = bytes_below(world.cache_dir) + bytes_below(world.cache_dir.parent / "state")
    assert MARKET.encode() in held
    for secret in SECRETS.values():
        assert secret.encode() not in held
    told = f"{report!r} {world.plans!r} {world.events!r}"
    for secret in SECRETS.values():
        assert secret not in told


def test_with_the_endpoint_down_what_came_with_a_credential_is_a_hit_or_says_why(secret_world: World) -> None:
    world = secret_world
    world.market.set(MARKET, with_secrets())
    world.hub.faults.add(Status(404).on("resolve", path="a.bin", skip=1, nth=2))
    world.prefetch()
    world.hub.faults.clear()
    had = [uri for uri in (f"hf://{ONE}@main", f"hf://{TWO}@main") if uri in world.here()]
    assert had
    world.market.behave("down")
    asked = len(world.hub.requests)
    report = world.prefetch()
    for item in report.items[:3]:
        if item.resource in had:
            assert (item.status, item.reason) == ("hit", None)
            assert item.bytes == MIB + 7
        else:
            assert item.status == "failed" and isinstance(item.error, DeniedError)
            assert item.reason == "its credential came with the list and is not kept"
            assert item.error.hint and "endpoint answers" in item.error.hint
    assert len(world.hub.requests) == asked, "nobody is asked without the credential"


def test_a_kept_list_opens_nothing_to_others(secret_world: World) -> None:
    """The hash of the credential tells that the operator's node has it; a job without a token still gets nothing."""
    world = secret_world
    world.market.set(MARKET, {"required_remote_resources": [hf(ONE, accessToken=SECRETS["hub"])]})
    world.prefetch()
    with pytest.raises(NotFoundError):
        world.run(lambda fetcher: fetcher.fetch(f"hf://{ONE}"))


def test_a_token_that_can_not_be_sent_harms_its_item_only(world: World) -> None:
    world.requires(hf(ONE, accessToken="two words"), hf(TWO))
    report = world.prefetch()
    assert statuses(report) == ["failed", "done"]
    assert isinstance(report.items[0].error, ResourceError)
    assert "two words" not in f"{report!r}"


def damaged() -> dict[str, Callable[[Path], object]]:
    def edit(**fields: Any) -> Callable[[Path], object]:
        return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
        def replace(path: Path) -> None:
            path.rename(f"{path}.moved")
            make(path)

        return replace

    return {
        "empty": lambda path: path.write_bytes(b""),
        "half": lambda path: path.write_bytes(path.read_bytes()[:-30]),
        "not-utf-8": lambda path: path.write_bytes(b'{"format":"\xff"}'),
        "no-object": lambda path: path.write_text("[1]"),
        "deep": lambda path: path.write_text("[" * 100_000),
        "another-format": edit(format="fetcher-market-99"),
        "another-name": edit(name="someone else's"),
        "odd-time": edit(saved_at=float("nan")),
        "huge-time": edit(saved_at=10**400),
        "no-list": edit(document={"required_images": 7}),
        "odd-document": edit(document=[]),
        "odd-principals": edit(principals=7),
        "directory": replaced(Path.mkdir),
        "pipe": replaced(os.mkfifo),
        "link": replaced(lambda path: path.symlink_to(f"{path}.moved")),
        "others-may-write": lambda path: path.chmod(0o666),
        "missing": lambda path: path.unlink(),
    }


@pytest.mark.parametrize("damage", damaged())
def test_a_kept_list_that_can_not_be_trusted_is_as_none(world: World, damage: str) -> None:
    world.requires(hf(ONE))
    world.list()
    (path,) = (world.cache_dir / "markets-v1").iterdir()
    damaged()[damage](path)
    world.market.behave("down")
    with pytest.raises(TransportError, match="answered 503"):
        world.list()
    if damage != "directory":  # that is somebody's, and not ours to remove
        world.market.behave(None)
        assert world.list().not_kept is None
        world.market.behave("down")
        assert world.list().kept_since is not None, "the next good list mends it"


def test_a_list_that_can_not_be_kept_is_used_all_the_same(world: World) -> None:
    world.requires(hf(ONE))
    (world.cache_dir).mkdir(parents=True)
    world.cache_dir.chmod(0o700)
    (world.cache_dir / "markets-v1").write_text("in the way")
    source = world.list()
    assert source.not_kept and "markets-v1" in source.not_kept
    assert statuses(world.prefetch()) == ["done"]


# --- images ----------------------------------------------------------------------------------------------------------

IMAGE, PRIVATE = "127.0.0.1:9/acme/app:1", "127.0.0.1:9/org/private:2"
"""Nobody is there to tell a size, so no test asks the world."""


def with_engine(world: World, test: Callable[[Fetcher, StubEngine], Any], **fields: Any) -> Any:
    async def main() -> Any:
        async with stub_engine(**fields) as engine:
            world.environ["DOCKER_HOST"] = f"unix://{engine.socket}"
            async with world.fetcher() as fetcher:
                return await test(fetcher, engine)

    return asyncio.run(main())


async def prefetched(world: World, fetcher: Fetcher) -> PrefetchReport:
    return await fetcher.prefetch(await fetcher.market_list(MARKET), pin=PIN, on_plan=world.plans.append)


PULLS = says(
    line(status="Pulling from acme/app", id="1"),
    layer("Downloading", "aaaaaaaaaaaa", 300_000, 1_000_000),
    layer("Downloading", "bbbbbbbbbbbb", 500_000, 2_000_000),
    layer("Downloading", "aaaaaaaaaaaa", 1_000_000, 1_000_000),
    layer("Download complete", "bbbbbbbbbbbb"),
    layer("Pull complete", "aaaaaaaaaaaa"),
    layer("Pull complete", "bbbbbbbbbbbb"),
    line(status="Status: Downloaded newer image"),
)


def test_images_are_pulled_beside_the_resources(world: World) -> None:
    world.requires(hf(ONE), images=[IMAGE, {"name": PRIVATE, "username": "u", "password": SECRETS["password"]}])

    async def test(fetcher: Fetcher, engine: StubEngine) -> PrefetchReport:
        report = await prefetched(world, fetcher)
        assert engine.auth.count(None) == 1 and len(engine.auth) == 2, "the login goes with its own image"
        assert {IMAGE, PRIVATE} <= set(engine.tags), "present under the name that is required"
        again = await prefetched(world, fetcher)
        assert statuses(again) == ["hit"] * 3
        assert len(engine.auth) == 2, "what is present is not pulled"
        return report

    report: PrefetchReport = with_engine(world, test, pull_says=PULLS)
    assert [(item.kind, item.resource, item.status, item.bytes) for item in report.items[1:]] == [
        ("image", f"docker://{IMAGE}", "done", 42),
        ("image", f"docker://{PRIVATE}", "done", 42),
    ]
    assert [(image.name, image.action) for image in world.plans[0].images] == [(IMAGE, "pull"), (PRIVATE, "pull")]
    assert [image.action for image in world.plans[1].images] == ["present", "present"]
    numbers = [event for event in world.events if isinstance(event, Progress)]
    assert any(shown.bytes_total and shown.bytes_total > repo_bytes(world.hub, ONE) for shown in numbers)
    for shown in numbers:
        assert shown.bytes_total is None or 0 <= shown.bytes_done <= shown.bytes_total, shown
        assert shown.files_total is None or shown.files_done <= shown.files_total, shown
        assert shown.rate_bytes_per_s >= 0


def test_an_image_that_fails_fails_alone(world: World) -> None:
    world.requires(hf(ONE), images=[IMAGE, PRIVATE])

    async def test(fetcher: Fetcher, engine: StubEngine) -> PrefetchReport:
        engine.tags[IMAGE] = IMAGE
        return await prefetched(world, fetcher)

    refused = says(
        layer("Downloading", "aaaaaaaaaaaa", 300_000, 1_000_000),
        line(errorDetail={"message": "unauthorized: login please"}, error="unauthorized"),
    )
    report: PrefetchReport = with_engine(world, test, pull_says=refused)
    assert statuses(report) == ["done", "hit", "failed"]
    error = report.items[2].error
    assert isinstance(error, ImageError)
    assert (error.resource, error.at) == (f"docker://{PRIVATE}", "$.required_images[1]")
    numbers = [event for event in world.events if isinstance(event, Progress)]
    assert all(shown.rate_bytes_per_s >= 0 for shown in numbers)
    downloaded = [shown.bytes_downloaded for shown in numbers]
    assert downloaded == sorted(downloaded)
    assert (numbers[-1].bytes_done, numbers[-1].phase) == (numbers[-1].bytes_total, "done")


def test_images_take_longer_than_resources(world: World) -> None:
    """The call is done when both are; meanwhile nobody says "done"."""
    world.requires(hf(ONE), images=[IMAGE])

    async def slow(response: Any) -> None:
        for done in range(10):
            await response.write(layer("Downloading", "aaaaaaaaaaaa", done * 100_000, 1_000_000))
            await asyncio.sleep(0.15)

    report: PrefetchReport = with_engine(world, lambda fetcher, _: prefetched(world, fetcher), pull_says=slow)
    assert statuses(report) == ["done", "done"]
    phases = [event.phase for event in world.events if isinstance(event, Progress)]
    assert phases[-1] == "done" and phases.count("done") == 1
    assert phases[-2] == "fetch", "what it was waiting for"


def test_who_stops_waiting_lets_go_of_the_engine(world: World) -> None:
    world.requires(hf(ONE), images=[IMAGE])

    async def endless(response: Any) -> None:
        number = 0
        while True:
            number += 1
            await response.write(layer("Downloading", "aaaaaaaaaaaa", number, 1_000_000))
            await asyncio.sleep(0.02)

    async def test(fetcher: Fetcher, engine: StubEngine) -> None:
        task = asyncio.create_task(prefetched(world, fetcher))
        await until(lambda: f"hf://{ONE}@main" in {found.uri for found in fetcher.cache.snapshots()})
        await until(lambda: bool(engine.auth))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(engine.hung_up.wait(), 10)

    with_engine(world, test, pull_says=endless)
    assert world.here() == {f"hf://{ONE}@main"}, "what is here stays"


def test_images_alone_have_numbers(world: World) -> None:
    world.requires(images=[IMAGE])
    with_engine(world, lambda fetcher, _: prefetched(world, fetcher), pull_says=PULLS)
    numbers = [event for event in world.events if isinstance(event, Progress)]
    assert numbers[-1].bytes_done == numbers[-1].bytes_total == 3_000_000
    assert numbers[-1].files_done == numbers[-1].files_total == 1


def test_of_a_kept_list_an_image_that_had_a_login_is_present_or_says_why(world: World) -> None:
    login = {"username": "u", "password": SECRETS["password"]}
    world.requires(images=[{"name": PRIVATE, **login}, {"name": IMAGE, **login}])
    world.list()
    world.market.behave("down")

    async def test(fetcher: Fetcher, engine: StubEngine) -> PrefetchReport:
        engine.tags[IMAGE] = IMAGE
        report = await prefetched(world, fetcher)
        assert engine.auth == [], "nothing is pulled without its login"
        return report

    report: PrefetchReport = with_engine(world, test)
    assert statuses(report) == ["failed", "hit"]
    assert isinstance(report.items[0].error, DeniedError)
    assert report.items[0].reason == "its credential came with the list and is not kept"


def test_no_engine_is_no_failure(world: World) -> None:
    world.environ |= {"DOCKER_HOST": "unix:///nowhere/engine.sock"}
    world.requires(hf(ONE), images=[IMAGE])
    report = world.prefetch(images=True)
    assert statuses(report) == ["done", "skipped"]
    assert report.items[1].reason is not None
    assert report.items[1].reason.startswith("no container engine answers (DOCKER_HOST=unix:///nowhere/engine.sock")
    assert world.prefetch(images=False).items[1].reason == "--no-images was given"


@pytest.mark.parametrize("dry", [False, True], ids=["deed", "dry-run"])
def test_an_engine_that_is_named_and_can_not_be_used_is_a_failure(world: World, dry: bool) -> None:
    world.environ |= {"DOCKER_HOST": "tcp://127.0.0.1:2375"}
    world.requires(hf(ONE), images=[IMAGE, PRIVATE])
    report = world.plan() if dry else world.prefetch(images=True)
    assert statuses(report) == ["skipped" if dry else "done", "failed", "failed"]
    for item in report.failed:
        assert isinstance(item.error, ImageError) and item.error.hint
        assert (item.error.resource, item.error.at) == (item.resource, item.at), "each is told by its own name"


# --- the dry run -----------------------------------------------------------------------------------------------------


def test_a_plan_says_what_the_deed_would_say(world: World) -> None:
    world.requires(hf(ONE), hf(TWO), OLLAMA, hf("acme/none"), images=[IMAGE])
    world.run(lambda fetcher: fetcher.fetch(f"hf://{TWO}"))
    planned = world.plan()
    assert statuses(planned) == ["skipped", "hit", "skipped", "failed", "skipped"]
    done = world.prefetch()
    assert statuses(done)[:4] == ["done", "hit", "done", "failed"]
    assert [item.bytes for item in planned.items] == [item.bytes for item in done.items]
    assert planned.plan.bytes_to_fetch == done.plan.bytes_to_fetch


def test_trees_are_what_the_origin_has(world: World) -> None:
    world.requires(hf(ONE), hf(TWO))
    world.prefetch()
    with world.fetcher().cache as cache:
        found = {snapshot.uri: snapshot for snapshot in cache.snapshots()}
    for name in (ONE, TWO):
        assert_whole(found[f"hf://{name}@main"], world.hub, name)
    assert tree_of(found[f"hf://{ONE}@main"].path)


# --- S3 --------------------------------------------------------------------------------------------------------------


def with_s3(world: World, s3: S3) -> None:
    """A public bucket, and one that opens to the market's keys alone."""
    s3.add_bucket("open", {"models/a.bin": Synthetic(2 * MIB + 3, 5), "models/b.json": b"{}"}, public=True)
    s3.add_bucket("closed", {"models/c.bin": Synthetic(MIB + 9, 6), "other/d": b"4"})
    keys = {"access_key_id": SECRETS["key"], "secret_access_key": SECRETS["secret"]}
    world.requires(
        {"type": "S3", "url": f"{s3.endpoint}/open/models"},
        {"type": "S3", "url": f"{s3.endpoint}/closed/models", "files": ["c.bin"], "IAM": keys},
        {"type": "S3", "url": f"{s3.endpoint}/closed/other", "IAM": keys},
        {"type": "S3", "buckets": [{"url": f"{s3.endpoint}/open/models", "files": ["b.json"]}]},
    )


def test_s3_items_of_a_market(world: World) -> None:
    with s3_in_thread(keys={SECRETS["key"]: SECRETS["secret"]}) as s3:
        with_s3(world, s3)
        report = world.prefetch()
        assert statuses(report) == ["done"] * 4, report.failed
        assert [item.bytes for item in report.items] == [2 * MIB + 5, MIB + 9, 1, 2]
        sent = s3.body_bytes_sent()
        assert statuses(world.prefetch()) == ["hit"] * 4
        assert s3.body_bytes_sent() == sent
        held = bytes_below(world.cache_dir)
        assert not [secret for secret in SECRETS.values() if secret.encode() in held]


def test_of_a_kept_list_s3_items_with_keys_are_hits_or_say_why(world: World) -> None:
    with s3_in_thread(keys={SECRETS["key"]: SECRETS["secret"]}) as s3:
        with_s3(world, s3)
        s3.faults.add(Status(403).on("bodies", path="other/d"))
        report = world.prefetch()
        assert [item.error.kind if item.error else None for item in report.items] == [None, None, "denied", None]
        s3.faults.clear()
        world.market.behave("down")
        report = world.prefetch()
        assert statuses(report) == ["hit", "hit", "failed", "hit"]
        assert report.items[2].reason == "its credential came with the list and is not kept"
        assert world.pinned() == 4
        # The same place without the keys is another's asking.
        with pytest.raises(FetcherError):
            world.run(lambda fetcher: fetcher.fetch(f"{s3.endpoint}/closed/models"))


# --- real engines ----------------------------------------------------------------------------------------------------


def test_an_image_of_a_market_is_there_by_its_name(
    world: World, engine: Engine, docker_registry: DockerRegistry, request: pytest.FixtureRequest
) -> None:
    seed = zlib.crc32(request.node.nodeid.encode())
    repository = f"market/app-{seed:08x}"
    name, missing = f"{docker_registry.host}/{repository}:1", f"{docker_registry.host}/market/none:1"
    noise = Synthetic(2 * MIB, seed).read()
    image = images.image_of([images.layer_of({"data": noise}), images.layer_of({"seed": b"%d" % seed})])
    images.push(image, docker_registry.endpoint, repository, "1")
    world.environ["DOCKER_HOST"] = engine.host
    world.requires(hf(ONE), images=[name, missing])
    world.more = {"api_timeout_s": 20.0, "no_progress_timeout_s": 60.0}  # a busy machine's engine takes its time
    report = world.prefetch(images=True)
    assert statuses(report) == ["done", "done", "failed"]
    assert name in engine.names()
    error = report.items[2].error
    assert isinstance(error, ImageError) and error.resource == f"docker://{missing}"
    assert statuses(world.prefetch(images=True)) == ["hit", "hit", "failed"]
    for shown in world.events:
        if isinstance(shown, Progress) and shown.bytes_total is not None:
            assert 0 <= shown.bytes_done <= shown.bytes_total
