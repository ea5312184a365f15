"""From manifests to one FetchPlan: what is linked, what is fetched, what must go. Changes nothing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fetcher.engine.jobs import compared, content_pin, content_url
from fetcher.errors import ForbiddenError
from fetcher.model.manifest import Manifest
from fetcher.plan.fetch_plan import Eviction, FetchPlan, PlannedFile, PlannedResource

if TYPE_CHECKING:
    from fetcher.cache.records import Snapshot
    from fetcher.cache.store import Cache


def plan_manifest(
    cache: Cache, manifest: Manifest, principal: str | None, resource: str, *, copies: int = 0
) -> PlannedResource:
    """What making ``manifest`` true takes. A worker call."""
    from fetcher.cache.layout import content_id

    if manifest.bytes_total >= 1 << 50:
        raise ForbiddenError(f"the origin lists {manifest.bytes_total} bytes", resource=resource)
    asked = [entry for entry in manifest.files if entry.size]
    contents = [
        content_id(
            digest=entry.digest,
            url=content_url(manifest, entry),
            validator=content_pin(manifest, entry) + ("" if entry.resumable else f" {secrets.token_hex(16)}"),
            size=entry.size,
            private=manifest.private,
            principal=principal if manifest.private else None,
        )
        for entry in asked
    ]
    wanted_rows = [(content, entry.digest, entry.size) for content, entry in zip(contents, asked, strict=True)]
    blobs = iter(zip(contents, cache.blobs.of_contents(wanted_rows, principal=principal), strict=True))
    files: list[PlannedFile] = []
    for entry in manifest.files:
        if entry.size == 0:
            files.append(PlannedFile(entry, "empty", ""))
            continue
        content, blob = next(blobs)
        if blob is not None:
            files.append(PlannedFile(entry, "link", content, blob.root, compared=compared(cache, entry, blob.root)))
        else:
            files.append(PlannedFile(entry, "fetch", content))
    wanted = {file.content_id for file in files if file.action == "fetch"}
    present, elsewhere = cache.partial_bytes(wanted), cache.flights_living(wanted)
    if present or elsewhere:
        files = [
            replace(file, bytes_present=present.get(file.content_id, 0), elsewhere=file.content_id in elsewhere)
            for file in files
        ]
    return PlannedResource(resource, manifest, tuple(files), bytes_total=manifest.bytes_total, copies=copies)


def plan_hit(snapshot: Snapshot, *, copies: int = 0) -> PlannedResource:
    """Nothing to fetch."""
    return PlannedResource(
        snapshot.uri,
        None,
        (),
        snapshot.id,
        snapshot.bytes,
        hit_revision=snapshot.revision,
        hit_files=snapshot.files,
        copies=copies,
    )


def without_room(cache: Cache, resources: Sequence[PlannedResource]) -> dict[int, FetchPlan]:
    """Index of each resource that there is no room for → the plan that it would have made too large.

    What needs no room always has it; of the others the earlier ones come first. A worker call.
    """
    room = {index: item for index, item in enumerate(resources) if not FetchPlan((item,), 0).bytes_to_reserve}
    refused: dict[int, FetchPlan] = {}
    for index, item in enumerate(resources):
        if index in room:
            continue
        plan = plan_space(cache, [*room.values(), item])
        if plan.fits:
            room[index] = item
        else:
            refused[index] = plan
    return refused


def plan_space(cache: Cache, resources: Sequence[PlannedResource]) -> FetchPlan:
    """The whole plan: do the bytes fit, and if not, which Snapshots make room."""
    space = cache.space(candidates=False)
    plan = FetchPlan(
        tuple(resources),
        bytes_free=space.available_bytes,
        bytes_floor=space.floor_bytes,
        bytes_reserved=space.reserved_bytes,
        bytes_quota=space.quota_bytes,
    )
    missing = plan.bytes_to_reserve - space.left_bytes
    if missing <= 0 or not plan.bytes_to_reserve:
        return plan
    linked = [item.snapshot_id for item in resources if item.snapshot_id]
    choice = cache.evictions(missing, spared=linked, kept=plan.linked_roots)
    if choice.bytes_freed < missing:
        return replace(plan, fits=False, bytes_evictable=choice.bytes_freed)
    return replace(
        plan, evictions=tuple(Eviction(item.snapshot_id, item.resource, count) for item, count in choice.chosen)
    )
