"""Which index is whose, who may write where, and what a full disk leaves: what is not ours alone is not believed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from fetcher.cache.store import Cache
from fetcher.errors import CacheError
from tests.cache.world import MIB, child, key_of, publish, settings, told

NOBODY = 65534


# --- one index, one cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_only", [False, True])
def test_an_index_serves_one_cache(tmp_path: Path, read_only: bool) -> None:
    state = tmp_path / "state"
    with Cache.open(settings(tmp_path / "a", state_dir=state, gc_grace_s=0.0)) as cache:
        snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=0.0)
        lease = cache.lease_timed([snapshot.id], 100.0)
    with pytest.raises(CacheError, match="is not that of the cache") as caught:
        Cache.open(settings(tmp_path / "b", state_dir=state), read_only=read_only)
    assert "FETCHER_STATE_DIR" in (caught.value.hint or "")
    with Cache.open(cache.settings) as cache:
        cache.gc()
        assert cache.leases() == [lease]
        assert cache.lookup(key_of("m"), None) is not None


@pytest.mark.parametrize("first", ["inside", "apart"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_cache_has_one_index(tmp_path: Path, first: str, read_only: bool) -> None:
    """A service sets FETCHER_STATE_DIR, a shell does not: the shell's index would know of no lease."""
    states = {"inside": tmp_path / "cache", "apart": tmp_path / "state"}
    mine = states.pop(first)
    other = states.popitem()[1]
    with Cache.open(settings(tmp_path / "cache", state_dir=mine)) as cache:
        snapshot = publish(cache, "m", {"f": b"x"})
        cache.lease_timed([snapshot.id], 100.0)
    with pytest.raises(CacheError) as caught:
        Cache.open(settings(tmp_path / "cache", state_dir=other), read_only=read_only)
    assert str(mine) in caught.value.message and str(other) in caught.value.message
    assert ("unset FETCHER_STATE_DIR" if first == "inside" else f"FETCHER_STATE_DIR={mine}") in (
        caught.value.hint or ""
    )
    assert not (other / "index-v1.sqlite").exists()


def test_an_index_may_be_moved(tmp_path: Path) -> None:
    place, state = tmp_path / "cache", tmp_path / "state"
    with Cache.open(settings(place)) as cache:
        lease = cache.lease_timed([publish(cache, "m", {"f": b"x"}).id], 1000.0)
    state.mkdir(mode=0o700)
    (place / "index-v1.sqlite").rename(state / "index-v1.sqlite")
    with Cache.open(settings(place, state_dir=state)) as cache:
        assert cache.leases() == [lease]
    with pytest.raises(CacheError, match="the index of"):
        Cache.open(settings(place))
    shutil.copytree(state, tmp_path / "copy")
    with pytest.raises(CacheError, match="the index of"):
        Cache.open(settings(place, state_dir=tmp_path / "copy"))


def test_a_cache_may_be_moved(tmp_path: Path) -> None:
    with Cache.open(settings(tmp_path / "a")) as cache:
        lease = cache.lease_timed([publish(cache, "m", {"f": b"x"}).id], 1000.0)
    (tmp_path / "a").rename(tmp_path / "b")
    with Cache.open(settings(tmp_path / "b")) as cache:
        assert cache.leases() == [lease]


def test_an_index_that_is_gone_is_not_missed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Cache.open(settings(tmp_path / "cache", state_dir=state)) as cache:
        snapshot = publish(cache, "m", {"f": b"x"})
    shutil.rmtree(state)
    with Cache.open(settings(tmp_path / "cache")) as cache:
        assert cache.recovery.adopted == (snapshot.id,)
    Cache.open(settings(tmp_path / "cache")).close()


def test_an_index_from_before_there_were_ids(open_cache: Callable[..., Cache]) -> None:
    first = open_cache()
    lease = first.lease_timed([publish(first, "m", {"f": b"x"}).id], 1000.0)
    with first.index.write(durable=True) as rows:
        rows.execute("DELETE FROM meta WHERE name = 'index_id'")
    first.close()
    first.layout.cache_id.unlink()
    assert open_cache().leases() == [lease]
    assert first.layout.cache_id.exists()
    assert open_cache().leases() == [lease]


# --- no new index out of an old log ----------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshots", [3, 45])
def test_the_log_of_a_lost_index_is_not_replayed(place: Path, snapshots: int) -> None:
    process_id = os.fork()
    if not process_id:
        try:
            cache = Cache.open(settings(place))
            for number in range(snapshots):
                snapshot = publish(cache, f"m{number}", {"f": b"%d" % number})
            cache.lease_timed([snapshot.id], 1000.0)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process_id, 0)
    log = (place / "index-v1.sqlite-wal").read_bytes()
    (place / "index-v1.sqlite").unlink()
    with Cache.open(settings(place)) as cache:
        assert len(cache.recovery.adopted) == len(cache.snapshots()) == snapshots
        assert cache.leases() == [], "what is lost is lost: a part of the truth would be a lie"
        with cache.index.read() as rows:
            assert rows.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    kept = list(place.glob("index-v1.sqlite.aside-*-wal"))
    assert [path.read_bytes() for path in kept] == [log]


def test_a_strangers_database_is_kept(place: Path) -> None:
    place.mkdir()
    with sqlite3.connect(place / "index-v1.sqlite") as rows:
        rows.execute("CREATE TABLE theirs (x)")
    rows.close()
    Cache.open(settings(place)).close()
    (kept,) = place.glob("index-v1.sqlite.aside-*")
    with sqlite3.connect(kept) as rows:
        assert rows.execute("SELECT COUNT(*) FROM theirs").fetchone() == (0,)
    rows.close()


# --- other users -----------------------------------------------------------------------------------------------------


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["blobs-v1", "snapshots-v1", "index-v1.sqlite", "index-v1.sqlite-wal"])
def test_what_another_user_made_is_refused(place: Path, name: str) -> None:
    with Cache.open(settings(place)) as cache:
        publish(cache, "m", {"f": b"x"})
    if name.endswith("-wal"):
        (place / name).touch(0o600)
    os.chown(place / name, NOBODY, NOBODY)
    with pytest.raises(CacheError, match="another user"):
        Cache.open(settings(place))


@pytest.mark.needs("root")
def test_root_may_be_told_to_use_the_directory_of_another_user(place: Path) -> None:
    """A volume that the host's user made; what a third one planted in it is still refused."""
    place.mkdir(mode=0o755)
    os.chown(place, 1000, 1000)
    with Cache.open(settings(place)) as cache:
        publish(cache, "m", {"f": b"x"})
    os.chown(place / "blobs-v1", 1000, 1000)
    Cache.open(settings(place)).close()
    os.chown(place / "blobs-v1", NOBODY, NOBODY)
    with pytest.raises(CacheError, match="another user"):
        Cache.open(settings(place))


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["index-v1.lock", "principal-key-v1"])
def test_what_is_looked_at_later_is_refused_then(place: Path, name: str) -> None:
    with Cache.open(settings(place)) as cache:
        _ = cache.principal_key
    os.chown(place / name, NOBODY, NOBODY)
    (place / "index-v1.sqlite").unlink()
    with pytest.raises(CacheError, match=r"another user|of this user"), Cache.open(settings(place)) as cache:
        _ = cache.principal_key


@pytest.mark.parametrize("name", ["blobs-v1", "partials-v1", "index-v1.sqlite"])
@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_what_others_may_write_to_is_refused(place: Path, name: str, bits: int) -> None:
    Cache.open(settings(place)).close()
    (place / name).chmod((place / name).stat().st_mode | bits)
    with pytest.raises(CacheError, match="other users may write") as caught:
        Cache.open(settings(place))
    assert caught.value.hint


def test_a_root_that_others_may_write_to(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "theirs").touch()
    root.chmod(0o1777)
    with pytest.raises(CacheError, match="other users may write"):
        Cache.open(settings(root))
    with Cache.open(settings(root, state_dir=tmp_path / "state")):
        assert (root / "blobs-v1").stat().st_mode & 0o777 == 0o700
    root.chmod(0o777)
    with pytest.raises(CacheError, match="other users may write"):
        Cache.open(settings(root, state_dir=tmp_path / "state"))


@pytest.mark.parametrize("name", ["blobs-v1", "index-v1.sqlite", "index-v1.lock"])
def test_a_symlink_in_the_way_is_refused(place: Path, tmp_path: Path, name: str) -> None:
    place.mkdir(mode=0o700)
    target = tmp_path / "target"
    target.mkdir(mode=0o755) if name == "blobs-v1" else target.touch(0o644)
    (place / name).symlink_to(target)
    before = target.stat().st_mode
    with pytest.raises(CacheError) as caught:
        Cache.open(settings(place))
    assert caught.value.hint
    assert target.stat().st_mode == before


def test_the_root_itself_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with Cache.open(settings(tmp_path / "link")) as cache:
        publish(cache, "m", {"f": b"x"})
    assert (tmp_path / "disk" / "blobs-v1").is_dir()


# --- a full disk -----------------------------------------------------------------------------------------------------

DISK = "size=40m"


@pytest.mark.needs("root", "mountns")
@pytest.mark.parametrize("action", ["hit", "ls", "df", "rm", "prune"])
def test_a_full_disk_can_be_emptied(tmp_path: Path, action: str) -> None:
    tmp_path.joinpath("disk").mkdir()
    mount = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o {DISK} none "$0" && exec "$@"')
    with child("full", tmp_path / "disk" / "cache", action, prefix=(*mount, str(tmp_path / "disk"))) as actor:
        answer = told(actor)
    assert answer["free_before"] == 0
    assert answer["done"] is True, answer
    if action in ("rm", "prune"):
        assert answer["free_after"] >= 8 * MIB


@pytest.mark.needs("root", "mountns")
def test_where_nothing_can_be_given_up_it_is_said(tmp_path: Path) -> None:
    tmp_path.joinpath("disk").mkdir()
    mount = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o {DISK} none "$0" && exec "$@"')
    with child("full", tmp_path / "disk" / "cache", "spent", prefix=(*mount, str(tmp_path / "disk"))) as actor:
        answer = told(actor)
    assert answer["free_before"] == 0
    assert answer["error"] == "NoSpaceError" and "remove something else" in answer["hint"]


def test_the_spare_is_taken_back_when_there_is_room(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache.open(settings(place)).close()
    spare = place / "spare-v1"
    assert spare.stat().st_blocks * 512 >= MIB
    real = os.statvfs(place)

    class Full:
        f_frsize, f_bavail, f_blocks = real.f_frsize, 0, real.f_blocks

    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda _: Full)
        Cache.open(settings(place), read_only=True).close()
        assert not spare.exists()
    Cache.open(settings(place)).close()
    assert spare.exists()


def test_a_private_answer_is_asked_about_again(open_cache: Callable[..., Cache]) -> None:
    """A commit does not change, but who may read it does."""
    cache = open_cache()
    public = publish(cache, "m", {"f": b"x"}, immutable=True, fresh_for_s=10.0)
    private = publish(cache, "p", {"f": b"y"}, immutable=True, fresh_for_s=10.0, private=True, principal="alice")
    assert public.fresh_until is None
    assert private.fresh_until == private.downloaded_at + 10.0
    assert cache.revalidate(public.id, 20.0, 20.0).fresh_until is None
    assert cache.revalidate(private.id, 20.0, 20.0).fresh_until == cache._clock() + 20.0
    cache.close()
    for path in cache.layout.state_dir.glob("index-v1.sqlite*"):
        path.unlink()
    found = open_cache().lookup(key_of("p"), "alice")
    assert found is not None and found.fresh_until == private.fresh_until
