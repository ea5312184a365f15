"""Which Snapshots make room. Pure: candidates come in least recently used first and hold neither lease nor pin.

Bodies are shared: one is freed by the last that refers to it. So it counts what a run of candidates frees together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evictable:
    """What the choice needs to know of a Snapshot."""

    snapshot_id: str
    resource: str
    """Its URI."""
    roots: frozenset[str]
    """Blobs that it refers to."""
    last_used_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Some candidates, with what each frees in this order."""

    chosen: tuple[tuple[Evictable, int], ...]
    bytes_freed: int


def choose(
    candidates: Sequence[Evictable],
    sizes: Mapping[str, int],
    users: Mapping[str, int],
    kept: Collection[str],
    bytes_missing: int,
) -> Choice:
    """The shortest run of least recently used candidates that frees ``bytes_missing``, without those that add nothing
    to it; if all together do not, all that free something.

    ``sizes``: bytes that a Blob takes. ``users``: how many Snapshots refer to it, candidates or not. ``kept``: Blobs
    that stay in any case, because somebody holds or is about to link them.
    """
    left = dict(users)
    run: list[Evictable] = []
    freed = 0
    for candidate in candidates:
        if freed >= bytes_missing:
            break
        run.append(candidate)
        freed += _take(candidate, left, sizes, kept)
    # Whose bodies others, who stay, refer to as well goes for nothing.
    useful = [one for one in run if any(not left.get(root, 0) and root not in kept for root in one.roots)]
    left = dict(users)
    chosen = tuple((candidate, _take(candidate, left, sizes, kept)) for candidate in useful)
    return Choice(chosen, sum(count for _, count in chosen))


def _take(candidate: Evictable, left: dict[str, int], sizes: Mapping[str, int], kept: Collection[str]) -> int:
    freed = 0
    for root in candidate.roots:
        left[root] = left.get(root, 1) - 1
        if not left[root] and root not in kept:
            freed += sizes.get(root, 0)
    return freed
