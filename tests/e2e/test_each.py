"""Several resources in one run, each for itself: what one of them meets is nobody else's matter; nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fetcher import (
    DeniedError,
    FetcherError,
    IntegrityError,
    NoSpaceError,
    NotFoundError,
    RateLimitedError,
    TransportError,
)
from fetcher.cache.partials import Partial
from fetcher.cache.records import GoneError
from fetcher.cache.store import Cache
from fetcher.engine.asks import Outcome
from fetcher.model.events import Progress
from fetcher.testing import Hub, Quotas, Synthetic, hub_in_thread
from fetcher.testing.faults import ChangeContent, CutAfter, FlipByte, OnRequest, StallAfter, Status, Trickle
from tests.e2e.support import (
    MIB,
    RESUMES,
    Child,
    Gate,
    assert_blobs_sound,
    assert_whole,
    blobs_of,
    fetcher_of,
    held_by,
    kept_blocks,
    options,
    repo_bytes,
    tree_of,
    until,
    wait_until,
)
from tests.e2e.test_space import needs_disk, small_disk

GOOD, BAD, OTHER = "acme/good", "acme/bad", "acme/other"
SHARED = Synthetic(3 * MIB + 7, 40)


def repos(hub: Hub) -> None:
    """Three repos, large and small files in each; all have one content, each under another name."""
    for index, name in enumerate((BAD, GOOD, OTHER)):
        short = name.removeprefix("acme/")
        hub.add_repo(
            name,
            files={
                f"{short}-shared.bin": SHARED,
                f"{short}-own.bin": Synthetic(4 * MIB + 11, 50 + index),
                f"{short}.json": f'{{"name":"{short}"}}',
            },
        )


def fetch_each(
    hub: Hub, cache_dir: Path, names: Sequence[str], events: list[Progress] | None = None, **more: Any
) -> dict[str, Outcome | FetcherError]:
    def on_event(event: Any) -> None:
        if events is not None and isinstance(event, Progress):
            events.append(event)

    async def main() -> list[Outcome | FetcherError]:
        async with fetcher_of(hub, cache_dir, on_event=on_event, **more) as fetcher:
            return await fetcher.fetch_each([(f"hf://{name}", "job") for name in names])

    return dict(zip(names, asyncio.run(main()), strict=True))


def good(results: dict[str, Outcome | FetcherError], hub: Hub, *names: str) -> None:
    for name in names:
        outcome = results[name]
        assert isinstance(outcome, Outcome), f"{name}: {outcome}"
        assert_whole(outcome.snapshot, hub, name)


def sound(numbers: Sequence[Progress]) -> None:
    """What a display is shown is never more than there is."""
    assert numbers
    for shown in numbers:
        assert shown.bytes_done >= 0 and shown.files_done >= 0 and shown.rate_bytes_per_s >= 0, shown
        assert shown.bytes_total is None or shown.bytes_done <= shown.bytes_total, shown
        assert shown.files_total is None or shown.files_done <= shown.files_total, shown
    assert (numbers[-1].phase, numbers[-1].bytes_done) == ("done", numbers[-1].bytes_total)
    downloaded = [shown.bytes_downloaded for shown in numbers]
    assert downloaded == sorted(downloaded)


def snapshots_of(cache_dir: Path) -> list[Path]:
    return [path for path in (cache_dir / "snapshots-v1").glob("*") if path.is_dir() and len(path.name) == 64]


# --- refused at the door ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order", [(BAD, GOOD, OTHER), (GOOD, BAD, OTHER), (GOOD, OTHER, BAD)], ids=["first", "middle", "last"]
)
def test_one_that_is_refused(hub: Hub, cache_dir: Path, order: tuple[str, ...]) -> None:
    repos(hub)
    hub.add_repo(BAD, files={"a.bin": Synthetic(MIB, 1)}, gated=True)
    events: list[Progress] = []
    results = fetch_each(hub, cache_dir, order, events)
    good(results, hub, GOOD, OTHER)
    error = results[BAD]
    assert isinstance(error, DeniedError) and error.resource == f"hf://{BAD}@main"
    assert hub.body_bytes_sent() == repo_bytes(hub, GOOD) + repo_bytes(hub, OTHER) - SHARED.size, "nothing twice"
    sound(events)


def test_all_are_refused_each_for_its_own_reason(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(BAD, files={"a.bin": b"1"}, gated=True)
    results = fetch_each(hub, cache_dir, [BAD, OTHER])
    assert [type(results[name]) for name in (BAD, OTHER)] == [DeniedError, NotFoundError]


def test_small_files_that_stall_wait_behind_those_of_others(hub: Hub, cache_dir: Path) -> None:
    """One after the other they would take all connections for longer than a run may go without a byte."""
    hub.add_repo(BAD, files={f"bad-{number}.bin": Synthetic(3000, number) for number in range(150)})
    hub.add_repo(GOOD, files={f"{number}.bin": Synthetic(2000, number) for number in range(20)})
    hub.faults.add(StallAfter(0).on(path="bad-*"))
    results = fetch_each(
        hub, cache_dir, [BAD, GOOD], connections_max=4, part_idle_timeout_s=0.4, no_progress_timeout_s=4.0
    )
    assert isinstance(results[BAD], TransportError)
    good(results, hub, GOOD)


# --- refused in mid-run ----------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Any, type[FetcherError]]] = {
    "forbidden": (Status(403).on("resolve", path="bad-own.bin"), DeniedError),
    "not-found": (Status(404).on("resolve", path="bad-own.bin"), NotFoundError),
    "small-forbidden": (Status(403).on("resolve", "resolve-cache", path="bad.json"), DeniedError),
    "wrong-bytes": (FlipByte(MIB + 3).on(path="bad-own.bin"), IntegrityError),
    "wrong-bytes-small": (FlipByte(3).on(path="bad.json"), IntegrityError),
    "changed": (ChangeContent(same_bytes=True).on(path="bad-own.bin", every=2), TransportError),
    "stalled": (StallAfter(0).on(path="bad-own.bin"), TransportError),
    "told-to-wait-too-long": (Status(429, retry_after=1000).on("resolve", path="bad-own.bin"), RateLimitedError),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("order", [(BAD, GOOD, OTHER), (OTHER, GOOD, BAD)], ids=["first", "last"])
def test_one_that_fails_in_mid_run(hub: Hub, cache_dir: Path, fault: str, order: tuple[str, ...]) -> None:
    repos(hub)
    rule, kind = FAULTS[fault]
    hub.faults.add(rule)
    events: list[Progress] = []
    results = fetch_each(hub, cache_dir, order, events, no_progress_timeout_s=4.0)
    assert hub.faults.fired
    good(results, hub, GOOD, OTHER)
    error = results[BAD]
    assert isinstance(error, kind), error
    assert (error.resource, error.at) == (f"hf://{BAD}@main", None)
    for path in ("good-own.bin", "other-own.bin"):
        assert hub.body_bytes_sent(path) == 4 * MIB + 11, "nothing twice"
    assert hub.body_bytes_sent("*-shared.bin") <= 2 * SHARED.size
    sound(events)
    assert_blobs_sound(cache_dir, [sha256 for name in order for _, sha256 in held_by(hub, name).values()])
    # What it had got is not lost for it either.
    hub.faults.clear()
    sent = hub.body_bytes_sent()
    good(fetch_each(hub, cache_dir, [BAD]), hub, BAD)
    assert hub.body_bytes_sent() - sent <= 4 * MIB + 11 + 100, "the content that all have is here"


@pytest.mark.parametrize("fault", [CutAfter(0), StallAfter(0)], ids=["cut", "stalled"])
@pytest.mark.parametrize(("files", "size", "connections"), [(3, 3 * MIB, 2), (2, 3 * MIB, 1), (40, 5000, 8)])
def test_many_files_that_get_nowhere_leave_room_for_the_others(
    hub: Hub, cache_dir: Path, fault: Any, files: int, size: int, connections: int
) -> None:
    """More of them than there are connections, or than small files are taken at a time; and they come first."""
    hub.add_repo(BAD, files={f"bad-{index}.bin": Synthetic(size, index) for index in range(files)})
    hub.add_repo(GOOD, files={"good.bin": Synthetic(size, 90)})
    hub.faults.add(fault.on(path="bad-*"))
    results = fetch_each(
        hub,
        cache_dir,
        [BAD, GOOD],
        connections_max=connections,
        part_idle_timeout_s=0.4,
        no_progress_timeout_s=5.0,
    )
    good(results, hub, GOOD)
    assert isinstance(results[BAD], TransportError)


def test_an_announced_pause_that_is_too_long_ends_what_needs_it_and_stops_nothing_else(cache_dir: Path) -> None:
    """In a process of its own: what would stop there is the event loop, with all that could end it."""
    with hub_in_thread(quotas=Quotas(resolvers=1, window_s=3600)) as hub:
        hub.add_repo(GOOD, files={"good.bin": Synthetic(3 * MIB, 1)})
        hub.add_repo(BAD, files={"bad.bin": Synthetic(2 * MIB, 2), "bad-too.bin": Synthetic(2 * MIB, 3)})
        settings = options(hub, cache_dir, connections_max=1)  # the largest one has the only request
        with Child(settings, [f"hf://{GOOD}", f"hf://{BAD}"], each=True) as child:
            assert child.done(timeout_s=30.0)["kinds"] == [None, "rate_limited"]
        assert hub.count("resolve") == 1, "who has been told that nothing is left does not ask"


def test_it_fails_while_the_others_are_still_coming(hub: Hub, cache_dir: Path) -> None:
    repos(hub)
    hub.faults.add(Status(403).on("resolve", path="bad-own.bin"), Trickle(3 * MIB).on("cdn"))
    results = fetch_each(hub, cache_dir, [BAD, GOOD, OTHER], connections_max=2)
    good(results, hub, GOOD, OTHER)
    assert isinstance(results[BAD], DeniedError)


def test_it_fails_long_after_the_others_are_here(hub: Hub, cache_dir: Path) -> None:
    repos(hub)

    async def late(exchange: Any) -> None:
        await until(lambda: len(blobs_of(cache_dir)) >= 5)

    hub.faults.add(OnRequest(late).on("resolve", path="bad-own.bin"), Status(403).on("resolve", path="bad-own.bin"))
    results = fetch_each(hub, cache_dir, [BAD, GOOD, OTHER], part_idle_timeout_s=10.0)
    good(results, hub, GOOD, OTHER)
    assert isinstance(results[BAD], DeniedError)


# --- contents in common ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (Status(403).on("resolve", path="bad-shared.bin"), DeniedError),
        (FlipByte(5).on(path="bad-shared.bin"), IntegrityError),
    ],
    ids=["forbidden", "wrong-bytes"],
)
def test_a_shared_content_is_had_with_the_good_ones_own_request(
    hub: Hub, cache_dir: Path, rule: Any, kind: type[FetcherError]
) -> None:
    repos(hub)
    hub.faults.add(rule)
    events: list[Progress] = []
    results = fetch_each(hub, cache_dir, [BAD, GOOD, OTHER], events)
    good(results, hub, GOOD, OTHER)
    assert isinstance(results[BAD], kind)
    assert hub.body_bytes_sent("good-shared.bin") == SHARED.size
    assert hub.body_bytes_sent("other-shared.bin") == 0, "the first of the good ones asked for both"
    for path in ("good-own.bin", "other-own.bin"):
        assert hub.body_bytes_sent(path) == 4 * MIB + 11
    sound(events)


def test_two_that_fail_by_the_same_content_one_after_the_other(hub: Hub, cache_dir: Path) -> None:
    repos(hub)
    hub.faults.add(Status(403).on("resolve", path="bad-shared.bin"), Status(404).on("resolve", path="other-shared.bin"))
    results = fetch_each(hub, cache_dir, [BAD, OTHER, GOOD])
    good(results, hub, GOOD)
    assert isinstance(results[BAD], DeniedError) and isinstance(results[OTHER], NotFoundError)


def test_a_stall_without_end_is_told_of_each_by_its_own_name(hub: Hub, cache_dir: Path) -> None:
    repos(hub)
    hub.faults.add(StallAfter(0).on(path="bad-own.bin"), StallAfter(0).on(path="other-own.bin"))
    results = fetch_each(hub, cache_dir, [BAD, GOOD, OTHER], no_progress_timeout_s=4.0)
    good(results, hub, GOOD)
    for name in (BAD, OTHER):
        error = results[name]
        assert isinstance(error, TransportError) and error.resource == f"hf://{name}@main"


def test_hits_are_answered_although_all_else_fails(hub: Hub, cache_dir: Path) -> None:
    repos(hub)
    fetch_each(hub, cache_dir, [GOOD])
    hub.faults.add(Status(503).on("*"))
    results = fetch_each(hub, cache_dir, [BAD, GOOD], api_time_max_s=1.0)
    good(results, hub, GOOD)
    assert isinstance(results[BAD], TransportError)
    outcome = results[GOOD]
    assert isinstance(outcome, Outcome) and outcome.hit


def test_a_hit_past_its_time_is_not_tidied_away_by_the_call_that_tells_of_it(hub: Hub, cache_dir: Path) -> None:
    """A commit never goes stale; its time in the cache ends all the same, but not under the eyes of who asks."""
    repos(hub)
    commit = hub.repo(GOOD).head
    at = f"{GOOD}@{commit}"
    fetch_each(hub, cache_dir, [at], keep_for_s=0.01)
    make_old(cache_dir)
    result = fetch_each(hub, cache_dir, [at, OTHER], keep_for_s=0.01)[at]
    assert isinstance(result, Outcome) and result.hit
    assert tree_of(result.snapshot.path) == held_by(hub, GOOD)


def make_old(cache_dir: Path) -> None:
    """As if the last use were an hour ago."""
    import sqlite3

    with sqlite3.connect(cache_dir / "index-v1.sqlite") as rows:
        rows.execute("UPDATE snapshots SET last_used_at = last_used_at - 3600, keep_until = keep_until - 3600")
    rows.close()


# --- space -----------------------------------------------------------------------------------------------------------


@needs_disk
def test_what_fits_is_fetched(hub: Hub, tmp_path: Path) -> None:
    """In the order of asking; a hit needs no room wherever it stands."""
    for name, size in (("here", 2), ("first", 8), ("huge", 200), ("last", 6), ("tiny", 1)):
        hub.add_repo(f"acme/{name}", files={"weights.bin": Synthetic(size * MIB, size)})
    names = ["acme/first", "acme/huge", "acme/last", "acme/tiny", "acme/here"]
    with small_disk(tmp_path / "disk", 24 * MIB) as disk:
        settings = options(hub, disk.mount_point / "cache")
        with Child(settings, ["hf://acme/here"], prefix=disk.prefix) as child:
            child.done()
        with Child(settings, [f"hf://{name}" for name in names], each=True, prefix=disk.prefix) as child:
            fact = child.result()
    assert fact["event"] == "done", fact
    kinds = dict(zip(names, fact["kinds"], strict=True))
    assert kinds == {name: "no_space" if name == "acme/huge" else None for name in names}
    assert hub.body_bytes_sent() == 17 * MIB, "not a byte of what has no room"


def test_a_disk_that_fills_up_ends_what_is_missing_only(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repos(hub)
    begin_block = Partial.begin_block

    def full(partial: Partial, block: int, *, direct: bool = False) -> tuple[int, int, int, int]:
        if partial.head.url.endswith("bad-own.bin"):
            raise NoSpaceError("the disk is full")
        return begin_block(partial, block, direct=direct)

    async def late(exchange: Any) -> None:
        await until(lambda: len(blobs_of(cache_dir)) >= 6)
        await asyncio.sleep(0.3)  # the last of them is booked

    monkeypatch.setattr(Partial, "begin_block", full)
    hub.faults.add(OnRequest(late).on("resolve", path="bad-own.bin"))
    events: list[Progress] = []
    results = fetch_each(hub, cache_dir, [BAD, GOOD, OTHER], events, part_idle_timeout_s=20.0)
    good(results, hub, GOOD, OTHER)
    error = results[BAD]
    assert isinstance(error, NoSpaceError) and error.resource == f"hf://{BAD}@main"
    sound(events)


def test_an_error_of_no_space_is_about_its_resource(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(GOOD, files={"good.bin": Synthetic(MIB, 1)})
    results = fetch_each(hub, cache_dir, [GOOD], space_floor_bytes=1 << 60)
    error = results[GOOD]
    assert isinstance(error, NoSpaceError) and error.resource == f"hf://{GOOD}@main"


# --- cleaned away meanwhile ------------------------------------------------------------------------------------------


def test_a_blob_that_is_cleaned_away_before_it_is_held_is_fetched(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repos(hub)
    fetch_each(hub, cache_dir, [BAD])
    reserve, calls = Cache.reserve, []

    def late(cache: Cache, bytes_needed: int, **more: Any) -> Any:
        calls.append(more["hold"])
        if len(calls) == 1:
            assert more["hold"], "the content that both have is linked"
            raise GoneError("a file of the plan was removed from the cache meanwhile", ids=more["hold"])
        return reserve(cache, bytes_needed, **more)

    monkeypatch.setattr(Cache, "reserve", late)
    good(fetch_each(hub, cache_dir, [BAD, GOOD]), hub, BAD, GOOD)
    assert len(calls) == 2


def test_what_is_tidied_away_while_it_is_revalidated_is_had_again_without_a_byte(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no longer fresh is mostly due to be removed as well, and another command may end at that moment."""
    repos(hub)
    good(fetch_each(hub, cache_dir, [GOOD], fresh_for_s=0.01, keep_for_s=0.01), hub, GOOD)
    make_old(cache_dir)
    revalidate = Cache.revalidate
    removed: list[str] = []

    def late(cache: Cache, snapshot_id: str, fresh_for_s: float, keep_for_s: float) -> Any:
        removed.extend(cache.gc().snapshots)
        return revalidate(cache, snapshot_id, fresh_for_s, keep_for_s)

    monkeypatch.setattr(Cache, "revalidate", late)
    sent = hub.body_bytes_sent()
    good(fetch_each(hub, cache_dir, [GOOD]), hub, GOOD)
    assert len(removed) == 1
    assert hub.body_bytes_sent() == sent


def test_what_is_cleaned_away_again_and_again_is_an_error_of_its_own(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repos(hub)
    publish = Cache.publish

    def gone(cache: Cache, record: Any, files: Any, **options: Any) -> Any:
        if record.uri == f"hf://{BAD}@main":
            raise GoneError("a file was removed from the cache meanwhile")
        return publish(cache, record, files, **options)

    monkeypatch.setattr(Cache, "publish", gone)
    results = fetch_each(hub, cache_dir, [BAD, GOOD])
    good(results, hub, GOOD)
    error = results[BAD]
    assert isinstance(error, GoneError) and error.resource == f"hf://{BAD}@main"


def test_space_that_others_took_after_the_plan_fails_what_needs_it_only(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repos(hub)
    fetch_each(hub, cache_dir, [GOOD])

    def taken(*_: Any, **__: Any) -> Any:
        raise NoSpaceError("somebody was faster")

    monkeypatch.setattr(Cache, "reserve", taken)
    results = fetch_each(hub, cache_dir, [BAD, GOOD])
    good(results, hub, GOOD)
    assert isinstance(results[BAD], NoSpaceError)


# --- stopped ---------------------------------------------------------------------------------------------------------


def test_what_is_complete_is_there_while_others_are_still_coming(hub: Hub, cache_dir: Path) -> None:
    """A node can begin with the small model of its market; and a crash an hour later takes nothing of it."""
    repos(hub)
    release = asyncio.Event()

    async def held(exchange: Any) -> None:
        while not release.is_set():  # noqa: ASYNC110 - the hub has a loop of its own
            await asyncio.sleep(0.02)

    hub.faults.add(OnRequest(held).on("cdn", path="other-own.bin"))

    async def main() -> list[Outcome | FetcherError]:
        async with fetcher_of(hub, cache_dir, part_idle_timeout_s=20.0, connect_timeout_s=20.0) as fetcher:
            task = asyncio.create_task(fetcher.fetch_each([(f"hf://{name}", "job") for name in (BAD, GOOD, OTHER)]))
            wanted = {f"hf://{BAD}@main", f"hf://{GOOD}@main"}
            await until(lambda: {snapshot.uri for snapshot in fetcher.cache.snapshots()} == wanted)
            assert not task.done()
            known = fetcher.hit(f"hf://{GOOD}")
            assert known is not None and tree_of(known.path) == held_by(hub, GOOD)
            release.set()
            return await task

    results = dict(zip((BAD, GOOD, OTHER), asyncio.run(main()), strict=True))
    good(results, hub, BAD, GOOD, OTHER)
    assert (
        sum(outcome.downloaded for outcome in results.values() if isinstance(outcome, Outcome)) >= hub.body_bytes_sent()
    )


def test_ctrl_c_keeps_what_is_here(hub: Hub, cache_dir: Path) -> None:
    repos(hub)
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", path="other-own.bin", skip=3))
    settings = options(hub, cache_dir, connections_max=4)
    uris = [f"hf://{name}" for name in (BAD, GOOD, OTHER)]
    with Child(settings, uris, each=True) as child:
        assert child.line()["event"] == "ready"
        wait_until(lambda: len(blobs_of(cache_dir)) >= 6 and hub.body_bytes_sent("other-own.bin") >= 3 * MIB)
        wait_until(lambda: kept_blocks(cache_dir, 3))
        wait_until(lambda: len(snapshots_of(cache_dir)) == 2)
        child.send(signal.SIGINT)
        assert child.result()["kind"] == "interrupted"
        assert child.process.returncode == 130
    hub.faults.clear()
    gate.open()
    wait_until(lambda: all(record.ended for record in hub.requests))
    sent = hub.body_bytes_sent()
    good(fetch_each(hub, cache_dir, [BAD, GOOD, OTHER]), hub, BAD, GOOD, OTHER)
    again = hub.body_bytes_sent() - sent
    assert again <= (4 if RESUMES else 5) * MIB
