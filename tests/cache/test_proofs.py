"""Proofs of access: who has one, for how long, and what ends it; what was public and is withdrawn; pins that know as
whom a prefetch asks."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from fetcher.cache.snapshots import LOOKUP
from fetcher.cache.store import Cache
from tests.cache.world import Clock, key_of, paint, publish, tree_on_disk

ALICE, BOB = "a" * 32, "b" * 32
CONTENTS = {"config.json": b"{}", "sub/weights": paint(40_000)}
MINUTE = 60.0


def prove(cache: Cache, snapshot_id: str, principal: str, *, ago_s: float = 0.0, for_s: float = 5 * MINUTE) -> None:
    cache.proofs.grant(snapshot_id, principal, asked_at_s=cache.proofs.now_s() - ago_s, for_s=for_s)


def proven(cache: Cache, snapshot_id: str, principal: str, *, for_s: float = 5 * MINUTE) -> bool:
    return cache.proofs.holds(snapshot_id, principal, for_s=for_s)


def test_a_proof_is_of_one_principal_and_one_snapshot(cache: Cache, open_cache: Callable[..., Cache]) -> None:
    one = publish(cache, "one", CONTENTS, private=True, principal=ALICE)
    two = publish(cache, "two", CONTENTS, private=True, principal=ALICE)
    assert not proven(cache, one.id, ALICE), "publishing proves nothing by itself"
    prove(cache, one.id, ALICE)
    assert proven(cache, one.id, ALICE)
    assert not proven(cache, one.id, BOB) and not proven(cache, two.id, ALICE)
    assert proven(open_cache(), one.id, ALICE), "all who have the cache open know it"


def test_a_proof_begins_when_the_origin_was_asked(cache: Cache, clock: Clock) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    prove(cache, mine.id, ALICE, ago_s=4 * MINUTE)
    assert proven(cache, mine.id, ALICE)
    clock.turn(MINUTE - 1)
    assert proven(cache, mine.id, ALICE)
    clock.turn(2)
    assert not proven(cache, mine.id, ALICE)
    prove(cache, mine.id, ALICE, ago_s=6 * MINUTE)
    assert not proven(cache, mine.id, ALICE), "the answer is older than a proof may be"


def test_no_clock_alone_keeps_a_proof(cache: Cache, clock: Clock) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    for calendar_s, boot_s in ((-3600.0, 0.0), (3600.0, 0.0), (0.0, 6 * MINUTE), (-6 * MINUTE, 6 * MINUTE)):
        prove(cache, mine.id, ALICE)
        assert proven(cache, mine.id, ALICE)
        clock.now += calendar_s
        clock.since_boot += boot_s
        assert not proven(cache, mine.id, ALICE), (calendar_s, boot_s)


def test_no_proof_outlives_the_start_of_the_machine(cache: Cache, clock: Clock) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    prove(cache, mine.id, ALICE)
    clock.boot_id = "another"
    assert not proven(cache, mine.id, ALICE)


def test_who_trusts_less_long_is_not_bound_by_an_older_proof(cache: Cache) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    prove(cache, mine.id, ALICE, for_s=3600.0)
    assert not proven(cache, mine.id, ALICE, for_s=MINUTE) and not proven(cache, mine.id, ALICE, for_s=0.0)


def test_a_refusal_takes_back_what_was_proven(cache: Cache) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    his = publish(cache, "m", CONTENTS, private=True, principal=BOB)
    other = publish(cache, "other", CONTENTS, private=True, principal=ALICE)
    for snapshot, principal in ((mine, ALICE), (his, BOB), (other, ALICE)):
        prove(cache, snapshot.id, principal)
    cache.proofs.take_back(key_of("m"), ALICE)
    assert not proven(cache, mine.id, ALICE)
    assert proven(cache, his.id, BOB) and proven(cache, other.id, ALICE), "it was about one of them"
    found = cache.lookup(key_of("m"), ALICE)
    assert found is not None and found.fresh_until == 0, "kept, and asked about again"


def test_the_index_does_not_tell_who_has_proven_what(cache: Cache) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    prove(cache, mine.id, ALICE)
    with sqlite3.connect(cache.layout.index) as rows:
        (found,) = rows.execute("SELECT * FROM proofs").fetchall()
    assert ALICE not in str(found)


def test_proofs_go_with_their_snapshot_and_with_their_time(cache: Cache, clock: Clock) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    other = publish(cache, "other", CONTENTS, private=True, principal=ALICE)
    prove(cache, mine.id, ALICE)
    cache.remove([mine.id], force=True)
    prove(cache, mine.id, ALICE)  # no such Snapshot any more: nothing to prove, and no error
    prove(cache, other.id, ALICE)
    clock.turn(6 * MINUTE)
    prove(cache, other.id, BOB)
    with cache.index.read() as rows:
        assert rows.execute("SELECT COUNT(*) FROM proofs").fetchone() == (1,)


# --- withdrawn -------------------------------------------------------------------------------------------------------


def test_what_is_withdrawn_is_given_to_nobody_and_taken_from_nobody(cache: Cache) -> None:
    public = publish(cache, "m", CONTENTS)
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    lease = cache.lease_timed([public.id], 3600.0)
    assert cache.withdraw(key_of("m")) == (public.id,) and cache.withdraw(key_of("m")) == ()
    assert cache.lookup(key_of("m"), None) is None and cache.lookup(key_of("m"), BOB) is None
    assert cache.lookup(key_of("m"), ALICE) == mine
    assert tree_on_disk(public.path) == dict(CONTENTS) and cache.lease(lease.id).snapshot_ids == (public.id,)
    found = cache.get_snapshot(public.id)
    assert found is not None and found.withdrawn and not mine.withdrawn


def test_public_again_is_another_snapshot(cache: Cache) -> None:
    first = publish(cache, "m", CONTENTS)
    cache.withdraw(key_of("m"))
    second = publish(cache, "m", CONTENTS)
    assert second.id != first.id and cache.lookup(key_of("m"), None) == second


def test_an_index_made_anew_does_not_make_it_public(open_cache: Callable[..., Cache], place: Path) -> None:
    cache = open_cache()
    public = publish(cache, "m", CONTENTS)
    cache.withdraw(key_of("m"))
    cache.close()
    for path in place.glob("index-v1.sqlite*"):
        os.unlink(path)
    again = open_cache()
    assert again.recovery.adopted == (public.id,)
    assert again.lookup(key_of("m"), None) is None and again.get_snapshot(public.id).withdrawn  # type: ignore[union-attr]


def test_a_pin_does_not_keep_what_is_withdrawn(cache: Cache, clock: Clock) -> None:
    public = publish(cache, "m", CONTENTS)
    cache.pin("market:one", key_of("m"))
    cache.withdraw(key_of("m"))
    clock.turn(90_000.0)
    assert cache.gc(at_once=True).snapshots == (public.id,)


# --- pins that may be shared -----------------------------------------------------------------------------------------


def test_shared_is_what_the_pins_own_prefetch_got(cache: Cache) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    publish(cache, "m", CONTENTS, private=True, principal=BOB)
    cache.pin("market:one", key_of("m"))
    assert cache.shared(key_of("m"), "market:one") is None, "who pins by hand says nothing of whose it is"
    cache.pin("market:one", key_of("m"), principals={key_of("m"): ALICE})
    assert cache.shared(key_of("m"), "market:one") == mine
    assert cache.shared(key_of("m"), "market:two") is None and cache.shared(key_of("other"), "market:one") is None
    cache.pin("market:one", key_of("m"))
    assert cache.pins()[0].principal == ALICE, "pinned by hand as well, it stays the prefetch's"
    cache.pin("market:one", key_of("m"), principals={})
    assert cache.shared(key_of("m"), "market:one") is None, "the prefetch asks without a credential now"


def test_an_index_made_anew_knows_whose_pins_are(open_cache: Callable[..., Cache], place: Path) -> None:
    cache = open_cache()
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    cache.pin("market:one", key_of("m"), principals={key_of("m"): ALICE})
    cache.close()
    with sqlite3.connect(place / "index-v1.sqlite") as rows:
        rows.execute("PRAGMA user_version=2")
    again = open_cache()
    assert again.recovery.outdated and again.shared(key_of("m"), "market:one") == mine


def test_a_refusal_to_who_has_nothing_costs_no_write(cache: Cache) -> None:
    """Else how long it takes would tell who has something, and strangers could keep the disk busy."""
    publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    before = cache.layout.index.with_name("index-v1.sqlite-wal").stat().st_size
    for key in (key_of("m"), key_of("other")):
        cache.proofs.take_back(key, BOB)
    assert cache.layout.index.with_name("index-v1.sqlite-wal").stat().st_size == before


def test_a_lookup_does_not_touch_rows_of_others(cache: Cache) -> None:
    """It searches by principal: what it takes does not depend on what others have."""
    with cache.index.read() as rows:
        plan = str(rows.execute(f"EXPLAIN QUERY PLAN {LOOKUP}", ("k", "k", BOB, None, None)).fetchall())
    assert "(key=? AND private=? AND principal=?)" in plan


def test_a_pin_keeps_what_its_prefetch_got_and_not_what_strangers_brought(cache: Cache, clock: Clock) -> None:
    mine = publish(cache, "m", CONTENTS, private=True, principal=ALICE)
    theirs = publish(cache, "m", CONTENTS, private=True, principal=BOB)
    public = publish(cache, "m", {**CONTENTS, "more": b"x"})
    cache.pin("market:one", key_of("m"), principals={key_of("m"): ALICE})
    clock.turn(90_000.0)
    assert cache.gc(at_once=True).snapshots == (theirs.id,)
    assert {found.id for found in cache.snapshots()} == {mine.id, public.id}
    cache.pin("by hand", key_of("m"))
    again = publish(cache, "m", CONTENTS, private=True, principal=BOB)
    clock.turn(90_000.0)
    assert cache.gc(at_once=True).snapshots == () and cache.get_snapshot(again.id), "by hand: all that are here"
