"""A stranger's hosts may take as long as they like to answer. That is nobody else's time: each call asks at places of
its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fetcher.engine.run import Run
from fetcher.testing import S3, Hub, Synthetic, s3_in_thread
from fetcher.testing.faults import OnRequest
from tests.e2e.support import MIB, Gate, assert_whole, fetcher_of, until

TINY = "acme/tiny"


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread() as running:
        running.add_bucket("slow", public=True)
        yield running


def test_another_job_is_served_while_all_hosts_of_the_first_are_silent(hub: Hub, s3: S3, cache_dir: Path) -> None:
    gate = Gate()
    held: list[object] = []

    async def hold(exchange: object) -> None:
        held.append(exchange)
        await gate(exchange)

    s3.faults.add(OnRequest(hold).on("list"))
    hub.add_repo(TINY, files={"config.json": b"{}", "model.bin": Synthetic(2 * MIB + 1, 1)})

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as fetcher:
            first = asyncio.create_task(fetcher.fetch_all([(f"{s3.endpoint}/slow/{n}/", "job") for n in range(20)]))
            try:
                await until(lambda: len(held) >= 8)
                outcome = await asyncio.wait_for(fetcher.fetch(f"hf://{TINY}"), 15.0)
                assert_whole(outcome.snapshot, hub, TINY)
                assert not first.done()
            finally:
                first.cancel()
                gate.open()
                with suppress(asyncio.CancelledError):
                    await first

    asyncio.run(main())


def test_addresses_are_renewed_at_places_of_the_calls_own(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(TINY, files={"model.bin": Synthetic(2 * MIB + 1, 1)})
    execute = Run.execute
    places: list[Any] = []

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as fetcher:
            api = fetcher._start_engine().api

            async def watched(run: Run) -> None:
                places.append(api._places())
                await execute(run)

            monkeypatch.setattr(Run, "execute", watched)
            await fetcher.fetch(f"hf://{TINY}")
            assert places and places[0] is not api._shared
            assert api._places() is api._shared, "the call is over"

    asyncio.run(main())
