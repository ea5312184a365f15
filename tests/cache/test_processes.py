"""Several processes at one cache: who lives, who fetches, whose rights end with whom."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fetcher.cache.records import GoneError
from fetcher.cache.store import Cache
from fetcher.errors import CacheError, InternalError, LeaseError
from tests.cache.asking import claimed
from tests.cache.world import Clock, assert_sound, child, files_below, head_of, publish, settings, tell, told

CONTENT = "c" * 64


def test_an_owner_is_alive_until_it_is_gone(place: Path) -> None:
    with child("claim", place, CONTENT) as other, Cache.open(settings(place)) as cache:
        owner = told(other)["owner"]
        assert cache._owners.state(owner) == "alive"
        assert cache._owners.state(cache.owner.id) == "alive"
        other.kill()
        other.wait()
        assert cache._owners.state(owner) == "dead"
    assert cache._owners.state(cache.owner.id) == "dead"


def test_a_silent_owner_is_lost_and_comes_back(place: Path) -> None:
    with child("claim", place, CONTENT) as other, Cache.open(settings(place, owner_lost_after_s=0.5)) as cache:
        owner = told(other)["owner"]
        other.send_signal(signal.SIGSTOP)
        await_state(cache, owner, "lost")
        other.send_signal(signal.SIGCONT)
        await_state(cache, owner, "alive")


def await_state(cache: Cache, owner: str, state: str) -> None:
    deadline = time.monotonic() + 20
    while cache._owners.state(owner) != state:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_owner_whose_loop_is_held_up_is_lost_until_it_turns_again(place: Path) -> None:
    asked: list[Callable[[], None]] = []
    options = settings(place, heartbeat_s=0.1, owner_lost_after_s=1.0)
    with Cache.open(options) as cache, Cache.open(options) as other, Cache.open(options) as looking:
        with other.owner.answering(lambda answer: answer()), cache.owner.answering(asked.append):
            await_state(looking, cache.owner.id, "lost")
            await_state(looking, other.owner.id, "alive")
            assert len(asked) == 1, "nobody is asked again before he has answered"
            asked.pop()()
            await_state(looking, cache.owner.id, "alive")
            await_state(looking, cache.owner.id, "lost")
            with cache.owner.answering(lambda answer: answer()):
                time.sleep(0.5)
                assert looking._owners.state(cache.owner.id) == "lost", "a loop that turns does not answer for another"
        await_state(looking, cache.owner.id, "alive")


def test_an_owner_whose_loop_was_closed_with_its_run_in_the_middle_is_lost(place: Path) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with Cache.open(settings(place, heartbeat_s=0.1, owner_lost_after_s=1.0)) as cache:
        with cache.owner.answering(loop.call_soon_threadsafe):
            await_state(cache, cache.owner.id, "lost")
        await_state(cache, cache.owner.id, "alive")


def test_two_who_look_do_not_take_each_other_for_the_owner(cache: Cache, open_cache: Callable[..., Cache]) -> None:
    import fcntl

    gone = open_cache()
    owner = gone.owner.id
    gone.owner.close(keep_file=True)
    with cache.layout.owner(owner).open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert cache._owners.state(owner) == "dead"


def test_a_flight_has_one_owner(place: Path) -> None:
    with child("race", place, CONTENT) as one, child("race", place, CONTENT) as two:
        owners = [told(one)["owner"], told(two)["owner"]]
        tell(one, "go")
        tell(two, "go")
        answers = [told(one), told(two)]
    assert sorted(answer["mine"] for answer in answers) == [False, True]
    assert answers[0]["holder"] == answers[1]["holder"] in owners


def test_who_claims_between_our_look_and_our_transaction_has_it(
    open_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = open_cache(), open_cache()
    real = one.index.write

    def late(**options: bool) -> object:
        claimed(two, CONTENT, 1)
        return real(**options)

    monkeypatch.setattr(one.index, "write", late)
    claim = claimed(one, CONTENT, 1)
    assert (claim.mine, claim.owner_id) == (False, two.owner.id)


def test_a_dead_owners_flight_is_taken_over(place: Path) -> None:
    with child("claim", place, CONTENT) as other, Cache.open(settings(place)) as cache:
        owner = told(other)["owner"]
        waiting = claimed(cache, CONTENT, 1)
        assert (waiting.mine, waiting.owner_id, waiting.owner_state) == (False, owner, "alive")
        other.kill()
        other.wait()
        mine = claimed(cache, CONTENT, 1)
        assert (mine.mine, mine.owner_id, mine.previous_owner) == (True, cache.owner.id, owner)
        again = claimed(cache, CONTENT, 1)
        assert (again.mine, again.previous_owner) == (True, None)


def test_progress_is_seen_and_release_frees(open_cache: Callable[..., Cache]) -> None:
    one, two = open_cache(), open_cache()
    claims = one.flights.claim([(f"{number:064x}", 10) for number in range(3)])
    assert all(claim.mine for claim in claims)
    one.flights.progress([(f"{number:064x}", number) for number in range(3)])
    two.flights.progress([(f"{2:064x}", 99)])  # not its flight
    two.flights.release([f"{2:064x}"])
    seen = two.flights.claim([(f"{number:064x}", 10) for number in range(4)])
    assert [(claim.mine, claim.bytes_proven) for claim in seen] == [(False, 0), (False, 1), (False, 2), (True, 0)]
    one.flights.release([f"{number:064x}" for number in range(3)])
    assert claimed(two, f"{1:064x}", 10).mine


def test_a_process_lease_ends_with_its_process(place: Path) -> None:
    clock = Clock()
    with Cache.open(settings(place), clock=clock) as cache:
        snapshot = publish(cache, "m", {"f": b"x"})
        clock.turn(100_000)
        with child("lease", place, "m") as other:
            lease_id = told(other)["lease"]
            assert [lease.id for lease in cache.leases()] == [lease_id]
            assert cache.gc().snapshots == ()
            with pytest.raises(LeaseError, match=lease_id):
                cache.remove([snapshot.id])
            other.kill()
            other.wait()
        assert cache.leases() == []
        report = cache.gc()
        assert (report.snapshots, report.leases_ended) == ((snapshot.id,), 1)


def test_a_process_lease_ends_with_its_cache(open_cache: Callable[..., Cache]) -> None:
    one, two = open_cache(), open_cache()
    snapshot = publish(one, "m", {"f": b"x"})
    one.lease_process([snapshot.id])
    assert len(two.leases()) == 1
    one.close()
    assert two.leases() == []


def test_a_stopped_process_keeps_its_lease(place: Path) -> None:
    with Cache.open(settings(place, owner_lost_after_s=0.3)) as cache:
        snapshot = publish(cache, "m", {"f": b"x"})
        with child("lease", place, "m") as other:
            owner = told(other)["owner"]
            other.send_signal(signal.SIGSTOP)
            await_state(cache, owner, "lost")
            with pytest.raises(LeaseError):
                cache.remove([snapshot.id])


def test_a_timed_lease_may_end_with_a_process(cache: Cache) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    with child("claim", cache.layout.cache_dir, CONTENT) as other:
        told(other)
        lease = cache.lease_timed([snapshot.id], 1000, owner_pid=other.pid)
        assert cache.leases() == [lease]
        other.kill()
        other.wait()
    assert cache.leases() == []
    with pytest.raises(LeaseError, match="no lease"):
        cache.lease_renew(lease.id, 10)
    with pytest.raises(LeaseError, match="no process"):
        cache.lease_timed([snapshot.id], 1000, owner_pid=1 << 30)


def test_a_pid_used_again_is_another_process(cache: Cache) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    cache.lease_timed([snapshot.id], 1000, owner_pid=os.getpid())
    with cache.index.write(durable=False) as rows:
        (birth,) = rows.execute("SELECT owner_pid_birth FROM leases").fetchone()
        boot, namespace, started = birth.split(":")
        rows.execute("UPDATE leases SET owner_pid_birth = ?", (f"{boot}:{namespace}:{int(started) - 1}",))
    assert cache.leases() == []
    with cache.index.write(durable=False) as rows:
        rows.execute("UPDATE leases SET owner_pid_birth = ?", (f"{boot}:1:{started}",))
    assert len(cache.leases()) == 1, "pids of another namespace tell us nothing"
    with cache.index.write(durable=False) as rows:
        rows.execute("UPDATE leases SET owner_pid_birth = ?", (f"other-boot:1:{started}",))
    assert cache.leases() == []


def test_what_is_gone_can_not_be_leased(cache: Cache) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    other = publish(cache, "n", {"f": b"y"})
    cache.remove([snapshot.id])
    for take in (lambda ids: cache.lease_timed(ids, 10), cache.lease_process):
        with pytest.raises(GoneError):
            take([other.id, snapshot.id])
    assert cache.leases() == [], "all or nothing"


def test_many_publish_the_same(place: Path) -> None:
    with child("publish-same", place, "8") as one, child("publish-same", place, "8") as two:
        told(one)
        told(two)
        tell(one, "go")
        tell(two, "go")
        assert told(one) == told(two) == {"done": True}
    with Cache.open(settings(place)) as cache:
        assert len(cache.snapshots()) == 8
        assert_sound(cache)


@pytest.mark.timeout(180)  # hundreds of fsyncs, on a disk that others write to
def test_publishing_beside_removing(place: Path) -> None:
    """One publishes, one removes it as soon as it is there: whole, or a typed error, never half."""
    with child("publish-again", place, "40") as other, Cache.open(settings(place, gc_grace_s=0.0)) as cache:
        told(other)
        tell(other, "go")
        removed = 0
        while not select.select([other.stdout], [], [], 0)[0]:
            found = cache.snapshots()
            removed += len(cache.remove([snapshot.id for snapshot in found]).snapshots)
            cache.gc()
        assert "gone" in told(other)
        assert removed > 3
        assert_sound(cache)
        other.wait()
        cache.remove([snapshot.id for snapshot in cache.snapshots()])
        cache.gc()
        assert files_below(cache) in ([], [f"owners-v1/{cache.owner.id}"])


def test_a_cache_does_not_cross_a_fork(cache: Cache) -> None:
    publish(cache, "m", {"f": b"x"})
    script = (
        "import os, sys; from pathlib import Path; from fetcher.cache.store import Cache\n"
        "from tests.cache.world import settings\n"
        "cache = Cache.open(settings(Path(sys.argv[1]))); cache.snapshots()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try: cache.snapshots()\n"
        "    except Exception as error: print(type(error).__name__, error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0); print(len(cache.snapshots()))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(cache.layout.cache_dir)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines() == [
        "CacheError this cache was opened before a fork; open it again in the new process",
        "1",
    ]


def test_a_cache_for_looking_owns_nothing(open_cache: Callable[..., Cache]) -> None:
    publish(open_cache(), "m", {"f": b"x"})
    looking = open_cache(read_only=True)
    assert len(looking.snapshots()) == 1
    with pytest.raises(InternalError, match="owns nothing"):
        _ = looking.owner


@pytest.mark.needs("root", "pidns")
def test_two_pid_namespaces(place: Path) -> None:
    """In both, the process is pid 1; locks and heartbeats say who lives."""
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    head = head_of(b"content" * 1000)
    with (
        child("claim", place, head.content_id, prefix=unshare) as one,
        child("claim", place, head.content_id, prefix=unshare) as two,
        Cache.open(settings(place)) as cache,
    ):
        first, second = told(one), told(two)
        assert sorted((first["mine"], second["mine"])) == [False, True]
        assert first["holder"] == second["holder"]
        for answer in (first, second):
            assert cache._owners.state(answer["owner"]) == "alive"
        holder, process = (first, one) if first["mine"] else (second, two)
        process.kill()
        process.wait()
        await_state(cache, holder["owner"], "dead")
        claim = claimed(cache, head.content_id, 7000)
        assert (claim.mine, claim.previous_owner) == (True, holder["owner"])


def test_a_closed_cache_says_so(cache: Cache) -> None:
    cache.close()
    with pytest.raises(CacheError, match="was closed"):
        cache.snapshots()
