"""Every fault of ``fault_cases``, alone and in pairs, at every kind of origin: an identical tree within the limits, or
the right typed error. Each test proves that its fault really happened.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from fetcher import FetcherError, NoSpaceError
from fetcher.cache.reservation import Reservation
from fetcher.engine import crawling, watchdog
from fetcher.engine.jobs import FileJob
from fetcher.engine.lanes import Lanes
from fetcher.plan.transfer import Outcome, State
from fetcher.plan.watch import Pulse
from fetcher.testing import Hub, Rule, Synthetic, hub_in_thread
from fetcher.testing.faultplan import Exchange
from fetcher.testing.faults import OnRequest, Trickle, UrlUses
from fetcher.testing.messages import Reply
from tests.e2e.fault_cases import CONNECTIONS, Fatal, Healed, fatal_in, healed_in, pairs_in
from tests.e2e.support import (
    IMPATIENT,
    MIB,
    REPO,
    assert_blobs_sound,
    assert_whole,
    fetch,
    nothing_visible,
    tree_of,
    wait_until,
)
from tests.e2e.worlds import LARGE, HubWorld, World, WorldKind, world_of

WEIGHTS = LARGE


@pytest.mark.parametrize(
    ("kind", "case"), healed_in("hub", "s3", "registry"), ids=lambda each: getattr(each, "name", each)
)
def test_healed(kind: WorldKind, case: Healed, cache_dir: Path) -> None:
    with world_of(kind) as world:
        survive(world, cache_dir, case.rules(world), case.again_bytes, silent=case.silent)
        assert bool(world.origin.faults.fired) != (kind in case.never_fires), world.origin.faults


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [*pairs_in("hub", 12), *pairs_in("s3", 6), *pairs_in("registry", 6)],
    ids=lambda each: getattr(each, "name", each),
)
def test_healed_in_pairs(kind: WorldKind, first: Healed, second: Healed, cache_dir: Path) -> None:
    with world_of(kind) as world:
        rules = first.rules(world) + second.rules(world)
        survive(world, cache_dir, rules, first.again_bytes + second.again_bytes, silent=first.silent or second.silent)


def survive(world: World, cache_dir: Path, rules: tuple[Rule, ...], again_bytes: int, *, silent: bool) -> None:
    expected = world.held()
    size = world.bytes_total
    world.origin.faults.add(*rules)
    outcome = world.fetch(cache_dir, **(IMPATIENT if silent else {}))
    assert tree_of(outcome.snapshot.path) == expected
    if isinstance(world, HubWorld):
        assert outcome.snapshot.revision == world.commit, "pinned before the first byte"
    assert world.origin.body_bytes_sent() <= size + again_bytes
    assert not list((cache_dir / "partials-v1").iterdir()), "nothing half is kept after success"


# --- many parts, one signed URL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("uses", [1, 3, 17])
def test_a_url_good_for_few_uses_serves_many_parts(hub: Hub, cache_dir: Path, uses: int) -> None:
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(40 * MIB, 1)})
    hub.faults.add(UrlUses(uses).on())
    assert_whole(fetch(hub, cache_dir).snapshot, hub)
    assert hub.body_bytes_sent() == 40 * MIB
    assert hub.count("resolve") <= 40 / uses + 2 * CONNECTIONS


def test_urls_that_expire_in_mid_file(cache_dir: Path) -> None:
    with hub_in_thread(url_lifetime_s=1.0) as hub:
        hub.add_repo(REPO, files={WEIGHTS: Synthetic(24 * MIB, 1)})
        hub.faults.add(Trickle(2 * MIB).on("cdn"))
        began = time.monotonic()
        assert_whole(fetch(hub, cache_dir, connections_max=4).snapshot, hub)
        took_s = time.monotonic() - began
        assert hub.count("cdn", status=403) > 0, "it did expire"
        assert hub.body_bytes_sent() == 24 * MIB
        assert hub.count("resolve") <= 2 * took_s + 6, "refreshed for all its parts, not for each"


def test_a_part_that_trickles_is_moved_and_its_blocks_kept(hub: Hub, cache_dir: Path) -> None:
    size = 32 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(Trickle(30_000).on("cdn", times=2))
    assert_whole(fetch(hub, cache_dir, part_bytes=4 * MIB, connections_max=4, **IMPATIENT).snapshot, hub)
    assert hub.body_bytes_sent() <= size + 4 * MIB


def test_a_small_file_that_crawls_wherever_it_is_asked_for_comes_at_last(hub: Hub, cache_dir: Path) -> None:
    """It begins from zero at each connection, so what is too slow for all of them must not be moved for ever."""
    moves_max = 2
    hub.add_repo(REPO, files={"tokenizer.json": b"x" * 150_000, **{f"{n}.bin": Synthetic(12 * MIB, n) for n in (1, 2)}})
    hub.faults.add(Trickle(100_000).on(path="tokenizer.json"))
    assert_whole(fetch(hub, cache_dir, part_moves_max=moves_max, **IMPATIENT).snapshot, hub)
    *moved, last = hub.requests.select("resolve-cache", path="tokenizer.json", method="GET")
    assert len(moved) == moves_max and not any(record.complete for record in moved) and last.complete
    there = [record for record in hub.requests if record.route != "cdn"]  # which is another host, and counts its own
    for record in (*moved[1:], last):
        assert record.connection not in {before.connection for before in there if before.number < record.number}


def crawl_beside_others(hub: Hub, cache_dir: Path) -> None:
    """Far too fast for the watchdog to move it, and an eighth of what its peers bring."""
    size = 64 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(Trickle(4 * MIB).on("cdn"), Trickle(500_000).on("cdn", nth=2))
    assert_whole(fetch(hub, cache_dir, part_bytes=4 * MIB, connections_max=5).snapshot, hub)
    bodies = hub.requests.select("cdn", method="GET")
    (slow,) = [record for record in bodies if len(record.faults) > 1]
    assert slow.span is not None and not slow.complete, "its connection was closed"
    (rest, *_) = [record for record in bodies if record is not slow and record.span and record.span[1] == slow.span[1]]
    assert rest.span is not None and rest.span[0] > slow.span[0], "what it had brought is kept"
    assert slow.connection not in {record.connection for record in bodies if record.number > slow.number}
    assert hub.body_bytes_sent() <= size + MIB


def test_a_connection_that_crawls_beside_its_peers_is_closed(hub: Hub, cache_dir: Path) -> None:
    crawl_beside_others(hub, cache_dir)


def test_a_crawling_connection_that_is_kept_is_found(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawling, "crawler", lambda *_: None)
    with pytest.raises(AssertionError, match="was closed"):
        crawl_beside_others(hub, cache_dir)


def test_a_part_that_holds_up_the_end_is_asked_for_once_more(hub: Hub, cache_dir: Path) -> None:
    """Too fast to be moved, and far slower than the rest: another connection has it sooner."""
    size = 32 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(Trickle(200_000).on("cdn", nth=2))
    events: list[Any] = []
    outcome = fetch(hub, cache_dir, part_bytes=4 * MIB, connections_max=4, hedges_max=2, on_event=events.append)
    assert_whole(outcome.snapshot, hub)
    bodies = hub.requests.select("cdn", method="GET")
    (slow,) = [record for record in bodies if record.faults]
    assert slow.span is not None and not slow.complete, "the second request was through first, and ended this one"
    (second,) = [record for record in bodies if record is not slow and record.span and record.span[1] == slow.span[1]]
    assert second.complete
    assert second.connection != slow.connection
    assert hub.body_bytes_sent() <= size + 4 * MIB
    assert not any(getattr(event, "parts_moved", 0) for event in events), "it was not moved"


def test_a_second_request_that_finds_no_room_gives_way_and_the_first_goes_on(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for each byte once, as planned; that some are asked for twice is no reason to fail."""
    asked: list[int] = []

    def no_room(self: Reservation, byte_count: int) -> None:
        asked.append(byte_count)
        raise NoSpaceError("no room for these beside the others")

    monkeypatch.setattr(Reservation, "draw_beside", no_room)
    monkeypatch.setattr(crawling, "crawler", lambda *_: None)  # on a busy machine it may be found beside its peers
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(32 * MIB, 1)})
    hub.faults.add(Trickle(1_000_000).on("cdn", nth=2))
    outcome = fetch(hub, cache_dir, part_bytes=4 * MIB, connections_max=4, hedges_max=2)
    assert_whole(outcome.snapshot, hub)
    assert len(asked) == 1, "and it is not tried again"
    (slow,) = [record for record in hub.requests.select("cdn", method="GET") if record.faults]
    assert slow.complete


class RefuseSecond:
    """Refuses whoever asks up to the end of a part that was asked for before."""

    def __init__(self, status: int) -> None:
        self.refused = 0
        self._reply = Reply(status, {"Retry-After": "1000"} if status == 429 else {})
        self._stops: set[str] = set()

    def __call__(self, exchange: Exchange) -> Reply | None:
        stop = exchange.request.headers.get("range", "").rpartition("-")[2]
        if not stop or stop not in self._stops:
            self._stops.add(stop)
            return None
        self.refused += 1
        return self._reply


@pytest.mark.parametrize("found_slow", [False, True])
@pytest.mark.parametrize(("kind", "status"), [("hub", 429), ("hub", 451), ("s3", 403), ("s3", 404)])
def test_a_second_request_that_is_refused_is_no_end_of_the_first(
    kind: WorldKind, status: int, found_slow: bool, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential may end, or a host have enough, while what was allowed before still comes; however slow that is."""
    monkeypatch.setattr(crawling, "crawler", lambda *_: None)  # it is slow, and is to be asked for twice
    over, do_hedge = [], Lanes._do_hedge

    async def hedge(self: Lanes, *arguments: Any) -> None:
        await do_hedge(self, *arguments)
        over.append(True)

    def judge(pulses: Iterable[Pulse], *_: Any) -> list[tuple[Pulse, Outcome]]:
        return [(pulse, Outcome.SLOW) for pulse in pulses] if over and found_slow else []

    monkeypatch.setattr(Lanes, "_do_hedge", hedge)
    monkeypatch.setattr(watchdog, "judge", judge)
    content, second = Synthetic(32 * MIB, 1), RefuseSecond(status)
    with world_of(kind) as world:
        if isinstance(world, HubWorld):
            world.origin.add_repo("acme/slow", files={WEIGHTS: content})
            item = "hf://acme/slow"
        else:
            world.origin.add_bucket("slow", {WEIGHTS: content}, public=True)
            item = f"{world.origin.endpoint}/slow/"
        body = world.places.body
        world.origin.faults.add(body.hit(OnRequest(second)), body.hit(Trickle(1_000_000), nth=2))
        outcome = world.fetch(cache_dir, item, part_bytes=4 * MIB, connections_max=4, hedges_max=2)
        assert tree_of(outcome.snapshot.path) == {WEIGHTS: (content.size, content.sha256)}
        assert second.refused == 1, "and it is not tried again"
        assert world.origin.body_bytes_sent(WEIGHTS) == content.size


def test_a_file_is_published_once_a_second_request_for_it_is_over(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request may be through while a worker still makes room for what the second was to bring."""
    draw_ahead = FileJob.draw_ahead
    starts: list[int] = []

    def slowly(job: FileJob, start: int, byte_count: int, hedge: bool) -> None:
        if hedge:
            assert job.partial is not None
            with job.partial.reading():  # a call under way, as allocating is one
                starts.append(start)
                wait_until(lambda: job.transfer.state is not State.FETCHING)
                time.sleep(0.3)  # who does not wait for this is about to publish it by now
        draw_ahead(job, start, byte_count, hedge)

    monkeypatch.setattr(FileJob, "draw_ahead", slowly)
    monkeypatch.setattr(crawling, "crawler", lambda *_: None)  # else its rest would be left to the second, which waits
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(32 * MIB, 1)})
    hub.faults.add(Trickle(1_000_000).on("cdn", nth=2))
    assert_whole(fetch(hub, cache_dir, part_bytes=4 * MIB, connections_max=4, hedges_max=2).snapshot, hub)
    assert starts


# --- what can't be healed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "case"), fatal_in("hub", "s3", "registry"), ids=lambda each: getattr(each, "name", each)
)
def test_fatal(kind: WorldKind, case: Fatal, cache_dir: Path) -> None:
    with world_of(kind) as world:
        wanted, faults = case.error_in(kind), world.origin.faults
        faults.add(*case.rules(world))
        with pytest.raises(wanted) as caught:
            world.fetch(
                cache_dir, no_progress_timeout_s=2.0, api_time_max_s=2.0, api_timeout_s=0.7, manifest_files_max=300
            )
        error = caught.value
        assert faults.fired
        assert type(error) is not FetcherError
        assert wanted in (FetcherError, type(error), *type(error).__bases__), repr(error)
        assert error.exit_code not in (0, 1)
        assert error.resource == world.uri
        text = f"{error.message} {error.hint}"
        assert re.search(case.says, text), text
        assert "Signature=" not in text, "a signed URL is a secret"
        nothing_visible(cache_dir)
        assert_blobs_sound(cache_dir, world.contents())
        # And once the origin is well again, the same call succeeds.
        faults.clear()
        world.assert_whole(world.fetch(cache_dir).snapshot)
