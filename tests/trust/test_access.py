"""A private resource is had only by who can prove access now: what ends a proof, what a refusal does, what becomes of
what was public, and what an operator may share with the jobs of a market."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fetcher import DeniedError, Fetcher, NotFoundError, OfflineError, TransportError, UsageError, hashing
from fetcher.cache import rescan
from fetcher.config import load
from fetcher.engine.asks import Outcome
from fetcher.testing import Hub, Synthetic, hub_in_thread, s3_in_thread
from fetcher.testing.faults import Status
from fetcher.testing.hub import Token, access
from tests.e2e.support import HURRIED, MIB, tree_of, until
from tests.support.cli import CommandLine

REPO = "acme/closed"
URI = f"hf://{REPO}"
MARKET = "97G9NnvBDQ2WpKu6fasoMsAKmfj63C9rhysJnkeWodAf"
ALICE: Mapping[str, Any] = {"type": "HF", "repo": REPO, "accessToken": "hf_alice"}
BOB: Mapping[str, Any] = {"type": "HF", "repo": REPO, "accessToken": "hf_bob"}
EVE: Mapping[str, Any] = {"type": "HF", "repo": REPO, "accessToken": "hf_eve"}
FILES: Mapping[str, Any] = {"config.json": b"{}", "model.bin": Synthetic(2 * MIB + 5, 1)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    tokens = {
        "hf_alice": Token("alice"),
        "hf_bob": Token("bob"),
        "hf_eve": Token("eve", repos=frozenset()),
        "hf_node": Token("node"),
    }
    with hub_in_thread(tokens=tokens) as hub:
        hub.add_repo(REPO, files=dict(FILES), private=True)
        yield hub


class Node:
    """A cache, and whoever asks for something."""

    def __init__(self, hub: Hub, cache_dir: Path) -> None:
        self._hub = hub
        self._cache_dir = cache_dir

    def fetcher(self, environ: Mapping[str, str] | None = None, **more: Any) -> Fetcher:
        given = {**HURRIED, "api_time_max_s": 2.0, "cache_dir": str(self._cache_dir), "hf_endpoint": self._hub.endpoint}
        return Fetcher(environ=environ or {}, **{**given, **more})

    def fetch(self, item: Any, asker: Any = "job", environ: Mapping[str, str] | None = None, **more: Any) -> Outcome:
        async def main() -> Outcome:
            async with self.fetcher(environ, **more) as fetcher:
                return await fetcher.fetch(item, asker)

        return asyncio.run(main())

    def asks(self) -> int:
        """How many requests the hub has got since this was last called."""
        count = len(self._hub.requests)
        self._hub.requests.clear()
        return count


@pytest.fixture
def node(hub: Hub, cache_dir: Path) -> Node:
    return Node(hub, cache_dir)


def test_a_proof_is_remembered_for_its_time(node: Node, hub: Hub) -> None:
    first = node.fetch(ALICE)
    assert first.snapshot.private and not first.hit
    node.asks()
    again = node.fetch(ALICE)
    assert again.hit and again.snapshot.id == first.snapshot.id and node.asks() == 0
    asked = node.fetch(ALICE, proof_for_s=0.0)
    assert asked.hit and asked.downloaded == 0
    assert 0 < node.asks() <= 3, "the origin was asked whether she still may, and for none of the bytes"
    assert hub.body_bytes_sent() < 1000


def test_who_can_prove_nothing_is_offline_as_if_nothing_were_there(node: Node) -> None:
    def refusal(item: Any, **more: Any) -> tuple[str, str | None]:
        with pytest.raises(OfflineError) as caught:
            node.fetch(item, offline=True, **more)
        return caught.value.message, caught.value.hint

    absent = refusal(ALICE)
    node.fetch(ALICE)
    assert node.fetch(ALICE, offline=True).hit
    assert refusal(BOB) == refusal(EVE) == refusal(URI) == refusal(ALICE, proof_for_s=0.0) == absent


def test_a_second_principal_downloads_as_if_nothing_were_there(node: Node, hub: Hub, cache_dir: Path) -> None:
    one = node.fetch(ALICE)
    trace = sorted(paths(hub))
    node.asks()
    two = node.fetch(BOB)
    assert sorted(paths(hub)) == trace
    assert (two.hit, two.downloaded) == (False, one.downloaded) and two.snapshot.id != one.snapshot.id
    assert tree_of(one.snapshot.path) == tree_of(two.snapshot.path)
    assert (one.snapshot.path / "model.bin").samefile(two.snapshot.path / "model.bin"), "one copy on the disk"


@pytest.mark.needs("native")
def test_what_a_second_principal_downloads_may_take_long_to_compare(
    node: Node, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body that is here takes longer to read than a run may go without a new block. That is progress, and who is
    stopped meanwhile does not read all of it."""
    size = 6 * MIB
    hub.add_repo("acme/large", files={"model.bin": Synthetic(size, 2)}, private=True)
    alice, bob, other = (
        {"type": "HF", "repo": "acme/large", "accessToken": f"hf_{who}"} for who in ("alice", "bob", "node")
    )
    scan, scanned = hashing.scan_file, list[int]()

    def slow_scan(fd: int, offset: int, length: int, *arguments: Any, **more: Any) -> list[int]:
        scanned.append(length)
        time.sleep(0.6 * length / MIB)
        return scan(fd, offset, length, *arguments, **more)

    async def stopped() -> None:
        async with node.fetcher() as fetcher:
            task = asyncio.create_task(fetcher.fetch(other, "job"))
            await until(lambda: bool(scanned))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    node.fetch(alice)
    monkeypatch.setattr(rescan, "SCAN_STEP_BLOCKS", 1)
    monkeypatch.setattr(hashing, "scan_file", slow_scan)
    assert node.fetch(bob, no_progress_timeout_s=2.5).downloaded == size
    assert sum(scanned) == size
    scanned.clear()
    asyncio.run(stopped())
    assert 0 < sum(scanned) < size


@pytest.mark.parametrize("item", [EVE, URI, {**EVE, "accessToken": "hf_unknown"}], ids=["other", "nobody", "bad"])
def test_a_stranger_learns_nothing_and_harms_nothing(node: Node, hub: Hub, item: Any) -> None:
    def refused() -> tuple[type[Exception], str, str | None, list[str]]:
        node.asks()
        with pytest.raises((DeniedError, NotFoundError)) as caught:
            node.fetch(item)
        return type(caught.value), caught.value.message.partition("(request")[0], caught.value.hint, paths(hub)

    before = refused()
    mine = node.fetch(ALICE)
    tree = tree_of(mine.snapshot.path)
    assert refused() == before
    node.asks()
    assert node.fetch(ALICE).hit and node.asks() == 0 and tree_of(mine.snapshot.path) == tree


def paths(hub: Hub) -> list[str]:
    return [f"{record.method} {record.target.partition('?')[0]}" for record in hub.requests]


def test_a_refusal_ends_what_was_proven_before(node: Node, hub: Hub) -> None:
    mine = node.fetch(ALICE)
    token = hub.tokens.pop("hf_alice")
    assert node.fetch(ALICE).hit, "nobody has asked since"
    with pytest.raises((DeniedError, NotFoundError)):
        node.fetch(ALICE, refresh=True)
    for more in ({}, {"offline": True}):
        with pytest.raises((DeniedError, NotFoundError, OfflineError)):
            node.fetch(ALICE, **more)
    hub.tokens["hf_alice"] = token
    hub.requests.clear()
    again = node.fetch(ALICE)
    assert again.hit and again.snapshot.id == mine.snapshot.id and hub.body_bytes_sent() < 1000


def test_a_token_that_opens_the_page_and_not_the_files_is_no_proof(node: Node, hub: Hub) -> None:
    """Of a repository that is private, and not gated: a token may be good for its names only."""
    node.fetch(ALICE)
    hub.faults.add(Status(403).on("resolve"), Status(403).on("resolve-cache"))
    with pytest.raises((DeniedError, NotFoundError)):
        node.fetch(ALICE, proof_for_s=0.0)


def test_an_origin_out_of_reach_is_no_proof(node: Node, hub: Hub) -> None:
    node.fetch(ALICE, fresh_for_s=0.0)
    hub.faults.add(Status(503).on())
    assert node.fetch(ALICE, stale_if_error_s=3600.0).hit, "proven a moment ago"
    with pytest.raises(TransportError):
        node.fetch(ALICE, stale_if_error_s=3600.0, proof_for_s=0.0)


def test_what_was_public_is_nobodys_once_its_origin_says_so(node: Node, hub: Hub) -> None:
    hub.repo(REPO).private = False
    public = node.fetch(URI)
    tree = tree_of(public.snapshot.path)
    hub.repo(REPO).private = True
    assert node.fetch(URI).hit, "within its time a hit asks nobody"
    hub.requests.clear()
    mine = node.fetch(ALICE, refresh=True)
    assert mine.snapshot.private and mine.snapshot.id != public.snapshot.id
    assert mine.downloaded < 1000, "the same bytes are here, and were everybody's when they came"
    with pytest.raises(OfflineError):
        node.fetch(URI, offline=True)
    with pytest.raises((DeniedError, NotFoundError)):
        node.fetch(URI)
    assert tree_of(public.snapshot.path) == tree, "whoever leases it keeps it"
    hub.repo(REPO).private = False
    assert not node.fetch(URI).snapshot.private and node.fetch(URI, offline=True).hit


def test_what_is_said_of_one_revision_is_said_of_the_repository(node: Node, hub: Hub) -> None:
    hub.add_repo("acme/closed-not", files=dict(FILES))
    hub.repo(REPO).private = False
    commit = node.fetch(URI).snapshot.revision
    some = {"type": "HF", "repo": REPO, "files": ["config.json"]}
    for item in (f"{URI}@{commit}", some):
        node.fetch(item)
    node.fetch("hf://acme/closed-not")
    hub.repo(REPO).private = True
    node.fetch({**ALICE, "files": ["model.bin"]})
    for item in (URI, f"{URI}@{commit}", some):
        with pytest.raises((DeniedError, NotFoundError)):
            node.fetch(item)
    assert node.fetch("hf://acme/closed-not").hit, "another one, of a name that begins alike"


def test_what_is_left_of_what_was_public_is_closed_too(node: Node, hub: Hub) -> None:
    """Its time is over, its bytes are still here, and a list of somebody's names their digest."""
    hub.repo(REPO).private = False
    hub.add_repo("eve/claims", files={"mine.bin": FILES["model.bin"]})
    public = node.fetch(URI, keep_for_s=0.0)
    fetcher = node.fetcher()
    fetcher.cache.gc()
    fetcher.close()
    assert not public.snapshot.path.exists()
    hub.repo(REPO).private = True
    assert node.fetch(ALICE).downloaded < MIB, "she is let in, and the bytes are here"
    assert node.fetch("hf://eve/claims").downloaded > MIB


def test_what_was_private_is_everybodys_once_its_origin_says_so(node: Node, hub: Hub) -> None:
    node.fetch(ALICE)
    hub.repo(REPO).private = False
    again = node.fetch(ALICE, refresh=True)
    assert not again.snapshot.private
    assert again.downloaded > MIB, "what only she has proven is not made everybody's because a list names its digest"
    node.asks()
    assert node.fetch(URI).hit and node.fetch(EVE).hit and node.asks() == 0


def test_what_something_public_has_too_stays_everybodys(node: Node, hub: Hub) -> None:
    """Of what is withdrawn, the bytes are everybody's as long as another public repository has them."""
    hub.add_repo("acme/twin", files=dict(FILES))
    hub.repo(REPO).private = False
    for uri in (URI, "hf://acme/twin"):
        node.fetch(uri)
    hub.repo(REPO).private = True
    node.fetch(ALICE, refresh=True)
    hub.add_repo("acme/third", files=dict(FILES))
    assert node.fetch("hf://acme/third").downloaded < 1000
    hub.repo("acme/twin").private = True
    node.fetch({**ALICE, "repo": "acme/twin"}, refresh=True)
    hub.repo("acme/third").private = True
    node.fetch({**ALICE, "repo": "acme/third"}, refresh=True)
    hub.add_repo("acme/fourth", files=dict(FILES))
    assert node.fetch("hf://acme/fourth").downloaded > MIB, "and nobody's once none has"


def test_looking_writes_nothing_down(node: Node, hub: Hub) -> None:
    """A plan asks the origin, and neither grants, takes back, revalidates nor withdraws."""
    hub.repo(REPO).private = False
    node.fetch(URI)
    hub.repo(REPO).private = True
    hub.add_repo("acme/bobs", files=dict(FILES), private=True)
    bobs = {**BOB, "repo": "acme/bobs"}
    node.fetch(bobs)

    def rows() -> list[Any]:
        fetcher = node.fetcher(proof_for_s=300.0)
        try:
            with fetcher.cache.index.read() as index:
                tables = ("snapshots", "proofs", "contents", "blob_access", "meta")
                return [index.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
        finally:
            fetcher.close()

    async def look(item: Any, **more: Any) -> bool | str:
        async with node.fetcher(**more) as fetcher:
            try:
                plan = await fetcher.plan(item)
            except (DeniedError, NotFoundError) as error:
                return error.kind
            return plan.resources[0].hit

    before = rows()
    assert asyncio.run(look(ALICE, refresh=True)) is False, "what is public here would be withdrawn"
    assert asyncio.run(look(bobs, proof_for_s=0.0)) is asyncio.run(look(bobs, refresh=True)) is True
    del hub.tokens["hf_bob"]
    assert asyncio.run(look(bobs, refresh=True)) == "denied"
    assert rows() == before


def test_gated_later(node: Node, hub: Hub) -> None:
    hub.repo(REPO).private = False
    node.fetch(URI)
    hub.repo(REPO).gated = "manual"
    assert node.fetch(ALICE, refresh=True).snapshot.private
    for item in (URI, EVE):
        with pytest.raises(DeniedError):
            node.fetch(item)
    assert node.fetch(ALICE).hit


def test_a_mirror_that_calls_gated_what_it_lets_anybody_read(
    node: Node, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the Hub with a token of its own, and repeats what the Hub says. What came without a credential stays
    everybody's and is fetched once, however often it is asked whether it is current."""
    monkeypatch.setattr(access, "admit", lambda repo, token, *, to_files: repo)
    hub.repo(REPO).private, hub.repo(REPO).gated = False, "auto"
    first = node.fetch(URI)
    for _ in range(2):
        again = node.fetch(URI, refresh=True)
        assert again.hit and again.snapshot.id == first.snapshot.id and not again.snapshot.private
        assert node.fetch(URI, offline=True).hit
    assert node.fetch({"type": "HF", "repo": REPO, "files": ["model.bin"]}).downloaded == 0
    assert node.fetch(URI, offline=True).snapshot.id == first.snapshot.id


def test_one_readable_place_does_not_open_another(cache_dir: Path) -> None:
    """Of two buckets in one resource both are asked, as each may be closed by itself."""
    iam = {"REGION": "us-east-1", "ACCESS_KEY_ID": "AKIAGOOD", "SECRET_ACCESS_KEY": "secret"}
    with s3_in_thread(keys={"AKIAGOOD": "secret"}) as s3:
        s3.add_bucket("large", {"a/f.bin": Synthetic(2 * MIB, 1)}, readers=["AKIAGOOD"])
        s3.add_bucket("small", {"b/g.bin": Synthetic(MIB, 2)}, readers=["AKIAGOOD"])
        places = [{"url": f"{s3.endpoint}/large/a/"}, {"url": f"{s3.endpoint}/small/b/"}]
        item = {"type": "S3", "buckets": places, "IAM": iam}

        def fetch(**more: Any) -> Outcome:
            async def main() -> Outcome:
                async with Fetcher(environ={}, **{**HURRIED, "cache_dir": str(cache_dir), **more}) as fetcher:
                    return await fetcher.fetch(item, "job")

            return asyncio.run(main())

        fetch()
        assert fetch(proof_for_s=0.0).hit
        s3.faults.add(Status(403).on("object", path="*b/g.bin"))
        with pytest.raises(DeniedError):
            fetch(proof_for_s=0.0)


# --- shared with a market's jobs -------------------------------------------------------------------------------------

SHARED: Mapping[str, Any] = {"market": MARKET, "shared_pins": (f"market:{MARKET}",)}
NODE = {"HF_TOKEN": "hf_node"}


def prefetched(node: Node, **more: Any) -> None:
    async def main() -> None:
        async with node.fetcher(NODE, **more) as fetcher:
            report = await fetcher.prefetch([{"type": "HF", "repo": REPO}], pin=f"market:{MARKET}", images=False)
            assert not report.failed

    asyncio.run(main())


def test_a_market_pin_that_is_shared_opens_its_private_items_to_the_markets_jobs(node: Node, hub: Hub) -> None:
    prefetched(node)
    node.asks()
    assert node.fetch(URI, **SHARED).hit and node.fetch(EVE, **SHARED).hit and node.asks() == 0
    assert node.fetch(URI, offline=True, **SHARED).hit
    with pytest.raises((DeniedError, NotFoundError)):
        node.fetch(URI, refresh=True, **SHARED)
    for closed in ({}, {"market": MARKET}, {"shared_pins": SHARED["shared_pins"]}, {**SHARED, "market": "nvidia-3090"}):
        with pytest.raises((DeniedError, NotFoundError)):
            node.fetch(URI, **closed)


def test_what_a_job_brought_is_never_shared(node: Node) -> None:
    """Not even where somebody pins it by hand under the market's name."""
    mine = node.fetch(ALICE).snapshot
    fetcher = node.fetcher()
    fetcher.cache.pin(f"market:{MARKET}", mine.key)
    fetcher.close()
    with pytest.raises((DeniedError, NotFoundError)):
        node.fetch(URI, **SHARED)


def test_what_is_shared_is_shared_while_it_is_fresh(node: Node) -> None:
    prefetched(node, fresh_for_s=0.0)
    with pytest.raises((DeniedError, NotFoundError)):
        node.fetch(URI, **SHARED)
    with pytest.raises(OfflineError):
        node.fetch(URI, offline=True, **SHARED)
    prefetched(node)
    assert node.fetch(URI, **SHARED).hit


def test_a_refusal_to_the_node_ends_the_sharing(node: Node, hub: Hub) -> None:
    prefetched(node)
    del hub.tokens["hf_node"]
    with pytest.raises((DeniedError, NotFoundError)):
        node.fetch(URI, "operator", NODE, refresh=True)
    with pytest.raises((DeniedError, NotFoundError)):
        node.fetch(URI, **SHARED)


def test_sharing_from_the_configuration_file_by_the_command(
    node: Node, hub: Hub, cache_dir: Path, tmp_path: Path, run_cli: CommandLine
) -> None:
    prefetched(node)
    config = tmp_path / "config.toml"
    config.write_text(f'[pins."market:{MARKET}"]\nshare = true\n')
    document = tmp_path / "job.json"
    resource = {"type": "HF", "repo": REPO, "target": "/models"}
    op = {"id": "run", "type": "container/run", "args": {"image": "i", "cmd": "c", "resources": [resource]}}
    document.write_text(json.dumps({"version": "0.1", "type": "container", "ops": [op]}))
    env = {
        "FETCHER_CONFIG": str(config),
        "FETCHER_CACHE_DIR": str(cache_dir),
        "FETCHER_ALLOW_NET": "127.0.0.0/8",
        "HF_ENDPOINT": hub.endpoint,
    }

    def job(*more: str) -> int:
        return run_cli("job", document, *more, "--json", env=env).exit_code

    node.asks()
    assert job("--market", MARKET) == 0 and node.asks() == 0
    assert job() in (21, 22)
    config.write_text(f'[pins."market:{MARKET}"]\nshare = false\n')
    assert job("--market", MARKET) in (21, 22)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[pins."market:nvidia-3090"]\nshare = "yes"', "share = true"),
        ('[pins."market:nvidia-3090"]\nshared = true', "share = true"),
        ('[pins."mine"]\nshare = true', r'\[pins\."mine"\].*pins of markets'),
        ('shared_pins = 3\n[pins."market:nvidia-3090"]\nshare = true', "key shared_pins"),
        ("pins = 3", "share = true"),
    ],
)
def test_a_pin_that_can_not_be_shared_so_is_refused(text: str, word: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=word):
        load(arguments={"cache_dir": str(tmp_path)}, environ={}, file=file)


def test_pins_may_be_shared_in_both_ways_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    for stated in ('"market:nvidia-4090"', '["market:nvidia-4090"]'):
        file.write_text(f'shared_pins = {stated}\n[pins."market:nvidia-3090"]\nshare = true\n')
        found = load(arguments={"cache_dir": str(tmp_path)}, environ={}, file=file)
        assert found.shared_pins == ("market:nvidia-4090", "market:nvidia-3090")


def test_prefetch_says_that_jobs_are_not_given_what_is_private(
    hub: Hub, cache_dir: Path, tmp_path: Path, run_cli: CommandLine
) -> None:
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"required_images": [], "required_remote_resources": [{"type": "HF", "repo": REPO}]}))
    env = {"FETCHER_ALLOW_NET": "127.0.0.0/8", "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_node"}
    command = ("prefetch", listed, "--no-images", "--pin", f"market:{MARKET}")
    done = run_cli(*command, env={**env, "FETCHER_CACHE_DIR": str(cache_dir)})
    assert done.exit_code == 0 and "1 item is private" in done.stderr and f'[pins."market:{MARKET}"]' in done.stderr
    shared = {**env, "FETCHER_CACHE_DIR": str(cache_dir), "FETCHER_SHARED_PINS": f"market:{MARKET}"}
    assert "private" not in run_cli(*command, env=shared).stderr
