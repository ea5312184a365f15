"""What the engine is asked, and what it answers. Light: a hit is answered with these values, without the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fetcher.cache.records import Snapshot
from fetcher.model.asker import Asker
from fetcher.model.resource import Resource


@dataclass(frozen=True, slots=True)
class Ask:
    """One resource, and who asks for it."""

    resource: Resource
    asker: Asker
    copies: int = field(default=0, compare=False)
    """Private copies wanted that a job may write to; equal Asks want equally many."""
    at: str | None = field(default=None, compare=False)
    """JSON path in the document it comes from; equal Asks are answered once."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an Ask."""

    snapshot: Snapshot
    downloaded: int
    """Bytes fetched for it in this call; what was linked, adopted or fetched by others is not counted."""
    hit: bool
    copies: tuple[Path, ...] = ()
    """Private copies under staging names, for a lease that is to be taken; whoever has them adopts or discards them."""
