"""The byte quota, looked at every 10 ms: what the cache has allocated and what it has promised never exceed it,
whatever is fetched, evicted, refetched, killed or copied; what can never fit says so with the numbers; ``df`` agrees
with ``du``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache.store import Cache
from fetcher.config import Settings
from fetcher.testing import S3, Hub, Synthetic, s3_in_thread
from fetcher.testing.faults import FlipByte, OnRequest
from tests.e2e.support import (
    MIB,
    RESUMES,
    Child,
    Gate,
    Told,
    held_by,
    kept_blocks,
    nothing_visible,
    options,
    partial_files,
    patient,
    tree_of,
    wait_until,
)
from tests.support.cli import CHECKOUT, CommandLine

QUOTA = 96 * MIB
WEIGHTS = "weights.bin"
PAUSES_MAX = 10
"""A busy machine may keep the sampler waiting, and a walk takes its time; so many times 10 ms, on an average."""


# --- the sampler -----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the sampler says in the end."""

    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return json.dumps(self.facts)

    @property
    def most_bytes(self) -> int:
        """Allocated and promised, at the worst moment."""
        return int(self.facts["most_bytes"])

    def assert_within(self, quota_bytes: int) -> None:
        assert self.facts["samples"] >= self.facts["seconds"] / (0.010 * PAUSES_MAX), f"too seldom: {self}"
        assert self.most_bytes <= quota_bytes, f"{self.most_bytes - quota_bytes} over the quota: {self}"


@contextmanager
def sampled(cache_dir: Path) -> Iterator[Seen]:
    """Looks all the time while the block runs."""
    Cache.open(Settings(cache_dir=cache_dir, state_dir=cache_dir)).close()
    seen = Seen()
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("quota_sampler.py")), str(cache_dir)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "ready"
            yield seen
            told, _ = process.communicate(timeout=20)
            seen.facts = json.loads(told)
        finally:
            process.kill()


def limited(hub: Hub, cache_dir: Path, quota_bytes: int = QUOTA, **more: Any) -> dict[str, Any]:
    return {**patient(hub, cache_dir, quota_bytes=quota_bytes), **more}


def here(cache_dir: Path) -> set[str]:
    """Names of the repos that are in the cache: each has a file that says it."""
    return {path.read_text() for path in (cache_dir / "snapshots-v1").glob("*/name.txt")}


def add_repos(hub: Hub, sizes: dict[str, int]) -> None:
    """Repos of one large file of so many MiB each."""
    for seed, (name, size) in enumerate(sizes.items()):
        hub.add_repo(f"acme/{name}", files={WEIGHTS: Synthetic(size * MIB + seed, seed), "name.txt": name})


def get(settings: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
    with Child(settings, [f"hf://acme/{name}"], **more) as child:
        return child.result()


def assert_got(hub: Hub, fact: dict[str, Any], name: str) -> None:
    assert fact["event"] == "done", fact
    assert tree_of(Path(fact["paths"][0])) == held_by(hub, f"acme/{name}")


# --- one at a time ---------------------------------------------------------------------------------------------------


def test_a_large_file_that_just_fits(hub: Hub, cache_dir: Path) -> None:
    add_repos(hub, {"large": 86})
    with sampled(cache_dir) as seen:
        assert_got(hub, get(limited(hub, cache_dir), "large"), "large")
    seen.assert_within(QUOTA)
    assert seen.most_bytes >= 86 * MIB
    assert seen.facts["most_undrawn"] >= 40 * MIB, "the reservation was seen, too"


def test_many_small_files(hub: Hub, cache_dir: Path) -> None:
    files = {f"{n % 20}/{n}.bin": Synthetic(4096, n) for n in range(2000)}
    hub.add_repo("acme/many", files=files)
    with sampled(cache_dir) as seen:
        assert_got(hub, get(limited(hub, cache_dir, 64 * MIB), "many"), "many")
    seen.assert_within(64 * MIB)
    assert seen.facts["most_undrawn"] >= 4 * MIB


def test_many_repos_one_after_the_other(hub: Hub, cache_dir: Path) -> None:
    """The least recently used goes, each time before the next one's bytes are promised."""
    names = [f"r{n}" for n in range(6)]
    add_repos(hub, dict.fromkeys(names, 30))
    with sampled(cache_dir) as seen:
        for number, name in enumerate(names):
            assert_got(hub, get(limited(hub, cache_dir), name), name)
            assert here(cache_dir) == set(names[max(0, number - 1) : number + 1])
    seen.assert_within(QUOTA)


def test_a_quota_that_is_lowered(hub: Hub, cache_dir: Path) -> None:
    """What is over it by now goes first, as well as what the new one needs."""
    add_repos(hub, dict.fromkeys(("a", "b", "c", "d"), 30))
    for name in "abc":
        assert_got(hub, get(limited(hub, cache_dir, 160 * MIB), name), name)
    with sampled(cache_dir) as seen:
        assert_got(hub, get(limited(hub, cache_dir, 80 * MIB), "d"), "d")
    assert here(cache_dir) == {"c", "d"}
    assert seen.most_bytes <= 95 * MIB, f"no more than there was: {seen}"


def test_what_several_share_goes_with_the_last_of_them(hub: Hub, cache_dir: Path) -> None:
    """Each alone would free next to nothing; all together make room. What the new one links itself stays, and does not
    count as what could be freed."""
    for name, shared in (("a", 1), ("b", 1), ("c", 2)):
        hub.add_repo(f"acme/{name}", files={WEIGHTS: Synthetic(30 * MIB, shared), "name.txt": name})
    hub.add_repo("acme/d", files={WEIGHTS: Synthetic(30 * MIB, 2), "more.bin": Synthetic(40 * MIB, 3), "name.txt": "d"})
    settings = limited(hub, cache_dir)
    with sampled(cache_dir) as seen:
        for name in "cab":  # what d links was used longest ago
            assert_got(hub, get(settings, name), name)
        sent = hub.body_bytes_sent()
        assert_got(hub, get(settings, "d"), "d")
    assert hub.body_bytes_sent() - sent == 40 * MIB + 1, "the rest was linked"
    assert "d" in here(cache_dir) and not here(cache_dir) & {"a", "b"}
    seen.assert_within(QUOTA)


def test_a_wrong_digest_and_its_second_copy(hub: Hub, cache_dir: Path) -> None:
    """The first copy is kept for the report, the second is reserved when it is needed, on the same terms."""
    add_repos(hub, {"old": 10, "wrong": 36})
    settings = limited(hub, cache_dir, 176 * MIB)
    with sampled(cache_dir) as seen:
        assert_got(hub, get(settings, "old"), "old")
        hub.faults.add(FlipByte(5 * MIB).on(path=WEIGHTS, times=1))
        assert_got(hub, get(settings, "wrong"), "wrong")
    seen.assert_within(176 * MIB)
    assert hub.body_bytes_sent() > 82 * MIB


def test_a_second_copy_that_does_not_fit_is_typed(hub: Hub, cache_dir: Path) -> None:
    add_repos(hub, {"wrong": 50})
    hub.faults.add(FlipByte(5 * MIB).on(path=WEIGHTS))
    with sampled(cache_dir) as seen:
        fact = get(limited(hub, cache_dir), "wrong")
    assert fact["kind"] == "no_space", fact
    assert "quota_bytes" in fact["message"]
    seen.assert_within(QUOTA)


def test_resuming_after_kill_9_under_a_tight_quota(hub: Hub, cache_dir: Path) -> None:
    """There is room for one copy only, so what the killed process had is taken, not copied, and not promised again."""
    add_repos(hub, {"large": 60})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=40))
    settings = limited(hub, cache_dir, connections_max=2)
    with sampled(cache_dir) as seen:
        with Child(settings, ["hf://acme/large"]) as first:
            wait_until(lambda: kept_blocks(cache_dir, 38))
            first.process.kill()
            first.process.wait()
        hub.faults.clear()
        gate.open()
        assert_got(hub, get(settings, "large"), "large")
    seen.assert_within(QUOTA)
    if RESUMES:
        assert hub.body_bytes_sent() <= 70 * MIB


@pytest.mark.needs("native")
def test_killed_between_a_name_and_its_row_under_a_tight_quota(hub: Hub, cache_dir: Path) -> None:
    """The body is there, and there is no room for a second one: it is neither fetched again nor copied."""
    add_repos(hub, {"large": 60})
    settings = limited(hub, cache_dir)
    with sampled(cache_dir) as seen:
        with Child(settings, ["hf://acme/large"], plant="gone-at blob:named") as first:
            assert first.process.wait(50) == 9
        assert_got(hub, get(settings, "large"), "large")
    seen.assert_within(QUOTA)
    assert hub.body_bytes_sent(WEIGHTS) == 60 * MIB


@pytest.mark.needs("native")
def test_going_on_from_a_stopped_process_reserves_the_copy(hub: Hub, cache_dir: Path) -> None:
    """Whoever may come back keeps what is his. So its 150 MiB are needed twice, and there is no room for that."""
    add_repos(hub, {"large": 200})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=150))
    times = {"heartbeat_s": 0.2, "owner_lost_after_s": 1.0, "no_progress_timeout_s": 4.0}
    settings = limited(hub, cache_dir, 340 * MIB, connections_max=2, **times)
    with sampled(cache_dir) as seen, Child(settings, ["hf://acme/large"]) as first:
        wait_until(lambda: kept_blocks(cache_dir, 148))
        first.send(signal.SIGSTOP)
        time.sleep(1.5)
        hub.faults.clear()
        gate.open()
        fact = get(settings, "large")
        assert fact["event"] == "done" or fact["kind"] == "no_space", fact
    seen.assert_within(340 * MIB)


# --- several at once -------------------------------------------------------------------------------------------------


def together(settings: dict[str, Any], names: Sequence[str], timeout_s: float = 100.0) -> list[dict[str, Any]]:
    """One process for each; what they say last."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child(settings, [f"hf://acme/{name}"])) for name in names]
        told = []
        for child in children:
            told.append(Told(child))
            stack.callback(told[-1].join)
            stack.callback(child.process.kill)
        return [one.end(timeout_s) for one in told]


@pytest.mark.timeout(150)
def test_several_processes_that_together_exceed_it(hub: Hub, cache_dir: Path) -> None:
    """They wait for each other's reservations, evict what was used longest ago, and all get what they want; who wants
    what can never fit is told so, with the numbers."""
    names = [f"r{n}" for n in range(6)]
    add_repos(hub, {**dict.fromkeys(names, 30), "huge": 120})
    with sampled(cache_dir) as seen:
        *facts, refused = together(limited(hub, cache_dir), [*names, "huge"])
    seen.assert_within(QUOTA)
    assert [fact["event"] for fact in facts] == ["done"] * len(names), facts
    assert refused["kind"] == "no_space", refused
    assert "126 MB" in refused["message"] and "101 MB" in refused["message"], refused
    assert hub.body_bytes_sent() == sum(size for name in names for size, _ in held_by(hub, f"acme/{name}").values())


@pytest.mark.timeout(120)
def test_two_processes_that_want_the_same_where_it_fits_once(hub: Hub, cache_dir: Path) -> None:
    add_repos(hub, {"large": 60})
    with sampled(cache_dir) as seen:
        facts = together(limited(hub, cache_dir), ["large"] * 3)
    seen.assert_within(QUOTA)
    for fact in facts:
        assert_got(hub, fact, "large")
    assert hub.body_bytes_sent() == sum(size for size, _ in held_by(hub, "acme/large").values())


# --- private copies --------------------------------------------------------------------------------------------------


@pytest.fixture
def s3() -> Iterator[S3]:
    """Only what comes from an S3 may a job want to write to."""
    with s3_in_thread() as running:
        yield running


def job_of(s3: S3, bucket: str) -> str:
    """It wants all of a bucket, and to write to it."""
    resource = {"type": "S3", "url": s3.url(bucket), "target": "/data", "allowWrite": True}
    return json.dumps({"ops": [{"id": "run", "type": "container/run", "args": {"resources": [resource]}}]})


def objects_of(s3: S3, bucket: str) -> dict[str, tuple[int, str]]:
    return {key: (kept.content.size, kept.content.sha256) for key, kept in s3.bucket(bucket).objects.items()}


def test_private_copies(hub: Hub, s3: S3, cache_dir: Path) -> None:
    """Each takes as much as the original; a second one has no room, and is refused before it is begun."""
    add_repos(hub, {"old": 20})
    s3.add_bucket("large", {WEIGHTS: Synthetic(35 * MIB, 1)}, public=True)
    settings = limited(hub, cache_dir)
    with sampled(cache_dir) as seen:
        assert_got(hub, get(settings, "old"), "old")
        with Child(settings, job=job_of(s3, "large")) as child:
            fact = child.done()
        assert tree_of(Path(fact["paths"][0])) == objects_of(s3, "large")
        assert here(cache_dir) == set(), "the other made room"
        with Child(settings, job=job_of(s3, "large")) as child:
            fact = child.result()
            assert (fact["event"], fact["kind"], child.process.returncode) == ("error", "no_space", 50), fact
        assert len(list((cache_dir / "writable-v1").iterdir())) == 1
    seen.assert_within(QUOTA)
    assert seen.most_bytes >= 70 * MIB


def test_private_copies_of_many_small_files(hub: Hub, s3: S3, cache_dir: Path) -> None:
    """A file takes whole units of allocation, and a folder one of its own: the plan knows that."""
    s3.add_bucket("many", {f"{n % 100}/{n}.bin": Synthetic(10, n) for n in range(300)}, public=True)
    settings = limited(hub, cache_dir, 64 * MIB)
    with sampled(cache_dir) as seen:
        for _ in range(2):  # fetched, then a hit
            with Child(settings, job=job_of(s3, "many")) as child:
                fact = child.done()
            assert tree_of(Path(fact["paths"][0])) == objects_of(s3, "many")
    seen.assert_within(64 * MIB)


# --- what can never fit ----------------------------------------------------------------------------------------------


def test_what_can_never_fit_says_so_before_the_first_byte(hub: Hub, cache_dir: Path, run_cli: CommandLine) -> None:
    add_repos(hub, {"kept": 20, "idle": 20, "huge": 90})
    environment = {"FETCHER_QUOTA_BYTES": str(QUOTA), "FETCHER_SPACE_FLOOR_BYTES": "0"}

    def command(*arguments: str) -> Any:
        return run_cli(*arguments, "--json", env=environment)

    assert command("get", "hf://acme/kept", "--lease", "10m").exit_code == 0
    assert command("get", "hf://acme/idle").exit_code == 0
    bodies = hub.count("bodies")
    dry = command("get", "hf://acme/huge", "--dry-run")
    (plan,) = dry.events("plan")
    assert plan["fits"] is False and plan["evictions"] == []
    assert plan["bytes_quota"] == QUOTA
    refused = command("get", "hf://acme/huge")
    assert (refused.exit_code, refused.last["kind"]) == (50, "no_space")
    message = refused.last["message"]
    assert "94.4 MB are to be fetched" in message, message
    assert "the cache may take 101 MB in all (quota_bytes)" in message, message
    assert "would free 21.0 MB, which is not enough" in message, message
    assert hub.count("bodies") == bodies, "not a byte was asked for"
    assert here(cache_dir) == {"kept", "idle"}, "and nothing evicted for nothing"


# --- df and du -------------------------------------------------------------------------------------------------------


def du_bytes(place: Path) -> int:
    done = subprocess.run(["du", "-s", "--block-size=1", str(place)], capture_output=True, check=True, timeout=30)
    return int(done.stdout.split()[0])


def assert_df_is_du(run_cli: CommandLine, cache_dir: Path) -> None:
    told = run_cli("df", "--json", env={"FETCHER_CACHE_DIR": str(cache_dir)}).last["cache_bytes"]
    measured = du_bytes(cache_dir)
    assert abs(told - measured) <= measured / 100, (told, measured)


@pytest.mark.needs("native")
def test_df_agrees_with_du(hub: Hub, s3: S3, cache_dir: Path, run_cli: CommandLine) -> None:
    settings = limited(hub, cache_dir)
    Cache.open(Settings(cache_dir=cache_dir, state_dir=cache_dir)).close()
    assert_df_is_du(run_cli, cache_dir)
    hub.add_repo("acme/small", files={"name.txt": "small"})
    assert_got(hub, get(settings, "small"), "small")
    assert_df_is_du(run_cli, cache_dir)
    hub.add_repo("acme/many", files={f"{n % 30}/{n}.bin": Synthetic(100 + n, n) for n in range(500)})
    shared = {WEIGHTS: Synthetic(10 * MIB, 1)}
    for branch in range(3):  # one body, many names
        hub.add_repo(f"acme/shared{branch}", files={**shared, "name.txt": str(branch)})
        get(settings, f"shared{branch}")
    get(settings, "many")
    assert_df_is_du(run_cli, cache_dir)
    s3.add_bucket("copied", {"a/f": Synthetic(3 * MIB, 7), "b/g": Synthetic(10, 8)}, public=True)
    with Child(settings, job=job_of(s3, "copied")) as child:
        copy = Path(child.done()["paths"][0])
    (copy / "written by the job").write_bytes(bytes(3 * MIB))
    assert_df_is_du(run_cli, cache_dir)
    add_repos(hub, {"large": 30})
    hub.faults.add(OnRequest(Gate()).on("cdn", skip=10))
    with Child(settings, ["hf://acme/large"]) as child:
        wait_until(lambda: kept_blocks(cache_dir, 5))
        child.process.kill()
        child.process.wait()
    hub.faults.clear()
    assert [path for path in partial_files(cache_dir) if path.name == "data"]
    assert_df_is_du(run_cli, cache_dir)
    run_cli("prune", "--all", env={"FETCHER_CACHE_DIR": str(cache_dir)})
    assert_df_is_du(run_cli, cache_dir)


# --- the floor -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("native")
@pytest.mark.timeout(120)
def test_something_else_fills_the_disk_meanwhile(hub: Hub, cache_dir: Path) -> None:
    """Looked at every 256 MiB of what is written: the fetch ends typed, and goes on when there is room again."""
    add_repos(hub, {"large": 700})
    filler = cache_dir.parent / "filler"
    filler.parent.mkdir(parents=True, exist_ok=True)
    floor, disk_bytes = 100 * MIB, 1000 * MIB
    settings = options(hub, cache_dir, space_floor_bytes=floor)
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=60))
    # The simulated disk is what lies below the cache: whatever fills it lies there, too.
    with Child(settings, ["hf://acme/large"], disk_bytes=disk_bytes) as child:
        wait_until(lambda: kept_blocks(cache_dir, 55))
        with (cache_dir / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk_bytes - floor - 60 * MIB)
        gate.open()
        fact = child.result()
        assert (fact["event"], fact["kind"], child.process.returncode) == ("error", "no_space", 50), fact
    assert "must stay free" in fact["message"]
    kept = sum(path.stat().st_blocks * 512 for path in partial_files(cache_dir))
    assert 55 * MIB <= kept <= (60 + 256 + 32 + 32) * MIB, kept
    nothing_visible(cache_dir)
    (cache_dir / "filler").unlink()
    hub.faults.clear()
    sent = hub.body_bytes_sent()
    with Child(settings, ["hf://acme/large"], disk_bytes=disk_bytes) as child:
        assert child.done()["snapshots"]
    if RESUMES:
        assert hub.body_bytes_sent() - sent <= 700 * MIB - kept + 32 * MIB, "it went on where it was"


# --- the judge bites -------------------------------------------------------------------------------------------------


def test_the_sampler_catches_a_reservation_that_is_not_drawn(hub: Hub, cache_dir: Path) -> None:
    add_repos(hub, {"large": 86})
    with sampled(cache_dir) as seen:
        assert_got(hub, get(limited(hub, cache_dir), "large", plant="draws-nothing"), "large")
    with pytest.raises(AssertionError, match="over the quota"):
        seen.assert_within(QUOTA)


def test_the_sampler_catches_evictions_after_the_reservation(hub: Hub, cache_dir: Path) -> None:
    add_repos(hub, {"old": 50, "new": 50})
    with sampled(cache_dir) as seen:
        assert_got(hub, get(limited(hub, cache_dir), "old"), "old")
        assert_got(hub, get(limited(hub, cache_dir), "new", plant="evicts-later"), "new")
    with pytest.raises(AssertionError, match="over the quota"):
        seen.assert_within(QUOTA)
