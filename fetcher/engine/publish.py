"""Hop 10: what is complete becomes a Snapshot, a hit is used, and private copies are made."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fetcher.cache.records import GoneError, NewSnapshot, Snapshot
from fetcher.engine.asks import Ask, Outcome
from fetcher.engine.resolve import Prepared
from fetcher.engine.rounds import PublishedRow, Round
from fetcher.engine.tools import Tools
from fetcher.engine.workers import finish
from fetcher.errors import FetcherError
from fetcher.model.manifest import Manifest
from fetcher.model.resource import describe
from fetcher.plan import allocation


class Publishing:
    """Publishes for one engine."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._cache = tools.cache
        self._settings = tools.settings

    async def each(self, made: Round, indexes: Sequence[int], results: dict[Ask, Outcome | FetcherError]) -> None:
        """Publish what is here, each for itself; ``made`` books what could not be."""
        for index in indexes:
            ask = made.prepared[index].ask
            if isinstance(results.get(ask), Outcome):
                continue
            try:
                results[ask] = await self.one(made, index)
            except FetcherError as error:
                made.fail(index, error)

    async def one(self, made: Round, index: int) -> Outcome:
        item, planned = made.prepared[index], made.plan.resources[index]
        if item.manifest is None:
            assert item.snapshot is not None
            await self._tools.workers.slow(self._use, item.snapshot)
            return Outcome(item.snapshot, 0, hit=True)
        rows = made.rows(index)
        snapshot = await self._tools.workers.slow(self._publish_rows, item, item.manifest, rows, made.draw)
        downloaded = sum(made.jobs[content].bytes_fetched for content in planned.transfers())
        return Outcome(snapshot, downloaded, hit=False)

    def _use(self, snapshot: Snapshot) -> None:
        """In a worker: a hit is used now, so tidying up spares it. Raises GoneError if it was removed since."""
        known = self._cache.get_snapshot(snapshot.id)
        if known is None or known.damaged:
            raise GoneError("a resource was removed from the cache meanwhile", ids=(snapshot.id,))
        self._cache.touch(snapshot.id)

    def _publish_rows(
        self, item: Prepared, manifest: Manifest, rows: Sequence[PublishedRow], draw: Callable[[int], None]
    ) -> Snapshot:
        settings = self._settings
        draw(allocation.snapshot_bytes(manifest.folders, len(rows)))
        record = NewSnapshot(
            key=item.key,
            uri=item.ask.resource.uri(),
            resource=describe(item.ask.resource),
            endpoint=manifest.endpoint,
            manifest_digest=manifest.digest(root or "" for _, root, _ in rows),
            revision=manifest.revision,
            private=manifest.private,
            principal=item.principal if manifest.private else None,
            immutable=item.ask.resource.immutable,
            downloaded_at=time.time(),
            fresh_for_s=settings.fresh_for_s,
            keep_for_s=settings.keep_for_s,
        )
        snapshot = self._cache.publish(record, rows, draw=draw, asked=item.asked())
        if record.principal is not None:
            self._cache.proofs.grant(
                snapshot.id, record.principal, asked_at_s=item.asked_at_s, for_s=settings.proof_for_s
            )
        return snapshot

    async def with_copies(
        self, asks: Sequence[Ask], outcomes: Sequence[Outcome], draw: Callable[[int], None]
    ) -> list[Outcome]:
        """Make the private copies that are wanted, all or none; their bytes are part of the reservation."""
        slow, made = self._tools.workers, list[Path]()
        finished: list[Outcome] = []
        try:
            for ask, outcome in zip(asks, outcomes, strict=True):
                before = len(made)
                for _ in range(ask.copies):
                    stop = threading.Event()
                    stage = self._cache.copy_stage
                    made.append(await slow.slow_until(stop, stage, outcome.snapshot.id, stopped=stop.is_set, draw=draw))
                finished.append(replace(outcome, copies=tuple(made[before:])))
        except BaseException:
            for path in made:
                await finish(asyncio.ensure_future(slow.slow(self._cache.copy_discard, path)))
            raise
        return finished
