"""Entries of the cache, as ``ls``, ``inspect`` and ``rm`` find and show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fetcher.errors import NotFoundError
from fetcher.model.uri import parse_uri

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fetcher.cache.records import Lease, Pin, Snapshot
    from fetcher.cache.store import Cache


def snapshots_of(cache: Cache, uri: str) -> list[Snapshot]:
    """Every Snapshot of a URI, newest first: there may be one per choice of files, endpoint or credential.

    Raises NotFoundError if there is none.
    """
    wanted = parse_uri(uri).uri()
    found = [snapshot for snapshot in cache.snapshots() if snapshot.uri == wanted]
    if not found:
        raise NotFoundError("not in the cache", hint="fetcher ls lists what is there", resource=wanted)
    return found


def snapshot_at(cache: Cache, path: Path) -> Snapshot:
    """The Snapshot that a path lies in. Raises NotFoundError if it lies in none."""
    snapshot = cache.snapshot_at(path.absolute())
    if snapshot is None:
        raise NotFoundError(f"not in a snapshot of the cache: {path}", hint="fetcher ls --verbose lists the paths")
    return snapshot


def keeps(pin: Pin, snapshot: Snapshot) -> bool:
    """Whether a pin is about a Snapshot, and not about what somebody else brought of the same Resource."""
    own = not snapshot.private or pin.principal in (None, snapshot.principal)
    return own and pin.resource_key == snapshot.key


def entry_json(
    event: str, snapshot: Snapshot, leases: Iterable[Lease], pins: Iterable[Pin], present: Iterable[Snapshot]
) -> dict[str, Any]:
    """What is known of one Snapshot. ``present``: all there are, since a pin keeps a damaged one only until there is a
    sound one."""
    replaced = snapshot.damaged and any(
        (other.key, other.private, other.damaged) == (snapshot.key, snapshot.private, False)
        and (not other.private or other.principal == snapshot.principal)
        and other.validated_at >= snapshot.validated_at
        for other in present
    )
    gone = replaced or snapshot.withdrawn
    return {
        "event": event,
        "id": snapshot.id,
        "resource": snapshot.uri,
        "path": str(snapshot.path),
        "revision": snapshot.revision,
        "endpoint": snapshot.endpoint,
        "files": snapshot.files,
        "bytes": snapshot.bytes,
        "verified_by": snapshot.verified_by,
        "private": snapshot.private,
        "withdrawn": snapshot.withdrawn,
        "damaged": snapshot.damaged,
        "downloaded_at": snapshot.downloaded_at,
        "validated_at": snapshot.validated_at,
        "last_used_at": snapshot.last_used_at,
        "fresh_until": snapshot.fresh_until,
        "keep_until": snapshot.keep_until,
        "leases": [
            {"id": lease.id, "kind": lease.kind, "expires_at": lease.expires_at}
            for lease in leases
            if snapshot.id in lease.snapshot_ids
        ],
        "pins": [pin.name for pin in pins if not gone and keeps(pin, snapshot)],
    }
