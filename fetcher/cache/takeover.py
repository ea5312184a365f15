"""Opening Partials: our own again, a dead owner's by rename, a lost one's by copy, never a living one's.

A Partial is ``partials-v1/<content>.<owner>/``, and only the owner in its name writes there. **Whoever holds a writable
descriptor of a file can change it for ever**, so what a stopped process may still write to is never published: its
Partial is copied, block by block, each checked in memory. Only with a dead owner's lock in hand is one taken by rename.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from fetcher.cache.layout import HEX_32, Layout, disk_errors
from fetcher.cache.owners import Owners
from fetcher.cache.partials import DATA, Partial
from fetcher.cache.records import PartialHead
from fetcher.errors import CacheError, FetcherError, InternalError

CLOSE_WAIT_S = 2.0
"""How long closing waits for calls in flight: each writes a block, or reads some MiB back."""
CLOSE_POLL_S = 0.01
TAKE_TRIES = 10
TAKE_PAUSE_S = 0.02
"""An heir needs the lock for a rename. A living owner's Partial, which is left alone, costs this wait: it is met only
where a flight was taken from somebody who lives."""


class Partials:
    """The Partials of one cache, as one owner sees them. Thread-safe."""

    def __init__(self, layout: Layout, owners: Owners, owner_id: str) -> None:
        self._layout = layout
        self._owners = owners
        self._owner_id = owner_id
        self._open: dict[str, Partial | None] = {}
        """None: being opened at this moment."""
        self._closed = False
        self._lock = threading.Lock()
        self._taking = threading.Lock()

    def open(
        self,
        head: PartialHead,
        *,
        previous_owner: str | None = None,
        step: Callable[[], None] | None = None,
        draw: Callable[[int], None] | None = None,
    ) -> Partial:
        """A Partial for this content, with all that can be had of earlier work: our own, a dead owner's (taken by
        rename), a lost one's (copied). A living owner's is left alone.

        ``previous_owner`` is looked at first. ``step`` is called between pieces of the re-hashing and may raise to give
        it up; what is there stays for a later call. ``draw`` is told of bytes about to be copied. Raises CacheError or
        NoSpaceError; then nothing is left open.
        """
        with self._lock:
            self._refuse_closed()
            if head.content_id in self._open:
                raise InternalError(f"the Partial of {head.content_id} is open already")
            self._open[head.content_id] = None
        try:
            partial = self._open_now(head, previous_owner, step or _no_step, draw or _no_draw)
        except BaseException:
            self._ended(head.content_id)
            raise
        try:
            with self._lock:
                self._refuse_closed()
                self._open[head.content_id] = partial
        except CacheError:
            partial.close()
            raise
        return partial

    def close(self) -> bool:
        """Close those still open, and open no more. False if somebody is at work on one, also after a moment of
        patience: then something may still be written to what bears our name."""
        with self._lock:
            self._closed = True
        deadline = time.monotonic() + CLOSE_WAIT_S
        while not self._close_idle():
            if time.monotonic() >= deadline:
                return False
            time.sleep(CLOSE_POLL_S)
        return True

    def _close_idle(self) -> bool:
        """True if none is left."""
        with self._lock:
            listed = list(self._open.values())
        for partial in listed:
            # Closed and yet here: its body is being published.
            if partial is not None and not partial.closed:
                try:
                    partial.close()
                except FetcherError:
                    pass  # a call is in flight, or the disk refuses: it stays listed
        with self._lock:
            return not self._open

    def _refuse_closed(self) -> None:
        if self._closed:
            raise CacheError("the cache was closed")

    def _open_now(
        self, head: PartialHead, previous_owner: str | None, step: Callable[[], None], draw: Callable[[int], None]
    ) -> Partial:
        mine = self._layout.partial(head.content_id, self._owner_id)
        others = self._others(head.content_id, previous_owner)
        with disk_errors("create", mine):
            if not mine.is_dir() and not self._take_any(mine, others):
                os.mkdir(mine, 0o700)
        partial = Partial(mine, head, lambda: self._ended(head.content_id), step, draw)
        try:
            if not partial.proven:
                for other in others:
                    if self._owners.state(other) != "alive":
                        partial.copy_from(self._layout.partial(head.content_id, other), step, draw)
        except BaseException:
            partial.close()
            raise
        return partial

    def _others(self, content: str, previous_owner: str | None) -> list[str]:
        """Other owners that left a Partial of this content: the previous one, then who has most of it."""
        with disk_errors("read", self._layout.partials):
            names = os.listdir(self._layout.partials)
        found = []
        for name in names:
            left, _, owner = name.partition(".")
            if left == content and HEX_32.fullmatch(owner) and owner != self._owner_id:
                found.append((owner != previous_owner, -_allocated(self._layout.partials / name), owner))
        return [owner for *_, owner in sorted(found)]

    def _take_any(self, mine: Path, others: list[str]) -> bool:
        """Take the first that can be had; False if none can.

        To whoever comes at this moment a dead owner whose lock an heir has in hand looks alive, and what he left would
        be fetched again. So our own threads come one after the other, and heirs elsewhere get a moment.
        """
        for turn in range(TAKE_TRIES):
            if turn:
                time.sleep(TAKE_PAUSE_S)
            with self._taking:
                if any(self._take(mine, other) for other in others):
                    return True
            if not any(self._is_locked(mine, other) for other in others):
                return False
        return False

    def _is_locked(self, mine: Path, other: str) -> bool:
        """Somebody may have this owner's lock for a moment (that one, an heir, who only looks whether it lives), and
        there is something to take."""
        return self._layout.partial(mine.name[:64], other).is_dir() and self._owners.state(other) != "lost"

    def _take(self, mine: Path, other: str) -> bool:
        """Rename a dead owner's Partial to ours, with that owner's lock in hand; False if it can't be taken so."""
        with self._owners.holding(other) as held:
            if not held:
                return False
            try:
                os.rename(self._layout.partial(mine.name[:64], other), mine)
            except FileNotFoundError:
                return False  # another heir was faster
            return True

    def _ended(self, content: str) -> None:
        with self._lock:
            self._open.pop(content, None)

    def left_behind(self) -> bool:
        """Whether something on disk bears our name."""
        try:
            return any(name.endswith(f".{self._owner_id}") for name in os.listdir(self._layout.partials))
        except OSError:
            return True


def _no_step() -> None:
    """Nobody waits for news."""


def _no_draw(byte_count: int) -> None:
    """Nobody has reserved anything."""


def _allocated(folder: Path) -> int:
    """What a Partial's data takes; nothing if it is gone, or not a Partial."""
    try:
        return os.lstat(folder / DATA).st_blocks * 512
    except OSError:
        return 0


def bytes_present(layout: Layout, owners: Owners, contents: Collection[str], own_id: str | None) -> dict[str, int]:
    """Content id → bytes that a Partial of it occupies which need not be found on the disk again: ours, and what can be
    taken by rename. What is copied has to be: that of a lost owner, and of one whose lock nobody can ever have."""
    present: dict[str, int] = {}
    with disk_errors("read", layout.partials):
        try:
            names = os.listdir(layout.partials)
        except FileNotFoundError:  # a plan for a cache that is still to be made
            return present
    for name in names:
        content, _, owner = name.partition(".")
        if content not in contents or not HEX_32.fullmatch(owner):
            continue
        if owner == own_id or (owners.state(owner) != "lost" and owners.has_lock(owner)):
            present[content] = max(present.get(content, 0), _allocated(layout.partials / name))
    return {content: count for content, count in present.items() if count}
