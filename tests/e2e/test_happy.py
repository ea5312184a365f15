"""The whole way with nothing in it: every kind of repo and revision, every size at a boundary, requests counted."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import blake3
import pytest

from fetcher import HF, DeniedError, NotFoundError
from fetcher.testing import Hub, Quotas, Synthetic, Token, hub_in_thread
from tests.e2e.support import (
    MIB,
    REPO,
    assert_whole,
    fetch,
    fetcher_of,
    followed_tree,
    held_by,
    mixed_files,
    official_tree,
    tree_of,
)

ALICE = "hf_alice_canary"
BOB = "hf_bob_canary"


# --- what may be asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["models", "datasets", "spaces"])
def test_each_kind_of_repo_gives_the_tree_that_the_official_client_gives(
    hub: Hub, cache_dir: Path, tmp_path: Path, kind: Any
) -> None:
    hub.add_repo(REPO, kind=kind, files=mixed_files())
    outcome = fetch(hub, cache_dir, HF(REPO, kind=kind))
    assert_whole(outcome.snapshot, hub, kind=kind)
    assert (outcome.hit, outcome.downloaded) == (False, outcome.snapshot.bytes)
    theirs = official_tree(hub, tmp_path, REPO, repo_type=kind[:-1])
    assert followed_tree(theirs) == tree_of(outcome.snapshot.path)


def test_each_kind_of_revision_is_pinned_to_its_commit(hub: Hub, cache_dir: Path, tmp_path: Path) -> None:
    repo = hub.add_repo(REPO, files={"a.txt": "main"})
    tagged = repo.head
    repo.tags["v1.0"] = tagged
    hub.commit(repo, {"a.txt": "on a branch", "b.bin": Synthetic(MIB + 1, 1)}, branch="feature/x")
    hub.commit(repo, {"a.txt": "pull request"}, branch="refs/pr/3")
    head = hub.commit(repo, {"a.txt": "later"})
    for revision in ("main", "feature/x", "v1.0", "refs/pr/3", tagged, head):
        outcome = fetch(hub, cache_dir, HF(REPO, revision=revision))
        commit = repo.resolve(revision)
        assert commit is not None
        assert_whole(outcome.snapshot, hub, revision=revision)
        assert outcome.snapshot.revision == commit.id
        theirs = official_tree(hub, tmp_path, REPO, revision=revision)
        assert followed_tree(theirs) == tree_of(outcome.snapshot.path)
    uri = fetch(hub, cache_dir, f"hf://{REPO}@feature%2Fx").snapshot
    assert tree_of(uri.path) == held_by(hub, revision="feature/x")


@pytest.mark.parametrize(
    ("selectors", "paths"),
    [
        (("config.json",), {"config.json"}),
        (("*.safetensors", "config.json"), {"config.json", "model.safetensors"}),
        (("nested/*",), {"nested/deeper/notes.txt"}),
        (("*",), {"config.json", "empty", "model.safetensors", "nested/deeper/notes.txt", "small.bin"}),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set | tuple) else str(value),
)
def test_files_by_name_or_glob(hub: Hub, cache_dir: Path, selectors: tuple[str, ...], paths: set[str]) -> None:
    hub.add_repo(REPO, files=mixed_files())
    outcome = fetch(hub, cache_dir, HF(REPO, files=selectors))
    expected = {path: entry for path, entry in held_by(hub).items() if path in paths}
    assert tree_of(outcome.snapshot.path) == expected
    assert {record.path for record in hub.requests.select("bodies")} == {
        path for path in paths if expected[path][0] > 0
    }


def test_an_exact_name_wins_over_the_glob_it_looks_like(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={"data[1].txt": "exact", "data1.txt": "globbed"})
    assert set(tree_of(fetch(hub, cache_dir, HF(REPO, files=("data[1].txt",))).snapshot.path)) == {"data[1].txt"}


def test_a_file_that_is_not_there_is_named(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    with pytest.raises(NotFoundError, match=r"modell\.safetensors"):
        fetch(hub, cache_dir, HF(REPO, files=("modell.safetensors",)))


def test_names_that_need_quoting(hub: Hub, cache_dir: Path) -> None:
    names = ["a b.txt", "per%cent.txt", "plus+and&.bin", "qüestion?.bin", "hash#.txt", "semi;colon=.bin", "~(ok)'.bin"]
    hub.add_repo(REPO, files={name: Synthetic(1000 + index, index) for index, name in enumerate(names)})
    assert_whole(fetch(hub, cache_dir).snapshot, hub)


# --- whose ------------------------------------------------------------------------------------------------------------


def test_private_and_gated_by_token(cache_dir: Path) -> None:
    tokens = {ALICE: Token("alice", frozenset({"acme/secret", "acme/gated"})), BOB: Token("bob", frozenset())}
    with hub_in_thread(tokens=tokens) as hub:
        hub.add_repo("acme/secret", files=mixed_files(), private=True)
        hub.add_repo("acme/gated", files=mixed_files(7), gated=True)

        def ask(repo: str, token: str | None) -> Any:
            item = {"type": "HF", "repo": repo} | ({"accessToken": token} if token else {})
            return fetch(hub, cache_dir, item)

        for repo, anonymous in (("acme/secret", NotFoundError), ("acme/gated", DeniedError)):
            outcome = ask(repo, ALICE)
            assert_whole(outcome.snapshot, hub, repo)
            assert outcome.snapshot.private
            assert ask(repo, ALICE).hit
            with pytest.raises(anonymous) as caught:
                ask(repo, None)
            assert caught.value.hint
            with pytest.raises((NotFoundError, DeniedError)):
                ask(repo, BOB)
            with pytest.raises(DeniedError):
                ask(repo, "hf_nobody_knows_this_one")
        assert not [record for record in hub.requests.select("cdn") if record.authorization]


def test_an_operator_uses_the_token_of_the_environment_and_a_job_does_not(cache_dir: Path) -> None:
    with hub_in_thread(tokens={ALICE: "alice"}) as hub:
        hub.add_repo("acme/secret", files={"a.txt": "secret"}, private=True)
        environ = {"HF_TOKEN": ALICE}
        with pytest.raises(NotFoundError, match=r"acme/secret"):
            fetch(hub, cache_dir, "hf://acme/secret", asker="job", environ=environ)
        assert not any(record.authorization for record in hub.requests)
        assert_whole(
            fetch(hub, cache_dir, "hf://acme/secret", asker="operator", environ=environ).snapshot, hub, "acme/secret"
        )
        # What an operator's token brought is not there for a job.
        with pytest.raises(NotFoundError):
            fetch(hub, cache_dir, "hf://acme/secret", asker="job", environ=environ)


# --- judges ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("debian:git", "debian:sha256sum")
def test_digests_agree_with_other_peoples_programs(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    sizes: dict[str, Any] = {f"size-{size}.bin": Synthetic(size, size) for size in (1, MIB - 1, MIB, MIB + 1, 3 * MIB)}
    hub.commit(REPO, sizes)

    snapshot = fetch(hub, cache_dir).snapshot
    fetcher = fetcher_of(hub, cache_dir)
    try:
        files = {file.path: file for file in fetcher.cache.files(snapshot.id)}
    finally:
        fetcher.close()
    assert set(files) == set(held_by(hub))
    for path, file in files.items():
        data = (snapshot.path / path).read_bytes()
        assert file.size == len(data)
        assert file.root == (blake3.blake3(data).hexdigest() if data else None)
        assert file.digest is not None
        command = {"git-sha1": ["git", "hash-object", "--no-filters"], "sha256": ["sha256sum"]}[file.digest.algorithm]
        said = subprocess.run([*command, snapshot.path / path], capture_output=True, check=True).stdout
        assert file.digest.hex == said.split()[0].decode()
        assert file.verified_by == file.digest.algorithm
    assert {files[path].verified_by for path in ("small.bin", "model.safetensors")} == {"sha256"}
    assert {files[path].verified_by for path in ("config.json", "nested/deeper/notes.txt")} == {"git-sha1"}


def test_the_official_clients_home_stays_as_it_is(hub: Hub, cache_dir: Path, tmp_path: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    theirs = official_tree(hub, tmp_path, REPO)
    home = tmp_path / "official"
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in home.rglob("*")}
    fetch(hub, cache_dir, environ={"HF_HOME": str(home), "HOME": str(tmp_path)}, asker="operator")
    after = {path: (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in home.rglob("*")}
    assert after == before
    assert followed_tree(theirs) == held_by(hub)


# --- sizes, modes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lfs", [True, False], ids=["cdn", "inline"])
def test_sizes_at_every_boundary(hub: Hub, cache_dir: Path, lfs: bool) -> None:
    sizes = (0, 1, 1023, 1024, 1025, 65_535, 65_537, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, 5 * MIB - 1)
    files: dict[str, Any] = {f"{size}.dat": Synthetic(size, size) for size in sizes}
    hub.add_repo(REPO, files=files, lfs=["*"] if lfs else [], lfs_threshold=1 << 40)
    assert_whole(fetch(hub, cache_dir).snapshot, hub)
    assert hub.body_bytes_sent() == sum(sizes)
    assert hub.count("bodies", path="0.dat") == 0


@pytest.mark.parametrize("part_mib", [1, 2, 16])
def test_parts_of_any_size_fetch_each_byte_once(hub: Hub, cache_dir: Path, part_mib: int) -> None:
    hub.add_repo(REPO, files={"one.bin": Synthetic(9 * MIB + 77, 1), "two.bin": Synthetic(4 * MIB, 2)})
    assert_whole(fetch(hub, cache_dir, part_bytes=part_mib * MIB).snapshot, hub)
    assert hub.body_bytes_sent() == 13 * MIB + 77


def test_a_repo_without_files(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={})
    try:
        outcome = fetch(hub, cache_dir)
    except NotFoundError:
        return
    assert tree_of(outcome.snapshot.path) == {}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000], ids=oct)
def test_modes_whatever_the_umask_says(hub: Hub, cache_dir: Path, umask: int) -> None:
    hub.add_repo(REPO, files=mixed_files())
    before = os.umask(umask)
    try:
        snapshot = fetch(hub, cache_dir).snapshot
    finally:
        os.umask(before)
    assert stat.S_IMODE(cache_dir.stat().st_mode) == 0o700
    for path in (snapshot.path, *snapshot.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o444), path
    for folder in ("blobs-v1", "partials-v1", "owners-v1", "snapshots-v1"):
        assert stat.S_IMODE((cache_dir / folder).stat().st_mode) == 0o700


def test_one_content_under_many_names_is_fetched_once(hub: Hub, cache_dir: Path) -> None:
    weights = Synthetic(3 * MIB, 5)
    hub.add_repo(REPO, files={"a.bin": weights, "copy/b.bin": weights, "c.txt": "same", "d.txt": "same"})
    snapshot = fetch(hub, cache_dir).snapshot
    assert_whole(snapshot, hub)
    assert hub.body_bytes_sent() == 3 * MIB + 4
    assert (snapshot.path / "a.bin").stat().st_ino == (snapshot.path / "copy/b.bin").stat().st_ino


def test_a_second_revision_fetches_only_what_is_new(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    first = fetch(hub, cache_dir).snapshot
    first_tree = tree_of(first.path)
    head = hub.commit(REPO, {"config.json": "{}", "new.bin": Synthetic(2 * MIB, 99)}, delete=["small.bin"])
    hub.requests.clear()
    outcome = fetch(hub, cache_dir, refresh=True)
    assert outcome.snapshot.revision == head
    assert_whole(outcome.snapshot, hub)
    assert hub.count("bodies", path="model.safetensors") == 0
    assert outcome.downloaded < 5 * MIB
    assert tree_of(first.path) == first_tree, "a Snapshot never changes"


# --- requests counted ------------------------------------------------------------------------------------------------


def test_requests_of_a_first_fetch(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    fetch(hub, cache_dir)
    assert (hub.count("info"), hub.count("tree")) == (1, 1)
    for path in ("model.safetensors", "small.bin"):
        assert hub.count("resolve", path=path) == 1, "one signed URL for all parts of a file"
    assert hub.count("cdn", path="model.safetensors") == 6
    assert hub.count("cdn", path="small.bin") == 1
    for path in ("config.json", "nested/deeper/notes.txt"):
        assert hub.count("resolve", path=path) == 0, "a regular file has one address; nobody asks for it twice"
    assert hub.count("resolve-cache", path="config.json") == 1
    assert hub.count("resolve-cache", path="nested/deeper/notes.txt") == 3
    assert hub.count("*", path="empty") == 0
    assert hub.count("*", method="HEAD") == 0


def test_a_hub_without_bare_resolve_cache_addresses(cache_dir: Path) -> None:
    files: dict[str, Any] = {f"{index}.txt": f"text {index}" for index in range(40)}
    with hub_in_thread(resolve_cache_without_query=False) as hub:
        hub.add_repo(REPO, files=files)
        assert_whole(fetch(hub, cache_dir).snapshot, hub)
        assert hub.count("resolve-cache", status=404) <= 16, "learned after the first round of connections"


def test_a_hit_asks_nobody_and_a_stale_one_asks_once(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    first = fetch(hub, cache_dir, fresh_for_s=60)
    hub.requests.clear()
    assert fetch(hub, cache_dir).hit
    assert len(hub.requests) == 0
    client = fetcher_of(hub, cache_dir)
    client.cache.revalidate(first.snapshot.id, 0.0, 3600.0)
    client.close()
    stale = fetch(hub, cache_dir, fresh_for_s=60)
    assert stale.hit
    assert stale.downloaded == 0
    assert [record.route for record in hub.requests] == ["info"]
    assert stale.snapshot.id == first.snapshot.id
    assert stale.snapshot.downloaded_at == first.snapshot.downloaded_at
    hub.requests.clear()
    assert fetch(hub, cache_dir).hit, "fresh again"
    assert len(hub.requests) == 0


def test_a_full_commit_never_goes_stale(hub: Hub, cache_dir: Path) -> None:
    repo = hub.add_repo(REPO, files=mixed_files())
    item = HF(REPO, revision=repo.head)
    assert fetch(hub, cache_dir, item, fresh_for_s=0).snapshot.fresh_until is None
    hub.requests.clear()
    assert fetch(hub, cache_dir, item).hit
    assert len(hub.requests) == 0


def test_the_hit_path_is_synchronous(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    fetched = fetch(hub, cache_dir).snapshot
    fetcher = fetcher_of(hub, cache_dir)
    try:
        assert fetcher.hit("hf://acme/other") is None
        known = fetcher.hit(f"hf://{REPO}")
        assert known is not None
        assert known.id == fetched.id
    finally:
        fetcher.close()


def test_a_missing_snapshot_directory_is_no_hit(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    path = fetch(hub, cache_dir).snapshot.path
    path.rename(path.parent.parent / "taken-away")
    again = fetch(hub, cache_dir)
    assert not again.hit
    assert_whole(again.snapshot, hub)
    assert again.downloaded == 0, "the Blobs were still there"


def test_requests_per_file_of_many_small_ones(hub: Hub, cache_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 2_500
    files: dict[str, Any] = {f"train/{n // 100:02}/{n:05}.json": json.dumps({"row": n}) for n in range(count)}
    # Those of an anonymous asker would make the last of them wait; what is counted here are requests.
    hub.quotas = Quotas(api=10_000, resolvers=10_000)
    hub.add_repo(REPO, files=files)
    began = time.monotonic()
    outcome = fetch(hub, cache_dir, no_progress_timeout_s=30.0)
    took_s = time.monotonic() - began
    assert_whole(outcome.snapshot, hub)
    pages = -(-(count + 26) // 1000)
    assert hub.count("*") == 1 + pages + count
    with capsys.disabled():
        per_file = hub.count("*") / count
        print(f"\n  {per_file:.4f} hub requests per file for {count} small files, {took_s:.1f} s ", end="")


def test_two_resources_in_one_run_share_what_is_the_same(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo("acme/one", files={"shared.bin": Synthetic(3 * MIB, 1), "own.bin": Synthetic(MIB, 2)})
    hub.add_repo("acme/two", files={"shared.bin": Synthetic(3 * MIB, 1), "other.bin": Synthetic(MIB, 3)})

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as fetcher:
            one, two = await fetcher.fetch_all([("hf://acme/one", "job"), ("hf://acme/two", "job")])
        assert_whole(one.snapshot, hub, "acme/one")
        assert_whole(two.snapshot, hub, "acme/two")

    asyncio.run(main())
    assert hub.body_bytes_sent() == 5 * MIB


def test_a_plan_asks_and_changes_nothing(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as fetcher:
            plan = await fetcher.plan(f"hf://{REPO}")
            assert plan.fits
            assert plan.bytes_to_fetch == sum(size for size, _ in held_by(hub).values())
            assert json.loads(json.dumps(plan.as_json()))["resources"][0]["files"] == 5
            assert hub.count("bodies") == hub.count("resolve") == 0
            await fetcher.fetch(f"hf://{REPO}")
            assert (await fetcher.plan(f"hf://{REPO}")).bytes_to_fetch == 0

    asyncio.run(main())
