"""The public faces over the whole way: one-liner, lease, job, command line; freshness, offline, an absent origin."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import fetcher
from fetcher import LeaseError, OfflineError, TransportError
from fetcher.cache.schema import SCHEMA_VERSION
from fetcher.cache.store import Cache
from fetcher.testing import Hub, Synthetic, hub_in_thread, s3_in_thread
from tests.e2e.support import (
    HURRIED,
    MIB,
    REPO,
    assert_whole,
    fetch,
    fetcher_of,
    held_by,
    mixed_files,
    options,
    tree_of,
)
from tests.support.cli import CommandLine


def job_of(*resources: dict[str, Any]) -> dict[str, Any]:
    arguments = {"image": "docker.io/library/debian", "resources": list(resources)}
    return {"version": "0.1", "type": "container", "ops": [{"type": "container/run", "id": "op", "args": arguments}]}


# --- library ---------------------------------------------------------------------------------------------------------


def test_the_one_liner(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    path = fetcher.get(f"hf://{REPO}", **options(hub, cache_dir))
    assert tree_of(path) == held_by(hub)
    hub.requests.clear()
    assert fetcher.get(f"hf://{REPO}", **options(hub, cache_dir)) == path
    assert len(hub.requests) == 0


def test_a_lease_holds_and_ends(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())

    async def main() -> None:
        async with fetcher_of(hub, cache_dir, keep_for_s=0) as f:
            async with f.lease({"type": "HF", "repo": REPO}) as lease:
                assert_whole(lease.snapshot, hub)
                f.prune()
                assert lease.path.is_dir()
            f.prune()
            assert not lease.path.exists()

    asyncio.run(main())


def make_index_anew(f: fetcher.Fetcher) -> None:
    """The package is updated, and somebody else is the first to use it."""
    rows = sqlite3.connect(f.cache.layout.index)
    rows.execute("PRAGMA user_version = 1")
    rows.close()
    Cache.open(f.settings).close()


@pytest.mark.parametrize("ends", ["in order", "by an error", "as a later version"])
def test_a_lease_beside_an_index_that_was_made_anew_ends_as_its_block_does(
    hub: Hub, cache_dir: Path, ends: str
) -> None:
    hub.add_repo(REPO, files=mixed_files())

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as f, f.lease({"type": "HF", "repo": REPO}):
            make_index_anew(f)
            if ends == "as a later version":
                rows = sqlite3.connect(f.cache.layout.index)
                rows.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
                rows.close()
            if ends == "by an error":
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) if ends == "by an error" else nullcontext():
        asyncio.run(main())


def test_what_ends_a_job_is_told_and_not_what_came_of_it(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease can't be given back either: Ctrl-C is Ctrl-C."""

    def copy_adopt(cache: Cache, staged: Path, lease_id: str, number: int) -> Path:
        cache.layout.index.rename(cache.layout.index.with_name("away"))
        raise KeyboardInterrupt

    monkeypatch.setattr(Cache, "copy_adopt", copy_adopt)

    async def main(job: dict[str, Any]) -> None:
        async with fetcher.Fetcher(environ={}, **HURRIED, cache_dir=str(cache_dir)) as f:
            with pytest.raises(KeyboardInterrupt):
                await f.mount_all(job, lease_s=60)

    with s3_in_thread() as s3:
        s3.add_bucket("data", {"f.bin": b"x"}, public=True)
        asyncio.run(main(job_of({"type": "S3", "url": s3.url("data", "f.bin"), "target": "/data", "allowWrite": True})))


def test_a_job_is_all_or_nothing_under_one_lease(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo("acme/one", files=mixed_files(1))
    hub.add_repo("acme/two", files=mixed_files(2))
    one = {"type": "HF", "repo": "acme/one", "target": "/models/one"}
    two = {"type": "HF", "repo": "acme/two", "files": ["*.json"], "target": "/models/two"}
    missing = {"type": "HF", "repo": "acme/missing", "target": "/models/missing"}

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as f:
            mounts = await f.mount_all(job_of(one, two), lease_s=60)
            assert mounts.lease is not None
            assert {mount.target for mount in mounts.mounts} == {"/models/one", "/models/two"}
            by_target = {mount.target: mount for mount in mounts.mounts}
            assert tree_of(by_target["/models/one"].source) == held_by(hub, "acme/one")
            assert set(tree_of(by_target["/models/two"].source)) == {"config.json"}
            assert [lease.id for lease in f.cache.leases()] == [mounts.lease.id]
            with pytest.raises(fetcher.NotFoundError) as caught:
                await f.mount_all(job_of(one, missing), lease_s=60)
            assert caught.value.at == "$.ops[0].args.resources[1]"
            assert [lease.id for lease in f.cache.leases()] == [mounts.lease.id], "no lease of what was not mounted"

    asyncio.run(main())


def test_a_job_of_a_process_that_is_gone_is_refused_at_once(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another try would make its private copies again, for nobody."""
    with subprocess.Popen(["true"]) as gone:
        pass
    staged: list[Path] = []
    real = Cache.copy_stage

    def copy_stage(cache: Cache, snapshot_id: str, **more: Any) -> Path:
        staged.append(real(cache, snapshot_id, **more))
        return staged[-1]

    monkeypatch.setattr(Cache, "copy_stage", copy_stage)

    async def main(job: dict[str, Any]) -> None:
        async with fetcher.Fetcher(environ={}, **HURRIED, cache_dir=str(cache_dir)) as f:
            with pytest.raises(LeaseError, match=f"no process {gone.pid}"):
                await f.mount_all(job, lease_s=60, owner_pid=gone.pid)
            assert len(staged) == 1 and not staged[0].exists()
            assert f.cache.leases() == []

    with s3_in_thread() as s3:
        s3.add_bucket("data", {"f.bin": Synthetic(2 * MIB, 1)}, public=True)
        asyncio.run(main(job_of({"type": "S3", "url": s3.url("data"), "target": "/data", "allowWrite": True})))


def test_many_fetches_by_one_object_leave_nothing_open(hub: Hub, cache_dir: Path) -> None:
    for index in range(8):
        hub.add_repo(f"acme/n{index}", files={"w.bin": Synthetic(2 * MIB + index, index), "a.txt": f"{index}"})

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as f:
            await f.fetch("hf://acme/n0")
            before = len(list(Path("/proc/self/fd").iterdir()))
            for index in range(1, 8):
                assert_whole((await f.fetch(f"hf://acme/n{index}")).snapshot, hub, f"acme/n{index}")
            assert len(list(Path("/proc/self/fd").iterdir())) <= before + 8, "descriptors do not add up"

    asyncio.run(main())


# --- time and network ------------------------------------------------------------------------------------------------


def test_offline_takes_what_is_here_and_nothing_else(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    fetch(hub, cache_dir, fresh_for_s=0)
    hub.requests.clear()
    assert fetch(hub, cache_dir, offline=True).hit, "stale, but here"
    with pytest.raises(OfflineError) as caught:
        fetch(hub, cache_dir, "hf://acme/other", offline=True)
    assert caught.value.exit_code == 24
    assert len(hub.requests) == 0


def test_an_origin_that_is_gone_after_fresh_for(cache_dir: Path) -> None:
    with hub_in_thread() as hub:
        hub.add_repo(REPO, files=mixed_files())
        first = fetch(hub, cache_dir, fresh_for_s=0.1)
    time.sleep(0.1)
    with pytest.raises(TransportError):
        fetch_gone(hub_endpoint(first), cache_dir)
    stale = fetch_gone(hub_endpoint(first), cache_dir, stale_if_error_s=3600.0)
    assert stale.hit
    assert tree_of(stale.snapshot.path)


def hub_endpoint(outcome: Any) -> str:
    endpoint: str = outcome.snapshot.endpoint
    return endpoint


def fetch_gone(endpoint: str, cache_dir: Path, **more: Any) -> Any:
    class Gone:
        """What ``options`` wants to know of a hub."""

    gone: Any = Gone()
    gone.endpoint = endpoint
    return fetch(gone, cache_dir, api_tries_max=2, **more)


def test_a_failed_refresh_never_harms_a_good_snapshot(hub: Hub, cache_dir: Path) -> None:
    from fetcher.testing.faults import FlipByte

    hub.add_repo(REPO, files=mixed_files())
    first = fetch(hub, cache_dir).snapshot
    tree = tree_of(first.path)
    hub.commit(REPO, {"model.safetensors": Synthetic(3 * MIB, 77)})
    hub.faults.add(FlipByte(9).on(path="model.safetensors"))
    with pytest.raises(fetcher.IntegrityError):
        fetch(hub, cache_dir, refresh=True)
    assert tree_of(first.path) == tree
    hub.requests.clear()
    assert fetch(hub, cache_dir).snapshot.id == first.id


def test_a_revision_that_became_private_is_no_longer_everybodys(hub: Hub, cache_dir: Path) -> None:
    repo = hub.add_repo(REPO, files=mixed_files())
    fetch(hub, cache_dir, fresh_for_s=0)
    repo.private = True
    with pytest.raises(fetcher.NotFoundError):
        fetch(hub, cache_dir)


# --- command line ----------------------------------------------------------------------------------------------------


@pytest.mark.needs("debian:git", "debian:sha256sum")
def test_inspect_agrees_with_other_peoples_programs(hub: Hub, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=mixed_files())
    path = Path(run_cli("get", f"hf://{REPO}").stdout.strip())
    said = run_cli("inspect", f"hf://{REPO}", "--json").last
    assert {row["path"] for row in said["file_list"]} == set(held_by(hub))
    for row in said["file_list"]:
        algorithm, _, digits = row["digest"].partition(":")
        command = {"git-sha1": ["git", "hash-object", "--no-filters"], "sha256": ["sha256sum"]}[algorithm]
        judged = subprocess.run([*command, path / row["path"]], capture_output=True, check=True).stdout
        assert judged.split()[0].decode() == digits
    assert run_cli("inspect", str(path / "config.json"), "--json").last["path"] == str(path)


@pytest.mark.needs("debian:b3sum")
def test_inspect_agrees_with_b3sum(hub: Hub, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=mixed_files())
    path = Path(run_cli("get", f"hf://{REPO}").stdout.strip())
    for row in run_cli("inspect", f"hf://{REPO}", "--json").last["file_list"]:
        if row["blake3"] is not None:
            judged = subprocess.run(["b3sum", path / row["path"]], capture_output=True, check=True).stdout
            assert judged.split()[0].decode() == row["blake3"]


def test_a_job_at_the_command_line_is_fetched_held_and_released(hub: Hub, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=mixed_files())
    job = json.dumps(job_of({"type": "HF", "repo": REPO, "target": "/models"}))
    done = run_cli("job", "-", "--json", "--lease", "1h", input=job)
    assert done.exit_code == 0, done.stderr
    mount = done.last["mounts"][0]
    assert tree_of(Path(mount["source"])) == held_by(hub)
    assert (mount["target"], mount["read_only"], mount["verified_by"]) == ("/models", True, "git-sha1")
    docker = run_cli("job", "-", "--format", "docker", input=job)
    assert docker.stdout.startswith("--mount ")
    assert mount["source"] in docker.stdout
    assert run_cli("rm", f"hf://{REPO}").exit_code == 60, "leased"
    for lease in {done.last["lease"]["id"], *(row["id"] for row in leases_of(run_cli))}:
        assert run_cli("release", lease).exit_code == 0
    assert run_cli("rm", f"hf://{REPO}").exit_code == 0
    assert not Path(mount["source"]).exists()


def leases_of(run_cli: CommandLine) -> list[dict[str, Any]]:
    return [lease for line in run_cli("ls", "--json").json for lease in line.get("leases", [])]


def test_errors_of_the_command_line_carry_code_kind_and_hint(hub: Hub, run_cli: CommandLine) -> None:
    hub.add_repo("acme/gated", files={"a": "a"}, gated=True)
    for uri, code, kind in (
        ("hf://acme/missing", 21, "not_found"),
        ("hf://acme/gated", 22, "denied"),
        ("nonsense", 10, "resource"),
    ):
        failed = run_cli("get", uri, "--json")
        assert failed.exit_code in (code, 2 if code == 10 else code), failed.stderr
        (error,) = failed.events("error")
        assert error["kind"] in (kind, "usage")
        assert error["hint"]
    assert run_cli("get", "hf://acme/other", "--offline").exit_code == 24


def test_a_copy_of_the_users_own(hub: Hub, run_cli: CommandLine, tmp_path: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    target = tmp_path / "mine"
    done = run_cli("get", f"hf://{REPO}", "--to", target)
    assert done.exit_code == 0, done.stderr
    assert tree_of(target) == held_by(hub)
    (target / "config.json").write_text("changed by me")
    again = run_cli("get", f"hf://{REPO}")
    assert tree_of(Path(again.stdout.strip())) == held_by(hub), "the cache is not the user's to change"
