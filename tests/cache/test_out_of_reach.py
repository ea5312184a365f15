"""A disk that is out of reach for a while: what it does not say is no loss, and nobody loses his rights by it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import sweep
from fetcher.cache.index import Index
from fetcher.cache.records import Lease, Snapshot
from fetcher.cache.recovery import adopt_all
from fetcher.cache.store import Cache
from fetcher.errors import CacheError
from tests.cache.world import MIB, ROOT_OF_CHECKOUT, Clock, key_of, paint, publish, tree_on_disk
from tests.support.cli import as_ordinary_user

CONTENTS = {"deep/large": paint(MIB + 3), "small": b"small"}
DAY_S = 86_400.0
Open = Callable[..., Cache]


def out_of_reach(patch: pytest.MonkeyPatch, number: int, top: Path) -> None:
    """From now on lstat(2) of ``top``, and of all below it, fails with this errno."""
    real = os.lstat

    def lstat(path: Any, **more: Any) -> os.stat_result:
        if Path(os.fsdecode(path)).is_relative_to(top):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, **more)

    patch.setattr(os, "lstat", lstat)


def leased(cache: Cache) -> tuple[Snapshot, Lease]:
    snapshot = publish(cache, "m", CONTENTS)
    return snapshot, cache.lease_timed([snapshot.id], 10 * DAY_S)


def assert_nothing_is_lost(cache: Cache, clock: Clock, snapshot: Snapshot, lease: Lease) -> None:
    assert cache.lookup(key_of("m"), None) == snapshot
    assert cache.lease(lease.id).snapshot_ids == (snapshot.id,)
    clock.turn(cache.settings.gc_grace_s + 60)
    cache.gc()
    clock.turn(cache.settings.gc_grace_s + 60)
    cache.gc()
    assert tree_on_disk(snapshot.path) == CONTENTS


def lose_index(cache: Cache) -> None:
    cache.close()
    for path in cache.layout.state_dir.glob("index-v1.sqlite*"):
        path.unlink()


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOMEM])
def test_who_asks_meanwhile_takes_no_lease_away(cache: Cache, clock: Clock, number: int) -> None:
    snapshot, lease = leased(cache)
    with pytest.MonkeyPatch.context() as patch:
        out_of_reach(patch, number, cache.layout.snapshots)
        asks: tuple[Callable[[], object], ...] = (
            lambda: cache.lookup(key_of("m"), None),
            lambda: cache.get_snapshot(snapshot.id),
            lambda: publish(cache, "m", CONTENTS),
        )
        for ask in asks:
            with pytest.raises(CacheError, match=os.strerror(number)):
                ask()
    assert_nothing_is_lost(cache, clock, snapshot, lease)


def test_who_tidies_meanwhile_takes_no_lease_away(cache: Cache, clock: Clock) -> None:
    """A listing that ends early is not believed either."""
    snapshot, lease = leased(cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_entries", lambda directory: iter(()))
        out_of_reach(patch, errno.ENOTCONN, cache.layout.snapshots)
        with pytest.raises(CacheError, match="not connected"):
            cache.gc()
    assert_nothing_is_lost(cache, clock, snapshot, lease)


def test_a_disk_taken_away_under_an_open_cache(cache: Cache, open_cache: Open, clock: Clock) -> None:
    """All directories are missing at once: that says nothing of any of them."""
    snapshot, lease = leased(cache)
    away = cache.layout.snapshots.rename(cache.layout.cache_dir / "away")
    asks: tuple[Callable[[], object], ...] = (lambda: cache.lookup(key_of("m"), None), cache.gc)
    for ask in asks:
        with pytest.raises(CacheError, match="No such file") as caught:
            ask()
        assert "mount its disk" in (caught.value.hint or "")
    assert open_cache(read_only=True).lookup(key_of("m"), None) is None, "for looking it is an empty one"
    away.rename(cache.layout.snapshots)
    assert_nothing_is_lost(cache, clock, snapshot, lease)


# --- while an index is made anew -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ESTALE, errno.EACCES, errno.ENOMEM])
@pytest.mark.parametrize("what", ["file", "blob"])
def test_no_index_is_made_of_what_could_not_be_looked_at(
    cache: Cache, open_cache: Open, number: int, what: str
) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    roots = {file.path: file.root for file in cache.files(snapshot.id)}
    lose_index(cache)
    with pytest.MonkeyPatch.context() as patch:
        place = snapshot.path / "small" if what == "file" else cache.layout.blob(roots["small"] or "")
        out_of_reach(patch, number, place)
        with pytest.raises(CacheError, match=os.strerror(number)):
            open_cache()
    again = open_cache()
    assert (again.recovery.adopted, again.recovery.refused) == ((snapshot.id,), ())
    with again.index.read() as rows:
        assert {root for (root,) in rows.execute("SELECT root FROM blobs")} == set(roots.values())


def test_one_bad_sector_closes_no_cache(cache: Cache, open_cache: Open) -> None:
    """That is a fault of the file."""
    bad = publish(cache, "m", CONTENTS)
    good = publish(cache, "good", {"f": b"good"})
    lose_index(cache)
    with pytest.MonkeyPatch.context() as patch:
        out_of_reach(patch, errno.EIO, bad.path / "small")
        again = open_cache()
    assert (again.recovery.adopted, again.recovery.refused) == ((good.id,), (bad.id,))


def test_a_directory_keeps_its_name_where_its_sidecar_can_not_be_looked_at(cache: Cache, open_cache: Open) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    sidecar = cache.layout.sidecar(snapshot.id)
    sidecar.write_text("rubbish")
    lose_index(cache)
    with pytest.MonkeyPatch.context() as patch:
        out_of_reach(patch, errno.ENOTCONN, sidecar)
        with pytest.raises(CacheError, match="not connected"):
            open_cache()
    assert open_cache().recovery.refused == (snapshot.id,)
    assert tree_on_disk(snapshot.path) == CONTENTS


# --- what can't be looked into ---------------------------------------------------------------------------------------


def closed(patch: pytest.MonkeyPatch, number: int, place: Path) -> None:
    """From now on this directory can't be listed."""

    def closing(name: str) -> None:
        real = getattr(os, name)

        def listed(path: Any = ".") -> Any:
            if not isinstance(path, int) and Path(os.fsdecode(path)) == place:
                raise OSError(number, os.strerror(number), str(path))
            return real(path)

        patch.setattr(os, name, listed)

    closing("listdir")
    closing("scandir")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("what", ["owners", "partials", "blobs", "snapshots", "writable", "a folder of blobs"])
def test_where_gc_can_not_look_is_said_in_an_error_of_ours(cache: Cache, what: str, number: int) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    _ = cache.owner
    place = (
        next(cache.layout.blobs.glob("??")) if what == "a folder of blobs" else cache.layout.cache_dir / f"{what}-v1"
    )
    with pytest.MonkeyPatch.context() as patch:
        closed(patch, number, place)
        for dry_run in (True, False):
            with pytest.raises(CacheError) as caught:
                cache.gc(dry_run=dry_run)
            assert caught.value.message == f"can't look into {place}: {os.strerror(number)}"
    cache.gc()
    assert cache.lookup(key_of("m"), None) == snapshot


def test_a_lease_that_ends_where_nobody_can_look_for_its_copies(cache: Cache) -> None:
    _, lease = leased(cache)
    with pytest.MonkeyPatch.context() as patch:
        closed(patch, errno.EACCES, cache.layout.writable)
        with pytest.raises(CacheError, match="Permission denied"):
            cache.lease_release(lease.id)
    assert cache.leases() == []


@pytest.mark.parametrize("what", ["snapshots", "a folder of blobs", "writable"])
def test_no_index_is_made_where_nobody_can_look(cache: Cache, open_cache: Open, what: str) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    cache.close()
    cache.layout.index.write_bytes(b"this is no database" * 1000)
    place = (
        next(cache.layout.blobs.glob("??")) if what == "a folder of blobs" else cache.layout.cache_dir / f"{what}-v1"
    )
    with pytest.MonkeyPatch.context() as patch:
        closed(patch, errno.EACCES, place)
        with pytest.raises(CacheError, match=r"can't look into .*Permission denied") as caught:
            open_cache()
        assert ("remove it" in (caught.value.hint or "")) == (what == "a folder of blobs"), "never all of the cache"
    assert open_cache().recovery.adopted == (snapshot.id,)


def test_nobody_is_told_to_remove_a_cache_that_is_closed_to_him(cache: Cache) -> None:
    publish(cache, "m", CONTENTS)
    with pytest.MonkeyPatch.context() as patch:
        out_of_reach(patch, errno.EACCES, cache.layout.snapshots)
        with closing(Index(None)) as index, pytest.raises(CacheError, match="Permission denied") as caught:
            adopt_all(index, cache.layout, cache._clock)
    assert "belongs to another user" in (caught.value.hint or "") and "remove" not in (caught.value.hint or "")


CLOSED_FOLDER = """
import shutil, sys
from pathlib import Path
from fetcher.cache.store import Cache
from fetcher.errors import CacheError
from tests.cache.test_out_of_reach import CONTENTS
from tests.cache.world import publish, settings, tree_on_disk
place, what, cure = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with Cache.open(settings(place)) as cache:
    snapshot = publish(cache, "m", CONTENTS)
folders = {"of a snapshot": snapshot.path / "deep", "a snapshot": snapshot.path}
folder = folders.get(what) or next(cache.layout.blobs.glob("??"))
for path in place.glob("index-v1.sqlite*"):
    path.unlink()
folder.chmod(0)
for read_only in (True, False):
    try:
        Cache.open(settings(place), read_only=read_only)
    except CacheError as error:
        print(folder, error.hint, sep="|")
folder.chmod(0o755)
if cure == "removed":
    shutil.rmtree(folder)
with Cache.open(settings(place)) as cache:
    print(len(cache.recovery.adopted))
    print(tree_on_disk(publish(cache, "m", CONTENTS).path) == CONTENTS)
"""


@pytest.mark.needs("ordinary-user")
@pytest.mark.parametrize("what", ["of a snapshot", "a snapshot", "of blobs"])
@pytest.mark.parametrize("cure", ["opened", "removed"])
def test_the_cure_of_a_folder_that_is_closed_to_us_is_told(ordinary_directory: Path, what: str, cure: str) -> None:
    """Somebody has changed its mode or owner: the cache is ours as before."""
    answer = subprocess.run(
        as_ordinary_user([sys.executable, "-c", CLOSED_FOLDER, str(ordinary_directory / "cache"), what, cure]),
        cwd=ROOT_OF_CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT_OF_CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    *told, adopted, whole = answer.stdout.splitlines()
    for line in told:
        folder, _, hint = line.partition("|")
        assert hint.startswith(f"let this user into {folder} again") and "or remove it" in hint
    assert len(told) == 2 and whole == "True", answer
    assert adopted == ("1" if cure == "opened" or what == "of blobs" else "0")
