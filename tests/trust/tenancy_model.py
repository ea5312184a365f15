"""A walk of tenants, by dice, and the small model that judges each step: what each may get of the cache is what his
origin would give him now, what is everybody's, or what was proven to be his less than ``PROOF_S`` ago.

Origins change their minds, credentials go and come, time passes, downloads are cut off, indexes are lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fetcher.cache.store import Cache
from tests.trust.tenants import (
    ANONYMOUS,
    BAD,
    BIG_BYTES,
    KINDS,
    NODE,
    OPERATOR,
    OTHER,
    OWNER,
    STRANGER,
    Answer,
    EndHeld,
    Kind,
    Tenant,
    TenantFetcher,
    World,
    tenants_of,
)

PROOF_S = 300.0
ASKERS = (OPERATOR, NODE, ANONYMOUS, OWNER, OWNER, OTHER, OTHER, STRANGER, BAD)
NAMES = {"one": 1, "two": 1, "three": 3}
"""Resource → seed of its files: the first two have the same bytes."""
PASSES_S = (20.0, 200.0, 299.0, 301.0, 700.0)
WAITS_S = 10.0


class WalkFetcher(TenantFetcher):
    """With a clock that the walk turns."""

    clock: Callable[[], float] = time.time

    @property
    def cache(self) -> Cache:
        if self._cache is None and not self._closed:
            self._cache = Cache.open(self.settings, clock=type(self).clock)
        return super().cache


@dataclass
class Known:
    """What the model holds to be in the cache of one resource."""

    public: bool = False
    proven_at: dict[str, float | None] = field(default_factory=dict)
    """Credential → when its access was last seen; None: refused since, or forgotten."""
    bytes_of: set[str] = field(default_factory=set)
    """Who may have been given some of its bytes before: credentials, and ``""`` for everybody."""


class Walk:
    """One cache, an origin of each kind, and steps. ``told``: what was done, for whoever reads a failure."""

    steps_done = 0

    def __init__(self, place: Path, dice: random.Random) -> None:
        self.place = place
        self.cache_dir = place / "cache"
        self.dice = dice
        self.ahead_s = 0.0
        self.empties = 0
        self.told: list[str] = []
        self.worlds: dict[Kind, World] = {}
        self.known: dict[tuple[Kind, str], Known] = {}
        self.seeds = dict(NAMES)
        self.last: tuple[Kind, str] = ("hf", "one")
        self.last_tenant = OWNER

    def run(self, steps: int) -> None:
        WalkFetcher.clock = staticmethod(lambda: time.time() + self.ahead_s)  # type: ignore[assignment]
        with ExitStack() as stack:
            for kind in KINDS:
                world = self.worlds[kind] = stack.enter_context(tenants_of(kind))
                world.fetcher_class = WalkFetcher
                for name, seed in NAMES.items():
                    visibility = self.dice.choice(("public", "private", "private"))
                    world.add(name, visibility, seed)  # type: ignore[arg-type]
                    self.known[kind, name] = Known()
            for _ in range(steps):
                step = self.dice.choices(list(STEPS), list(STEPS.values()))[0]
                try:
                    step(self)
                except AssertionError as error:
                    raise AssertionError(f"{error}\nafter:\n  " + "\n  ".join(self.told[-14:])) from error
                Walk.steps_done += 1

    # --- steps

    def pick(self) -> tuple[World, str, Known, Tenant]:
        """Mostly what the last step was about: most faults take several steps with one resource to be seen."""
        if self.dice.random() < 0.25:
            self.last = self.dice.choice(KINDS), self.dice.choice(list(NAMES))
        if self.dice.random() < 0.6:
            self.last_tenant = self.dice.choice(ASKERS)
        kind, name = self.last
        return self.worlds[kind], name, self.known[kind, name], self.last_tenant

    def ask(self) -> None:
        world, name, known, tenant = self.pick()
        more = self.dice.choice(({}, {}, {}, {"offline": True}, {"offline": True}, {"refresh": True}))
        self.asked(world, name, known, tenant, more)

    def asked(self, world: World, name: str, known: Known, tenant: Tenant, more: dict[str, Any]) -> None:
        self.told.append(f"{tenant} asks {world.kind} {name} {more}")
        answer = world.ask(self.cache_dir, tenant, name, proof_for_s=PROOF_S, **more)
        self.judge(world, name, known, tenant, answer, more)

    def ask_while_another_downloads(self) -> None:
        """Of a resource that nobody has asked for before."""
        world, _, _, tenant = self.pick()
        name = f"new{len(self.seeds)}"
        self.seeds[name] = 1000 + len(self.seeds)
        down = next(iter(world.laws.values())).trouble
        world.add(name, self.dice.choice(("public", "private", "private")), self.seeds[name])  # type: ignore[arg-type]
        known = self.known[world.kind, name] = Known()
        first = self.dice.choice((OWNER, OTHER, ANONYMOUS))
        law = world.laws[name]
        same = law.credential_of(first) == law.credential_of(tenant) or (
            law.makes_public(first) and law.makes_public(tenant)
        )
        law.granted = set(next(iter(world.laws.values())).granted)
        if world.kind == "s3":
            world.origin.bucket(f"bucket-{name}").readers = frozenset(law.granted)
        if same or down or not law.allows(first):
            return
        self.told.append(f"{tenant} asks {world.kind} {name} while {first} downloads it")

        async def main() -> Answer:
            held = world.hold_end(name)
            settings = {**EndHeld.HALVES, "proof_for_s": PROOF_S, "refresh": True}
            async with world.fetcher(self.cache_dir, first, **settings) as fetcher:
                fetching = asyncio.create_task(fetcher.fetch(world.item(name, first), first.role))
                try:
                    await self.half_way(held, world, fetching)
                    asking = world.asking(self.cache_dir, tenant, name, proof_for_s=PROOF_S)
                    try:
                        return await asyncio.wait_for(asking, WAITS_S)
                    except TimeoutError:
                        raise AssertionError("he was kept waiting by somebody else's download") from None
                finally:
                    held.open()
                    world.origin.faults.clear()
                    await asyncio.wait([fetching])
                    assert fetching.exception() is None, f"{first} was refused: {fetching.exception()}"

        answer = asyncio.run(main())
        # He who began first was asked for before, and published after: both orders give the same here.
        self.judge(world, name, known, tenant, answer, {}, compare=False)
        self.answered(world, name, known, first)

    def download_is_cut_off(self) -> None:
        world, name, known, tenant = self.pick()
        law = world.laws[name]
        if not law.allows(tenant) or self.expected_hit(world, name, known, tenant, {}) or law.trouble:
            return
        if self.may_link(world, name, tenant):
            return
        self.told.append(f"{tenant}'s download of {world.kind} {name} is cut off")

        async def main() -> None:
            held = world.hold_end(name)
            async with world.fetcher(self.cache_dir, tenant, **EndHeld.HALVES, proof_for_s=PROOF_S) as fetcher:
                fetching = asyncio.create_task(fetcher.fetch(world.item(name, tenant), tenant.role))
                try:
                    await self.half_way(held, world, fetching)
                finally:
                    fetching.cancel()
                    await asyncio.wait([fetching])
            held.open()
            world.origin.faults.clear()

        asyncio.run(main())
        self.gives_bytes(known, law.makes_public(tenant), law.credential_of(tenant))
        if world.kind != "s3" and not law.makes_public(tenant):
            self.withdrawn(known, law.credential_of(tenant))

    async def half_way(self, held: EndHeld, world: World, fetching: asyncio.Task[Any]) -> None:
        """A download that has to be is held in its middle."""
        reached = asyncio.create_task(held.reached(world, self.cache_dir))
        await asyncio.wait({reached, fetching}, timeout=WAITS_S, return_when=asyncio.FIRST_COMPLETED)
        if fetching.done():
            reached.cancel()
            await asyncio.wait({reached})
            error = fetching.exception()
            assert error is not None, "LEAK: bytes that he was not given before were not downloaded"
            raise AssertionError(f"the origin allows it: {error}")
        assert reached.done(), "LEAK or hang: a download that has to be does not begin"

    def origin_changes_its_mind(self) -> None:
        world, name, known, _ = self.pick()
        visibility = self.dice.choice(("public", "private", "gated") if world.kind == "hf" else ("public", "private"))
        self.told.append(f"{world.kind} {name} is {visibility}")
        world.show(name, visibility)  # type: ignore[arg-type]
        self.noticed(world, name, known, self.dice.choice((OWNER, OTHER)))

    def noticed(self, world: World, name: str, known: Known, tenant: Tenant) -> None:
        """Often somebody whom it concerns finds it out at once, and others ask then."""
        if self.dice.random() < 0.5:
            self.asked(world, name, known, tenant, {"refresh": True})
            for other in (tenant, self.dice.choice(ASKERS)):
                self.asked(world, name, known, other, self.dice.choice(({}, {"offline": True})))

    def credential_changes(self) -> None:
        world, name, known, tenant = self.pick()
        credential = (
            tenant.credential if tenant in (OWNER, OTHER, NODE) else self.dice.choice(("owner", "other", "node"))
        )
        change = self.dice.choice((world.revoke, world.restore, world.downgrade, world.grant))
        if change == world.downgrade or change == world.grant or change == world.restore:
            world.restore(credential)  # a good one, and then with these rights
        if change == world.restore:
            change = world.grant
        self.told.append(f"{world.kind}: {change.__name__} {credential}")
        change(credential)
        if tenant.credential == credential:
            self.noticed(world, name, known, tenant)

    def time_passes(self) -> None:
        seconds = self.dice.choice(PASSES_S)
        self.told.append(f"{seconds} s pass")
        self.ahead_s += seconds

    def trouble(self) -> None:
        world = self.worlds[self.dice.choice(KINDS)]
        what = self.dice.choice(("down", "limited", "", "", ""))
        self.told.append(f"{world.kind} is {what or 'well'}")
        world.trouble(what)

    def index_is_lost(self) -> None:
        self.told.append("the index is lost")
        for path in self.cache_dir.glob("index-v*"):
            path.unlink()
        for known in self.known.values():
            known.proven_at = dict.fromkeys(known.proven_at)

    def tidied(self) -> None:
        """By gc, and by a scrub that finds nothing."""
        self.told.append("gc and verify")
        fetcher = self.worlds["hf"].fetcher(self.cache_dir, OPERATOR)
        try:
            fetcher.cache.gc()
            assert not fetcher.verify().damage
        finally:
            fetcher.close()

    # --- the law

    def alive(self, proven_at: float | None) -> bool:
        return proven_at is not None and self.ahead_s - proven_at < PROOF_S - 10.0

    def nearly_over(self, proven_at: float | None) -> bool:
        """Real seconds go by as well: too near to the end to tell."""
        return proven_at is not None and abs(self.ahead_s - proven_at - PROOF_S) <= 10.0

    def expected_hit(self, world: World, name: str, known: Known, tenant: Tenant, more: dict[str, Any]) -> bool:
        if more.get("refresh"):
            return False
        credential = world.laws[name].credential_of(tenant)
        return known.public or (credential is not None and self.alive(known.proven_at.get(credential)))

    def may_link(self, world: World, name: str, tenant: Tenant) -> bool:
        """Whether he may be given bytes of its large file without a download."""
        credential = world.laws[name].credential_of(tenant) or ""
        return any(
            "" in known.bytes_of or credential in known.bytes_of
            for (_, other), known in self.known.items()
            if self.seeds[other] == self.seeds[name]
        )

    def judge(
        self,
        world: World,
        name: str,
        known: Known,
        tenant: Tenant,
        answer: Answer,
        more: dict[str, Any],
        *,
        compare: bool = True,
    ) -> None:
        law = world.laws[name]
        credential = law.credential_of(tenant)
        proven_at = known.proven_at.get(credential) if credential is not None else None
        if answer.error is None:
            assert answer.tree == world.held(name), "other bytes than the origin's"
        if self.nearly_over(proven_at) and not known.public:
            if answer.error is None and not answer.hit:
                self.answered(world, name, known, tenant)
            elif answer.error is not None and answer.error[0] in ("not_found", "denied"):
                known.proven_at[credential or ""] = None
            elif answer.questions and answer.error is None:
                self.answered(world, name, known, tenant)
            return
        if self.expected_hit(world, name, known, tenant, more):
            assert answer.error is None, f"no hit: {answer.error}"
            assert answer.hit and not answer.questions and not answer.bodies, "a hit that asks"
            return
        if more.get("offline"):
            assert answer.error is not None and answer.error[0] == "offline", f"LEAK, offline: {answer.error}"
            assert not answer.questions
            return
        if not law.allows(tenant):
            assert answer.error is not None, "LEAK: he was given what the origin refuses him"
            assert answer.error[0] in law.kinds(tenant), answer.error
            assert answer.questions, "LEAK: refused, and the origin was not asked"
            if answer.error[0] in ("not_found", "denied") and credential is not None:
                known.proven_at[credential] = None
            if compare and not known.public and credential not in known.proven_at and self.dice.random() < 0.4:
                self.empties += 1
                bare = world.ask(self.place / f"empty-{self.empties}", tenant, name, **more)
                assert answer.seen == bare.seen, f"LEAK, to be seen: {answer.seen} instead of {bare.seen}"
            return
        assert answer.error is None, f"the origin allows it: {answer.error}"
        assert answer.questions, "LEAK: the origin was not asked for this asker"
        if not self.may_link(world, name, tenant):
            assert answer.body_bytes >= BIG_BYTES, "LEAK: bytes that he was not given before were not downloaded"
        self.answered(world, name, known, tenant)

    def answered(self, world: World, name: str, known: Known, tenant: Tenant) -> None:
        """The origin has let this asker have it just now."""
        law = world.laws[name]
        credential = law.credential_of(tenant)
        public = law.makes_public(tenant)
        if public:
            known.public = True
        else:
            assert credential is not None
            if world.kind != "s3":
                self.withdrawn(known, credential)
            known.proven_at[credential] = self.ahead_s
        self.gives_bytes(known, public, credential)

    def withdrawn(self, known: Known, credential: str | None) -> None:
        """Its origin says that it is not everybody's."""
        if known.public:
            known.public = False
            known.bytes_of.discard("")
            known.bytes_of.add(credential or "")

    def gives_bytes(self, known: Known, public: bool, credential: str | None) -> None:
        known.bytes_of.add("" if public else credential or "")


STEPS: dict[Callable[[Walk], None], int] = {
    Walk.ask: 60,
    Walk.ask_while_another_downloads: 3,
    Walk.download_is_cut_off: 3,
    Walk.origin_changes_its_mind: 8,
    Walk.credential_changes: 8,
    Walk.time_passes: 9,
    Walk.trouble: 4,
    Walk.index_is_lost: 2,
    Walk.tidied: 2,
}
