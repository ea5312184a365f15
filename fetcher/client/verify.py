"""``Fetcher.verify``: which Snapshots are meant, and whether they may be touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fetcher.cache.damage import Damage, VerifyReport
from fetcher.errors import NotFoundError

if TYPE_CHECKING:
    from fetcher.cache.store import Cache
    from fetcher.model.events import Event
    from fetcher.model.resource import Resource


def verify(
    cache: Cache,
    resource: Resource | None,
    *,
    dry_run: bool,
    rate_bytes_per_s: int | None,
    emit: Callable[[Event], None] | None,
    on_damage: Callable[[Damage], None] | None,
    stopped: Callable[[], bool],
) -> VerifyReport:
    """Scrub all Snapshots of a resource, or the whole cache. Raises NotFoundError if nothing of a resource is there."""
    from fetcher.engine.verify import verify as scrub

    uri = None if resource is None else resource.uri()
    snapshots = None if uri is None else [snapshot for snapshot in cache.snapshots() if snapshot.uri == uri]
    if snapshots is not None and not snapshots:
        raise NotFoundError("not in the cache", hint="fetcher ls lists what is there", resource=uri)
    return scrub(
        cache,
        snapshots,
        subject=uri or str(cache.settings.cache_dir),
        dry_run=dry_run or cache.read_only,
        rate_bytes_per_s=rate_bytes_per_s,
        emit=emit,
        on_damage=on_damage,
        stopped=stopped,
    )
