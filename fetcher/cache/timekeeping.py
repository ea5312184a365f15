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

from fetcher.cache.clock import Clock, another_boot
from fetcher.cache.index import Index, Rows
from fetcher.cache.snapshots import HANDED_OUT_S

JUMP_S = 60.0
"""Less is drift that NTP takes out bit by bit; it moves nothing."""
JUMPS_MAX = 8
"""So many are remembered within one boot."""
_NAME = "clock"


@dataclass(frozen=True, slots=True)
class Jump:
    """The calendar was set."""

    before: float
    """What it would have said when that was noticed."""
    jump_s: float

    @property
    def after(self) -> float:
        return self.before + self.jump_s


@dataclass(frozen=True, slots=True)
class Memory:
    """What the index remembers of the calendar."""

    boot_id: str
    ahead_s: float
    """How far the calendar was ahead of the boot's clock."""
    jumps: tuple[Jump, ...] = ()
    """How it was set within this boot, the first first."""

    @classmethod
    def parse(cls, text: str) -> Memory:
        """Raises ValueError."""
        boot_id, ahead_s, *rest = text.split(" ")
        numbers = [float(number) for number in rest]
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return cls("" if boot_id == "-" else boot_id, float(ahead_s), tuple(Jump(*pair) for pair in pairs))

    def __str__(self) -> str:
        numbers = [self.ahead_s, *(number for jump in self.jumps for number in (jump.before, jump.jump_s))]
        return " ".join((self.boot_id or "-", *map(repr, numbers)))


@dataclass(frozen=True, slots=True)
class Ages:
    """How old files are that bear calendar times, where the calendar may have been set since."""

    now: float
    jumps: tuple[Jump, ...] = ()

    def age_s(self, modified_at: float) -> float:
        """The least age that this time can mean: nothing goes too early. Negative: it is still to come, and nothing
        tells why."""
        least = None
        passed_s, now = 0.0, self.now
        for jump in (*reversed(self.jumps), None):
            # Set forward, the calendar began this stretch at that reading. Set back, perhaps before it was noticed.
            began = jump.after - JUMP_S if jump is not None and jump.jump_s > 0 else float("-inf")
            if began <= modified_at <= now + JUMP_S:
                age_s = passed_s + max(0.0, now - modified_at)
                least = age_s if least is None else min(least, age_s)
            if jump is not None:
                passed_s += now - jump.after
                now = jump.before
        return self.now - modified_at if least is None else least


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
        same_boot = found is not None and not another_boot(found.boot_id, clock.boot_id)
        jump_s = ahead_s - found.ahead_s if found is not None and same_boot else 0.0
        jumps = found.jumps if found is not None and same_boot else ()
        if jump_s:
            _move(rows, jump_s)
            jumps = (*jumps, Jump(now - jump_s, jump_s))[-JUMPS_MAX:]
        _pull_back(rows, now + JUMP_S, now)
        memory = Memory(clock.boot_id, ahead_s, jumps)
        rows.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_NAME, str(memory)))
    return jump_s


def ages(rows: Rows, clock: Clock) -> Ages:
    """For judging files; ``settle`` has been called."""
    found = _remembered(rows)
    if found is None or another_boot(found.boot_id, clock.boot_id):
        return Ages(clock())
    return Ages(clock(), found.jumps)


def _changed(found: Memory | None, clock: Clock) -> bool:
    if found is None or another_boot(found.boot_id, clock.boot_id):
        return True
    return abs(clock() - clock.boot_s() - found.ahead_s) > JUMP_S


def _remembered(rows: Rows) -> Memory | None:
    row = rows.execute("SELECT value FROM meta WHERE name = ?", (_NAME,)).fetchone()
    try:
        return None if row is None else Memory.parse(str(row[0]))
    except ValueError:
        return None


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
