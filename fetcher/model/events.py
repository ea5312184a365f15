"""Facts of progress. Emitted by the engine, rendered at the top; a frozen value each, times are unix seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of one run's numbers; at most ten a second."""

    resource: str
    """URI of the resource, or of the first of several."""
    phase: Literal["resolve", "plan", "fetch", "verify", "publish", "done"]
    bytes_done: int
    """Bytes proven or adopted so far, by us or by whoever fetches the file for us."""
    bytes_total: int | None
    """None while unknown."""
    files_done: int
    files_total: int | None
    bytes_downloaded: int
    """Body bytes that came over the network in this run, thrown-away ones included."""
    rate_bytes_per_s: float
    """Over the last few seconds."""
    eta_s: float | None
    connections: int
    parts_moved: int
    """Parts put on a new connection because they stalled or were slow."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One sentence for a person, said once."""

    resource: str | None
    message: str


Event = Progress | Notice
