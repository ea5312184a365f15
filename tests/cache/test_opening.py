"""Opening: what is made with which modes, what is refused with which cure, and an index made anew."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import lock_probe, mounts, opening, recovery
from fetcher.cache.schema import SCHEMA_VERSION
from fetcher.cache.store import Cache
from fetcher.errors import CacheError
from tests.cache.asking import blob_with
from tests.cache.world import (
    MIB,
    ROOT_OF_CHECKOUT,
    Clock,
    assert_sound,
    key_of,
    paint,
    publish,
    settings,
    sha256,
    tree_on_disk,
)
from tests.support.cli import as_ordinary_user

CONTENTS = {"a/b/large": paint(2 * MIB), "small": b"small", "empty": b""}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_no_umask_has_a_say(place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Cache.open(settings(place)) as cache:
            snapshot = publish(cache, "m", CONTENTS)
            _ = cache.principal_key
            partial_modes = {mode(path) for path in (place, *place.glob("*s-v1"))}
            state_modes = {mode(path) for path in (*place.glob("index-v1*"), cache.layout.principal_key)}
    finally:
        os.umask(before)
    assert partial_modes == {0o700}
    assert state_modes == {0o600}
    for path in (snapshot.path, *snapshot.path.rglob("*")):
        assert mode(path) == (0o755 if path.is_dir() else 0o444), path
    assert mode(place / "CACHEDIR.TAG") == 0o644


def test_a_group_may_be_let_in(place: Path) -> None:
    with Cache.open(settings(place, cache_group=os.getegid())):
        assert {mode(path) for path in (place, *place.glob("*s-v1"))} == {0o750}
        assert place.stat().st_gid == os.getegid()


def test_a_directory_that_others_use_keeps_its_mode(tmp_path: Path) -> None:
    empty, used = tmp_path / "empty", tmp_path / "used"
    for directory in (empty, used):
        directory.mkdir(mode=0o755)
    (used / "theirs").touch()
    for directory in (empty, used):
        with Cache.open(settings(directory)):
            assert {mode(path) for path in directory.glob("*s-v1")} == {0o700}
    assert (mode(empty), mode(used)) == (0o700, 0o755)


@pytest.mark.needs("root", "mountns")
def test_any_user_in_a_container_can_read_a_mount(place: Path, tmp_path: Path) -> None:
    """The cache is closed to other users of the host; what is bind-mounted out of it is open to all."""
    tmp_path.chmod(0o755)
    with Cache.open(settings(place)) as cache:
        snapshot = publish(cache, "m", CONTENTS)
    script = (
        "mkdir /tmp/in-container-$$ && "
        f"mount --bind {snapshot.path} /tmp/in-container-$$ && cd /tmp/in-container-$$ && "
        "setpriv --reuid=1234 --regid=1234 --clear-groups sh -c "
        f"'cat small && ls -R . >/dev/null && cat a/b/large >/dev/null && ! cat {snapshot.path}/small 2>/dev/null "
        "&& ! touch new 2>/dev/null'; status=$?; cd /; umount /tmp/in-container-$$; rmdir /tmp/in-container-$$; "
        "exit $status"
    )
    answer = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "small"), answer.stderr


def test_the_cache_says_what_it_is(cache: Cache) -> None:
    tag = (cache.layout.cache_dir / "CACHEDIR.TAG").read_bytes()
    assert tag.startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")


def test_state_may_live_elsewhere(place: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Cache.open(settings(place, state_dir=state)) as cache:
        publish(cache, "m", CONTENTS)
        _ = cache.principal_key
        assert sorted(
            path.name for path in state.glob("*v1*") if "-wal" not in path.name and "-shm" not in path.name
        ) == [
            "index-v1.lock",
            "index-v1.sqlite",
            "principal-key-v1",
            "spare-v1",
        ]
        assert not list(place.glob("index*"))


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_file_in_the_way(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below"):
        with pytest.raises(CacheError) as caught:
            Cache.open(settings(place))
        assert caught.value.hint
    with pytest.raises(CacheError, match="is a file"):
        Cache.open(settings(file), read_only=True)


def test_a_relative_place(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="absolute"):
        Cache.open(settings(Path("relative")))


@pytest.mark.needs("ordinary-user")
@pytest.mark.parametrize("layout", ["nothing", "cache"])
def test_another_users_directory(ordinary_directory: Path, layout: str) -> None:
    theirs = ordinary_directory / "theirs"
    theirs.mkdir()
    os.chown(theirs, 0, 0)
    if layout == "cache":
        Cache.open(settings(theirs / "cache")).close()
        theirs.chmod(0o755)
    script = (
        "import sys; from pathlib import Path; from fetcher.cache.store import Cache\n"
        "from tests.cache.world import settings\n"
        "try: Cache.open(settings(Path(sys.argv[1])))\n"
        "except Exception as error: print(type(error).__name__, '|', error.hint)\n"
    )
    answer = subprocess.run(
        as_ordinary_user([sys.executable, "-c", script, str(theirs / "cache")]),
        cwd=ROOT_OF_CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT_OF_CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.startswith("CacheError | the cache belongs to another user"), answer


def test_a_newer_index_is_refused(cache: Cache) -> None:
    path = cache.layout.index
    cache.close()
    with sqlite3.connect(path) as rows:
        rows.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    rows.close()
    for read_only in (False, True):
        with pytest.raises(CacheError, match="newer version") as caught:
            Cache.open(cache.settings, read_only=read_only)
        assert "update fetcher" in (caught.value.hint or "")
    assert path.exists()


def test_another_programs_database_is_refused(place: Path) -> None:
    place.mkdir()
    with sqlite3.connect(place / "index-v1.sqlite") as rows:
        rows.executescript("CREATE TABLE theirs (x); PRAGMA user_version=1;")
    rows.close()
    with pytest.raises(CacheError, match="not an index of fetcher"):
        Cache.open(settings(place))


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "fuse"])
def test_a_network_file_system_is_refused_for_state(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(mounts, "file_system_type", lambda path: kind)
    with pytest.raises(CacheError, match=f"{kind} is no local file system") as caught:
        Cache.open(settings(place))
    assert "FETCHER_STATE_DIR" in (caught.value.hint or "")


def test_the_file_system_is_read_from_the_kernel(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["stat", "-f", "-c", "%T", "/proc"], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    assert mounts.file_system_type(Path("/proc")) == listed == "proc"
    assert mounts.file_system_type(tmp_path) not in ("", "proc")


def test_locks_that_do_not_hold_are_noticed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_probe, "file_system_type", lambda _: "exotic")
    monkeypatch.setattr(lock_probe, "_PROBE", "import sys; sys.exit(3)")
    with pytest.raises(CacheError, match="locks do not hold"):
        Cache.open(settings(place))
    assert not list(place.glob(".probe*"))


@pytest.mark.parametrize("kind", ["exotic", "ext4"])
@pytest.mark.parametrize("broken", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_lock_that_somebody_else_gets_is_noticed(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str, broken: tuple[int, ...]
) -> None:
    """Also where the file system is one of those that are tried without a second process: what that finds wrong goes to
    the second process, which has the last word."""
    place.mkdir()
    monkeypatch.setattr(lock_probe, "file_system_type", lambda _: kind)
    real = lock_probe._locked

    @contextmanager
    def locked(state_dir: Path, cache_dir: Path) -> Iterator[list[Path]]:
        with real(state_dir, cache_dir) as probes:
            for number in broken:  # another file in its place: nobody has a lock on that
                probes[number].unlink()
                probes[number].touch()
            yield probes

    monkeypatch.setattr(lock_probe, "_locked", locked)
    if min(broken) < 2:
        with pytest.raises(CacheError, match="locks do not hold"):
            lock_probe.probe_locks(place, place)
    else:
        assert lock_probe.probe_locks(place, place) is False
    assert not list(place.glob(".probe*"))


@pytest.mark.parametrize("kind", ["exotic", "ext4"])
def test_locks_that_hold(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    place.mkdir()
    monkeypatch.setattr(lock_probe, "file_system_type", lambda _: kind)
    started: list[object] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **named: (started.append(args), run(*args, **named))[1])
    assert lock_probe.probe_locks(place, place) is True
    assert len(started) == (kind == "exotic")
    assert not list(place.glob(".probe*"))


def test_locks_are_probed_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache.open(settings(place)).close()
    monkeypatch.setattr(lock_probe, "probe_locks", lambda *_: pytest.fail("probed again"))
    Cache.open(settings(place)).close()


def test_looking_changes_nothing(place: Path) -> None:
    with Cache.open(settings(place), read_only=True) as cache:
        assert cache.snapshots() == [] and cache.lookup(key_of("m"), None) is None
        assert cache.usage().snapshots == 0
        assert cache.leases() == [] and cache.gc(dry_run=True).snapshots == ()
    assert not place.exists()


# --- a new index -----------------------------------------------------------------------------------------------------


def lose_index(cache: Cache) -> None:
    cache.close()
    for path in cache.layout.state_dir.glob("index-v1.sqlite*"):
        path.unlink()


def test_a_lost_index_is_made_anew(open_cache: Callable[..., Cache], clock: Clock) -> None:
    first = open_cache()
    public = publish(first, "m", CONTENTS, keep_for_s=100.0)
    private = publish(first, "p", {"f": b"secret"}, private=True, principal="alice")
    lose_index(first)
    clock.turn(1000)
    second = open_cache()
    assert set(second.recovery.adopted) == {public.id, private.id}
    found = second.lookup(key_of("m"), None)
    assert found is not None
    assert (found.downloaded_at, found.fresh_until) == (public.downloaded_at, public.fresh_until)
    assert found.keep_until == clock() + 100, "somebody may be using it: its time starts anew"
    assert tree_on_disk(found.path) == CONTENTS
    assert second.lookup(key_of("p"), "alice") is not None
    assert second.lookup(key_of("p"), "bob") is None
    data = CONTENTS["a/b/large"]
    assert blob_with(second, sha256(data), len(data), principal=None) is not None
    assert blob_with(second, sha256(b"secret"), 6, principal="bob") is None
    assert blob_with(second, sha256(b"secret"), 6, principal="alice") is not None
    assert_sound(second)
    second.remove([public.id, private.id])
    assert list(second.layout.blobs.glob("??/*")) == []


def test_for_looking_a_lost_index_is_made_in_memory(open_cache: Callable[..., Cache]) -> None:
    first = open_cache()
    snapshot = publish(first, "m", CONTENTS)
    lose_index(first)
    looking = open_cache(read_only=True)
    assert [found.id for found in looking.snapshots()] == [snapshot.id]
    assert not first.layout.index.exists()


def test_a_damaged_index_is_set_aside(open_cache: Callable[..., Cache]) -> None:
    first = open_cache()
    snapshot = publish(first, "m", CONTENTS)
    first.close()
    first.layout.index.write_bytes(b"this is no database" * 1000)
    second = open_cache()
    assert second.recovery.adopted == (snapshot.id,)
    assert len(list(first.layout.state_dir.glob("index-v1.sqlite.aside-*"))) == 1


def test_what_is_not_whole_is_not_adopted(open_cache: Callable[..., Cache]) -> None:
    first = open_cache()
    ids = [publish(first, f"m{number}", {"f": b"%d" % number, "g": paint(MIB + 1, number)}).id for number in range(6)]
    layout = first.layout
    layout.sidecar(ids[0]).unlink()
    layout.sidecar(ids[1]).write_text(layout.sidecar(ids[1]).read_text()[:-10])
    (layout.snapshot(ids[2]) / "f").unlink()
    cut = layout.snapshot(ids[3]) / "g"
    cut.chmod(0o644)
    os.truncate(cut, 5)
    lied = json.loads(layout.sidecar(ids[4]).read_text())
    lied["private"], lied["principals"] = True, ["mallory"]
    layout.sidecar(ids[4]).write_text(json.dumps(lied))
    lose_index(first)
    second = open_cache()
    assert second.recovery.adopted == (ids[5],)
    assert set(second.recovery.refused) == set(ids[:5])
    assert [snapshot.id for snapshot in second.snapshots()] == [ids[5]]


def test_two_make_the_index_at_once(place: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from fetcher.cache.store import Cache\n"
        "from tests.cache.world import settings\n"
        "with Cache.open(settings(Path(sys.argv[1]))) as cache: cache.pin('p', sys.argv[2])\n"
    )
    makers = [
        subprocess.Popen([sys.executable, "-c", script, str(place), str(number)], cwd=ROOT_OF_CHECKOUT)
        for number in range(4)
    ]
    assert [maker.wait() for maker in makers] == [0] * 4
    with Cache.open(settings(place)) as cache:
        assert sorted(pin.resource_key for pin in cache.pins()) == ["0", "1", "2", "3"]


# --- the hit path ----------------------------------------------------------------------------------------------------


def test_a_hit_imports_little(place: Path) -> None:
    with Cache.open(settings(place)) as cache:
        publish(cache, "m", {"f": b"x"})
    script = (
        "import sys; from pathlib import Path; from fetcher.cache.store import Cache\n"
        "from tests.cache.world import settings, key_of\n"
        "before = set(sys.modules)\n"
        "for name in list(sys.modules):\n"
        "    if name.startswith('fetcher') or name in ('subprocess', 'ctypes', 'blake3'): del sys.modules[name]\n"
        "from fetcher.cache.store import Cache; from fetcher.config import Settings\n"
        "place = Path(sys.argv[1])\n"
        "with Cache.open(Settings(cache_dir=place, state_dir=place)) as cache:\n"
        "    found = cache.lookup(key_of('m'), None); cache.touch(found.id); cache.lease_timed([found.id], 5)\n"
        "heavy = ['asyncio', 'aiohttp', 'msgspec', 'rich', 'blake3', 'ctypes', 'subprocess', 'fetcher.hashing',\n"
        "         'fetcher.cache.gc', 'fetcher.cache.publish', 'fetcher.cache.blobs']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(place)], cwd=ROOT_OF_CHECKOUT, capture_output=True, text=True, check=False
    )
    assert answer.stdout == "[]\n", answer.stdout + answer.stderr


def test_a_hit_among_ten_thousand(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    with cache.index.write(durable=False) as rows:
        names = [row[1] for row in rows.execute("PRAGMA table_info(snapshots)")]
        row = dict(zip(names, rows.execute("SELECT * FROM snapshots").fetchone(), strict=True))
        for number in range(10_000):
            row.update(id=f"{number:064x}", key=f"{number:064x}")
            rows.execute(f"INSERT INTO snapshots VALUES ({', '.join('?' * len(names))})", tuple(row.values()))
        plan = rows.execute("EXPLAIN QUERY PLAN SELECT id FROM snapshots WHERE key = ? ORDER BY validated_at", ("k",))
        assert "snapshots_by_key" in str(plan.fetchall())
    times = []
    for _ in range(200):
        start = time.perf_counter()
        assert cache.lookup(key_of("m"), None) is not None
        times.append(time.perf_counter() - start)
    leases = []
    for _ in range(50):
        start = time.perf_counter()
        cache.lease_release(cache.lease_process([snapshot.id]).id)
        leases.append(time.perf_counter() - start)
    with capsys.disabled():
        print(
            f"\n10,000 snapshots: lookup {sorted(times)[100] * 1e6:.0f} us,"
            f" lease and release {sorted(leases)[25] * 1e6:.0f} us (medians)"
        )


# --- one at a time ---------------------------------------------------------------------------------------------------


@contextmanager
def locked(place: Path) -> Iterator[int]:
    """As another process has it that makes the index."""
    place.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["index-v1.lock", "cache-id-v1.lock"])
def test_whoever_is_stopped_while_he_makes_an_index_does_not_stop_all_others(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(opening, "sleep", naps.append)
    with locked(place / name), pytest.raises(CacheError, match="is frozen") as caught:
        Cache.open(settings(place))
    assert str(place / name) in caught.value.message and caught.value.hint
    assert sum(naps) == pytest.approx(opening.FROZEN_AFTER_S, abs=1.0)
    Cache.open(settings(place)).close()


def test_whoever_makes_an_index_for_a_long_time_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naps = 0
    with locked(place / "index-v1.lock") as held:

        def nap(_: float) -> None:
            nonlocal naps
            naps += 1
            if naps % 1000 == 0:
                os.utime(held, ns=(naps, naps))
            if naps == 9000:
                fcntl.flock(held, fcntl.LOCK_UN)

        monkeypatch.setattr(opening, "sleep", nap)
        Cache.open(settings(place)).close()
    assert naps == 9000 > 3 * opening.FROZEN_AFTER_S / opening.LOOK_EVERY_S


def test_whoever_makes_an_index_shows_that_he_is_at_work(
    open_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_cache()
    snapshot = publish(first, "m", CONTENTS)
    lose_index(first)
    locks = (first.layout.index_lock, first.layout.cache_lock)
    real = recovery.adopt_all

    def in_its_own_time(*arguments: Any) -> Any:
        before = {lock: lock.stat().st_mtime_ns for lock in locks}
        deadline = time.monotonic() + 20
        while any(lock.stat().st_mtime_ns == before[lock] for lock in locks):
            assert time.monotonic() < deadline, "no sign"
            time.sleep(0.01)
        return real(*arguments)

    monkeypatch.setattr(opening, "BEAT_EVERY_S", 0.01)
    monkeypatch.setattr(recovery, "adopt_all", in_its_own_time)
    assert open_cache().recovery.adopted == (snapshot.id,)
    assert [thread.name for thread in threading.enumerate() if thread.name == "fetcher-making"] == []
