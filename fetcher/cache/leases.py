"""Leases and pins: rights of use, and who may be removed. Knows rows and owners, no files of the cache.

A process lease lives as long as its owner's lock; a lost owner (stopped) still has its rights. A timed lease depends on
no process, unless it was asked to end with one; its end is a time of the boot's clock, so that nobody who sets the
calendar ends it early or late. **A new boot voids all**: no job and no mount outlives the machine's start.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from fetcher.cache.clock import Clock, another_boot, machine_boot_id
from fetcher.cache.index import Index
from fetcher.cache.layout import disk_errors, random_id
from fetcher.cache.owners import Owners
from fetcher.cache.records import NOBODY, GoneError, Lease, Pin, ReplacedError
from fetcher.cache.snapshots import IS_HIDDEN, SUPERSEDED, TRUE_KEY
from fetcher.errors import LeaseError

_COLUMNS = "id, kind, created_at, expires_at, owner_id, owner_pid, owner_pid_birth, ends_boot_s, boot_id"


def process_birth(pid: int) -> str | None:
    """What tells this process from a later one with its pid: boot, pid namespace, start time. None: no such process.

    Raises OSError where that can't be learned now (no descriptors left, for one): nobody is gone for that.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything, parentheses included; the fields after the last one are plain.
            started = file.read().rpartition(b")")[2].split()[19].decode()
        return f"{machine_boot_id()}:{_pid_namespace()}:{started}"
    except (FileNotFoundError, ProcessLookupError, IndexError, ValueError):
        return None


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _process_gone(pid: int, birth: str) -> bool:
    """True only if we can know. From another pid namespace we can't: the lease's own end has the last word there."""
    try:
        boot, namespace, _ = birth.split(":")
        if another_boot(machine_boot_id(), boot):
            return True
        if namespace != str(_pid_namespace()):
            return False
        return process_birth(pid) != birth
    except (OSError, ValueError):
        return False


class Leases:
    """The leases and pins of one cache."""

    def __init__(self, index: Index, owners: Owners, clock: Clock) -> None:
        self._index = index
        self._owners = owners
        self._clock = clock

    def take_timed(self, snapshot_ids: Sequence[str], duration_s: float, owner_pid: int | None) -> Lease:
        """A lease until ``duration_s`` from now. GoneError if a Snapshot was removed, LeaseError for a bad pid."""
        birth = None
        if owner_pid is not None:
            with disk_errors("look at process", str(owner_pid)):
                birth = process_birth(owner_pid)
            if birth is None:
                raise LeaseError(f"there is no process {owner_pid} that a lease could end with")
        now = self._clock()
        lease = Lease(random_id(), "timed", tuple(snapshot_ids), now + duration_s, None, now, owner_pid)
        self._insert(lease, birth, self._clock.boot_s() + duration_s)
        return lease

    def take_for_process(self, snapshot_ids: Sequence[str], owner_id: str) -> Lease:
        """A lease until released, or until ``owner_id`` is gone."""
        lease = Lease(random_id(), "process", tuple(snapshot_ids), None, owner_id, self._clock())
        self._insert(lease, None, None)
        return lease

    def _insert(self, lease: Lease, birth: str | None, ends_boot_s: float | None) -> None:
        with self._index.write(durable=False) as rows:
            insert_lease(rows, lease, birth, ends_boot_s, self._clock.boot_id)
            try:
                rows.executemany(
                    "INSERT OR IGNORE INTO lease_snapshots (lease_id, snapshot_id) VALUES (?, ?)",
                    [(lease.id, snapshot_id) for snapshot_id in lease.snapshot_ids],
                )
            except sqlite3.IntegrityError as error:
                raise GoneError("a snapshot was removed before it could be leased", ids=lease.snapshot_ids) from error
            damaged = (
                "SELECT 1 FROM lease_snapshots JOIN snapshots ON snapshots.id = snapshot_id"
                f" WHERE lease_id = ? AND {IS_HIDDEN}"
            )
            if rows.execute(damaged, (lease.id,)).fetchone():
                raise GoneError("a snapshot was found damaged before it could be leased", ids=lease.snapshot_ids)

    def release(self, lease_id: str) -> None:
        """End a lease, also where it was taken over into an index that was made anew. Raises LeaseError for one that is
        unknown or has ended, ReplacedError where that index is none that we may write to."""
        try:
            _end(self._index, lease_id)
        except ReplacedError:
            heir = self._index.heir()
            if heir is None:
                raise
            with closing(heir):
                _end(heir, lease_id)

    def renew(self, lease_id: str, duration_s: float) -> Lease:
        """Let a timed lease end ``duration_s`` from now. Raises LeaseError for an unknown, ended or process lease."""
        with self._index.write(durable=False) as rows:
            found = self._select(rows, "WHERE id = ?", (lease_id,))
            if not found or not self._alive(found[0], {}):
                raise _unknown(lease_id)
            if found[0].lease.kind != "timed":
                raise LeaseError(f"lease {lease_id} lasts as long as its process and can't be renewed")
            rows.execute(
                "UPDATE leases SET expires_at = ?, ends_boot_s = ? WHERE id = ?",
                (self._clock() + duration_s, self._clock.boot_s() + duration_s, lease_id),
            )
            return self._select(rows, "WHERE id = ?", (lease_id,))[0].lease

    def get(self, lease_id: str) -> Lease:
        """Raises LeaseError for one that is unknown or has ended."""
        with self._index.read() as rows:
            for row in self._select(rows, "WHERE id = ?", (lease_id,)):
                if self._alive(row, {}):
                    return row.lease
        raise _unknown(lease_id)

    def all(self) -> list[Lease]:
        """Leases that have not ended, oldest first."""
        states: dict[str, bool] = {}
        with self._index.read() as rows:
            return [row.lease for row in self._select(rows, "") if self._alive(row, states)]

    def ended(self, rows: sqlite3.Connection) -> list[str]:
        """Ids of leases whose rows may go."""
        states: dict[str, bool] = {}
        return [row.lease.id for row in self._select(rows, "") if not self._alive(row, states)]

    def leased(self, rows: sqlite3.Connection, snapshot_ids: Iterable[str] | None = None) -> dict[str, str]:
        """Snapshot id → id of a lease that holds it, for all of them or for some."""
        return {wanted: leases[0] for wanted, leases in self.holders(rows, snapshot_ids).items()}

    def holders(
        self, rows: sqlite3.Connection, snapshot_ids: Iterable[str] | None = None
    ) -> dict[str, tuple[str, ...]]:
        """Snapshot id → ids of the leases that hold it, oldest first; those that none holds are left out."""
        states: dict[str, bool] = {}
        wanted = None if snapshot_ids is None else set(snapshot_ids)
        held: dict[str, tuple[str, ...]] = {}
        for row in self._select(rows, ""):
            lease = row.lease
            if (wanted is None or not wanted.isdisjoint(lease.snapshot_ids)) and self._alive(row, states):
                for snapshot_id in lease.snapshot_ids:
                    if wanted is None or snapshot_id in wanted:
                        held[snapshot_id] = (*held.get(snapshot_id, ()), lease.id)
        return held

    def _select(self, rows: sqlite3.Connection, where: str, values: Sequence[object] = ()) -> list[_Row]:
        found = rows.execute(f"SELECT {_COLUMNS} FROM leases {where} ORDER BY created_at, id", tuple(values)).fetchall()
        members: dict[str, list[str]] = {}
        if found:
            question = (
                f"SELECT lease_id, snapshot_id FROM lease_snapshots WHERE lease_id IN (SELECT id FROM leases {where})"
            )
            for lease_id, snapshot_id in rows.execute(question, tuple(values)):
                members.setdefault(lease_id, []).append(snapshot_id)
        return [
            _Row(
                Lease(row[0], row[1], tuple(members.get(row[0], ())), row[3], row[4], row[2], row[5]),
                row[6] or "",
                row[7],
                row[8],
            )
            for row in found
        ]

    def _alive(self, row: _Row, owner_alive: dict[str, bool]) -> bool:
        lease = row.lease
        if another_boot(row.boot_id, self._clock.boot_id):
            return False
        if row.ends_boot_s is not None and row.ends_boot_s <= self._clock.boot_s():
            return False
        if lease.owner_pid is not None and row.birth and _process_gone(lease.owner_pid, row.birth):
            return False
        if lease.owner_id is None:
            return True
        if lease.owner_id not in owner_alive:
            owner_alive[lease.owner_id] = self._owners.state(lease.owner_id) != "dead"
        return owner_alive[lease.owner_id]

    # --- pins

    def pin(self, name: str, resource_keys: Iterable[str], principals: Mapping[str, str] | None = None) -> None:
        """Keep the Snapshots of these Resources until unpinned. The same pin again changes nothing but whose they are.

        ``principals``: key → as whom a prefetch asks for it; None leaves that as it was.
        """
        known = "principal" if principals is None else "excluded.principal"
        with self._index.write(durable=True) as rows:
            pins = [(name, key, self._clock(), (principals or {}).get(key)) for key in resource_keys]
            rows.executemany(
                "INSERT INTO pins VALUES (?, ?, ?, ?)"
                f" ON CONFLICT (name, resource_key) DO UPDATE SET principal = {known}",
                pins,
            )

    def pin_exactly(self, name: str, resource_keys: Sequence[str]) -> int:
        """Let ``name`` pin these Resources and no others; how many it pinned before and does no longer."""
        wanted = set(resource_keys)
        with self._index.write(durable=True) as rows:
            known = {key for (key,) in rows.execute("SELECT resource_key FROM pins WHERE name = ?", (name,))}
            now = self._clock()
            new = [(name, key, now) for key in sorted(wanted - known)]
            rows.executemany("INSERT INTO pins VALUES (?, ?, ?, NULL)", new)
            dropped = [(name, key) for key in sorted(known - wanted)]
            rows.executemany("DELETE FROM pins WHERE name = ? AND resource_key = ?", dropped)
        return len(dropped)

    def unpin(self, name: str) -> int:
        """Drop all pins of this name; how many there were."""
        with self._index.write(durable=True) as rows:
            return int(rows.execute("DELETE FROM pins WHERE name = ?", (name,)).rowcount)

    def pins(self) -> list[Pin]:
        with self._index.read() as rows:
            found = rows.execute("SELECT name, resource_key, created_at, principal FROM pins ORDER BY name").fetchall()
        return [Pin(*row) for row in found]


def pinned(rows: sqlite3.Connection) -> dict[str, str]:
    """Snapshot id → name of a pin that keeps it: per scope, the newest Snapshot of each pinned Resource.

    Older revisions of a pinned branch are not kept, or a pin would grow for ever. Nor is what strangers brought of the
    same Resource, where it is known as whom the pin's prefetch asks. A damaged one, which nobody is given,
    is kept for the sound files that it refers to, until there is a sound one that is as new.
    """
    found = rows.execute(
        "SELECT snapshots.id, pins.name, snapshots.key, CASE WHEN snapshots.private THEN snapshots.principal END,"
        " snapshots.private FROM snapshots"
        f" JOIN pins ON pins.resource_key = {TRUE_KEY} WHERE NOT {SUPERSEDED} AND snapshots.principal IS NOT '{NOBODY}'"
        " AND (NOT snapshots.private OR pins.principal IS NULL OR snapshots.principal = pins.principal)"
        # Of equally new ones that which a lookup gives.
        " ORDER BY snapshots.validated_at DESC, snapshots.id, pins.name"
    )
    newest: dict[tuple[object, ...], tuple[str, str]] = {}
    for snapshot_id, name, *scope in found:
        newest.setdefault(tuple(scope), (snapshot_id, name))
    return dict(newest.values())


class _Row(NamedTuple):
    """A lease with what decides whether it lives."""

    lease: Lease
    birth: str
    """Of the process that it ends with; empty if there is none."""
    ends_boot_s: float | None
    boot_id: str


def _end(index: Index, lease_id: str) -> None:
    with index.write(durable=False) as rows:
        if not rows.execute("DELETE FROM leases WHERE id = ?", (lease_id,)).rowcount:
            raise _unknown(lease_id)


def insert_lease(
    rows: sqlite3.Connection, lease: Lease, birth: str | None, ends_boot_s: float | None, boot_id: str
) -> None:
    """The row of a lease, without its Snapshots."""
    rows.execute(
        f"INSERT INTO leases ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            lease.id,
            lease.kind,
            lease.created_at,
            lease.expires_at,
            lease.owner_id,
            lease.owner_pid,
            birth,
            ends_boot_s,
            boot_id,
        ),
    )


def _unknown(lease_id: str) -> LeaseError:
    return LeaseError(
        f"there is no lease {lease_id[:80]}, or it has ended", hint="`fetcher ls --json` shows the leases there are"
    )
