"""Proofs: that a principal was seen to have access to a private Snapshot, a short time ago.

A private Snapshot is a hit only for whoever the origin has just said may have it. What it said is remembered for
``proof_for_s``, by a keyed hash of principal and Snapshot. Both clocks have to agree that it is not over: whoever sets
the calendar, or starts the machine anew, ends proofs and lengthens none. A refusal takes back what was proven before.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from fetcher.cache.clock import Clock, another_boot
from fetcher.cache.index import Index


class Proofs:
    """The proofs of one cache. Thread-safe."""

    def __init__(self, index: Index, clock: Clock, key: Callable[[], bytes]) -> None:
        self._index = index
        self._clock = clock
        self._key = key

    def now_s(self) -> float:
        """What ``grant`` takes as the time of an answer: seconds of the boot's clock."""
        return self._clock.boot_s()

    def grant(self, snapshot_id: str, principal: str, *, asked_at_s: float, for_s: float) -> None:
        """The origin said at ``asked_at_s`` that this principal may have what the Snapshot holds. One that is gone
        needs no proof."""
        now, boot_s = self._clock(), self._clock.boot_s()
        ends_boot_s = asked_at_s + for_s
        if ends_boot_s <= boot_s:
            return
        with self._index.write(durable=False) as rows:
            rows.execute("DELETE FROM proofs WHERE ends_at <= ? OR ends_boot_s <= ?", (now, boot_s))
            rows.execute(
                "INSERT OR REPLACE INTO proofs SELECT ?, id, ?, ?, ? FROM snapshots WHERE id = ?",
                (
                    self._mark(snapshot_id, principal),
                    now + ends_boot_s - boot_s,
                    ends_boot_s,
                    self._clock.boot_id,
                    snapshot_id,
                ),
            )

    def holds(self, snapshot_id: str, principal: str, *, for_s: float) -> bool:
        """Whether this principal has an unexpired proof; ``for_s``: none lasts longer than this, whatever held when it
        was granted."""
        with self._index.read() as rows:
            row = rows.execute(
                "SELECT ends_at, ends_boot_s, boot_id FROM proofs WHERE mark = ?",
                (self._mark(snapshot_id, principal),),
            ).fetchone()
        if row is None or another_boot(row[2], self._clock.boot_id):
            return False
        left = (row[0] - self._clock(), row[1] - self._clock.boot_s())
        return all(0 < left_s <= for_s for left_s in left)

    def take_back(self, key: str, principal: str) -> None:
        """The origin has refused this principal what ``key`` names: what was proven before is void, and what is fresh
        is asked about again. Who never had anything of it costs no write: that would take longer."""
        his = "SELECT id FROM snapshots WHERE key = ? AND private = 1 AND principal = ?"
        with self._index.read() as rows:
            if rows.execute(his, (key, principal)).fetchone() is None:
                return
        with self._index.write(durable=True) as rows:
            found = rows.execute(his, (key, principal)).fetchall()
            rows.executemany(
                "DELETE FROM proofs WHERE mark = ?", [(self._mark(wanted, principal),) for (wanted,) in found]
            )
            rows.executemany("UPDATE snapshots SET fresh_until = 0 WHERE id = ?", found)

    def _mark(self, snapshot_id: str, principal: str) -> str:
        """Which of the two it is about, told to nobody who has not the cache's key."""
        return hmac.digest(self._key(), f"proof\0{principal}\0{snapshot_id}".encode(), "sha256").hex()
