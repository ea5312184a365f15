"""What becomes of the times in the index when somebody sets the calendar. Leases need none of this: they count by the
boot's clock.

The index remembers by how much the calendar is ahead of the boot's clock. If that has changed within one boot, the
calendar was set (a host without a battery wakes up in 1970 and is told the time minutes later), and the times of all
rows are moved with it: what was downloaded ten minutes ago is ten minutes old, whatever the calendar says now. Only
freshness is never moved forward: a machine that was frozen and goes on looks the same, and asking an origin once more
costs one request.

Across boots nothing tells how much time passed but the calendar itself. Times in the future are then taken for now.
"""

from __future__ import annotations

from dataclasses import dataclass

from fetcher.cache.clock import Clock
from fetcher.cache.index import Index, Rows
from fetcher.cache.snapshots import HANDED_OUT_S

JUMP_S = 60.0
"""Less is drift that NTP takes out bit by bit; it moves nothing."""
_NAME = "clock"


@dataclass(frozen=True, slots=True)
class Memory:
    """What the index remembers of the calendar."""

    boot_id: str
    ahead_s: float
    """How far the calendar was ahead of the boot's clock."""
    jump_s: float = 0.0
    """By how much it was set the last time within this boot; 0: it was not."""
    before: float = 0.0
    """What the calendar would have said when that was noticed: what bears a later time was made since."""


@dataclass(frozen=True, slots=True)
class Ages:
    """How old files are that bear calendar times, where the calendar may have been set since."""

    now: float
    jump_s: float
    before: float

    def age_s(self, modified_at: float) -> float:
        """Negative: that time is still to come, and nothing tells why."""
        age_s = self.now - modified_at
        set_forward = self.jump_s > 0 and modified_at <= self.before + JUMP_S
        set_back = self.jump_s < 0 and age_s < 0
        return age_s - self.jump_s if set_forward or set_back else age_s


def settle(index: Index, clock: Clock) -> float:
    """Compare the calendar with what the index remembers, and move the rows if it was set; returns by how much.

    Costs one SELECT unless something has changed.
    """
    with index.read() as rows:
        if not _changed(_remembered(rows), clock):
            return 0.0
    with index.write(durable=True) as rows:
        found = _remembered(rows)
        if not _changed(found, clock):  # somebody was faster
            return 0.0
        now = clock()
        ahead_s = now - clock.boot_s()
        jump_s = ahead_s - found.ahead_s if found is not None and found.boot_id == clock.boot_id else 0.0
        if jump_s:
            _move(rows, jump_s)
        _pull_back(rows, now + JUMP_S, now)
        value = f"{clock.boot_id or '-'} {ahead_s!r} {jump_s!r} {now - jump_s!r}"
        rows.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_NAME, value))
    return jump_s


def ages(rows: Rows, clock: Clock) -> Ages:
    """For judging files; ``settle`` has been called."""
    found = _remembered(rows)
    if found is None or found.boot_id != clock.boot_id:
        return Ages(clock(), 0.0, 0.0)
    return Ages(clock(), found.jump_s, found.before)


def _changed(found: Memory | None, clock: Clock) -> bool:
    return found is None or found.boot_id != clock.boot_id or abs(clock() - clock.boot_s() - found.ahead_s) > JUMP_S


def _remembered(rows: Rows) -> Memory | None:
    row = rows.execute("SELECT value FROM meta WHERE name = ?", (_NAME,)).fetchone()
    if row is None:
        return None
    try:
        boot_id, *numbers = str(row[0]).split(" ")
        ahead_s, jump_s, before = map(float, numbers)
    except ValueError:
        return None
    return Memory("" if boot_id == "-" else boot_id, ahead_s, jump_s, before)


def _move(rows: Rows, jump_s: float) -> None:
    rows.execute(
        "UPDATE snapshots SET last_used_at = last_used_at + :jump, keep_until = keep_until + :jump,"
        " downloaded_at = downloaded_at + MIN(:jump, 0), validated_at = validated_at + MIN(:jump, 0),"
        " fresh_until = fresh_until + MIN(:jump, 0)",
        {"jump": jump_s},
    )
    rows.execute("UPDATE blobs SET used_at = used_at + ?", (jump_s,))
    rows.execute("UPDATE leases SET created_at = created_at + :jump, expires_at = expires_at + :jump", {"jump": jump_s})


def _pull_back(rows: Rows, future: float, now: float) -> None:
    """What says that it happened in the future happened under a wrong calendar: it has the age of what happens now, and
    is no longer taken for fresh."""
    times = {"future": future, "now": now, "told": HANDED_OUT_S}
    for change in (
        "snapshots SET fresh_until = MIN(fresh_until, :now), validated_at = :now WHERE validated_at > :future",
        "snapshots SET downloaded_at = :now WHERE downloaded_at > :future",
        "snapshots SET last_used_at = :now WHERE last_used_at > :future",
        "snapshots SET keep_until = :now + keep_for_s WHERE keep_until > :future + MAX(keep_for_s, :told)",
        "blobs SET used_at = :now WHERE used_at > :future",
    ):
        rows.execute(f"UPDATE {change}", times)
