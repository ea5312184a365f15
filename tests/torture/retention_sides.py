"""The two sides of the retention model: a cache on the disk with its clients, a dict that says what it should hold, and
the judges that compare them.

The model counts in seconds that really passed (``now``). The cache has to make these out of a calendar that jumps and a
clock that begins at every boot; where nothing could tell (a rebuilt index), the model allows both answers, and never
one that keeps something fresh for longer than it may be.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import blake3
from hypothesis.stateful import RuleBasedStateMachine

from fetcher.cache.records import Snapshot, Space
from fetcher.cache.reservation import Reservation
from fetcher.cache.store import Cache
from fetcher.errors import NoSpaceError
from fetcher.plan import allocation
from tests.cache.world import MIB, Clock, key_of, paint, settings
from tests.e2e.quota_sampler import walk

GRACE_S = 600.0
PARTIAL_KEEP_S = 50_000.0
COPY_LEASE_S = 86_400.0
NAMES = "abcd"
VERSIONS = 3
QUOTAS = (14 * MIB, 17 * MIB, 22 * MIB, None)


def sizes_of(name: str, version: int) -> dict[str, tuple[int, int]]:
    """Path → size and shade: one file shared by all, one by all versions, and what is this version's own."""
    number = NAMES.index(name)
    return {
        "all.bin": (MIB + 17, 1),
        "same.bin": (40_000, 10 + number),
        f"own/{version}.bin": (2 * MIB + 5 if version == 1 else 3_000, 20 + 10 * number + version),
        "empty": (0, 0),
    }


def contents_of(name: str, version: int) -> dict[str, bytes]:
    return {path: paint(*numbers) for path, numbers in sizes_of(name, version).items()}


def bytes_of(name: str, version: int) -> int:
    """What fetching it takes, as a plan would reserve it."""
    sizes = [size for size, _ in sizes_of(name, version).values()]
    bodies = sum(size + allocation.beside_bytes(size) for size in sizes if size)
    return bodies + allocation.snapshot_bytes(1, len(sizes))


@dataclass
class Kept:
    """A Snapshot, as the model knows it. All times count seconds that really passed."""

    id: str
    name: str
    version: int
    keep_for_s: float
    sidecar_keep_s: float
    """What its sidecar says: written once, and all that a rebuilt index knows."""
    sidecar_fresh_until: float | None
    keep_until: float
    fresh_until: float | None
    """None: for ever."""
    fresh_at_least_until: float
    """Before this it must be fresh; the calendar was never set forward since."""
    validated_at: float
    used_at: float
    set_back_s: float = 0.0
    """By how much the calendar was set back since it was published: its sidecar is from a future."""


@dataclass
class Right:
    """A lease."""

    id: str
    snapshots: set[str]
    boot_id: str
    ends_boot_s: float | None
    """None: as long as its client."""
    client: int | None = None
    copies: list[Path] = field(default_factory=list)


@dataclass
class Client:
    """An open cache, and what it has reserved."""

    number: int
    cache: Cache
    touched: dict[str, float] = field(default_factory=dict)
    """Snapshot → calendar time, as the client remembers it."""
    reservations: list[Reservation] = field(default_factory=list)


class BothSides(RuleBasedStateMachine):
    """The cache, the model, and how they are compared. What is done to them is in ``retention_model.py``."""

    steps_done: ClassVar[int] = 0
    """Over all machines, for whoever wants to know how much was done."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="fetcher-model-"))
        self.place = self.top / "cache"
        self.clock = Clock()
        # Whole seconds, so that no rounding decides; years ahead, so that a file's real time can be told from ours.
        self.clock.now = float(int(self.clock.now) + 5 * 365 * 86_400)
        self.clock.since_boot = 1_000.0
        self.began = self.clock.now
        self.now = 0.0
        self.quota: int | None = None
        self.keep_from = "download"
        self.clients: list[Client] = []
        self.numbers = 0
        self.kept: dict[str, Kept] = {}
        self.rows_only: set[str] = set()
        """Ids of rows whose directory a crash took: nobody is given them, and gc finds them."""
        self.nameless: dict[str, Kept] = {}
        """What a crash left complete and without a row: a rebuilt index may find it."""
        self.rights: dict[str, Right] = {}
        self.pins: set[tuple[str, str]] = set()
        self.seen_bytes: dict[tuple[int, int, int], str] = {}
        self.most_bytes = 0
        self.rebuilt = False
        """The index was lost at least once."""
        self.just_set = False
        """The calendar was set, and nobody has looked at it since."""
        self.killer: subprocess.Popen[str] | None = None

    def teardown(self) -> None:
        try:
            for client in self.clients:
                client.cache.close()
            if self.killer is not None:
                assert self.killer.stdin is not None and self.killer.stdout is not None
                self.killer.stdin.close()
                self.killer.wait(20)
                self.killer.stdout.close()
        finally:
            if self.killer is not None and self.killer.poll() is None:
                self.killer.kill()
            shutil.rmtree(self.top, ignore_errors=True)

    # --- the model's own answers

    def alive(self, right: Right) -> bool:
        if right.boot_id != self.clock.boot_id:
            return False
        if right.ends_boot_s is not None:
            return self.clock.boot_s() < right.ends_boot_s
        return right.client in {client.number for client in self.clients}

    def leased(self) -> set[str]:
        return {wanted for right in self.rights.values() if self.alive(right) for wanted in right.snapshots}

    def newest(self, name: str) -> Kept | None:
        found = [kept for kept in self.kept.values() if kept.name == name]
        return min(found, key=lambda kept: (-kept.validated_at, kept.id), default=None)

    def protected(self) -> set[str]:
        pinned = {key for _, key in self.pins}
        newest = [self.newest(name) for name in NAMES if key_of(name) in pinned]
        return self.leased() | {kept.id for kept in newest if kept is not None}

    def expired(self, spare_s: float = 0.0) -> set[str]:
        sacred = self.protected()
        return {
            kept.id
            for kept in self.kept.values()
            if kept.keep_until <= self.now
            and kept.id not in sacred
            and (spare_s <= 0 or kept.used_at <= self.now - spare_s)
        }

    def by_use(self) -> list[str]:
        return [kept.id for kept in sorted(self.kept.values(), key=lambda kept: (kept.used_at, kept.id))]

    def lose(self, ids: set[str]) -> None:
        for wanted in ids:
            del self.kept[wanted]
            for right in self.rights.values():
                right.snapshots.discard(wanted)

    def collected(self, cache: Cache, spare_s: float = 0.0) -> Callable[[tuple[str, ...]], None]:
        """What gc has to say it removed."""
        expected = self.expired(spare_s)

        def check(removed: tuple[str, ...]) -> None:
            assert set(removed) - self.rows_only == expected, "gc removed other snapshots than those whose time is over"
            self.lose(expected)
            self.rows_only.clear()
            self.rights = {name: right for name, right in self.rights.items() if self.alive(right)}

        return check

    # --- helpers

    def open(self) -> Client:
        self.numbers += 1
        options = {"gc_grace_s": GRACE_S, "partial_keep_s": PARTIAL_KEEP_S, "keep_from": self.keep_from}
        client = Client(
            self.numbers, Cache.open(settings(self.place, quota_bytes=self.quota, **options), clock=self.clock)
        )
        self.clients.append(client)
        return client

    def client(self, pick: int) -> Client:
        return self.clients[pick % len(self.clients)] if self.clients else self.open()

    def some(self, pick: int) -> Kept | None:
        known = sorted(self.kept)
        return self.kept[known[pick % len(known)]] if known else None

    def passes(self, seconds: float) -> None:
        self.clock.turn(seconds)
        self.now += seconds
        for client in self.clients:
            if client.cache._owner is not None:
                client.cache._owner.beat()

    def stamp(self) -> None:
        """Files bear the machine's time; give them ours, as they would have it."""
        for path, _ in walk(str(self.place)).items():
            if "/owners-v1/" in path or path.startswith(str(self.place / "index-v1")):
                continue
            try:
                if os.lstat(path).st_mtime < self.began - 365 * 86_400:
                    os.utime(path, (self.clock.now, self.clock.now), follow_symlinks=False)
            except FileNotFoundError:
                continue

    def crash(self, client: Client) -> None:
        """What the end of its process does to a client: descriptors are closed, and nothing else happens."""
        self.clients.remove(client)
        cache, owner = client.cache, client.cache._owner
        partials = cache._rooms.open_partials
        for partial in [] if partials is None else list(partials._open.values()):
            if partial is not None:
                partial._close_files()
        if owner is not None:
            owner._stop.set()
            owner._thread.join()
            os.close(owner._descriptor)
        cache._closed = True
        cache.index.close()

    def kill_in_the_middle(self, **order: Any) -> list[str]:
        if self.killer is None:
            self.killer = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.killed_client"],
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.killer.stdin is not None and self.killer.stdout is not None
        clock = [self.clock.now, self.clock.since_boot, self.clock.boot_id]
        options = {"gc_grace_s": GRACE_S, "partial_keep_s": PARTIAL_KEEP_S, "quota_bytes": self.quota}
        whole = {"clock": clock, "cache_dir": str(self.place), "settings": options, "remove": [], "partial_blocks": 0}
        self.killer.stdin.write(json.dumps({**whole, **order}) + "\n")
        self.killer.stdin.flush()
        reached: list[str] = json.loads(self.killer.stdout.readline())
        return reached

    def published(self, snapshot_id: str, name: str, version: int, fresh_s: float, keep_s: float, ever: bool) -> None:
        known = self.kept.get(snapshot_id)
        until = None if (known.fresh_until is None if known else ever) else self.now + fresh_s
        if known is None:
            known = Kept(snapshot_id, name, version, keep_s, keep_s, until, 0.0, None, 0.0, 0.0, 0.0)
            self.kept[snapshot_id] = known
        known.keep_for_s = keep_s
        known.keep_until = self.now + keep_s
        known.validated_at = known.used_at = self.now
        known.fresh_until = until
        known.fresh_at_least_until = float("inf") if until is None else until
        self.nameless.pop(snapshot_id, None)
        self.rows_only.discard(snapshot_id)

    def make_room(self, client: Client, needed: int) -> Reservation | None:
        """As the engine does: garbage first, then the least recently used; None if there is no room."""
        cache = client.cache
        for turn in range(5):
            space = cache.space()
            missing = needed - space.left_bytes
            if missing > 0 and not turn:
                check = self.collected(cache)
                check(cache.gc(at_once=True).snapshots)
                space = cache.space()
                missing = needed - space.left_bytes
            self.judge_order(space)
            choice = cache.evictions(missing)
            chosen = [item for item, _ in choice.chosen]
            if choice.bytes_freed < missing:
                self.refused(cache, needed, [item.snapshot_id for item in space.evictable])
                return None
            gone = {item.snapshot_id for item in chosen}
            self.judge_choice(cache, [item.snapshot_id for item in chosen])
            assert not gone & self.protected(), "what is leased or pinned was evicted"
            try:
                reservation = cache.reserve(needed, evict=[item.snapshot_id for item in chosen])
            except NoSpaceError:
                # The log of the index may have grown by a page meanwhile. Then what was evicted is gone all the same.
                assert chosen, "a plan that fitted was refused"
                self.lose({wanted for wanted in gone & self.kept.keys() if cache.get_snapshot(wanted) is None})
                continue
            self.lose(gone & self.kept.keys())
            self.rows_only -= gone
            return reservation
        raise AssertionError("a plan that fitted was refused again and again")

    def refused(self, cache: Cache, needed: int, evict: list[str]) -> None:
        """What can't fit evicts nothing; the invariant finds it if it does."""
        try:
            cache.reserve(needed, evict=evict).release()
        except NoSpaceError:
            return
        raise AssertionError("what does not fit was promised")

    def judge_order(self, space: Space) -> None:
        sacred = self.protected()
        order = [item.snapshot_id for item in space.evictable if item.snapshot_id not in self.rows_only]
        assert order == [wanted for wanted in self.by_use() if wanted not in sacred], "the order of eviction"

    def judge_choice(self, cache: Cache, chosen: list[str]) -> None:
        """The least recently used go, but for those whose bodies all stay for others."""
        order = [wanted for wanted in self.by_use() if wanted not in self.protected()]
        known = [wanted for wanted in chosen if wanted in self.kept]
        assert known == [wanted for wanted in order if wanted in known], "the order of eviction"
        with cache.index.read() as rows:
            if not known or rows.execute("SELECT 1 FROM blob_holds").fetchone():
                return  # what is held frees nothing, whosever it is
        bodies = {wanted: {body for body in self.bodies_of(wanted) if body[0]} for wanted in self.kept}
        for skipped in order[: order.index(known[-1])]:
            if skipped not in known:
                others = set().union(*(bodies[one] for one in self.kept if one not in known and one != skipped))
                assert bodies[skipped] <= others, "a later one went before it"

    def bodies_of(self, snapshot_id: str) -> set[tuple[int, int]]:
        """Size and shade of each file."""
        known = self.kept[snapshot_id]
        return {(numbers[0], numbers[1]) for numbers in sizes_of(known.name, known.version).values()}

    # --- what always holds

    def judge_freshness(self, found: Snapshot, expected: Kept) -> None:
        fresh = found.fresh(self.clock())
        if expected.fresh_until is not None and self.now >= expected.fresh_until:
            assert not fresh, "fresh for longer than it may be"
        if self.now < expected.fresh_at_least_until:
            assert fresh, "stale before its time"

    def bytes_now(self) -> int:
        return 512 * sum(dict(walk(str(self.place)).values()).values())

    def judge_bytes(self, snapshot: Snapshot, kept: Kept) -> None:
        """Every byte, once for every state of an inode."""
        files: dict[str, str] = {}
        for folder, _, names in os.walk(snapshot.path):
            for name in names:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                assert stat.S_ISREG(status.st_mode)
                state = (status.st_ino, status.st_size, status.st_mtime_ns)
                if state not in self.seen_bytes:
                    self.seen_bytes[state] = blake3.blake3(Path(path).read_bytes()).hexdigest()
                files[os.path.relpath(path, snapshot.path)] = self.seen_bytes[state]
        assert files == expected_bytes(kept.name, kept.version), "wrong bytes are visible"

    def judge_space(self, cache: Cache) -> None:
        self.judge_order(cache.space())
        undrawn = cache.undrawn_bytes()
        promised = [item.bytes for client in self.clients for item in client.reservations]
        assert undrawn == sum(promised), "reservations"
        allocated = self.bytes_now()
        told = cache.usage().cache_bytes
        assert abs(told - allocated) <= allocated / 100, f"df says {told}, du {allocated}"
        if self.quota is not None:
            # What was there before the quota was lowered may stay.
            assert allocated + undrawn <= max(self.quota, self.most_bytes), "over the quota"
            self.most_bytes = max(self.quota, min(self.most_bytes, allocated + undrawn))


_EXPECTED: dict[tuple[str, int], dict[str, str]] = {}


def expected_bytes(name: str, version: int) -> dict[str, str]:
    """Path → BLAKE3."""
    if (name, version) not in _EXPECTED:
        contents = contents_of(name, version)
        _EXPECTED[name, version] = {path: blake3.blake3(data).hexdigest() for path, data in contents.items()}
    return _EXPECTED[name, version]
