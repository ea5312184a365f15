"""What every run of an engine shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from fetcher.config import Settings
from fetcher.engine.admission import Admission
from fetcher.engine.buffers import SlabPool
from fetcher.engine.disk import Disk
from fetcher.engine.limit import RateLimit
from fetcher.engine.readback import ReadBack
from fetcher.engine.unsynced import Unsynced
from fetcher.engine.workers import Workers
from fetcher.net.transport import Transport

if TYPE_CHECKING:
    from fetcher.cache.store import Cache


@dataclass(frozen=True, slots=True)
class Tools:
    """Handed down by the engine; no run makes its own."""

    settings: Settings
    cache: Cache
    transport: Transport
    workers: Workers
    disk: Disk
    readback: ReadBack
    slabs: SlabPool
    admission: Admission
    limit: RateLimit | None
    unsynced: Unsynced
    clock: Callable[[], float]
    """Monotonic seconds."""
    dice: Random
