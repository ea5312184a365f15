"""A cache directory in which flock proves nothing, its index on a sound disk: the heartbeat is all that says who lives.

A living owner is never touched. A silent one is lost: what it has is copied, never renamed, whether it is dead or will
come back. What it held is given up after a day, or at once if it went in order.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import lock_probe, mounts
from fetcher.cache.owners import SILENCE_MAX_S, SILENT
from fetcher.cache.store import Cache
from fetcher.errors import CacheError, LeaseError
from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import OnRequest
from tests.cache.asking import claimed
from tests.cache.test_processes import await_state
from tests.cache.world import Clock, believed, block_of, child, head_of, paint, publish, put_large, settings, told
from tests.e2e.support import RESUMES, Child, Gate, Told, held_by, kept_blocks, patient, tree_of, wait_until
from tests.support import locks

MIB = 1 << 20
SIZE = 4 * MIB + 5
DATA = paint(SIZE, 1)
LOST_AFTER_S = 2.0
"""Twenty heartbeats: a busy machine may forget about a process for a second."""

Open = Callable[..., Cache]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where the index is: on a disk whose locks hold."""
    return tmp_path / "state"


@pytest.fixture
def void(place: Path, state: Path, isolated_environment: pytest.MonkeyPatch) -> None:
    """From here on flock proves nothing in the cache directory, for us and for the processes that we start."""
    isolated_environment.setattr(fcntl, "flock", locks.void_flock(place))
    isolated_environment.setenv(locks.VARIABLE, str(place))
    isolated_environment.setenv("FETCHER_TEST_STATE_DIR", str(state))


@pytest.fixture
def open_void(void: None, place: Path, state: Path) -> Iterator[Open]:
    """Opens the cache of this test, as often as asked; all are closed in the end."""
    with ExitStack() as stack:

        def open_one(*, clock: Callable[[], float] = time.time, **options: Any) -> Cache:
            more = {"state_dir": state, "heartbeat_s": 0.1, "owner_lost_after_s": LOST_AFTER_S, **options}
            return stack.enter_context(Cache.open(settings(place, **more), clock=clock))

        yield open_one


# --- which mode holds ------------------------------------------------------------------------------------------------


def test_it_is_found_out_once_and_kept(open_void: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not open_void().locks_trusted
    monkeypatch.setattr(lock_probe, "probe_locks", lambda *_: pytest.fail("probed again"))
    assert not open_void().locks_trusted
    assert not list(open_void().layout.cache_dir.glob(".probe*"))


def test_a_cache_on_a_sound_disk_trusts_its_locks(cache: Cache) -> None:
    assert cache.locks_trusted


def test_an_index_where_locks_prove_nothing_is_refused(place: Path, void: None) -> None:
    with pytest.raises(CacheError, match="locks do not hold") as caught:
        Cache.open(settings(place))
    assert "FETCHER_STATE_DIR" in (caught.value.hint or "")


def test_no_locks_at_all_are_no_better(place: Path, state: Path, isolated_environment: pytest.MonkeyPatch) -> None:
    """Some file systems refuse to lock."""
    real = fcntl.flock

    def refusing(file: Any, operation: int) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{place}/.probe"):
            raise OSError(95, "Operation not supported")
        real(file, operation)

    isolated_environment.setattr(fcntl, "flock", refusing)
    with Cache.open(settings(place, state_dir=state)) as cache:
        assert not cache.locks_trusted


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_on_a_network_file_system_locks_are_not_believed(
    place: Path, state: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whatever the probe says: other machines, and lock servers that start again, are not in it. Also for a cache that
    was moved there later."""
    with Cache.open(settings(place, state_dir=state)) as cache:
        assert cache.locks_trusted
    monkeypatch.setattr(mounts, "file_system_type", lambda path: kind if path == place else "ext4")
    with Cache.open(settings(place, state_dir=state)) as cache:
        assert not cache.locks_trusted


# --- the living ------------------------------------------------------------------------------------------------------


def taken_from_a_living_owner(cache: Cache, place: Path) -> tuple[list[int], bool]:
    """Somebody is at work on a content; the blocks of his that we have when we want it too, and whether his Partial is
    still his."""
    with child("write", place, str(SIZE), "1", "3") as other:
        fact = told(other)
        partial = cache.partial_open(head_of(DATA))
        return sorted(partial.proven), Path(fact["path"]).is_dir()


def test_a_living_owner_is_never_touched(open_void: Open, place: Path) -> None:
    cache = open_void(gc_grace_s=0.0, partial_keep_s=0.0)
    assert taken_from_a_living_owner(cache, place) == ([], True)
    with child("write", place, str(SIZE), "2", "3") as other:
        fact = told(other)
        cache.gc()
        assert cache._owners.state(fact["owner"]) == "alive"
        claim = claimed(cache, head_of(paint(SIZE, 2)).content_id, SIZE)
        assert (claim.mine, claim.owner_state) == (False, "alive")
        with cache._owners.holding(fact["owner"]) as held:
            assert not held
        assert Path(fact["path"], "data").exists()


@pytest.mark.needs("native")
def test_who_believed_those_locks_would_take_from_the_living(
    open_void: Open, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scene with locks that are believed: what all of this is for."""
    cache = open_void()
    monkeypatch.setattr(Cache, "locks_trusted", True)
    assert taken_from_a_living_owner(cache, place) == ([0, 1, 2], False)


# --- the silent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_silent_owner_is_lost_and_copied(open_void: Open, place: Path, number: signal.Signals) -> None:
    """Nobody can know which of the two it was; so neither is ever written to."""
    cache = open_void(gc_grace_s=0.0, partial_keep_s=0.0)
    with child("write", place, str(SIZE), "1", "3") as other:
        fact = told(other)
        data = Path(fact["path"], "data")
        before = data.stat().st_ino, data.read_bytes()
        other.send_signal(number)
        assert cache._owners.state(fact["owner"]) == "alive", "its heart may beat again"
        await_state(cache, fact["owner"], "lost")
        with cache._owners.holding(fact["owner"]) as held:
            assert not held, "nothing is proven by this lock"
        claim = claimed(cache, head_of(DATA).content_id, SIZE)
        assert (claim.mine, claim.previous_owner, claim.owner_state) == (True, fact["owner"], "lost")
        partial = cache.partial_open(head_of(DATA), previous_owner=claim.previous_owner)
        assert sorted(partial.proven) == believed([0, 1, 2])
        partial.close()
        cache.gc()
        assert (data.stat().st_ino, data.read_bytes()) == before
        blob = put_large(cache, DATA)
        assert blob.path.read_bytes() == DATA
        assert blob.path.stat().st_ino != before[0]
        if number is signal.SIGSTOP:
            other.send_signal(signal.SIGCONT)
            await_state(cache, fact["owner"], "alive")
            assert other.stdin is not None
            other.stdin.write("again\n")
            other.stdin.flush()
            told(other)  # it has written rubbish into its own file
            assert blob.path.read_bytes() == DATA


def test_who_goes_in_order_is_gone_at_once(open_void: Open, place: Path) -> None:
    """What it leaves is copied, too: that its file is gone may also mean that somebody has given it up."""
    first = open_void()
    partial = first.partial_open(head_of(DATA))
    partial.write_block(0, block_of(DATA, 0))
    owner, path = first.owner.id, partial.path
    first.close()
    second = open_void()
    assert not second.layout.owner(owner).exists()
    assert second._owners.state(owner) == "dead"
    assert second.partial_bytes({head_of(DATA).content_id}) == {}, "what is copied is to be found on the disk again"
    again = second.partial_open(head_of(DATA))
    assert sorted(again.proven) == believed([0])
    assert path.is_dir()


# --- after a day -----------------------------------------------------------------------------------------------------


def test_after_a_day_of_silence_an_owner_is_given_up(open_void: Open, place: Path) -> None:
    """Its process lease, its staging and its Partial: all that a killed process would else keep for ever. Twice seen,
    so that no machine that has slept for two days loses what is alive on it."""
    clock = Clock()
    cache = open_void(clock=clock, gc_grace_s=0.0)
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=1.0)
    owners, left = [], []
    for command in (("lease", "m"), ("stage", "x"), ("write", str(SIZE), "1", "2")):
        with child(command[0], place, *command[1:]) as other:
            fact = told(other)
            owners.append(fact["owner"])
            left += [Path(fact["path"])] if "path" in fact else []
    clock.turn(SILENCE_MAX_S / 2)
    cache.gc()
    assert [cache._owners.state(owner) for owner in owners] == ["lost"] * 3
    with pytest.raises(LeaseError):
        cache.remove([snapshot.id])
    clock.turn(SILENCE_MAX_S)
    cache.owner.beat()
    cache.gc()
    assert [cache._owners.state(owner) for owner in owners] == ["lost"] * 3, "seen once"
    assert all(path.exists() for path in left)
    clock.turn(LOST_AFTER_S + 1)
    cache.owner.beat()
    for _ in range(2):  # files of owners go last, and what bears their names is seen to be nobody's by the next one
        cache.gc()
    assert [cache._owners.state(owner) for owner in owners] == ["dead"] * 3
    assert not any(path.exists() for path in left)
    assert cache.leases() == []
    assert not snapshot.path.exists()
    assert [path.name for path in cache.layout.owners.iterdir()] == [cache.owner.id]


def test_a_machine_that_has_slept_for_days_gives_up_nobody(open_void: Open, place: Path) -> None:
    """Whoever looks first finds all others silent; their hearts beat a moment later."""
    clock = Clock()
    cache = open_void(clock=clock)
    other = open_void(clock=clock, heartbeat_s=1000.0, owner_lost_after_s=2000.0)
    owner = other.owner
    clock.turn(3 * SILENCE_MAX_S)
    cache.gc()
    note = cache.layout.owners / f"{SILENT}{owner.id}"
    assert note.exists()
    clock.turn(1)
    owner.beat()
    assert cache._owners.state(owner.id) == "alive"
    clock.turn(LOST_AFTER_S + 1)
    cache.gc()
    assert not note.exists()
    assert cache.layout.owner(owner.id).exists()
    # It falls silent again: that is a new silence, and an old note would say nothing of it.
    note.touch()
    os.utime(note, (1, 1))
    clock.turn(2 * SILENCE_MAX_S)
    cache.gc()
    assert cache.layout.owner(owner.id).exists()


def test_where_locks_are_trusted_silence_alone_ends_nobody(cache: Cache, clock: Clock, open_cache: Open) -> None:
    other = open_cache(heartbeat_s=1000.0, owner_lost_after_s=2000.0)
    owner = other.owner.id
    for _ in range(3):
        clock.turn(3 * SILENCE_MAX_S)
        cache.gc()
    assert cache._owners.state(owner) == "lost"


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_waiter_goes_on_from_a_copy_when_the_owner_is_killed(hub: Hub, place: Path, state: Path, void: None) -> None:
    """One download among three, and the owner's kill -9 is noticed by its silence."""
    repo, size = "acme/weights", 10 * MIB
    hub.add_repo(repo, files={"weights.bin": Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=6))
    options = patient(hub, place, state_dir=str(state), connections_max=2, heartbeat_s=0.2, owner_lost_after_s=4.0)
    with ExitStack() as stack:

        def client() -> Told:
            found = Told(stack.enter_context(Child(options, [f"hf://{repo}"], tell=True)))
            stack.callback(found.join)
            stack.callback(found.client.process.kill)
            return found

        owner = client()
        wait_until(lambda: hub.count("cdn") >= 6 and kept_blocks(place, 6))
        [partial] = (place / "partials-v1").iterdir()
        waiters = [client(), client()]
        wait_until(lambda: all(told.bytes_done > 0 for told in waiters))
        assert [path.name for path in (place / "partials-v1").iterdir()] == [partial.name]
        owner.client.send(signal.SIGKILL)
        owner.client.process.wait()
        gate.open()
        for told_by in waiters:
            (path,) = told_by.done()["paths"]
            assert tree_of(Path(path)) == held_by(hub, repo)
    assert partial.is_dir(), "never renamed"
    downloaded = sorted(told_by.facts[-1]["downloaded"] for told_by in waiters)
    assert downloaded == [0, 4 * MIB if RESUMES else size]
