"""Several tenants at one resource at the same time: nobody's refusal, failure or crowd is another's, and whoever waits
is still asked for his own access.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher import CacheError, FetcherError
from fetcher.engine.publish import Publishing
from fetcher.testing.faults import CutHead, OnRequest
from fetcher.testing.messages import Reply
from tests.e2e.support import RESUMES, Child, Gate, until, wait_until
from tests.e2e.support import proven_blocks as blocks_proven
from tests.trust.tenants import (
    ANONYMOUS,
    BAD,
    BIG,
    BIG_BYTES,
    KINDS,
    NODE,
    OPERATOR,
    OTHER,
    OWNER,
    SOMEBODY,
    STRANGER,
    EndHeld,
    Kind,
    Tenant,
    World,
    tenants_of,
    token_of,
    told_by,
)

REFUSED = (ANONYMOUS, STRANGER, BAD)


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with tenants_of(request.param) as made:
        made.add("one", "private")
        yield made


async def refusal(asking: Any) -> tuple[Any, ...]:
    try:
        await asking
    except FetcherError as error:
        return told_by(error)
    raise AssertionError("he was given it")


@pytest.mark.parametrize("one_process", [True, False], ids=["one-fetcher", "fetchers"])
@pytest.mark.parametrize("ends", ["succeeds", "fails"])
def test_strangers_while_the_owners_download_runs(world: World, cache_dir: Path, one_process: bool, ends: str) -> None:
    """They are told what they would be told anyhow, at once; and the owner's download ends as if they had not been."""
    alone = {tenant: world.ask(cache_dir.with_name(f"empty-{tenant}"), tenant).error for tenant in REFUSED}

    async def main() -> None:
        held = world.hold_end("one")
        async with world.fetcher(cache_dir, OWNER, **EndHeld.HALVES) as fetcher:
            owner = asyncio.create_task(fetcher.fetch(world.item("one", OWNER)))
            try:
                await held.reached(world, cache_dir)
                for tenant in (*REFUSED, *REFUSED):
                    if one_process and (world.kind != "ollama" or tenant is ANONYMOUS):
                        login, fetcher.login = fetcher.login, None
                        asking = fetcher.fetch(world.item("one", tenant), tenant.role)
                        told = await asyncio.wait_for(refusal(asking), 20.0)
                        fetcher.login = login
                    else:
                        told = (await asyncio.wait_for(world.asking(cache_dir, tenant), 20.0)).error or ()
                    assert told == alone[tenant]
                if ends == "fails":
                    held.answer = Reply(403)
                    world.revoke("owner")
                held.open()
                if ends == "fails":
                    with pytest.raises(FetcherError):
                        await owner
                else:
                    assert (await owner).downloaded >= BIG_BYTES
            finally:
                held.open()
                owner.cancel()
                await asyncio.wait([owner])

    asyncio.run(main())
    assert {tenant: world.ask(cache_dir, tenant).error for tenant in REFUSED} == alone


def test_an_owner_asks_while_a_strangers_fails(world: World, cache_dir: Path) -> None:
    """The stranger is being refused, slowly; meanwhile the owner is served."""

    def slow_to_strangers(exchange: Any) -> Any:
        return gate(exchange) if exchange.record.principal in (None, "stranger") and not others[0] else None

    gate, others = Gate(), [False]

    async def main() -> None:
        world.origin.faults.add(OnRequest(slow_to_strangers).on("api"))
        stranger = asyncio.create_task(world.asking(cache_dir, STRANGER))
        await until(lambda: len(world.origin.requests) > 0)
        others[0] = True
        owner = await asyncio.wait_for(world.asking(cache_dir, OWNER), 30.0)
        assert owner.error is None and owner.tree == world.held("one")
        assert not stranger.done()
        gate.open()
        assert (await stranger).error is not None

    asyncio.run(main())
    assert world.ask(cache_dir, OWNER).hit


def test_two_who_may_have_it_at_the_same_time_both_fetch(world: World, cache_dir: Path) -> None:
    """Neither waits for the other: who could see that somebody is at it would know that it is there."""

    async def main() -> None:
        held = world.hold_end("one")
        async with world.fetcher(cache_dir, OWNER, **EndHeld.HALVES) as fetcher:
            owner = asyncio.create_task(fetcher.fetch(world.item("one", OWNER)))
            try:
                await held.reached(world, cache_dir)
                other = await asyncio.wait_for(world.asking(cache_dir, OTHER), 30.0)
                assert other.error is None and other.body_bytes >= BIG_BYTES and not other.hit
                assert not owner.done()
            finally:
                held.open()
                await asyncio.wait([owner])
            assert owner.result().downloaded >= BIG_BYTES

    asyncio.run(main())
    first, second = (world.ask(cache_dir, tenant) for tenant in (OWNER, OTHER))
    assert first.hit and second.hit and first.inodes == second.inodes


@pytest.mark.parametrize("kind", ["hf", "s3"])
@pytest.mark.parametrize("lost", ["revoked", "downgraded"])
def test_a_waiter_who_loses_his_access_meanwhile(kind: Kind, lost: str, cache_dir: Path) -> None:
    """He was let in before he began to wait; what he waits for he gets, as if his own download had ended then. Asked
    again after his proof is over, he is refused."""
    with tenants_of(kind) as world:
        world.add("one", "private")

        async def main() -> None:
            held = world.hold_end("one")
            proofs = {"proof_for_s": 0.0}
            async with (
                world.fetcher(cache_dir, OWNER, **EndHeld.HALVES, **proofs) as first,
                world.fetcher(cache_dir, OWNER, **proofs) as second,
            ):
                owner = asyncio.create_task(first.fetch(world.item("one", OWNER)))
                try:
                    await held.reached(world, cache_dir)
                    asked = len(world.origin.requests)
                    waiter = asyncio.create_task(second.fetch(world.item("one", OWNER)))
                    await until(lambda: len(world.origin.requests) >= asked + 2)
                    await asyncio.wait([waiter], timeout=0.3)
                    assert not waiter.done()
                    (world.revoke if lost == "revoked" else world.downgrade)("owner")
                finally:
                    held.open()
                    await asyncio.wait([owner, waiter])
                for task in (owner, waiter):
                    if task.exception() is None:
                        assert task.result().snapshot.private
                    else:
                        assert isinstance(task.exception(), FetcherError)

        asyncio.run(main())
        assert world.ask(cache_dir, OWNER, proof_for_s=0.0).error is not None
        assert world.ask(cache_dir, OWNER, offline=True).error is not None
        assert world.ask(cache_dir, OTHER).error is None


@pytest.mark.parametrize("kind", ["hf", "s3"])
def test_strangers_while_an_owners_process_downloads(kind: Kind, cache_dir: Path) -> None:
    with tenants_of(kind) as world:
        world.add("one", "private")
        held = world.hold_end("one")
        with Child(world.settings(cache_dir, **EndHeld.HALVES), [world.item("one", OWNER)]) as owner:
            wait_until(lambda: held.waiting > 0 and (not RESUMES or blocks_proven(cache_dir) >= 1))
            held.let_others()
            for tenant in REFUSED:
                bare = world.ask(cache_dir.with_name(f"empty-{tenant}"), tenant)
                assert world.ask(cache_dir, tenant).seen == bare.seen
            bare = world.ask(cache_dir.with_name("empty"), OTHER)
            assert world.ask(cache_dir, OTHER).seen == bare.seen
            held.open()
            owner.done()
        assert world.ask(cache_dir, OWNER).hit


# --- crowds -----------------------------------------------------------------------------------------------------------


def test_no_crowd_of_bad_askers_takes_a_good_entry_away(world: World, cache_dir: Path) -> None:
    """Neither his Snapshot nor his proof: refusals are their own askers'."""
    first = world.ask(cache_dir, OWNER)

    async def crowd() -> None:
        for tenant in (*REFUSED, OPERATOR):
            async with world.fetcher(cache_dir, tenant, refresh=True) as fetcher:
                await asyncio.gather(
                    *(refusal(fetcher.fetch(world.item("one", tenant), tenant.role)) for _ in range(8))
                )

    asyncio.run(crowd())
    world.origin.faults.add(CutHead().on("*"))
    for more in ({}, {"offline": True}):
        again = world.ask(cache_dir, OWNER, **more)
        assert again.hit and again.path == first.path and again.tree == first.tree
        assert not again.questions


def test_no_crowd_of_bad_askers_takes_what_is_public_away(world: World, cache_dir: Path) -> None:
    """Nor what is everybody's. Only its origin, by answering somebody that it is private now, withdraws it."""
    world.show("one", "public")
    first = world.ask(cache_dir, ANONYMOUS)
    for tenant in (BAD, STRANGER):
        world.ask(cache_dir, tenant, refresh=True)
    assert world.ask(cache_dir, ANONYMOUS).hit
    world.show("one", "private")
    for tenant in REFUSED:  # they are refused, which says nothing of what it is
        assert world.ask(cache_dir, tenant, refresh=True).error is not None
    again = world.ask(cache_dir, ANONYMOUS)
    assert again.hit and again.path == first.path
    assert world.ask(cache_dir, OWNER, refresh=True).error is None
    withdrawn = world.ask(cache_dir, ANONYMOUS)
    assert withdrawn.hit == (world.kind == "s3"), "a store says to whom it gives, and never what is everybody's"


def test_a_refused_credential_loses_its_own_proof_alone(world: World, cache_dir: Path) -> None:
    for tenant in (OWNER, OTHER):
        assert world.ask(cache_dir, tenant).error is None
    world.revoke("owner")
    assert world.ask(cache_dir, OWNER).hit, "remembered for a short time"
    assert world.ask(cache_dir, OWNER, refresh=True).error is not None
    refused = world.ask(cache_dir, OWNER)
    assert refused.error is not None and refused.questions, "and no longer once the origin has been heard"
    assert world.ask(cache_dir, OWNER, offline=True).error[0] == "offline"  # type: ignore[index]
    assert world.ask(cache_dir, OTHER, offline=True).hit and world.ask(cache_dir, OTHER).hit


def test_what_one_tenant_taught_a_running_client_is_nothing_to_others(world: World, cache_dir: Path) -> None:
    """A long-lived client: what it learned while it fetched for the owner shapes no question for anybody else, beyond
    what it would have learned from any other resource at that place."""
    if world.kind == "ollama":
        return  # a token that was had for nobody's credential is kept per repository; no face gives models another yet
    world.add("two", "private", seed=50)

    def lines(first: str) -> dict[str, list[str]]:
        async def main() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            place = cache_dir.with_name(f"after-{first}")
            async with world.fetcher(place, OWNER) as fetcher:
                await fetcher.fetch(world.item(first, OWNER))
                for tenant in (ANONYMOUS, STRANGER, BAD, SOMEBODY):
                    answer = await world.asking(place, tenant, "one", fetcher=fetcher)
                    found[str(tenant)] = [*answer.questions, *answer.bodies, str(answer.error)]
            return found

        return asyncio.run(main())

    assert lines("one") == lines("two")


def test_ones_own_entry_keeps_nobody_from_what_is_everybodys(cache_dir: Path) -> None:
    """He has a private one, newer, whose proof is over; beside it is what anybody may have."""
    with tenants_of("s3") as world:
        world.add("one", "public")
        public = world.ask(cache_dir, ANONYMOUS)
        assert world.ask(cache_dir, OWNER, refresh=True, proof_for_s=0.0).private
        for more in ({}, {"offline": True}):
            answer = world.ask(cache_dir, OWNER, proof_for_s=0.0, **more)
            assert answer.hit and answer.path == public.path and not answer.questions


@pytest.mark.parametrize("named", ["at-once", "by-its-commit"])
def test_what_becomes_private_while_it_is_downloaded_is_not_everybodys(cache_dir: Path, named: str) -> None:
    """He who was let in before is given what he fetched. What he makes visible after its origin has said that it is
    private is nobody's, by name and by digest, as if it had been there then."""
    with tenants_of("hf") as world:
        world.add("one", "public")
        item = world.item("one", ANONYMOUS)
        if named == "by-its-commit":
            item = {**item, "revision": world.origin.repo("acme/one").resolve("main").id}

        async def main() -> None:
            held = world.hold_end("one")
            async with world.fetcher(cache_dir, ANONYMOUS, **EndHeld.HALVES) as fetcher:
                fetching = asyncio.create_task(fetcher.fetch(item))
                try:
                    await held.reached(world, cache_dir)
                    world.show("one", "private")
                    assert (await world.asking(cache_dir, OWNER)).private
                    held.open()
                    outcome = await fetching
                    assert (outcome.snapshot.path / BIG).stat().st_size == BIG_BYTES
                finally:
                    held.open()
                    fetching.cancel()
                    await asyncio.wait([fetching])

        asyncio.run(main())

        async def again(tenant: Tenant) -> None:
            async with world.fetcher(cache_dir, tenant) as fetcher:
                assert fetcher.hit(item) is None
                await refusal(
                    fetcher.fetch({**item, "accessToken": token_of("stranger")} if tenant is STRANGER else item)
                )

        for tenant in (ANONYMOUS, STRANGER):
            asyncio.run(again(tenant))
        assert world.ask(cache_dir, OWNER, offline=True).hit
        world.show("one", "public")
        for _ in range(2):
            assert world.ask(cache_dir, ANONYMOUS).error is None
        assert world.ask(cache_dir, ANONYMOUS, offline=True).hit, "said before it was asked for, it counts no more"


@pytest.mark.parametrize("ends", ["succeeds", "fails"])
def test_bytes_of_what_became_private_meanwhile_are_not_had_by_naming_them(
    cache_dir: Path, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever downloaded them had been let in before, and the owner has them by now. Somebody else states their digests
    in a repository of his own, whether or not the download ended in something visible: he has to send them."""
    with tenants_of("hf") as world:
        world.add("one", "public")

        def lost(*_: Any) -> Any:
            raise CacheError("the disk is gone")

        async def main() -> None:
            held = world.hold_end("one")
            async with world.fetcher(cache_dir, ANONYMOUS, **EndHeld.HALVES) as fetcher:
                fetching = asyncio.create_task(fetcher.fetch(world.item("one", ANONYMOUS)))
                try:
                    await held.reached(world, cache_dir)
                    world.show("one", "private")
                    assert (await world.asking(cache_dir, OWNER)).private
                    if ends == "fails":
                        patch.setattr(Publishing, "_publish_rows", lost)
                    held.open()
                    await asyncio.wait([fetching])
                    error = fetching.exception()
                    assert (error is None) if ends == "succeeds" else isinstance(error, CacheError), error
                finally:
                    held.open()
                    fetching.cancel()
                    await asyncio.wait([fetching])

        with monkeypatch.context() as patch:
            asyncio.run(main())
        assert world.ask(cache_dir, OWNER, offline=True).hit
        world.add("two", "public")
        claimed = world.ask(cache_dir, STRANGER, "two")
        assert claimed.error is None and claimed.tree == world.held("two")
        assert claimed.downloaded >= BIG_BYTES
        assert claimed.inodes[BIG] == world.ask(cache_dir, OWNER, offline=True).inodes[BIG], "once on the disk"


# --- markets ----------------------------------------------------------------------------------------------------------


def test_what_a_market_shares_is_its_jobs_alone(cache_dir: Path) -> None:
    """An operator's ``share = true`` opens what that market's pin got to that market's jobs; nothing else does."""
    market, other = "1" * 32, "So11111111111111111111111111111111111111112"
    with tenants_of("hf") as world:
        world.add("one", "private")

        async def prefetch() -> None:
            async with world.fetcher(cache_dir, NODE) as fetcher:
                report = await fetcher.prefetch([world.item("one", ANONYMOUS)], pin=f"market:{market}", images=False)
                assert [item.status for item in report.items] == ["done"]

        asyncio.run(prefetch())
        shared = {"market": market, "shared_pins": (f"market:{market}",)}
        cases: tuple[tuple[dict[str, Any], bool], ...] = (
            ({}, False),
            ({"market": market}, False),
            ({"shared_pins": (f"market:{market}",)}, False),
            ({"market": other, "shared_pins": (f"market:{market}",)}, False),
            ({"market": market, "shared_pins": (f"market:{other}",)}, False),
            (shared, True),
        )
        for tenant in (ANONYMOUS, STRANGER, BAD):
            bare = world.ask(cache_dir.with_name(f"empty-{tenant}"), tenant)
            for settings, given in cases:
                answer = world.ask(cache_dir, tenant, **settings)
                if given:
                    assert answer.hit and answer.tree == world.held("one") and not answer.questions
                else:
                    assert answer.seen == bare.seen, settings
        assert world.ask(cache_dir, OPERATOR, **shared).error is not None, "an operator without a token is no job"
        assert world.ask(cache_dir, ANONYMOUS).error is not None, "and nothing of it stays"


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_the_command_line_says_the_same_of_absent_and_of_others(run_cli: Any, tmp_path: Path, offline: bool) -> None:
    """Exit code, words and JSON events of a job that may not have it, with somebody's copy here and without."""
    with tenants_of("hf") as world:
        world.add("one", "private")
        full, empty = tmp_path / "full", tmp_path / "empty"
        assert world.ask(full, SOMEBODY).error is None
        job = (
            '{"version":"0.1","type":"container","ops":[{"type":"container/run","id":"x","args":{"image":"i","cmd":"c",'
        )
        job += '"resources":[{"type":"HF","repo":"acme/one","target":"/data"}]}}]}'
        told = []
        for place in (full, empty):
            env = {
                "HF_ENDPOINT": world.origin.endpoint,
                "FETCHER_CACHE_DIR": str(place),
                "FETCHER_ALLOW_NET": "127.0.0.0/8",
                "HF_TOKEN": "hf_node_secret",  # of the node, and not the job's
            }
            done = run_cli("job", "-", "--json", *(["--offline"] if offline else []), env=env, input=job)
            lines = [{name: value for name, value in line.items() if name != "message"} for line in done.json]
            told.append((done.exit_code, lines, done.stderr.replace(str(place), "")))
        assert told[0] == told[1]
        assert told[0][0] == (24 if offline else 21)
