"""A cache directory, opened: its settings, its index, its clock, and our life sign in it. What can be asked of it is in
``store.py``. Imports light rooms only: a hit comes by here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import Self

from fetcher.cache import clock as clock_room
from fetcher.cache import identity, opening, timekeeping
from fetcher.cache.clock import Clock
from fetcher.cache.index import Index
from fetcher.cache.layout import Layout
from fetcher.cache.leases import Leases
from fetcher.cache.owners import Owner, Owners
from fetcher.cache.records import Recovery
from fetcher.cache.rooms import Rooms
from fetcher.cache.snapshots import Snapshots
from fetcher.config import Settings
from fetcher.errors import InternalError


class Opened:
    """One cache directory, opened. Safe to use from several threads, not across fork()."""

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        index: Index,
        recovery: Recovery,
        clock: Clock,
        read_only: bool,
    ) -> None:
        self.settings = settings
        self.layout = layout
        self.index = index
        self.recovery = recovery
        """What was adopted, if this call had to make the index anew."""
        self.read_only = read_only
        self._clock = clock
        self._ahead_s = clock() - clock.boot_s()
        """How far the calendar was ahead of the boot's clock when we last looked."""
        self._owners = Owners(
            layout, lost_after_s=settings.owner_lost_after_s, clock=clock, locks_trusted=lambda: self.locks_trusted
        )
        self._leases = Leases(index, self._owners, clock)
        self._snapshots = Snapshots(index, layout, clock, keep_from=settings.keep_from)
        self._lock = threading.RLock()
        self._rooms = Rooms(
            settings,
            layout,
            index,
            self._owners,
            self._leases,
            self._snapshots,
            clock,
            lambda: self.owner.id,
            self._lock,
        )
        self._owner: Owner | None = None
        self._principal_key: bytes | None = None
        self._closed = False

    @classmethod
    def open(cls, settings: Settings, *, clock: Callable[[], float] = time.time, read_only: bool = False) -> Self:
        """Open, and create if need be. ``read_only`` creates and changes nothing; a missing cache is an empty one then.

        Raises CacheError, with the cure, for anything that can't be used as it is.
        """
        layout, whole_clock = Layout(settings), clock_room.of(clock)
        if read_only:
            index, recovery = opening.to_look(layout, whole_clock)
        else:
            layout.prepare()
            index, recovery = opening.to_write(layout, whole_clock)
        return cls(settings, layout, index, recovery, whole_clock, read_only)

    def close(self) -> None:
        """Close Partials still open (they are kept for resume), drop our lock, close the index. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            owner, room = self._owner, self._rooms.open_partials
        # Whoever takes our lock takes our Partials by rename, and relies on it that nobody writes to them any more.
        quiet = room is None or room.close()
        if owner is not None and quiet:
            owner.close(keep_file=room is not None and room.left_behind())
        elif owner is not None:
            owner.fall_silent()
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def locks_trusted(self) -> bool:
        """Whether a lock in the cache directory proves that its holder lives; otherwise heartbeats are all there is."""
        return opening.locks_trusted(self.index, self.layout)

    @property
    def owner(self) -> Owner:
        """Our life sign, made on first need."""
        with self._lock:
            if self._owner is None:
                if self.read_only or self._closed:
                    raise InternalError("a cache opened for looking, or closed, owns nothing")
                self._owner = Owner(
                    self.layout,
                    heartbeat_s=self.settings.heartbeat_s,
                    clock=self._clock,
                    locks_trusted=self.locks_trusted,
                )
            return self._owner

    @property
    def principal_key(self) -> bytes:
        """32 random bytes of this cache: principals are hashes keyed with them, useless anywhere else."""
        if self._principal_key is None:
            self._principal_key = identity.principal_key(self.layout.principal_key, create=not self.read_only)
        return self._principal_key

    def index_is_sound(self) -> bool:
        """Look at all of the index; one that is damaged is made anew by whoever opens the cache next."""
        return self.index.is_sound()

    def _settle(self) -> None:
        """If the calendar was set while we were open, move the times of all rows with it: before anything is judged by
        them, and before there are rows with new ones, which would be moved as well."""
        ahead_s = self._clock() - self._clock.boot_s()
        if abs(ahead_s - self._ahead_s) > timekeeping.JUMP_S and not self.read_only:
            timekeeping.settle(self.index, self._clock)
            self._ahead_s = ahead_s  # not before: where the index is busy, the next call tries again
