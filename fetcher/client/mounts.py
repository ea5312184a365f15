"""What a job gets: a lease and its mounts. Values, and how they are put together; asks and fetches nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fetcher.cache.records import Lease as LeaseRecord
from fetcher.cache.records import Snapshot
from fetcher.cache.store import Cache
from fetcher.engine.asks import Ask, Outcome
from fetcher.errors import FetcherError
from fetcher.model.mount import Deferred, JobResources


@dataclass(frozen=True, slots=True)
class Lease:
    """Right of use of one Snapshot, as ``Fetcher.lease`` gives it."""

    id: str
    snapshot: Snapshot
    expires_at: float | None
    """Unix seconds; None: until released, or this process ends."""

    @property
    def path(self) -> Path:
        """The read-only directory."""
        return self.snapshot.path


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of a container's mount plan."""

    op: str
    at: str
    """JSON path in the Job Definition."""
    resource: str
    source: Path
    """Host side, as the container engine sees it."""
    target: str
    read_only: bool
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class MountSet:
    """All mounts of a job, under one lease."""

    lease: LeaseRecord | None
    mounts: tuple[Mount, ...]
    deferred: tuple[Deferred, ...]


def with_copies(job: JobResources, asks: Sequence[Ask]) -> list[Ask]:
    """``asks`` of the job's mounts; equal ones want as many private copies as there are writable mounts of them."""
    writable = Counter(ask for ask, request in zip(asks, job.mounts, strict=True) if not request.read_only)
    return [replace(ask, copies=writable[ask]) for ask in asks]


def places_of(
    cache: Cache, job: JobResources, asks: Sequence[Ask], lease: LeaseRecord, outcomes: Sequence[Outcome]
) -> list[Path]:
    """What each mount shows: the Snapshot itself, or a copy of the job's own, which from now on belongs to the lease.

    If that fails the lease is over, and no copy is left.
    """
    staged = {ask: list(outcome.copies) for ask, outcome in zip(asks, outcomes, strict=True)}
    places = []
    try:
        for number, (ask, request, outcome) in enumerate(zip(asks, job.mounts, outcomes, strict=True)):
            path = outcome.snapshot.path
            if not request.read_only:
                path = cache.copy_adopt(staged[ask][-1], lease.id, number)
                staged[ask].pop()
            places.append(path)
    except BaseException:
        discard(cache, (path for paths in staged.values() for path in paths))
        with suppress(FetcherError):  # what brought us here counts for more
            cache.lease_release(lease.id)
        raise
    return places


def discard(cache: Cache, copies: Iterable[Path]) -> None:
    """Remove copies that no lease has."""
    for path in dict.fromkeys(copies):
        cache.copy_discard(path)


def mount_set(
    job: JobResources,
    lease: LeaseRecord,
    snapshots: Sequence[Snapshot],
    places: Sequence[Path],
    engine_path: Callable[[Path], Path],
) -> MountSet:
    """The mounts of a job, each ``source`` as the container engine sees it."""
    mounts = tuple(
        Mount(
            op=request.op,
            at=request.at,
            resource=request.resource.uri(),
            source=engine_path(place),
            target=request.target,
            read_only=request.read_only,
            snapshot=snapshot,
        )
        for request, snapshot, place in zip(job.mounts, snapshots, places, strict=True)
    )
    return MountSet(lease, mounts, job.deferred)
