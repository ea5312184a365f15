"""The cache as a dict, and a machine that does the same to both: what is kept, what goes, who has a right to it, and
what time does to it, with several clients, crashes, reboots and a calendar that somebody sets.
"""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from fetcher.cache.due import JUST_USED_S
from fetcher.cache.records import GoneError
from fetcher.cache.snapshots import HANDED_OUT_S, TOUCH_INTERVAL_S
from fetcher.cache.store import Cache
from fetcher.errors import LeaseError
from fetcher.plan import allocation
from tests.cache.world import MIB, key_of, publish
from tests.torture.retention_sides import (
    COPY_LEASE_S,
    GRACE_S,
    NAMES,
    QUOTAS,
    VERSIONS,
    BothSides,
    Kept,
    Right,
    bytes_of,
    contents_of,
    sizes_of,
)

CLIENTS_MAX = 3
PASSES_S = (3.0, 70.0, 500.0, 4_000.0, 30_000.0, 100_000.0)
JUMPS_S = (90.0, -90.0, 5_000.0, -5_000.0, 200_000.0, -200_000.0, 2_000_000.0)
KEEPS_S = (500.5, 9_000.5, 90_000.5)
FRESH_S = (400.5, 20_000.5, 90_000.5)
LEASES_S = (50.5, 5_000.5, 150_000.5)

Pick = st.integers(0, 1 << 16)
"""Which of the things there are, counted around."""


class RetentionMachine(BothSides):
    """Rules do the same to cache and model; the invariant compares them after each."""

    # --- what clients do

    @initialize(
        quota=st.sampled_from(QUOTAS),
        stock=st.lists(
            st.tuples(st.sampled_from(NAMES), st.integers(0, 2), st.sampled_from(KEEPS_S)), min_size=2, max_size=6
        ),
    )
    def first(self, quota: int | None, stock: list[tuple[str, int, float]]) -> None:
        self.quota = quota
        self.open()
        for name, version, keep_s in stock:
            self.fetch(0, name, version, FRESH_S[1], keep_s, ever=False)
            self.passes(5.0)
        self.lease(0, 0, LEASES_S[1], copies=1)

    @rule()
    def open_another(self) -> None:
        if len(self.clients) < CLIENTS_MAX:
            self.open()

    @rule(pick=Pick)
    def close_one(self, pick: int) -> None:
        client = self.client(pick)
        client.cache.close()
        self.clients.remove(client)

    @rule(pick=Pick)
    def crash_one(self, pick: int) -> None:
        self.crash(self.client(pick))

    @rule(
        pick=Pick,
        wanted=st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, VERSIONS - 1)), min_size=1, max_size=3),
        fresh_s=st.sampled_from(FRESH_S),
        keep_s=st.sampled_from(KEEPS_S),
        ever=st.booleans(),
    )
    def fetch_some(self, pick: int, wanted: list[tuple[str, int]], fresh_s: float, keep_s: float, ever: bool) -> None:
        for name, version in wanted:
            self.fetch(pick, name, version, fresh_s, keep_s, ever)

    def fetch(self, pick: int, name: str, version: int, fresh_s: float, keep_s: float, ever: bool) -> None:
        client = self.client(pick)
        needed = bytes_of(name, version)
        reservation = self.make_room(client, needed)
        if reservation is None:
            return
        try:
            reservation.draw(needed)
            try:
                times = {"fresh_for_s": fresh_s, "keep_for_s": keep_s, "immutable": ever}
                snapshot = publish(client.cache, name, contents_of(name, version), **times)
            finally:
                reservation.release()
        except GoneError:
            return
        self.published(snapshot.id, name, version, fresh_s, keep_s, ever)

    @rule(
        name=st.sampled_from(NAMES),
        version=st.integers(0, VERSIONS - 1),
        keep_s=st.sampled_from(KEEPS_S),
        steps=st.integers(1, 26),
        blocks=st.integers(0, 6),
    )
    def fetch_and_be_killed(self, name: str, version: int, keep_s: float, steps: int, blocks: int) -> None:
        reached = self.kill_in_the_middle(
            name=name,
            contents=sizes_of(name, version),
            bytes=bytes_of(name, version),
            times={"keep_for_s": keep_s, "fresh_for_s": FRESH_S[0]},
            steps=steps,
            partial_blocks=max(0, blocks - 4),
        )
        if reached[-1:] == ["NoSpaceError"]:
            return
        probe = self.open()
        try:
            found = {
                snapshot.id: snapshot for snapshot in probe.cache.snapshots() if probe.cache.get_snapshot(snapshot.id)
            }
            known = next((kept for kept in self.kept.values() if (kept.name, kept.version) == (name, version)), None)
            new = [snapshot_id for snapshot_id in found if snapshot_id not in self.kept]
            if "done" in reached or "snapshot:rows" in reached:
                (snapshot_id,) = [known.id] if known is not None else new
                self.published(snapshot_id, name, version, FRESH_S[0], keep_s, False)
                if "done" in reached and known is None:
                    self.kept[snapshot_id].used_at = self.now
            else:
                assert not new, f"visible, and only {reached} done"
                if "snapshot:named" in reached:
                    wanted = self._id_of(probe.cache, name, version)
                    until = self.now + FRESH_S[0]
                    self.nameless[wanted] = Kept(
                        wanted, name, version, keep_s, keep_s, until, 0.0, until, 0.0, self.now, self.now
                    )
        finally:
            probe.cache.close()
            self.clients.remove(probe)

    def _id_of(self, cache: Cache, name: str, version: int) -> str:
        """Of the directory that a crash has left without a row."""
        with cache.index.read() as rows:
            known = {row[0] for row in rows.execute("SELECT id FROM snapshots")}
        for path in cache.layout.snapshots.iterdir():
            if len(path.name) == 64 and path.name not in known and (path / f"own/{version}.bin").exists():
                sidecar = json.loads(cache.layout.sidecar(path.name).read_bytes())
                if sidecar["key"] == key_of(name):
                    return path.name
        raise AssertionError("there is none")

    @precondition(lambda self: self.kept)
    @rule(pick=Pick, steps=st.integers(1, 5))
    def remove_and_be_killed(self, pick: int, steps: int) -> None:
        kept = self.some(pick)
        assert kept is not None
        if kept.id in self.protected() or any(key == key_of(kept.name) for _, key in self.pins):
            return
        reached = self.kill_in_the_middle(remove=[kept.id], steps=steps)
        assert "removal:snapshot-condemned" in reached, reached
        self.lose({kept.id})
        self.rows_only.add(kept.id)

    @precondition(lambda self: self.kept)
    @rule(pick=Pick, which=Pick)
    def hit(self, pick: int, which: int) -> None:
        client, kept = self.client(pick), self.some(which)
        assert kept is not None
        client.cache.touch(kept.id)
        told_at = client.touched.get(kept.id)
        if told_at is not None and 0 <= self.clock() - told_at < TOUCH_INTERVAL_S:
            return
        client.touched[kept.id] = self.clock()
        kept.used_at = self.now
        stays_s = kept.keep_for_s if self.keep_from == "use" else HANDED_OUT_S
        kept.keep_until = max(kept.keep_until, self.now + stays_s)

    @precondition(lambda self: self.kept)
    @rule(pick=Pick, which=Pick, fresh_s=st.sampled_from(FRESH_S), keep_s=st.sampled_from(KEEPS_S))
    def revalidate(self, pick: int, which: int, fresh_s: float, keep_s: float) -> None:
        kept = self.some(which)
        assert kept is not None
        self.client(pick).cache.revalidate(kept.id, fresh_s, keep_s)
        self.published(kept.id, kept.name, kept.version, fresh_s, keep_s, False)

    @rule(pick=Pick, name=st.sampled_from(NAMES))
    def look_up(self, pick: int, name: str) -> None:
        found, expected = self.client(pick).cache.lookup(key_of(name), None), self.newest(name)
        assert (found and found.id) == (expected and expected.id)
        if found is not None and expected is not None:
            self.judge_freshness(found, expected)

    # --- rights

    @precondition(lambda self: self.kept)
    @rule(pick=Pick, which=Pick, duration_s=st.sampled_from((None, *LEASES_S)), copies=st.integers(0, 3))
    def lease(self, pick: int, which: int, duration_s: float | None, copies: int) -> None:
        client, kept = self.client(pick), self.some(which)
        assert kept is not None
        cache = client.cache
        if duration_s is None:
            taken, right_ends, number = cache.lease_process([kept.id]), None, client.number
        else:
            taken, right_ends, number = (
                cache.lease_timed([kept.id], duration_s),
                self.clock.boot_s() + duration_s,
                None,
            )
        right = Right(taken.id, {kept.id}, self.clock.boot_id, right_ends, number)
        self.rights[taken.id] = right
        if copies == 1:
            needed = 2 * bytes_of(kept.name, kept.version)
            reservation = self.make_room(client, needed)
            if reservation is not None:
                try:
                    staged = cache.copy_stage(kept.id, draw=reservation.draw)
                    right.copies.append(cache.copy_adopt(staged, taken.id, 0))
                finally:
                    reservation.release()

    @precondition(lambda self: self.rights)
    @rule(pick=Pick, which=Pick)
    def release(self, pick: int, which: int) -> None:
        right = list(self.rights.values())[which % len(self.rights)]
        # A row that has ended is there until gc comes by, and may be released.
        self.client(pick).cache.lease_release(right.id)
        del self.rights[right.id]
        assert not [path for path in right.copies if path.exists()], "its private copy is still there"

    @precondition(lambda self: self.rights)
    @rule(pick=Pick, which=Pick, duration_s=st.sampled_from(LEASES_S))
    def renew(self, pick: int, which: int, duration_s: float) -> None:
        right = list(self.rights.values())[which % len(self.rights)]
        may = self.alive(right) and right.ends_boot_s is not None
        try:
            self.client(pick).cache.lease_renew(right.id, duration_s)
        except LeaseError:
            assert not may, "a living lease could not be renewed"
        else:
            assert may, "a lease that has ended was renewed"
            right.ends_boot_s = self.clock.boot_s() + duration_s

    def heal(self, pick: int) -> None:
        """A row whose directory a crash took has the pin of its resource until gc comes by, which looks for such rows
        before it takes anything. Until then the planner does not know."""
        if self.rows_only:
            self.gc(pick)

    @rule(pick=Pick, pin=st.sampled_from(("x", "y")), names=st.sets(st.sampled_from(NAMES), max_size=2))
    def pin(self, pick: int, pin: str, names: set[str]) -> None:
        self.heal(pick)
        self.client(pick).cache.pin(pin, *map(key_of, sorted(names)))
        self.pins |= {(pin, key_of(name)) for name in names}

    @rule(pick=Pick, pin=st.sampled_from(("x", "y")), names=st.sets(st.sampled_from(NAMES), max_size=2))
    def pin_exactly(self, pick: int, pin: str, names: set[str]) -> None:
        self.heal(pick)
        wanted = {(pin, key_of(name)) for name in names}
        known = {item for item in self.pins if item[0] == pin}
        assert self.client(pick).cache.pin_exactly(pin, [key for _, key in sorted(wanted)]) == len(known - wanted)
        self.pins = self.pins - known | wanted

    @rule(pick=Pick, pin=st.sampled_from(("x", "y")))
    def unpin(self, pick: int, pin: str) -> None:
        gone = {item for item in self.pins if item[0] == pin}
        assert self.client(pick).cache.unpin(pin) == len(gone)
        self.pins -= gone

    # --- what makes room

    @rule(pick=Pick)
    def gc(self, pick: int) -> None:
        cache = self.client(pick).cache
        check = self.collected(cache)
        check(cache.gc().snapshots)
        self.no_copy_without_a_right()

    def no_copy_without_a_right(self) -> None:
        expected = {path for right in self.rights.values() for path in right.copies}
        found = {path for path in (self.place / "writable-v1").iterdir() if not path.name.startswith(".staging")}
        assert found == expected, "private copies"

    @rule(pick=Pick)
    def tidy(self, pick: int) -> None:
        cache = self.client(pick).cache
        expected = self.expired(JUST_USED_S)
        check = self.collected(cache, JUST_USED_S)
        report = cache.tidy()
        if report is None:
            assert not expected, "something's time is over, and tidying up was not due"
        else:
            check(report.snapshots)

    @rule(pick=Pick, max_mib=st.sampled_from((None, 0, 2, 4, 8)))
    def prune(self, pick: int, max_mib: int | None) -> None:
        cache = self.client(pick).cache
        expired, sacred = self.expired(), self.protected()
        plan = cache.prune_plan(max_bytes=None if max_mib is None else max_mib * MIB)
        gone = set(plan.execute().snapshots) - self.rows_only
        self.rows_only.clear()
        assert not gone & sacred, "what is leased or pinned was pruned"
        assert gone >= expired, "what has had its time goes with any pruning"
        others = [wanted for wanted in self.by_use() if wanted not in sacred | expired]
        assert gone - expired == set(others[: len(gone - expired)]), "the least recently used first"
        if max_mib is None:
            assert gone == expired
        self.lose(gone)
        self.rights = {name: right for name, right in self.rights.items() if self.alive(right)}

    @precondition(lambda self: self.kept)
    @rule(pick=Pick, which=Pick, force=st.booleans())
    def remove(self, pick: int, which: int, force: bool) -> None:
        kept = self.some(which)
        assert kept is not None
        may = force or kept.id not in self.protected()
        try:
            self.client(pick).cache.remove([kept.id], force=force)
        except LeaseError:
            assert not may, "nobody has a right to it, and it could not be removed"
        else:
            assert may, "what is leased or pinned was removed"
            self.lose({kept.id})

    @rule(pick=Pick, mib=st.integers(1, 12), draw=st.booleans())
    def reserve(self, pick: int, mib: int, draw: bool) -> None:
        """And keep it for a while."""
        client = self.client(pick)
        reservation = self.make_room(client, mib * MIB)
        if reservation is not None:
            client.reservations.append(reservation)

    @rule(pick=Pick)
    def give_back(self, pick: int) -> None:
        client = self.client(pick)
        if client.reservations:
            client.reservations.pop().release()

    @rule(quota=st.sampled_from(QUOTAS), keep_from=st.sampled_from(("download", "use")))
    def other_settings(self, quota: int | None, keep_from: str) -> None:
        """Everybody closes, and opens with another quota."""
        for client in list(self.clients):
            self.clients.remove(client)
            client.cache.close()
        self.quota, self.keep_from = quota, keep_from
        self.most_bytes = 0 if quota is None else self.bytes_now() + allocation.UNIT_BYTES
        self.open()

    # --- what time and the machine do

    @rule(seconds=st.sampled_from(PASSES_S))
    def time_passes(self, seconds: float) -> None:
        self.passes(seconds)

    @rule(pick=Pick, over=st.booleans())
    def time_passes_until_something_ends(self, pick: int, over: bool) -> None:
        """To the second before it, or the one after."""
        ends = {end for kept in self.kept.values() for end in (kept.fresh_until, kept.keep_until) if end is not None}
        for right in self.rights.values():
            if right.ends_boot_s is not None and self.alive(right):
                ends.add(self.now + right.ends_boot_s - self.clock.boot_s())
        coming = sorted(end for end in ends if end > self.now + 2)
        if coming:
            seconds = coming[pick % len(coming)] - self.now
            self.passes(float(int(seconds) + over if seconds % 1 else int(seconds) + over - 1))

    @rule(seconds=st.sampled_from(JUMPS_S))
    def calendar_is_set(self, seconds: float) -> None:
        """And nothing else: who comes next has to notice."""
        self.clock.jump(seconds)
        self.just_set = True
        for kept in (*self.kept.values(), *self.nameless.values()):
            if seconds > 0:
                kept.fresh_at_least_until -= seconds
            else:
                kept.set_back_s -= seconds

    @rule(seconds=st.sampled_from((30.0, 3_000.0)))
    def reboot(self, seconds: float) -> None:
        """Orderly or not makes no difference to what others find."""
        self.settle()
        for client in list(self.clients):
            self.crash(client)
        self.clock.reboot(seconds)
        self.now += seconds

    def settle(self) -> None:
        """Across boots nothing tells that the calendar was set just before: let it be noticed."""
        self.clients or self.open()
        self.clients[0].cache.lookup(key_of("nobody's"), None)

    @rule()
    def index_is_lost(self) -> None:
        for client in list(self.clients):
            self.crash(client)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.place}/index-v1.sqlite{suffix}").unlink(missing_ok=True)
        copies = [path for right in self.rights.values() for path in right.copies]
        self.rebuilt = True
        self.rights.clear()
        self.pins.clear()
        self.rows_only.clear()
        client = self.open()
        adopted = set(client.cache.recovery.adopted)
        assert adopted >= self.kept.keys(), "a rebuilt index has lost a snapshot"
        assert adopted <= self.kept.keys() | self.nameless.keys(), "a rebuilt index has found what nobody published"
        for wanted in adopted - self.kept.keys():
            self.kept[wanted] = self.nameless[wanted]
        self.nameless.clear()
        for kept in self.kept.values():
            kept.used_at = self.now
            kept.keep_for_s = kept.sidecar_keep_s
            kept.keep_until = self.now + kept.sidecar_keep_s
            kept.fresh_at_least_until = 0.0
            kept.fresh_until = None if kept.sidecar_fresh_until is None else kept.sidecar_fresh_until + kept.set_back_s
        # Which of two versions is the newer one is what their sidecars say, in the calendar of their day.
        for snapshot in client.cache.snapshots():
            self.kept[snapshot.id].validated_at = snapshot.validated_at - self.clock() + self.now
        for path in copies:
            right = self.rights.setdefault(
                path.name[:32],
                Right(path.name[:32], set(), self.clock.boot_id, self.clock.boot_s() + COPY_LEASE_S),
            )
            right.copies.append(path)

    @rule(pick=Pick)
    def nothing_is_left_that_nobody_owns(self, pick: int) -> None:
        """Two collections with the grace between them, and once more for what the second condemned."""
        for _ in range(2):
            self.gc(pick)
            self.passes(GRACE_S + 1)
            self.stamp()
        self.gc(pick)
        self.stamp()
        cache = self.client(pick).cache
        layout, owners = cache.layout, cache._owners
        with cache.index.read() as rows:
            snapshots = {row[0] for row in rows.execute("SELECT id FROM snapshots")}
            known = {row[0] for row in rows.execute("SELECT root FROM blobs")}
            named = {row[0] for row in rows.execute("SELECT root FROM snapshot_blobs")}
            held = {row[0] for row in rows.execute("SELECT root FROM blob_holds")}
        assert snapshots == self.kept.keys(), "rows of snapshots"
        self.nameless.clear()
        fresh = {path.name for path in layout.snapshots.iterdir() if path.name.startswith(".condemned-")}
        expected = {name for wanted in snapshots for name in (wanted, f"{wanted}.json")}
        assert {path.name for path in layout.snapshots.iterdir()} - fresh == expected, "snapshots"
        # A rebuilt index may have found a directory that a crash left without a row, and whose Blobs gc had swept: it
        # is whole by its own names.
        assert named <= known or self.rebuilt, "blobs are gone that a snapshot refers to"
        bodies = {path.name.removesuffix(".tree") for path in layout.blobs.glob("??/*")}
        # What was condemned a moment ago has the grace of its bytes still.
        assert bodies == known, "blobs without a row, or rows without a blob"
        assert known - named - held <= self._recent(cache), "blobs that nothing refers to"
        living = {client.cache._owner.id for client in self.clients if client.cache._owner is not None}
        partials = {path.name for path in layout.partials.iterdir()}
        bearing = {name.partition(".")[2] for name in partials}
        assert {path.name for path in layout.owners.iterdir()} <= living | bearing, "life signs of the dead"
        assert all(owners.state(name) == "dead" for name in bearing - living)

    def _recent(self, cache: Cache) -> set[str]:
        with cache.index.read() as rows:
            return {
                row[0] for row in rows.execute("SELECT root FROM blobs WHERE used_at > ?", (self.clock() - GRACE_S,))
            }

    # --- what always holds

    @invariant()
    def agrees(self) -> None:
        type(self).steps_done += 1
        if self.just_set or not self.place.exists():
            self.just_set = False  # whatever comes next does not find it noticed
            return
        self.stamp()
        self.passes(1.0)
        client = self.client(0)
        cache = client.cache
        cache.lookup(key_of("nobody's"), None)  # a calendar that was set is noticed by whoever asks for something
        found = {snapshot.id: snapshot for snapshot in cache.snapshots() if snapshot.id not in self.rows_only}
        assert found.keys() >= self.kept.keys(), "a snapshot was lost before its time"
        assert found.keys() == self.kept.keys(), "a snapshot is there that should be gone"
        for wanted, kept in self.kept.items():
            assert cache.get_snapshot(wanted) is not None
            self.judge_freshness(found[wanted], kept)
            self.judge_bytes(found[wanted], kept)
        expected = {right.id for right in self.rights.values() if self.alive(right)}
        assert {lease.id for lease in cache.leases()} == expected, "leases"
        assert {(pin.name, pin.resource_key) for pin in cache.pins()} == self.pins, "pins"
        for right in self.rights.values():
            if self.alive(right):
                assert all(path.is_dir() for path in right.copies), "a private copy was lost before its lease ended"
        self.judge_space(cache)
