"""Tenants × what is in the cache × what has become of the origin: each gets what the origin would give him now, what is
everybody's, or what he has just proven to be his; and whoever gets nothing can't tell a full cache from an empty one.

An entry is made once and copied for each who asks. What he sees is compared with what the same asker sees of the same
origin with an empty cache: answer, error, requests on the wire, bytes, events.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fetcher.config import Settings
from fetcher.testing.faults import CutHead
from tests.torture.modes import LONG
from tests.trust.tenants import (
    ANONYMOUS,
    BAD,
    BIG,
    BIG_BYTES,
    KINDS,
    OTHER,
    OWNER,
    SOMEBODY,
    TENANTS,
    Answer,
    Kind,
    Law,
    Tenant,
    Visibility,
    World,
    tenants_of,
)

HAS_PROOFS = "proof_for_s" in Settings.__dataclass_fields__
REMEMBERED = {"proof_for_s": 3600.0} if HAS_PROOFS else {}
EXPIRED = {"proof_for_s": 0.0} if HAS_PROOFS else {}


@dataclass(frozen=True)
class Entry:
    """What of the resource is in the cache when somebody asks."""

    name: str
    by: Tenant | None = None
    before: Visibility = "private"
    """What it was at the origin when it was fetched."""
    whole: bool = True


ENTRIES = (
    Entry("never"),
    Entry("public", ANONYMOUS, "public"),
    Entry("mine", OWNER),
    Entry("somebodys", SOMEBODY),
    Entry("gated", OWNER, "gated"),
    Entry("under-way", OWNER, whole=False),
    Entry("partial", OWNER, whole=False),
)


def _revoke(world: World) -> None:
    for credential in ("owner", "other", "node"):
        world.revoke(credential)


def _downgrade(world: World) -> None:
    for credential in ("owner", "other", "node"):
        world.downgrade(credential)


def _renamed_with_forwarding(world: World) -> None:
    world.origin.rename_repo("acme/one", "acme/renamed")


@dataclass(frozen=True)
class Situation:
    """What has happened since, and how it is asked now."""

    name: str
    happens: Callable[[World], None] = lambda world: None
    remembered: bool = False
    """Whether what was proven when the entry was fetched still counts."""
    more: Mapping[str, Any] = ()  # type: ignore[assignment]
    only: tuple[Kind, ...] = KINDS

    @property
    def offline(self) -> bool:
        return bool(dict(self.more).get("offline"))

    @property
    def refresh(self) -> bool:
        return bool(dict(self.more).get("refresh"))


SITUATIONS = (
    Situation("online", remembered=True),
    Situation("online-refresh", remembered=True, more={"refresh": True}),
    Situation("proof-expired"),
    Situation("offline", remembered=True, more={"offline": True}),
    Situation("offline-expired", more={"offline": True}),
    Situation("revoked", _revoke),
    Situation("revoked-just-now", _revoke, remembered=True),
    Situation("revoked-offline", _revoke, remembered=True, more={"offline": True}),
    Situation("downgraded", _downgrade),
    Situation("removed", lambda world: world.remove("one")),
    Situation("renamed", _renamed_with_forwarding, only=("hf",)),
    Situation("public-to-private", lambda world: world.show("one", "private")),
    Situation("public-to-private-refresh", lambda world: world.show("one", "private"), more={"refresh": True}),
    Situation("private-to-public", lambda world: world.show("one", "public")),
    Situation("gated-later", lambda world: world.show("one", "gated"), only=("hf",)),
    Situation("down", lambda world: world.trouble("down")),
    Situation("down-just-now", lambda world: world.trouble("down"), remembered=True),
    Situation("limited", lambda world: world.trouble("limited")),
)


def may_be_a_hit(entry: Entry, situation: Situation, law: Law, before: Law, tenant: Tenant) -> bool:
    """The law of hits: what is everybody's, or what this asker has proven to be his a short while ago."""
    if entry.by is None or not entry.whole or situation.refresh:
        return False
    if before.makes_public(entry.by):
        return True
    own = law.credential_of(tenant) == law.credential_of(entry.by)
    return own and situation.remembered


class Stage:
    """One kind of origin, and what its resource's entries are made of. Each situation starts from a new origin's
    rights; its address, and with it the key of the resource, stays."""

    def __init__(self, world: World, place: Path) -> None:
        self.world = world
        self.place = place
        self.count = 0

    def reset(self, visibility: Visibility) -> Law:
        world = self.world
        world.origin.faults.clear()
        for name in ("owner", "other", "node"):
            world.restore(name)
        if world.kind == "hf":
            for repo in world.origin.repos:
                world.origin.remove_repo(repo.id)
        law = world.add("one", visibility)
        if world.kind == "s3":
            for name in ("owner", "other", "node"):
                world.grant(name)
        return law

    def new_place(self) -> Path:
        self.count += 1
        return self.place / f"cache-{self.count}"

    def make(self, entry: Entry, proofs: Mapping[str, Any]) -> tuple[Path, Law]:
        """A cache with this entry, closed; and the law at the time."""
        law = self.reset(entry.before)
        cache_dir = self.new_place()
        if entry.name == "partial":
            asyncio.run(self._partly(cache_dir, proofs))
        elif entry.by is not None:
            answer = self.world.ask(cache_dir, entry.by, **proofs)
            assert answer.error is None, answer.error
            assert answer.private != law.makes_public(entry.by)
        return cache_dir, replace(law)

    async def _partly(self, cache_dir: Path, proofs: Mapping[str, Any]) -> None:
        gate = self.world.hold_end("one")
        async with self.world.fetcher(cache_dir, OWNER, **gate.HALVES, **proofs) as fetcher:
            task = asyncio.create_task(fetcher.fetch(self.world.item("one", OWNER)))
            await gate.reached(self.world, cache_dir)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.open()
        self.world.origin.faults.clear()

    def ask(self, cache_dir: Path, entry: Entry, situation: Situation, tenant: Tenant) -> Answer:
        proofs = REMEMBERED if situation.remembered else EXPIRED
        more = {**proofs, **dict(situation.more)}
        if entry.name == "under-way":
            return asyncio.run(self._meanwhile(situation, tenant, more, proofs))
        return self.world.ask(cache_dir, tenant, **more)

    async def _meanwhile(
        self, situation: Situation, tenant: Tenant, more: Mapping[str, Any], proofs: Mapping[str, Any]
    ) -> Answer:
        """Ask while the owner's download stands still in its middle."""
        self.reset("private")
        cache_dir = self.new_place()
        gate = self.world.hold_end("one")
        async with self.world.fetcher(cache_dir, OWNER, **gate.HALVES, **proofs) as fetcher:
            owner = asyncio.create_task(fetcher.fetch(self.world.item("one", OWNER)))
            try:
                await gate.reached(self.world, cache_dir)
                situation.happens(self.world)
                asking = asyncio.create_task(self.world.asking(cache_dir, tenant, **more))
                if tenant is OWNER:  # he waits for himself
                    await asyncio.wait([asking], timeout=0.3)
                    gate.open()
                answer = await asking
                refused = not self.world.laws["one"].allows(OWNER)  # then he may have been told so meanwhile
                assert tenant is OWNER or refused or not owner.done(), "the owner's download goes on, whoever asks"
            finally:
                gate.open()
                owner.cancel()
                await asyncio.wait([owner])
        return answer


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with tenants_of(request.param) as world:
        yield Stage(world, tmp_path)


def cells(kind: Kind, entry: Entry) -> Iterator[tuple[Situation, Tenant]]:
    """In the short mode the owner of an entry is in all situations, everybody else in a quarter of them, another one
    for each entry."""
    for row, situation in enumerate(SITUATIONS):
        if kind not in situation.only or (entry.name in ("never",) and situation.name.startswith("public-to")):
            continue
        for column, tenant in enumerate(TENANTS):
            if not LONG and entry.name == "under-way" and tenant is OWNER and row % 5:
                continue  # he waits for himself, and we for him
            if LONG or (row + column + ENTRIES.index(entry)) % 4 == 0 or tenant is OWNER is entry.by:
                yield situation, tenant


TRIES_UNDER_WAY = 8


@pytest.mark.timeout(300)
@pytest.mark.parametrize("entry", ENTRIES[1:], ids=lambda entry: entry.name)
def test_what_an_asker_gets_and_sees(stage: Stage, entry: Entry) -> None:
    world, judged = stage.world, 0
    wrong: list[str] = []
    if entry.before == "gated" and world.kind != "hf":
        return  # only the Hub has such
    made: dict[bool, tuple[Path, Law]] = {}
    if entry.name != "under-way":
        for remembered in (False, True):
            made[remembered] = stage.make(entry, REMEMBERED if remembered else EXPIRED)
    for situation, tenant in cells(world.kind, entry):
        template, before = made.get(situation.remembered, (Path(), Law(world.kind, entry.before)))
        # While the owner's download is under way, a question of his own may fall among those that are compared; what
        # shows because it is in the cache shows each time.
        for _ in range(TRIES_UNDER_WAY if entry.name == "under-way" else 1):
            # What he would see if nothing were here.
            stage.reset(entry.before)
            situation.happens(world)
            law = replace(world.laws["one"])
            bare = stage.ask(stage.new_place(), ENTRIES[0], situation, tenant)
            # What he sees.
            cache_dir = stage.new_place()
            if entry.name != "under-way":
                shutil.copytree(template, cache_dir)
            answer = stage.ask(cache_dir, entry, situation, tenant)
            fault = None
            try:
                judge(world, entry, situation, law, before, tenant, answer, bare)
            except AssertionError as error:
                fault = f"{world.kind}, {entry.name}, {situation.name}, {tenant}: {str(error).splitlines()[0]}"
            for place in (cache_dir, stage.place / f"cache-{stage.count}"):
                shutil.rmtree(place, ignore_errors=True)
            if fault is None:
                break
        if fault is not None:
            wrong.append(fault)
        judged += 1
    print(f"{world.kind} {entry.name}: {judged} cells")
    assert not wrong, f"{len(wrong)} of {judged} cells:\n" + "\n".join(wrong)


def judge(
    world: World,
    entry: Entry,
    situation: Situation,
    law: Law,
    before: Law,
    tenant: Tenant,
    answer: Answer,
    bare: Answer,
) -> None:
    allowed = law.allows(tenant) and not situation.offline
    expected = {"offline"} if situation.offline else law.kinds(tenant)
    assert (bare.error is None) == allowed, f"with an empty cache he was told {bare.error}"
    if not allowed:
        assert bare.error is not None and bare.error[0] in expected, bare.error
    if answer.error is None:
        assert answer.tree == world.held("one") if law.there else answer.tree, "other bytes than the origin's"
    own = entry.by is not None and law.credential_of(entry.by) == law.credential_of(tenant) is not None
    if may_be_a_hit(entry, situation, law, before, tenant):
        assert answer.error is None and answer.hit, f"no hit, but {answer.error}"
        assert not answer.questions and not answer.bodies and not answer.downloaded, "a hit asks nobody"
        return
    assert answer.error == bare.error, f"{answer.error} instead of {bare.error}"
    if own or (entry.by is not None and before.makes_public(entry.by)):
        # What is his own, or everybody's, may spare him the bytes; never the question.
        assert bool(answer.questions) == (not situation.offline), "he was not asked for"
        assert answer.downloaded <= bare.downloaded
        return
    assert answer.seen == bare.seen, difference(answer, bare)
    if allowed:
        assert answer.body_bytes == bare.body_bytes, "somebody else's bytes have spared him some"


def difference(answer: Answer, bare: Answer) -> str:
    """What an asker could tell a full cache from an empty one by."""
    names = ("error", "hit", "downloaded", "tree", "questions", "bodies", "events")
    told = [
        f"{name}: {one} instead of {other}"
        for name, one, other in zip(names, answer.seen, bare.seen, strict=True)
        if one != other
    ]
    return "what somebody else has cached shows: " + "; ".join(told)


# --- one copy ---------------------------------------------------------------------------------------------------------


def test_two_who_may_have_it_share_the_disk_and_nothing_else(stage: Stage) -> None:
    stage.reset("private")
    cache_dir = stage.new_place()
    first = stage.world.ask(cache_dir, OWNER)
    second = stage.world.ask(cache_dir, OTHER)
    third = stage.world.ask(cache_dir, BAD)
    assert third.error is not None
    assert first.path != second.path
    assert second.downloaded == first.downloaded and second.body_bytes == first.body_bytes >= BIG_BYTES
    assert first.inodes == second.inodes, "one copy on disk"
    bodies = [
        path for path in (cache_dir / "blobs-v1").rglob("*") if path.is_file() and path.stat().st_size == BIG_BYTES
    ]
    assert len(bodies) == 1
    large = next(path for path in first.tree if first.tree[path][0] == BIG_BYTES)
    assert BIG in (large, BIG)
    assert bodies[0].stat().st_ino == first.inodes[large]


def test_an_origin_that_hangs_up_tells_as_little(stage: Stage) -> None:
    """No answer at all, instead of one that refuses."""
    stage.reset("private")
    cache_dir, empty = stage.new_place(), stage.new_place()
    stage.world.ask(cache_dir, SOMEBODY)
    stage.world.origin.faults.add(CutHead(7).on("*"))
    for tenant in TENANTS:
        answer, bare = (stage.world.ask(place, tenant) for place in (cache_dir, empty))
        assert answer.error is not None and answer.error[0] == "transport"
        assert answer.seen == bare.seen, f"{tenant}: {difference(answer, bare)}"
