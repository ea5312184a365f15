"""Time as the cache sees it: leases count by the boot's clock, retention moves with a calendar that is set, and a new
boot voids every right of use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fetcher.cache import clock as clock_room
from fetcher.cache import timekeeping
from fetcher.cache.clock import SystemClock
from fetcher.cache.store import Cache
from fetcher.cache.timekeeping import JUMP_S, Ages, Jump
from fetcher.errors import CacheError
from tests.cache.world import (
    MIB,
    ROOT_OF_CHECKOUT,
    Clock,
    block_of,
    child,
    collect_twice,
    head_of,
    key_of,
    paint,
    publish,
    told,
    tree_on_disk,
)

DAY_S = 86_400.0
BOTH_WAYS = [10 * DAY_S, -10 * DAY_S, 3600.0, -3600.0]


def settled(cache: Cache) -> Cache:
    """After a jump: whoever looks up, or opens, or collects, notices it."""
    cache.lookup("0" * 64, None)
    return cache


# --- leases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", BOTH_WAYS)
def test_no_jump_ends_or_prolongs_a_lease(cache: Cache, clock: Clock, jump_s: float) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=1.0)
    lease = cache.lease_timed([snapshot.id], 100.0)
    clock.jump(jump_s)
    settled(cache)
    clock.turn(99)
    (known,) = cache.leases()
    assert known.id == lease.id
    assert known.expires_at == pytest.approx(clock() + 1), "and people are told in the calendar's terms"
    assert collect_nothing(cache)
    clock.turn(1)
    assert cache.leases() == []
    assert cache.gc().snapshots == (snapshot.id,)


def collect_nothing(cache: Cache) -> bool:
    return cache.gc().snapshots == () and cache.gc(at_once=True).snapshots == ()


@pytest.mark.parametrize("jump_s", BOTH_WAYS)
def test_a_lease_is_renewed_from_now_whatever_the_calendar_says(cache: Cache, clock: Clock, jump_s: float) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    lease = cache.lease_timed([snapshot.id], 100.0)
    clock.jump(jump_s)
    renewed = cache.lease_renew(lease.id, 100.0)
    assert renewed.expires_at == clock() + 100
    clock.turn(99)
    assert [known.id for known in cache.leases()] == [lease.id]
    clock.turn(2)
    assert cache.leases() == []


@pytest.mark.parametrize("kind", ["timed", "process", "with-pid"])
def test_a_new_boot_voids_all_leases(cache: Cache, open_cache: Callable[..., Cache], clock: Clock, kind: str) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=1.0)
    if kind == "process":
        cache.lease_process([snapshot.id])
    else:
        cache.lease_timed([snapshot.id], 10 * DAY_S, owner_pid=os.getpid() if kind == "with-pid" else None)
    assert len(cache.leases()) == 1
    clock.reboot()
    after = open_cache()
    assert after.leases() == []
    report = after.gc()
    assert (report.leases_ended, report.snapshots) == (1, (snapshot.id,))


def test_a_new_boot_ends_private_copies_and_keeps_pins(
    cache: Cache, open_cache: Callable[..., Cache], clock: Clock
) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=1.0)
    lease = cache.lease_timed([snapshot.id], DAY_S)
    copy = cache.copy_adopt(cache.copy_stage(snapshot.id), lease.id, 0)
    cache.pin("market:one", key_of("m"))
    clock.reboot(3600)
    after = open_cache()
    report = after.gc()
    assert (report.copies, report.snapshots) == (1, ()) and not copy.exists()
    assert tree_on_disk(snapshot.path) == {"f": b"x"}


def test_a_jump_that_could_not_be_written_down_is_not_forgotten(cache: Cache, clock: Clock) -> None:
    """The index was busy just then: the next call moves the rows."""
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=DAY_S)
    clock.jump(3 * DAY_S)

    def busy(*_: object) -> None:
        raise CacheError("the index can't be used: database is locked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timekeeping, "settle", busy)
        with pytest.raises(CacheError, match="locked"):
            cache.lookup(key_of("m"), None)
    assert collect_nothing(cache)
    assert [found.id for found in cache.snapshots()] == [snapshot.id]


# --- freshness and keeping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [10 * DAY_S, -10 * DAY_S])
def test_what_was_just_downloaded_is_kept_for_its_time_whatever_the_calendar_says(
    cache: Cache, clock: Clock, jump_s: float
) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=1000.0)
    clock.turn(400)
    clock.jump(jump_s)
    settled(cache)
    clock.turn(599)
    assert collect_nothing(cache)
    clock.turn(2)
    assert cache.gc().snapshots == (snapshot.id,)


def test_set_back_nothing_is_fresh_for_longer(cache: Cache, clock: Clock) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, fresh_for_s=1000.0)
    clock.turn(400)
    clock.jump(-30 * DAY_S)
    found = settled(cache).lookup(key_of("m"), None)
    assert found is not None and found.fresh(clock())
    assert found.downloaded_at == pytest.approx(snapshot.downloaded_at - 30 * DAY_S)
    clock.turn(601)
    found = cache.lookup(key_of("m"), None)
    assert found is not None and not found.fresh(clock())


def test_set_forward_it_is_asked_about_once_more(cache: Cache, clock: Clock) -> None:
    """A machine that was frozen looks the same: the origin may have had days."""
    snapshot = publish(cache, "m", {"f": b"x"}, fresh_for_s=1000.0)
    clock.jump(DAY_S)
    found = settled(cache).lookup(key_of("m"), None)
    assert found is not None and found.id == snapshot.id and not found.fresh(clock())
    assert cache.revalidate(snapshot.id, 1000.0, 1000.0).fresh(clock())


def test_the_order_of_last_use_survives_a_jump(cache: Cache, clock: Clock) -> None:
    old = publish(cache, "old", {"f": b"old"})
    clock.turn(100)
    new = publish(cache, "new", {"f": b"new"})
    clock.jump(-DAY_S)
    settled(cache)
    clock.turn(1)
    latest = publish(cache, "latest", {"f": b"latest"})
    assert [item.snapshot_id for item in cache.space().evictable] == [old.id, new.id, latest.id]


def test_drift_moves_nothing(cache: Cache, clock: Clock) -> None:
    before = publish(cache, "m", {"f": b"x"})
    clock.jump(JUMP_S - 1)
    assert settled(cache).get_snapshot(before.id) == before


def test_two_who_notice_one_jump_move_the_rows_once(
    cache: Cache, open_cache: Callable[..., Cache], clock: Clock
) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    other = open_cache()
    clock.jump(-DAY_S)
    settled(cache)
    settled(other)
    open_cache()
    found = cache.get_snapshot(snapshot.id)
    assert found is not None and found.keep_until == pytest.approx(snapshot.keep_until - DAY_S)


def test_after_a_boot_with_an_empty_battery(cache: Cache, open_cache: Callable[..., Cache], clock: Clock) -> None:
    """The machine wakes up in 1970 and is told the time later; what is in the cache outlives both."""
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=DAY_S)
    today = clock()
    clock.reboot()
    clock.now = 100.0
    waking = open_cache()
    found = waking.lookup(key_of("m"), None)
    assert found is not None and not found.fresh(clock()), "nothing tells how old it is"
    assert collect_nothing(waking)
    clock.turn(600)
    clock.now = today + 700
    settled(waking)
    assert collect_nothing(waking)
    found = waking.get_snapshot(snapshot.id)
    assert found is not None and today < found.keep_until <= clock() + DAY_S


def test_what_came_from_the_future_does_not_stay_for_ever(
    cache: Cache, open_cache: Callable[..., Cache], clock: Clock
) -> None:
    clock.jump(100 * 365 * DAY_S)
    settled(cache)
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=100.0, fresh_for_s=100.0)
    clock.reboot(-100 * 365 * DAY_S)
    after = open_cache()
    found = after.get_snapshot(snapshot.id)
    assert found is not None and not found.fresh(clock()) and found.last_used_at <= clock()
    clock.turn(101)
    assert after.gc().snapshots == (snapshot.id,)


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_jump_does_not_age_what_can_be_resumed(open_cache: Callable[..., Cache], clock: Clock) -> None:
    one, two = open_cache(), open_cache()
    data = paint(2 * MIB)
    partial = one.partial_open(head_of(data))
    partial.write_block(0, block_of(data, 0))
    partial.close()
    one.close()
    clock.jump(30 * DAY_S)
    settled(two)
    assert two.gc().partials == 0
    clock.turn(two.settings.partial_keep_s + JUMP_S)
    assert two.gc().partials == 1


def test_several_jumps_do_not_age_what_can_be_resumed(open_cache: Callable[..., Cache], clock: Clock) -> None:
    """A host wakes up in 1970, is told the time, and is corrected by a minute and a half."""
    today, clock.now = clock.now, 1000.0
    one, two = open_cache(), open_cache()
    data = paint(2 * MIB)
    partial = one.partial_open(head_of(data))
    partial.write_block(0, block_of(data, 0))
    partial.close()
    one.close()
    (left,) = two.layout.partials.iterdir()
    for path in left.iterdir():
        os.utime(path, (clock.now, clock.now))
    for jump_s in (today, -90.0, 3600.0, -7200.0):
        clock.turn(60)
        clock.jump(jump_s)
        settled(two)
        assert two.gc().partials == 0
    clock.turn(two.settings.partial_keep_s - 300)
    assert two.gc().partials == 0
    clock.turn(300 + 10 * JUMP_S)
    assert two.gc().partials == 1


def test_ages() -> None:
    """Set from 1,000 to 5,000, from 5,100 back to 4,000, from 4,050 to 9,000; now it is 9,007."""
    jumps = (Jump(1000, 4000), Jump(5100, -1100), Jump(4050, 4950))
    ages = Ages(9007.0, jumps)
    assert ages.age_s(9000.0) == 7
    assert ages.age_s(4020.0) == 7 + 30
    assert ages.age_s(5090.0) == 7 + 50 + 10
    assert ages.age_s(100.0) == 7 + 50 + 100 + 900
    assert ages.age_s(3000.0) == 7 + 1050, "set back, and files were written before that was noticed"
    assert ages.age_s(7000.0) == 2007, "set forward, and files were written before that was noticed"
    assert Ages(10.0).age_s(200.0) == -190


def test_strangers_from_the_future_get_their_grace_and_go(cache: Cache, clock: Clock) -> None:
    strange = cache.layout.snapshots / ("f" * 64)
    strange.mkdir()
    os.utime(strange, (clock() + 1000 * DAY_S, clock() + 1000 * DAY_S))
    assert cache.gc().leftovers == 0
    clock.turn(cache.settings.gc_grace_s + 1)
    assert cache.gc().leftovers == 1


def test_what_was_condemned_goes_after_its_grace_also_if_the_calendar_is_set_back(cache: Cache, clock: Clock) -> None:
    publish(cache, "m", {"f": paint(2 * MIB)}, keep_for_s=10.0)
    clock.turn(11)
    cache.gc()
    clock.jump(-DAY_S)
    report = collect_twice(cache, clock)
    assert report.blobs == 1 and list(cache.layout.snapshots.iterdir()) == []


def test_a_living_owner_is_not_lost_by_a_jump(cache: Cache, clock: Clock) -> None:
    """Others would copy what it has and fetch beside it."""
    owner_id = cache.owner.id
    cache.owner.beat()
    for jump_s in BOTH_WAYS:
        clock.jump(jump_s)
        assert cache._owners.state(owner_id) == "alive"


@pytest.mark.parametrize("pair", [("", "a"), ("a", ""), ("", ""), ("a", "a")])
def test_a_boot_that_is_not_told_is_no_other_one(pair: tuple[str, str]) -> None:
    """Some containers have a file of their own in place of the kernel's id."""
    assert not clock_room.another_boot(*pair) and clock_room.another_boot("a", "b")


@pytest.mark.needs("root", "mountns")
def test_a_boot_id_of_a_containers_own_voids_nobodys_lease(cache: Cache, tmp_path: Path) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=1.0)
    lease = cache.lease_timed([snapshot.id], 1000.0)
    own = tmp_path / "boot_id"
    own.write_text("11111111-2222-3333-4444-555555555555\n")
    script = f'mount --bind {own} /proc/sys/kernel/random/boot_id && exec "$@"'
    with child(
        "lease-timed", cache.layout.cache_dir, "m", "100", prefix=("unshare", "--mount", "sh", "-c", script, "sh")
    ) as it:
        assert told(it)["left_s"] > 0
    assert lease.id in {known.id for known in cache.leases()} and len(cache.leases()) == 2


# --- the machine's own clock -----------------------------------------------------------------------------------------


def test_the_machines_clock() -> None:
    clock = SystemClock()
    assert clock() == pytest.approx(time.time(), abs=5)
    before = clock.boot_s()
    assert 0 < before <= clock.boot_s() < clock()
    assert clock.boot_id == clock_room.machine_boot_id() != ""


def test_a_plain_callable_turns_both_clocks() -> None:
    ahead_s = 5000.0
    turned = clock_room.of(lambda: time.time() + ahead_s)
    assert turned.boot_s() == pytest.approx(SystemClock().boot_s() + ahead_s, abs=5)
    assert clock_room.of(turned) is turned


def test_a_time_namespace_is_seen_through(monkeypatch: pytest.MonkeyPatch) -> None:
    here = SystemClock().boot_s()
    monkeypatch.setattr(clock_room, "_offset_s", 1234.5)
    assert SystemClock().boot_s() == pytest.approx(here - 1234.5, abs=5)


@pytest.mark.needs("root", "debian:unshare")
def test_in_a_time_namespace_a_lease_ends_when_it_ends_elsewhere(cache: Cache) -> None:
    publish(cache, "m", {"f": b"x"})
    with child(
        "lease-timed", cache.layout.cache_dir, "m", "100", prefix=("unshare", "--time", "--boottime", "7777")
    ) as it:
        answer = told(it)
    assert 0 < answer["left_s"] <= 100
    (known,) = Cache.open(cache.settings).leases()
    assert known.id == answer["lease"]


@pytest.mark.needs("debian:faketime")
def test_a_program_under_another_calendar(cache: Cache) -> None:
    """One process whose calendar is a month ahead, and the next one with the right one: what is pinned, leased or young
    stays, and its times are what they were."""
    snapshot = publish(cache, "m", {"f": b"x"})
    script = (
        "import sys; from pathlib import Path; from fetcher.cache.store import Cache\n"
        "from tests.cache.world import settings, key_of\n"
        "with Cache.open(settings(Path(sys.argv[1]))) as cache:\n"
        "    print(cache.gc().snapshots, cache.lookup(key_of('m'), None).id)\n"
    )
    for program in (["faketime", "-f", "+30d"], ["faketime", "-f", "-30d"], []):
        answer = subprocess.run(
            [*program, sys.executable, "-c", script, str(cache.layout.cache_dir)],
            cwd=ROOT_OF_CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT_OF_CHECKOUT), "DONT_FAKE_MONOTONIC": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.stdout == f"() {snapshot.id}\n", answer.stdout + answer.stderr
    found = cache.get_snapshot(snapshot.id)
    assert found is not None and found.keep_until == pytest.approx(snapshot.keep_until, abs=2 * JUMP_S)
