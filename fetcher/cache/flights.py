"""Flights across processes: one row per file content that somebody fetches. Rows only; how to wait is the engine's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from fetcher.cache.index import Index, Rows, insert_many, select_many
from fetcher.cache.owners import Owners
from fetcher.cache.records import FlightClaim, OwnerState


class Flights:
    """The flights of one cache, as one owner sees them. Thread-safe."""

    def __init__(self, index: Index, owners: Owners, owner_id: str, clock: Callable[[], float]) -> None:
        self._index = index
        self._owners = owners
        self._owner_id = owner_id
        self._clock = clock

    def claim(self, contents: Sequence[tuple[str, int]]) -> list[FlightClaim]:
        """Try to become the one who fetches each ``(content id, size)``; one answer each, in order.

        A flight of a dead or lost owner is taken over. Asking again for one's own is answered alike. Contents that
        living others hold cost no write, so waiters may ask a few times a second.
        """
        states: dict[str, OwnerState] = {}
        claims: list[FlightClaim | None] = []
        with self._index.read() as rows:
            known = _rows_of(rows, contents)
            for content, _ in contents:
                row = known.get(content)
                if row is not None and row[0] != self._owner_id and self._state(row[0], states) == "alive":
                    claims.append(FlightClaim(content, False, row[0], row[1], "alive"))
                else:
                    claims.append(None)
        if all(claims):
            return [claim for claim in claims if claim]
        with self._index.write(durable=False) as rows:
            decided: list[FlightClaim] = []
            taken: list[tuple[object, ...]] = []
            known, now = _rows_of(rows, contents), self._clock()
            for (content, size), claim in zip(contents, claims, strict=True):
                if claim is not None:
                    decided.append(claim)
                    continue
                row = known.get(content)
                state = "alive" if row is None else self._state(row[0], states)
                if row is not None and row[0] == self._owner_id:
                    decided.append(FlightClaim(content, True, self._owner_id, row[1], "alive"))
                elif row is not None and state == "alive":
                    decided.append(FlightClaim(content, False, row[0], row[1], "alive"))
                else:
                    taken.append((content, self._owner_id, size, 0, now))
                    former = None if row is None else str(row[0])
                    decided.append(
                        FlightClaim(content, True, self._owner_id, 0 if row is None else row[1], state, former)
                    )
            insert_many(rows, "INSERT OR REPLACE INTO flights", taken)
        return decided

    def _state(self, owner_id: str, known: dict[str, OwnerState]) -> OwnerState:
        if owner_id not in known:
            known[owner_id] = self._owners.state(owner_id)
        return known[owner_id]

    def progress(self, proven: Sequence[tuple[str, int]]) -> None:
        """Tell waiters how far our ``(content id, bytes proven)`` are."""
        now = self._clock()
        with self._index.write(durable=False) as rows:
            rows.executemany(
                "UPDATE flights SET bytes_proven = ?, updated_at = ? WHERE content_id = ? AND owner_id = ?",
                [(count, now, content, self._owner_id) for content, count in proven],
            )

    def release(self, contents: Sequence[str]) -> None:
        """We no longer fetch these, whether they are published or given up. Others' rows are left alone."""
        with self._index.write(durable=False) as rows:
            select_many(rows, "DELETE FROM flights WHERE owner_id = ? AND content_id IN", contents, self._owner_id)


def _rows_of(rows: Rows, contents: Sequence[tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """Content id → owner and bytes proven, of those that somebody fetches."""
    found = select_many(
        rows,
        "SELECT content_id, owner_id, bytes_proven FROM flights WHERE content_id IN",
        [content for content, _ in contents],
    )
    return {content: (owner, count) for content, owner, count in found}


def living(rows: Rows, owners: Owners, contents: Collection[str]) -> set[str]:
    """Those of ``contents`` that an owner who is alive fetches; what a dead or lost one was at may be taken over."""
    wanted = set(contents)
    found = [row for row in rows.execute("SELECT content_id, owner_id FROM flights").fetchall() if row[0] in wanted]
    alive = {owner: owners.state(owner) == "alive" for owner in {owner for _, owner in found}}
    return {content for content, owner in found if alive[owner]}
