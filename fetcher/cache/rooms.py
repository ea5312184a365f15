"""Builds the rooms of a cache beyond the hit path, each when it is first asked for. No rule lives here.

Most have no memory and are made anew each time; the Partials that are open are remembered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from fetcher.cache.clock import Clock
from fetcher.cache.index import Index
from fetcher.cache.layout import Layout
from fetcher.cache.leases import Leases
from fetcher.cache.owners import Owners
from fetcher.cache.snapshots import Snapshots
from fetcher.config import Settings

if TYPE_CHECKING:
    from fetcher.cache.blobs import Blobs
    from fetcher.cache.commit import Committer
    from fetcher.cache.condemn import Condemning
    from fetcher.cache.flights import Flights
    from fetcher.cache.gc import Collector
    from fetcher.cache.hosts import Hosts
    from fetcher.cache.markets import Markets
    from fetcher.cache.prune import Pruner
    from fetcher.cache.publish import Publisher
    from fetcher.cache.removal import Removal
    from fetcher.cache.space import Room
    from fetcher.cache.survey import Surveyor
    from fetcher.cache.takeover import Partials
    from fetcher.cache.writable import Copies


class Rooms:
    """The rooms of one cache. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        index: Index,
        owners: Owners,
        leases: Leases,
        snapshots: Snapshots,
        clock: Clock,
        owner_id: Callable[[], str],
        lock: threading.RLock,
    ) -> None:
        """``owner_id`` makes our life sign, if there is none yet, and holds ``lock`` for that."""
        self._settings = settings
        self._layout = layout
        self._index = index
        self._owners = owners
        self._leases = leases
        self._snapshots = snapshots
        self._clock = clock
        self._owner_id = owner_id
        self._lock = lock
        self.open_partials: Partials | None = None
        """None: nobody has asked for it."""

    @property
    def blobs(self) -> Blobs:
        from fetcher.cache.blobs import Blobs

        return Blobs(self._index, self._layout)

    @property
    def committer(self) -> Committer:
        from fetcher.cache.commit import Committer

        return Committer(self._index, self._layout, self._clock, self._owner_id, self.blobs)

    @property
    def partials(self) -> Partials:
        from fetcher.cache.takeover import Partials

        with self._lock:  # so that the owner is not closed between
            if self.open_partials is None:
                self.open_partials = Partials(self._layout, self._owners, self._owner_id())
            return self.open_partials

    @property
    def publisher(self) -> Publisher:
        from fetcher.cache.publish import Publisher

        return Publisher(self._index, self._layout, self._clock, self._owner_id)

    @property
    def copies(self) -> Copies:
        from fetcher.cache.writable import Copies

        return Copies(self._index, self._layout, self._snapshots, self._owner_id)

    @property
    def flights(self) -> Flights:
        from fetcher.cache.flights import Flights

        return Flights(self._index, self._owners, self._owner_id(), self._clock)

    def flights_living(self, contents: Collection[str]) -> set[str]:
        from fetcher.cache.flights import living

        with self._index.read() as rows:
            return living(rows, self._owners, contents)

    @property
    def removal(self) -> Removal:
        from fetcher.cache.removal import Removal

        return Removal(self._index, self._layout, self._leases, self._owners)

    @property
    def space(self) -> Room:
        from fetcher.cache.space import Room

        return Room(
            self._index,
            self._layout,
            self._owners,
            self.removal,
            self._clock,
            floor_bytes=self._settings.space_floor_bytes,
            quota_bytes=self._settings.quota_bytes,
        )

    @property
    def collector(self) -> Collector:
        from fetcher.cache.gc import Collector

        return Collector(
            self._settings, self._index, self._layout, self._owners, self._leases, self.removal, self._clock
        )  # fmt: skip

    @property
    def pruner(self) -> Pruner:
        from fetcher.cache.prune import Pruner

        return Pruner(self._index, self.removal, self.collector)

    @property
    def markets(self) -> Markets:
        from fetcher.cache.markets import Markets

        return Markets(self._layout)

    @property
    def hosts(self) -> Hosts:
        from fetcher.cache.hosts import Hosts

        return Hosts(self._index, self._clock)

    def surveyor(self, leased: Collection[str], look: Callable[[], None]) -> Surveyor:
        from fetcher.cache.survey import Surveyor

        return Surveyor(self._index, self._layout, leased, look)

    def condemning(self, *, dry_run: bool) -> Condemning:
        from fetcher.cache.condemn import Condemning

        return Condemning(
            self._index,
            self._layout,
            self._leases,
            self.removal,
            self.committer,
            self._clock,
            keep_s=self._settings.gc_grace_s,
            dry_run=dry_run,
        )
