"""What an engine knows of hosts from earlier runs, and leaves for later ones. A convenience: it never fails a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.engine.admission import Admission
from fetcher.engine.workers import Workers
from fetcher.errors import FetcherError
from fetcher.plan.window import Known

if TYPE_CHECKING:
    from fetcher.cache.store import Cache

BYTES_MIN = 32 << 20
REQUESTS_MIN = 100
"""Below both a host was hardly met: what was found may be chance."""


class Remembering:
    """The hosts of one engine."""

    def __init__(self, cache: Cache, workers: Workers, admission: Admission) -> None:
        self._cache = cache
        self._workers = workers
        self._admission = admission
        self._recalled = False
        self._kept: dict[str, Known] = {}

    async def recall(self) -> None:
        """Before the first run: what earlier ones found out. Later calls do nothing."""
        if self._recalled:
            return
        self._recalled = True
        try:
            self._admission.recall(await self._workers.slow(self._cache.hosts.load))
        except FetcherError:
            return

    async def keep(self) -> None:
        """After a run: what it found out that is new."""
        found = {
            host: window.known
            for host, window in self._admission.hosts.items()
            if window.known is not None and (window.bytes_received >= BYTES_MIN or window.requests_done >= REQUESTS_MIN)
        }
        new = {host: known for host, known in found.items() if self._is_news(host, known)}
        if not new:
            return
        self._kept |= new
        try:
            await self._workers.slow(self._cache.hosts.save, new)
        except FetcherError:
            return

    def _is_news(self, host: str, known: Known) -> bool:
        """Another number, or a speed that makes for parts of another length. The same is not written after each run."""
        before = self._kept.get(host)
        if before is None or before.connections != known.connections:
            return True
        return (
            not before.connection_bytes_per_s / 2 <= known.connection_bytes_per_s <= 2 * before.connection_bytes_per_s
        )
