"""Which Snapshots make room. Pure: candidates come in least recently used first and hold neither lease nor pin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Evictable(Protocol):
    """What the choice needs to know of a Snapshot."""

    @property
    def snapshot_id(self) -> str: ...
    @property
    def bytes(self) -> int: ...


Candidate = TypeVar("Candidate", bound=Evictable)


def choose(candidates: Iterable[Candidate], bytes_missing: int) -> Sequence[Candidate] | None:
    """The shortest run of least recently used candidates that frees ``bytes_missing``; None if all together do not."""
    chosen: list[Candidate] = []
    freed = 0
    for candidate in candidates:
        if freed >= bytes_missing:
            break
        chosen.append(candidate)
        freed += candidate.bytes
    return chosen if freed >= bytes_missing else None
