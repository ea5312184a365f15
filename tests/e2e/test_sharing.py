"""Several askers at once: one download for those who may share it, and nobody suffers from another's fate."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from fetcher import DeniedError, NotFoundError
from fetcher.testing import Hub, Synthetic, hub_in_thread
from fetcher.testing.faults import OnRequest, Status, Trickle
from tests.e2e.support import (
    MIB,
    REPO,
    RESUMES,
    Child,
    Gate,
    assert_whole,
    fetch,
    fetcher_of,
    held_by,
    kept_blocks,
    mixed_files,
    options,
    repo_bytes,
    tree_of,
    until,
    wait_until,
)

ALICE = "hf_alice_canary"


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_processes_that_want_one_resource_download_it_once(hub: Hub, cache_dir: Path, count: int) -> None:
    hub.add_repo(REPO, files=mixed_files() | {f"{n}.txt": f"text {n}" for n in range(50)})
    hub.faults.add(Trickle(2 * MIB).on("cdn"))
    settings = options(hub, cache_dir, connections_max=4)
    children = [Child(settings) for _ in range(count)]
    try:
        results = [child.done() for child in children]
    finally:
        for child in children:
            child.__exit__(None, None, None)
    assert len({tuple(result["paths"]) for result in results}) == 1
    assert tree_of(Path(results[0]["paths"][0])) == held_by(hub)
    assert hub.body_bytes_sent() == repo_bytes(hub)
    assert sum(result["downloaded"] for result in results) == repo_bytes(hub)


def test_a_waiter_takes_over_from_a_killed_owner(hub: Hub, cache_dir: Path) -> None:
    size = 10 * MIB
    hub.add_repo(REPO, files={"weights.bin": Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=6))
    settings = options(hub, cache_dir, connections_max=2)
    with Child(settings) as owner:
        assert owner.line()["event"] == "ready"
        wait_until(lambda: hub.body_bytes_sent() > MIB)
        with Child(settings) as waiter:
            assert waiter.line()["event"] == "ready"
            wait_until(lambda: hub.count("tree") == 2 and hub.body_bytes_sent() >= 6 * MIB)
            wait_until(lambda: kept_blocks(cache_dir, 6))
            owner.send(signal.SIGKILL)
            owner.process.wait()
            gate.open()
            done = waiter.done()
    assert tree_of(Path(done["paths"][0])) == held_by(hub)
    assert hub.body_bytes_sent() <= size + (2 * 2 * MIB if RESUMES else size)


def test_one_repo_name_at_two_endpoints_is_two_things(cache_dir: Path) -> None:
    with hub_in_thread() as first, hub_in_thread() as second:
        first.add_repo(REPO, files=mixed_files(1))
        second.add_repo(REPO, files=mixed_files(2))
        outcomes = [fetch(hub, cache_dir) for hub in (first, second)]
        assert not any(outcome.hit for outcome in outcomes)
        assert outcomes[0].snapshot.path != outcomes[1].snapshot.path
        for hub, outcome in zip((first, second), outcomes, strict=True):
            assert_whole(outcome.snapshot, hub)
            again = fetch(hub, cache_dir)
            assert again.hit
            assert again.snapshot.id == outcome.snapshot.id
            assert again.snapshot.endpoint == hub.endpoint


def test_the_same_bytes_at_two_endpoints_are_fetched_once(cache_dir: Path) -> None:
    """A sha256 that we computed ourselves over public bytes names them, wherever they are."""
    with hub_in_thread() as first, hub_in_thread() as second:
        for hub in (first, second):
            hub.add_repo(REPO, files={"weights.bin": Synthetic(3 * MIB, 1), "a.txt": "text"})
        fetch(first, cache_dir)
        assert_whole(fetch(second, cache_dir).snapshot, second)
        assert second.count("cdn") == 0
        assert second.count("bodies", path="a.txt") == 1, "a git id verifies a download, it never replaces one"


# --- tasks -----------------------------------------------------------------------------------------------------------


def overlapping(hub: Hub) -> None:
    shared = Synthetic(4 * MIB, 1)
    hub.add_repo("acme/one", files={"shared.bin": shared, "one.bin": Synthetic(MIB + 1, 2)})
    hub.add_repo("acme/two", files={"shared.bin": shared, "two.bin": Synthetic(MIB + 2, 3)})


def test_overlapping_fetches_of_one_object(hub: Hub, cache_dir: Path) -> None:
    overlapping(hub)
    hub.faults.add(Trickle(2 * MIB).on("cdn"))

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as fetcher:
            one, two, again = await asyncio.gather(
                fetcher.fetch("hf://acme/one"), fetcher.fetch("hf://acme/two"), fetcher.fetch("hf://acme/one")
            )
        assert_whole(one.snapshot, hub, "acme/one")
        assert_whole(two.snapshot, hub, "acme/two")
        assert again.snapshot.id == one.snapshot.id

    asyncio.run(main())
    assert hub.body_bytes_sent() == 6 * MIB + 3


@pytest.mark.parametrize("victim", ["owner", "waiter"])
def test_cancelling_one_of_two_does_not_harm_the_other(hub: Hub, cache_dir: Path, victim: str) -> None:
    size = 8 * MIB
    hub.add_repo(REPO, files={"weights.bin": Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=4))

    async def main() -> None:
        async with fetcher_of(hub, cache_dir, connections_max=2) as fetcher:
            owner = asyncio.create_task(fetcher.fetch(f"hf://{REPO}"))
            await until(lambda: hub.body_bytes_sent() > MIB)
            waiter = asyncio.create_task(fetcher.fetch(f"hf://{REPO}"))
            await until(lambda: hub.count("tree") == 2 and hub.body_bytes_sent() >= 4 * MIB)
            cancelled, survivor = (owner, waiter) if victim == "owner" else (waiter, owner)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            gate.open()
            assert_whole((await survivor).snapshot, hub)

    asyncio.run(main())
    assert hub.body_bytes_sent() <= size + ((2 * 2 * MIB if RESUMES else size) if victim == "owner" else 0)


def test_a_waiter_goes_on_with_its_own_credential_when_the_owner_loses_his(cache_dir: Path) -> None:
    size = 16 * MIB
    with hub_in_thread(tokens={ALICE: "alice"}) as hub:
        hub.add_repo(REPO, files={"weights.bin": Synthetic(size, 1)})
        gate = Gate()
        hub.faults.add(OnRequest(gate).on("cdn", skip=2))

        async def main() -> None:
            async with fetcher_of(hub, cache_dir, connections_max=2, part_bytes=2 * MIB) as fetcher:
                owner = asyncio.create_task(fetcher.fetch({"type": "HF", "repo": REPO, "accessToken": ALICE}))
                await until(lambda: hub.body_bytes_sent() > MIB)
                waiter = asyncio.create_task(fetcher.fetch(f"hf://{REPO}"))
                await until(lambda: hub.count("tree") == 2)
                del hub.tokens[ALICE]
                hub.faults.add(Status(403).on("cdn", times=1))
                gate.open()
                with pytest.raises(DeniedError):
                    await owner
                assert_whole((await waiter).snapshot, hub)

        asyncio.run(main())
        principals = [record.principal for record in hub.requests.select("resolve", status=302)]
        assert principals[0] == "alice"
        assert principals[-1] is None
        assert hub.body_bytes_sent() <= size + (4 * 2 * MIB if RESUMES else size)


def test_an_asker_without_access_gets_an_answer_of_his_own(cache_dir: Path) -> None:
    with hub_in_thread(tokens={ALICE: "alice"}) as hub:
        hub.add_repo(REPO, files=mixed_files(), private=True)
        gate = Gate()
        hub.faults.add(OnRequest(gate).on("cdn", skip=2))
        hers: Any = {"type": "HF", "repo": REPO, "accessToken": ALICE}

        async def main() -> None:
            async with fetcher_of(hub, cache_dir) as fetcher:
                alice = asyncio.create_task(fetcher.fetch(hers))
                await until(lambda: hub.body_bytes_sent() > MIB)
                with pytest.raises(NotFoundError):
                    await fetcher.fetch(f"hf://{REPO}")
                assert not alice.done()
                gate.open()
                assert_whole((await alice).snapshot, hub)
                with pytest.raises(NotFoundError):
                    await fetcher.fetch(f"hf://{REPO}")

        asyncio.run(main())


def test_two_principals_of_one_private_repo_never_share_bytes_unseen(cache_dir: Path) -> None:
    """Until there are proofs, each principal fetches private bytes for itself."""
    with hub_in_thread(tokens={ALICE: "alice", "hf_bob_canary": "bob"}) as hub:
        hub.add_repo(REPO, files=mixed_files(), private=True)
        for token in (ALICE, "hf_bob_canary"):
            hub.requests.clear()
            outcome = fetch(hub, cache_dir, {"type": "HF", "repo": REPO, "accessToken": token})
            assert not outcome.hit
            assert_whole(outcome.snapshot, hub)
            assert hub.body_bytes_sent() == repo_bytes(hub)


def test_one_failing_resource_fails_the_run_and_keeps_what_is_done(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as fetcher:
            with pytest.raises(NotFoundError) as caught:
                await fetcher.fetch_all([(f"hf://{REPO}", "job"), ("hf://acme/missing", "job")])
            assert caught.value.resource == "hf://acme/missing@main"
            assert_whole((await fetcher.fetch(f"hf://{REPO}")).snapshot, hub)

    asyncio.run(main())


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_process_lease_ends_with_its_process(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    settings = options(hub, cache_dir, keep_for_s=0)
    with Child(settings, hold=True) as holder:
        assert holder.line()["event"] == "ready"
        path = Path(holder.line()["path"])
        fetcher = fetcher_of(hub, cache_dir)
        try:
            fetcher.prune()
            assert path.is_dir(), "leased: never removed"
            holder.send(signal.SIGKILL)
            holder.process.wait()
            fetcher.prune()
            assert not path.exists(), "kill -9 ends a process lease"
        finally:
            fetcher.close()
