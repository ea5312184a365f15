"""The cache as one object: hands each question to the room that answers it. No rule lives here.

The upper half (looking up, leasing) is the hit path and imports only light rooms; what fetches, removes or hashes is
imported when first needed. Safe to use from several threads, not across fork().
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher.cache import due
from fetcher.cache.opened import Opened
from fetcher.cache.proofs import Proofs
from fetcher.cache.records import Lease, Pin, ReplacedError, Snapshot, SnapshotFile

if TYPE_CHECKING:
    from fetcher.cache.blobs import Blobs
    from fetcher.cache.condemn import Condemning
    from fetcher.cache.flights import Flights
    from fetcher.cache.hosts import Hosts
    from fetcher.cache.markets import Markets
    from fetcher.cache.partials import Partial
    from fetcher.cache.prune import PrunePlan
    from fetcher.cache.records import Asked, Blob, GcReport, NewSnapshot, PartialHead, SmallFile, Space, Usage
    from fetcher.cache.reservation import Reservation
    from fetcher.cache.small_files import SmallStaging
    from fetcher.cache.staged import PublishedFile
    from fetcher.cache.survey import Survey
    from fetcher.model.digest import Digest
    from fetcher.plan.eviction import Choice


class Cache(Opened):
    """One cache directory, opened. Build it with ``Cache.open``."""

    # --- hit path

    def lookup(self, key: str, *principals: str | None) -> Snapshot | None:
        """The newest complete Snapshot of this Resource that is public or of one of these principals, fresh or not."""
        self._settle()
        return self._snapshots.lookup(key, *principals)

    def shared(self, key: str, pin: str) -> Snapshot | None:
        """The newest private one that the pin's prefetch got, for where an operator shares it."""
        self._settle()
        return self._snapshots.shared(key, pin)

    @property
    def proofs(self) -> Proofs:
        """Who was seen to have access to what, a short time ago."""
        return Proofs(self.index, self._clock, lambda: self.principal_key)

    def touch(self, snapshot_id: str) -> None:
        """It was used just now. Best effort, written at most once a minute."""
        if not self.read_only:
            self._settle()
            self._snapshots.touch(snapshot_id)

    def get_snapshot(self, snapshot_id: str) -> Snapshot | None:
        return self._snapshots.get(snapshot_id)

    def snapshots(self) -> list[Snapshot]:
        """All, newest first."""
        return self._snapshots.all()

    def files(self, snapshot_id: str) -> list[SnapshotFile]:
        """What a Snapshot consists of."""
        return self._snapshots.files(snapshot_id)

    def snapshot_at(self, path: Path) -> Snapshot | None:
        """The Snapshot whose directory is, or holds, this path."""
        return self._snapshots.at(path)

    # --- leases and pins

    def lease_timed(self, snapshot_ids: Sequence[str], duration_s: float, *, owner_pid: int | None = None) -> Lease:
        """A right of use until then, independent of any process unless ``owner_pid`` says with which one it ends."""
        self._settle()
        return self._leases.take_timed(snapshot_ids, duration_s, owner_pid)

    def lease_process(self, snapshot_ids: Sequence[str]) -> Lease:
        """A right of use until released, or until this Cache is closed or its process is gone."""
        self._settle()
        return self._leases.take_for_process(snapshot_ids, self.owner.id)

    def lease_release(self, lease_id: str) -> None:
        """End it, and remove its private copies, which may take a moment. Raises LeaseError for one that is unknown;
        ReplacedError, when that is done, where the index was made anew beside us and is none that we may write to: the
        lease lasts until its time then, or as long as this process."""
        try:
            self._leases.release(lease_id)
        except ReplacedError:
            self._rooms.copies.discard_of(lease_id)
            raise
        self._rooms.copies.discard_of(lease_id)

    def lease_renew(self, lease_id: str, duration_s: float) -> Lease:
        """Let a timed lease end ``duration_s`` from now. Raises LeaseError if it has ended."""
        self._settle()
        return self._leases.renew(lease_id, duration_s)

    def lease(self, lease_id: str) -> Lease:
        """Raises LeaseError for one that is unknown or has ended."""
        return self._leases.get(lease_id)

    def leases(self) -> list[Lease]:
        """Those that have not ended, oldest first."""
        return self._leases.all()

    def pin(self, name: str, *resource_keys: str, principals: Mapping[str, str] | None = None) -> None:
        """``principals``: key → as whom a prefetch asks for it."""
        self._leases.pin(name, resource_keys, principals)

    def pin_exactly(self, name: str, resource_keys: Sequence[str]) -> int:
        """Let ``name`` pin these Resources and no others; how many it does no longer pin."""
        return self._leases.pin_exactly(name, resource_keys)

    def unpin(self, name: str) -> int:
        """How many pins had this name."""
        return self._leases.unpin(name)

    def pins(self) -> list[Pin]:
        return self._leases.pins()

    # --- private copies

    def copy_stage(
        self,
        snapshot_id: str,
        *,
        stopped: Callable[[], bool] = lambda: False,
        draw: Callable[[int], None] = lambda _: None,
    ) -> Path:
        """A private copy of a Snapshot that anybody who gets it may write to, under a name of ours; ``copy_adopt`` or
        ``copy_discard`` it. ``draw`` is told of bytes about to be written. Raises GoneError, NoSpaceError, CacheError,
        InterruptedByUser; nothing is left then."""
        return self._rooms.copies.stage(snapshot_id, stopped, draw)

    def copy_adopt(self, staged: Path, lease_id: str, number: int) -> Path:
        """Its place from now on: as long as this lease. Raises LeaseError if that has ended."""
        return self._rooms.copies.adopt(staged, lease_id, number)

    def copy_discard(self, path: Path) -> None:
        """Remove a copy, staged or adopted, whatever was written into it."""
        self._rooms.copies.discard(path)

    # --- planning

    @property
    def blobs(self) -> Blobs:
        """Which Blobs there are for whom."""
        return self._rooms.blobs

    def space(self, *, candidates: bool = True) -> Space:
        """What is free, promised, and (with ``candidates``, which looks at every Snapshot) could be evicted."""
        return self._rooms.space.look(candidates=candidates)

    def evictions(self, bytes_missing: int, *, spared: Collection[str] = (), kept: Collection[str] = ()) -> Choice:
        """Which Snapshots would make room; see ``Room.evictions``."""
        return self._rooms.space.evictions(bytes_missing, spared, kept)

    def reserve(self, bytes_needed: int, *, evict: Sequence[str] = (), hold: Sequence[str] = ()) -> Reservation:
        """Promise bytes to us, evicting and holding as the plan says; all in one transaction or nothing."""
        self._settle()
        return self._rooms.space.reserve(bytes_needed, self.owner.id, evict=evict, hold=hold)

    def undrawn_bytes(self) -> int:
        """Promised to living owners, and not yet drawn by them."""
        with self.index.read() as rows:
            found = rows.execute("SELECT owner_id, bytes FROM reservations").fetchall()
        return sum(count for owner, count in found if self._owners.state(owner) != "dead")

    # --- flights

    def flights_living(self, contents: Collection[str]) -> set[str]:
        """Which of these contents somebody fetches now who has reserved their space."""
        return self._rooms.flights_living(contents)

    @property
    def flights(self) -> Flights:
        """Who fetches which content now, with us as one of those who ask."""
        return self._rooms.flights

    # --- bytes

    def partial_open(
        self,
        head: PartialHead,
        *,
        previous_owner: str | None = None,
        step: Callable[[], None] | None = None,
        draw: Callable[[int], None] | None = None,
    ) -> Partial:
        """A Partial with all that can be had of earlier work on this content.

        Re-hashing that work may take minutes: ``step`` is called now and then, and may raise to give it up. ``draw`` is
        told of bytes about to be written, where that work has to be copied.
        """
        return self._rooms.partials.open(head, previous_owner=previous_owner, step=step, draw=draw)

    def partial_bytes(self, contents: Collection[str]) -> dict[str, int]:
        """Content id → bytes that Partials of it occupy already, and whoever goes on with it need not find again."""
        from fetcher.cache.takeover import bytes_present

        return bytes_present(self.layout, self._owners, contents, self._owner.id if self._owner else None)

    def commit(
        self,
        partial: Partial,
        *,
        digests: Sequence[Digest],
        verified_by: str,
        private: bool,
        principal: str | None,
        root: str | None = None,
        asked: Asked | None = None,
        step: Callable[[], None] = lambda: None,
    ) -> Blob:
        """Publish a complete Partial as a Blob. No call on it may be in flight. ``asked``: what a public one came in
        answer to. If the origin has said since that not everybody may have it, the Blob is given to nobody else.
        Hashing a body that is here already may take minutes: ``step`` is called now and then, and may raise to give it
        up."""
        self._settle()
        return self._rooms.committer.commit(
            partial,
            digests=digests,
            verified_by=verified_by,
            private=private,
            principal=principal,
            root=root,
            asked=asked,
            step=step,
        )

    def commit_small(
        self, items: Sequence[SmallFile], *, private: bool, principal: str | None, staging: SmallStaging | None = None
    ) -> list[Blob]:
        """Publish contents of at most one block each, with one durability barrier. ``staging``: where some of them are
        written already."""
        self._settle()
        return self._rooms.committer.commit_small(items, private=private, principal=principal, staging=staging)

    def small_staging(self) -> SmallStaging:
        """For contents of at most one block that are written before they are committed; to be closed."""
        return self._rooms.committer.small_staging()

    def publish(
        self,
        record: NewSnapshot,
        files: Sequence[PublishedFile],
        *,
        draw: Callable[[int], None] = lambda _: None,
        asked: Asked | None = None,
    ) -> Snapshot:
        """Make a Snapshot visible. ``draw`` is told of bytes about to be written, where bodies can't be linked.
        ``asked``: as for ``commit``; the Snapshot is withdrawn then. Raises GoneError with roots to fetch again."""
        self._settle()
        return self._rooms.publisher.publish(record, files, draw, asked)

    def revalidate(self, snapshot_id: str, fresh_for_s: float, keep_for_s: float) -> Snapshot:
        """Unchanged at its origin: fresh again; ``downloaded_at`` stays."""
        self._settle()
        return self._snapshots.revalidate(snapshot_id, fresh_for_s, keep_for_s)

    def withdraw(
        self, key: str, principal: str | None = None, *, endpoint: str = "", stem: str = ""
    ) -> tuple[str, ...]:
        """The origin says that this Resource is not public, or no longer: what was is nobody's from now on. ``stem``:
        so is all of ``endpoint`` whose URI begins with it."""
        from fetcher.cache.withdrawal import withdraw

        return withdraw(self.index, self.layout, self._clock, key, self.owner.id, principal, endpoint, stem)

    def close_digests(self, sha256: Iterable[str], principal: str | None) -> None:
        """What has these digests is not public at an origin: nobody but this principal links what is left of it."""
        from fetcher.cache.withdrawal import close_digests

        close_digests(self.index, self.layout, self.owner.id, sha256, principal)

    # --- retention

    def gc(self, *, dry_run: bool = False, at_once: bool = False, spare_roots: Collection[str] = ()) -> GcReport:
        """Remove what has had its time and what crashes left, in two phases. ``at_once``: without the grace between
        them. ``spare_roots``: Blobs that somebody is about to link."""
        self._settle()
        return self._rooms.collector.collect(dry_run=dry_run, at_once=at_once, spare_roots=spare_roots)

    def tidy(self) -> GcReport | None:
        """``gc`` if it is due: for the end of a command that did something else. None: it was not."""
        self._settle()
        if not due.may_be_due(self.index, self.layout, self._clock()):
            return None
        return self._rooms.collector.tidy()

    def remove(self, snapshot_ids: Sequence[str], *, force: bool = False, dry_run: bool = False) -> GcReport:
        """Remove Snapshots now, or say what would come of it. Raises LeaseError for leased or pinned ones, unless
        ``force``."""
        return self._rooms.pruner.remove(snapshot_ids, force=force, dry_run=dry_run)

    def prune_plan(self, *, max_bytes: int | None = None) -> PrunePlan:
        """What pruning would remove: until Blobs take at most ``max_bytes``; None: what has had its time."""
        self._settle()
        return self._rooms.pruner.plan(max_bytes=max_bytes)

    def survey(self, snapshots: Sequence[Snapshot] | None, look: Callable[[], None]) -> Survey:
        """What a scrub of these Snapshots (None: all, and every Blob) is to read. ``look`` may raise to end it."""
        leased = {wanted for lease in self.leases() for wanted in lease.snapshot_ids}
        found = self.snapshots() if snapshots is None else snapshots
        return self._rooms.surveyor(leased, look).survey(found, all_blobs=snapshots is None)

    def condemning(self, *, dry_run: bool) -> Condemning:
        """Takes what a scrub finds damaged out of service."""
        return self._rooms.condemning(dry_run=dry_run)

    def usage(self) -> Usage:
        """Where the space went. Walks the whole cache."""
        from fetcher.cache.usage import measure

        return measure(self)

    @property
    def markets(self) -> Markets:
        """The lists of markets that were good when they came."""
        return self._rooms.markets

    @property
    def hosts(self) -> Hosts:
        """What runs found out about the hosts they fetched from."""
        return self._rooms.hosts
