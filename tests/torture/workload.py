"""A busy client of one cache, to be cut off: fetches, leases, pins, removes, prunes and collects garbage all at once.

Argument: a JSON object with ``options`` (fields of Settings), ``seed``, ``uris`` and ``fault`` (one that is planted, or
null). Tells on stdout, as JSON, what it was promised and what it is about to take back, each with the time
(CLOCK_MONOTONIC): a promise after the call has returned, taking back before the call begins. Ends when it is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fetcher.cache import durable
from fetcher.cache import index as index_room
from fetcher.cache.records import Snapshot
from fetcher.client import Fetcher, run
from fetcher.config import resource_key
from fetcher.errors import FetcherError

SAMPLE_S = 0.01


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, "time": time.monotonic(), **facts}), flush=True)


# --- planted faults --------------------------------------------------------------------------------------------------


def _no_data_fsync() -> None:
    """Nothing but the index is made durable."""
    os.fsync = os.fdatasync = lambda descriptor: None  # type: ignore[assignment]
    durable.sync_file_system = lambda path: None


def _no_data_barrier_of_small_files() -> None:
    """Small files get their names before their bytes are on the disk."""
    durable.barrier = lambda paths, parent: None


def _no_directory_fsync() -> None:
    """Names appear when the file system likes."""
    durable.sync_directory = lambda path: None


def _no_index_fsync() -> None:
    """SQLite is told not to sync."""

    class Careless(index_room.Rows):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            forbidden = statement.startswith("PRAGMA synchronous=")
            return super().execute("PRAGMA synchronous=OFF" if forbidden else statement, *arguments)

    index_room.Rows = Careless  # type: ignore[misc]


DATA_FAULTS: dict[str, Callable[[], None]] = {
    "no-data-fsync": _no_data_fsync,
    "no-barrier": _no_data_barrier_of_small_files,
    "no-directory-fsync": _no_directory_fsync,
}
INDEX_FAULTS: dict[str, Callable[[], None]] = {"no-index-fsync": _no_index_fsync}


# --- the load --------------------------------------------------------------------------------------------------------


class Load:
    def __init__(self, fetcher: Fetcher, uris: Sequence[str], seed: int) -> None:
        self._fetcher = fetcher
        self._uris = uris
        self._dice = random.Random(seed)
        self._pins = 0
        self._prefix = f"pin-{seed}"
        self._calls = itertools.count()

    async def fetch(self) -> None:
        while True:
            uri, call = self._dice.choice(self._uris), next(self._calls)
            say("begin", call=call, uri=uri)
            try:
                outcome = await self._fetcher.fetch(uri)
            except FetcherError as error:
                say("failed", call=call, kind=error.kind, message=error.message)
                await asyncio.sleep(0.05)
                continue
            snapshot = outcome.snapshot
            say("promised", call=call, id=snapshot.id, revision=snapshot.revision, hit=outcome.hit)
            if outcome.hit:
                await asyncio.sleep(0.02)

    async def remove(self) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(0.1, 0.5))
            found = self._fetcher.cache.snapshots()
            if len(found) > 3:
                await self._take_back([self._dice.choice(found)])

    async def prune(self) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(0.6, 1.2))
            cache = self._fetcher.cache
            plan = await asyncio.to_thread(cache.prune_plan, max_bytes=60 << 20)
            await self._take_back([each for each in cache.snapshots() if each.id in plan.snapshots], plan.execute)

    async def _take_back(self, snapshots: Sequence[Snapshot], execute: Callable[[], Any] | None = None) -> None:
        ids = [snapshot.id for snapshot in snapshots]
        uris = [snapshot.uri for snapshot in snapshots]
        call = next(self._calls)
        say("removing", call=call, ids=ids, uris=uris)
        try:
            await asyncio.to_thread(execute or partial(self._fetcher.cache.remove, ids))
        except FetcherError as error:
            say("removed", call=call, refused=error.kind)
        else:
            say("removed", call=call, refused=None)

    async def collect(self) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(0.2, 0.7))
            await asyncio.to_thread(self._fetcher.cache.gc)

    async def lease(self) -> None:
        """Timed leases, some of which are released; pins, which stay."""
        cache = self._fetcher.cache
        while True:
            await asyncio.sleep(self._dice.uniform(0.1, 0.4))
            found = cache.snapshots()
            if not found:
                continue
            try:
                lease = await asyncio.to_thread(cache.lease_timed, [self._dice.choice(found).id], 0.5)
                if self._dice.random() < 0.5:
                    await asyncio.to_thread(cache.lease_release, lease.id)
            except FetcherError:
                pass  # removed meanwhile, or ended
            if self._dice.random() < 0.2:
                key = resource_key(self._fetcher.resource(self._dice.choice(self._uris)), cache.settings)
                name = f"{self._prefix}-{self._pins}"
                self._pins += 1
                await asyncio.to_thread(cache.pin, name, key)
                say("pinned", name=name, key=key)
                if self._dice.random() < 0.8:  # else nothing could be removed soon
                    say("unpinning", name=name)
                    await asyncio.to_thread(cache.unpin, name)

    async def sample(self) -> None:
        """How much of which content is proven: what a power cut may cost is counted from there."""
        cache = self._fetcher.cache
        last: dict[str, tuple[int, int]] = {}
        while True:
            await asyncio.sleep(SAMPLE_S)
            room = cache._rooms.open_partials
            listed = [] if room is None else [each for each in list(room._open.values()) if each is not None]
            proven = {each.head.content_id: (each.size, each.bytes_proven) for each in listed}
            if proven or last:
                say("proven", partials=proven)
            last = proven


async def main(order: dict[str, Any]) -> None:
    async with Fetcher(environ={}, **order["options"]) as fetcher:
        assert fetcher.cache  # opened honestly, or what is planted would be found in what a cache is made of
        if order["fault"] in DATA_FAULTS:
            DATA_FAULTS[order["fault"]]()
        load = Load(fetcher, order["uris"], order["seed"])
        say("ready")
        async with asyncio.TaskGroup() as group:
            for work in (load.fetch, load.fetch, load.remove, load.prune, load.collect, load.lease, load.sample):
                group.create_task(work())


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if asked["fault"] in INDEX_FAULTS:
        INDEX_FAULTS[asked["fault"]]()
    run(lambda: main(asked))
