"""Waiting for others and for what is slow: it is no failure, blocks nobody, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fetcher import HF, CacheError, Notice, Progress, TransportError
from fetcher.cache import partials, rescan
from fetcher.engine.asks import Outcome
from fetcher.testing import Exchange, Hub, Synthetic
from fetcher.testing.contents import Content
from fetcher.testing.faultplan import Fault
from fetcher.testing.faults import CutAfter, Delay, OnRequest, Trickle, UrlUses
from fetcher.testing.messages import Reply
from tests.e2e.support import (
    MIB,
    REPO,
    Child,
    Gate,
    assert_whole,
    fetch,
    fetcher_of,
    options,
    proven_blocks,
    until,
    wait_until,
)
from tests.support.disk import SimulatedDisk

BIG, SECOND = "a-big.bin", "b-second.bin"


def test_a_file_that_waits_in_anothers_queue_is_fetched_at_once(hub: Hub, cache_dir: Path) -> None:
    """A flight is taken when its file is begun: a whole repo is not blocked by somebody's long queue."""
    hub.add_repo(REPO, files={BIG: Synthetic(24 * MIB, 1), SECOND: Synthetic(2 * MIB, 2)})
    hub.faults.add(Trickle(MIB).on("cdn", path=BIG))
    with Child(options(hub, cache_dir, connections_max=1), items=[f"hf://{REPO}"]):
        wait_until(lambda: hub.body_bytes_sent(BIG) > MIB)
        item = {"type": "HF", "repo": REPO, "files": [SECOND]}
        assert fetch(hub, cache_dir, item, no_progress_timeout_s=15.0).downloaded == 2 * MIB
        assert hub.body_bytes_sent(BIG) < 24 * MIB, "while the other is still at its first file"


def test_waiting_for_a_living_owner_is_no_lack_of_progress(hub: Hub, cache_dir: Path) -> None:
    """The owner's first block takes longer than the waiter's own limit; the owner is the one to judge that."""
    hub.add_repo(REPO, files={BIG: Synthetic(2 * MIB, 1)})
    hub.faults.add(Delay(4.5).on("cdn", nth=1))
    with Child(options(hub, cache_dir, connections_max=1), items=[f"hf://{REPO}"]) as owner:
        wait_until(lambda: hub.count("cdn") > 0)
        outcome = fetch(hub, cache_dir, no_progress_timeout_s=3.0)
        assert outcome.downloaded == 0
        owner.done()
    assert hub.body_bytes_sent() == 2 * MIB


def test_one_time_urls_on_a_slow_line(hub: Hub, cache_dir: Path) -> None:
    """Each URL is accepted once and then refused, long before a block is whole: refreshing stays free."""
    hub.add_repo(REPO, files={BIG: Synthetic(12 * MIB, 1)})
    hub.faults.add(UrlUses(1).on(), Trickle(600_000).on("cdn"))
    assert_whole(fetch(hub, cache_dir, part_slow_bytes_per_s=1.0, connections_max=12).snapshot, hub)
    assert hub.count("cdn", status=403) > 6


@pytest.mark.parametrize("engines", [1, 2])
def test_two_that_wait_for_each_other_end_when_the_origin_does(hub: Hub, cache_dir: Path, engines: int) -> None:
    """Each has what the other one wants as well, and gets nowhere with it: that is not for the other to wait for."""
    names = ["hf://acme/one", "hf://acme/two"]
    for number, name in enumerate(names):
        hub.add_repo(name.removeprefix("hf://"), files={BIG: Synthetic(3 * MIB, number)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn"), CutAfter(0).on("cdn"))

    async def main() -> list[Any]:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    fetcher_of(hub, cache_dir, connections_max=1, no_progress_timeout_s=5.0)
                )
                for _ in range(engines)
            ]
            fetches = [
                asyncio.create_task(client.fetch_all([(name, "job") for name in wish]))
                for client, wish in ((clients[0], names), (clients[-1], names[::-1]))
            ]
            await until(lambda: len(list(cache_dir.glob("partials-v1/*"))) == 2)
            gate.open()
            async with asyncio.timeout(30):
                return await asyncio.gather(*fetches, return_exceptions=True)

    for error in asyncio.run(main()):
        assert isinstance(error, TransportError) and "no new byte" in error.message
    assert hub.body_bytes_sent() == 0


def test_what_others_fetch_is_progress_beside_a_file_of_ours_that_gets_nowhere(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo("acme/dead", files={SECOND: Synthetic(2 * MIB, 1)})
    hub.add_repo(REPO, files={BIG: Synthetic(8 * MIB, 2)})
    hub.faults.add(Trickle(MIB).on("cdn", path=BIG), CutAfter(0).on("cdn", path=SECOND))

    async def main() -> list[Any]:
        async with fetcher_of(hub, cache_dir, no_progress_timeout_s=4.0) as client:
            return list(await client.fetch_each([("hf://acme/dead", "job"), (f"hf://{REPO}", "job")]))

    with Child(options(hub, cache_dir, connections_max=1), items=[f"hf://{REPO}"]) as owner:
        wait_until(lambda: hub.body_bytes_sent(BIG) > 0)
        dead, followed = asyncio.run(main())
        owner.done()
    assert isinstance(dead, TransportError)
    assert isinstance(followed, Outcome), followed
    assert_whole(followed.snapshot, hub)
    assert followed.downloaded == 0


@dataclass(frozen=True)
class OneLine(Fault):
    """All bodies come over one line: what one of them gets, the others do not."""

    late: ClassVar[bool] = True
    bytes_per_s: float = 250_000.0

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert reply.content is not None
        reply.pace.stall_after = 0  # or a small one would be sent in one piece
        reply.content = OnTheLine(reply.content, self.bytes_per_s)


class OnTheLine(Content):
    """A content that takes its time on the line."""

    PIECE_BYTES = 4096

    def __init__(self, content: Content, bytes_per_s: float) -> None:
        self.size = content.size
        self._content = content
        self._bytes_per_s = bytes_per_s

    def views(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        for view in self._content.views(start, stop):
            for position in range(0, len(view), self.PIECE_BYTES):
                piece = view[position : position + self.PIECE_BYTES]
                time.sleep(len(piece) / self._bytes_per_s)  # in the one thread that sends all bodies in turn
                yield piece


def test_small_files_come_over_a_thin_line_as_well(hub: Hub, cache_dir: Path) -> None:
    """Two seconds for each alone, eight for all four of them at once."""
    hub.add_repo(REPO, files={f"{number}.bin": Synthetic(500_000, number) for number in range(4)})
    hub.faults.add(OneLine().on())
    outcome = fetch(hub, cache_dir, connections_max=4, no_progress_timeout_s=5.0)
    assert_whole(outcome.snapshot, hub)


def test_a_second_run_has_its_turn_at_a_host_that_the_first_one_fills(hub: Hub, cache_dir: Path) -> None:
    """In one process, which has so many connections to a host and no more."""
    hub.add_repo("acme/one", files={BIG: Synthetic(96 * MIB, 1)})
    hub.add_repo("acme/two", files={SECOND: Synthetic(2 * MIB, 2)})
    hub.faults.add(Trickle(4 * MIB).on("cdn"))

    async def main() -> Any:
        async with fetcher_of(hub, cache_dir, connections_per_host_max=2, no_progress_timeout_s=5.0) as client:
            first = asyncio.create_task(client.fetch("hf://acme/one"))
            try:
                await until(lambda: hub.body_bytes_sent(BIG) > 4 * MIB)
                outcome = await client.fetch("hf://acme/two")
                assert not first.done()
                return outcome
            finally:
                first.cancel()
                await asyncio.wait([first])

    assert_whole(asyncio.run(main()).snapshot, hub, "acme/two")


@pytest.mark.needs("native")
def test_rehashing_is_progress(hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run left takes longer to read than a run may go without a new block."""
    monkeypatch.setattr(rescan, "SCAN_STEP_BLOCKS", 2)
    scan = partials.hashing.scan_file

    def slow_scan(*arguments: Any, **options: Any) -> list[int]:
        time.sleep(0.6)
        return scan(*arguments, **options)

    hub.add_repo(REPO, files={BIG: Synthetic(16 * MIB, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=12))
    with Child(options(hub, cache_dir), items=[f"hf://{REPO}"]) as first:
        wait_until(lambda: proven_blocks(cache_dir) == 12)
        first.process.kill()
    hub.faults.clear()
    gate.open()
    monkeypatch.setattr(partials.hashing, "scan_file", slow_scan)
    outcome = fetch(hub, cache_dir, no_progress_timeout_s=2.5)
    assert_whole(outcome.snapshot, hub)
    assert outcome.downloaded == 4 * MIB, "it went on where the first one was"


def test_a_second_asker_needs_no_space_for_what_the_first_one_fetches(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both need the same 64 MiB, and there is room for one and a half: nobody has to fail, or to wait for space."""
    size, disk_bytes = 64 * MIB, 96 * MIB
    notices: list[str] = []
    gate = Gate()

    def on_event(event: object) -> None:
        if isinstance(event, Notice):
            notices.append(event.message)
        elif isinstance(event, Progress) and event.phase == "fetch":
            gate.open()  # it has its reservation

    hub.add_repo(REPO, files={BIG: Synthetic(size, 1)})
    hub.faults.add(OnRequest(gate).on("cdn", skip=4))
    monkeypatch.setattr(os, "statvfs", SimulatedDisk(cache_dir, disk_bytes).statvfs)
    with Child(options(hub, cache_dir), items=[f"hf://{REPO}"], disk_bytes=disk_bytes) as first:
        wait_until(lambda: hub.body_bytes_sent() > 0)
        outcome = fetch(hub, cache_dir, on_event=on_event)
        assert outcome.downloaded < size and notices == []
        first.done()
    assert hub.body_bytes_sent() == size


def test_who_waits_for_space_goes_on_when_the_one_who_had_it_is_gone(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two different files there is room for one and a half; the first process ends, and so does its promise."""
    size, disk_bytes = 64 * MIB, 96 * MIB
    hub.add_repo(REPO, files={BIG: Synthetic(size, 1)})
    hub.add_repo("acme/other", files={SECOND: Synthetic(size, 2)})
    hub.faults.add(OnRequest(Gate()).on("cdn", path=BIG, skip=2))
    monkeypatch.setattr(os, "statvfs", SimulatedDisk(cache_dir, disk_bytes).statvfs)
    with Child(options(hub, cache_dir), items=[f"hf://{REPO}"], disk_bytes=disk_bytes) as first:
        wait_until(lambda: hub.body_bytes_sent() > 0)

        def on_event(event: object) -> None:
            if isinstance(event, Notice) and event.message.startswith("waiting for space"):
                first.process.kill()

        outcome = fetch(hub, cache_dir, HF("acme/other"), on_event=on_event)
        assert first.process.wait() == -signal.SIGKILL, "it had been waited for"
    assert_whole(outcome.snapshot, hub, "acme/other")


def test_what_cant_be_closed_blocks_nobody(hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One Partial's disk is in trouble when a run ends: the run's other files are free for the next one."""
    hub.add_repo(REPO, files={BIG: Synthetic(8 * MIB, 1), SECOND: Synthetic(8 * MIB, 2)})
    hub.faults.add(Trickle(MIB).on("cdn"))
    close = partials.Partial.close
    troubled: list[partials.Partial] = []

    def close_with_trouble(self: partials.Partial) -> None:
        close(self)
        if not troubled:
            troubled.append(self)
            raise CacheError("the disk is in trouble")

    async def main() -> None:
        async with fetcher_of(hub, cache_dir, no_progress_timeout_s=20.0) as client:
            first = asyncio.create_task(client.fetch(f"hf://{REPO}"))
            await until(lambda: hub.body_bytes_sent() > 2 * MIB)
            monkeypatch.setattr(partials.Partial, "close", close_with_trouble)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert troubled
            hub.faults.clear()
            assert_whole((await client.fetch(f"hf://{REPO}")).snapshot, hub)

    asyncio.run(main())
