"""Edges of the faces: where a call could say one thing and mean another."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

import fetcher
from fetcher import Notice, TransportError, UsageError
from fetcher.cache import due
from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import IgnoreRange, Status
from tests.e2e.support import MIB, REPO, assert_whole, fetch, fetcher_of, mixed_files, options, tree_of
from tests.support.cli import CommandLine


def test_refresh_of_an_unreachable_origin_is_no_answer(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    first = fetch(hub, cache_dir)
    hub.faults.add(Status(503).on("*"))
    assert fetch(hub, cache_dir).hit, "fresh: nobody is asked"
    with pytest.raises(TransportError):
        fetch(hub, cache_dir, refresh=True, api_time_max_s=0.5)
    assert tree_of(first.snapshot.path), "and the good copy is still there"
    told: list[object] = []
    outcome = fetch(hub, cache_dir, refresh=True, api_time_max_s=0.5, stale_if_error_s=60.0, on_event=told.append)
    assert outcome.hit
    assert any(isinstance(event, Notice) and "older copy" in event.message for event in told)


def test_a_copy_never_goes_into_the_cache(hub: Hub, cache_dir: Path, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=mixed_files())
    hub.add_repo("acme/other", files={"README.md": "other"})
    first = run_cli("get", f"hf://{REPO}")
    assert first.exit_code == 0
    path = Path(first.stdout.strip())
    before = tree_of(path)
    for target in (path, path / "new", path.parent / "new", cache_dir):
        done = run_cli("get", "hf://acme/other", "--to", str(target), "--merge")
        assert done.exit_code == 2, done.stdout
        assert "inside the cache" in done.stderr
    assert tree_of(path) == before


def test_a_dry_run_says_what_the_deed_would_say(hub: Hub, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=mixed_files())
    lease = run_cli("get", f"hf://{REPO}", "--lease", "1h", "--json").last["lease"]["id"]
    plan = run_cli("get", f"hf://{REPO}", "--dry-run", "--json").last
    assert (plan["resources"][0]["files"], plan["resources"][0]["revision"]) == (5, hub.repo(REPO).head)
    for dry in ((), ("--dry-run",)):
        refused = run_cli("rm", f"hf://{REPO}", *dry, "--json")
        assert refused.exit_code == 60
        assert refused.last["resource"] == f"hf://{REPO}@main"
    run_cli("release", lease)
    promised: int = run_cli("rm", f"hf://{REPO}", "--dry-run", "--json").last["bytes_freed"]
    freed = run_cli("rm", f"hf://{REPO}", "--json").last["bytes_freed"]
    assert promised == pytest.approx(freed, rel=0.02), "content promised, allocated blocks freed"
    assert freed > 7 * MIB


def test_a_cache_that_can_not_be_tidied_is_a_remark(
    hub: Hub, cache_dir: Path, isolated_environment: pytest.MonkeyPatch
) -> None:
    """One folder of Blobs is another user's: the resource is here all the same."""
    hub.add_repo(REPO, files=mixed_files())
    real = os.listdir

    def listdir(path: Any = ".") -> list[Any]:
        if not isinstance(path, int) and Path(os.fsdecode(path)).parent.name == "blobs-v1":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    isolated_environment.setattr(os, "listdir", listdir)
    isolated_environment.setattr(due, "COLLECT_EVERY_S", 0.0)
    told: list[object] = []
    outcome = fetch(hub, cache_dir, on_event=told.append)
    assert_whole(outcome.snapshot, hub)
    (remark,) = [event.message for event in told if isinstance(event, Notice)]
    assert remark.startswith(f"can't tidy the cache: can't look into {cache_dir}/blobs-v1/"), remark


def test_the_one_liner_inside_a_loop_says_so(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())

    async def main() -> None:
        with pytest.raises(UsageError, match="event loop"):
            fetcher.get(f"hf://{REPO}", **options(hub, cache_dir))

    asyncio.run(main())
    assert fetcher.get(f"hf://{REPO}", **options(hub, cache_dir)).is_dir()


def test_a_closed_fetcher_stays_closed(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as client:
            await client.fetch(f"hf://{REPO}")
        with pytest.raises(UsageError, match="closed"):
            await client.fetch(f"hf://{REPO}")

    asyncio.run(main())


def test_hiccups_far_apart_do_not_start_a_file_over(hub: Hub, cache_dir: Path) -> None:
    """200 for 206 now and then is a proxy's; only one after the other means that there are no ranges."""
    hub.add_repo(REPO, files={"weights.bin": Synthetic(24 * MIB, 1)})
    hub.faults.add(IgnoreRange().on("cdn", nth=8), IgnoreRange().on("cdn", nth=18))
    assert_whole(fetch(hub, cache_dir, connections_max=1).snapshot, hub)
    whole = [record for record in hub.requests.select("cdn") if record.range is None]
    assert whole == [], "nobody asked for the file in one stream"


def test_a_wait_that_was_ordered_is_no_lack_of_progress(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={"small.json": "{}"})
    hub.faults.add(Status(503, retry_after=4).on("resolve-cache", times=1))
    outcome = fetch(hub, cache_dir, no_progress_timeout_s=3.0, retry_after_max_s=10.0)
    assert_whole(outcome.snapshot, hub)
