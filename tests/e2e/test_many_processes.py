"""Ten processes at one cache and a slow origin: each body comes once, nobody waits in a circle, and nobody's fate is
another's: a waiter may be cancelled, killed or frozen, an owner may die."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Exchange, Hub, Synthetic
from fetcher.testing.faults import OnRequest, Trickle
from tests.e2e.support import (
    MIB,
    REPO,
    RESUMES,
    Child,
    Gate,
    Told,
    held_by,
    kept_blocks,
    mixed_files,
    patient,
    repo_bytes,
    tree_of,
    wait_until,
)
from tests.support.cli import CommandLine

WEIGHTS = "weights.bin"
PROCESSES = 10
START_S = 100.0
"""Ten interpreters on two busy cores."""


@contextmanager
def clients(settings: Mapping[str, Any], wishes: Sequence[Sequence[str]], **more: Any) -> Iterator[list[Told]]:
    """One client for each list of resources; all have ended when the block is left."""
    with ExitStack() as stack:
        told = []
        for items in wishes:
            child = stack.enter_context(Child(settings, items, tell=True, **more))
            told.append(Told(child))
            stack.callback(told[-1].join)
            stack.callback(child.process.kill)
        yield told


def assert_right(hub: Hub, told: Told, items: Sequence[str]) -> None:
    paths = told.done(START_S)["paths"]
    assert len(paths) == len(items)
    for path, item in zip(paths, items, strict=True):
        assert tree_of(Path(path)) == held_by(hub, item.removeprefix("hf://"))


# --- one download ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_ten_processes_want_one_resource(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files() | {f"{n}.txt": f"text {n}" for n in range(50)})
    hub.faults.add(Trickle(MIB).on("cdn"))
    items = [f"hf://{REPO}"]
    with clients(patient(hub, cache_dir, connections_max=4), [items] * PROCESSES) as all_told:
        for told in all_told:
            assert_right(hub, told, items)
    assert hub.body_bytes_sent() == repo_bytes(hub)
    assert sum(told.facts[-1]["downloaded"] for told in all_told) == repo_bytes(hub)


def overlapping(hub: Hub, count: int) -> int:
    """Repos of which each shares a large file with the next one; the bytes of their union."""
    shared = [Synthetic((n % 3 + 2) * MIB + 7 * n + 1, n) for n in range(count)]
    for n in range(count):
        files = {"one.bin": shared[n], "two.bin": shared[(n + 1) % count], "own.txt": f"of repo {n}"}
        hub.add_repo(f"acme/r{n}", files=files)
    return sum(content.size for content in shared) + sum(len(f"of repo {n}") for n in range(count))


def wishes_of(dice: random.Random, count: int) -> list[list[str]]:
    """Each process wants three of them in an order of its own, and all are wanted."""
    wishes = []
    for process in range(PROCESSES):
        wanted = [process % count, *dice.sample([n for n in range(count) if n != process % count], 2)]
        dice.shuffle(wanted)
        wishes.append([f"hf://acme/r{n}" for n in wanted])
    return wishes


@pytest.mark.timeout(180)
def test_ten_processes_want_overlapping_resources(hub: Hub, cache_dir: Path, rng: random.Random) -> None:
    union = overlapping(hub, 6)
    hub.faults.add(Trickle(MIB).on("cdn"))
    wishes = wishes_of(rng, 6)
    with clients(patient(hub, cache_dir, connections_max=3), wishes) as all_told:
        for told, items in zip(all_told, wishes, strict=True):
            assert_right(hub, told, items)
    assert hub.body_bytes_sent() == union


@pytest.mark.timeout(120)
def test_the_same_judge_catches_clients_that_do_not_share(hub: Hub, cache_dir: Path) -> None:
    union = overlapping(hub, 2)
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", times=2))
    items = ["hf://acme/r0"]
    with clients(patient(hub, cache_dir), [items] * 2, plant="everybody-fetches") as all_told:
        wait_until(lambda: len({record.connection for record in hub.requests.select("tree")}) == 2)
        time.sleep(0.5)
        gate.open()
        for told in all_told:
            assert_right(hub, told, items)
    assert hub.body_bytes_sent() > union


# --- no circle -------------------------------------------------------------------------------------------------------


def not_the_first_part(gate: Gate) -> Callable[[Exchange], Any]:
    async def hold(exchange: Exchange) -> None:
        if not (exchange.record.range or "bytes=0-").startswith("bytes=0-"):
            await gate(exchange)

    return hold


def go_on(told: Told) -> None:
    assert told.client.process.stdin is not None
    told.client.process.stdin.write(b"\n")
    told.client.process.stdin.flush()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [2, 3], ids=["two", "three"])
def test_a_circle_of_who_has_what_the_next_one_wants(hub: Hub, cache_dir: Path, count: int) -> None:
    """A has file 1 and wants 2, B has 2 and wants 1; with three, each has what the one before wants. Each is shown to
    hold its own file unfinished while it already waits for all the others'."""
    for n in range(count):
        hub.add_repo(f"acme/r{n}", files={WEIGHTS: Synthetic(3 * MIB, n)})
    gate = Gate()
    hub.faults.add(OnRequest(not_the_first_part(gate)).on("cdn"))
    wishes = [[f"hf://acme/r{(own + n) % count}" for n in range(count)] for own in range(count)]
    settings = patient(hub, cache_dir, connections_max=4)
    with clients(settings, wishes, plant="pauses-with-its-first-flight") as all_told:
        wait_until(lambda: all(told.has("holding") for told in all_told))
        for told in all_told:
            go_on(told)
        wait_until(lambda: all(told.bytes_done == count * MIB for told in all_told))
        assert not any(told.has("done") for told in all_told)
        gate.open()
        for told, items in zip(all_told, wishes, strict=True):
            assert_right(hub, told, items)
    assert hub.body_bytes_sent() == 3 * MIB * count
    assert {told.facts[-1]["downloaded"] for told in all_told} == {3 * MIB}


@pytest.mark.timeout(120)
def test_clients_that_hold_and_wait_would_be_seen_to_stand_still(hub: Hub, cache_dir: Path) -> None:
    for n in range(2):
        hub.add_repo(f"acme/r{n}", files={WEIGHTS: Synthetic(3 * MIB, n)})
    wishes = [["hf://acme/r0", "hf://acme/r1"], ["hf://acme/r1", "hf://acme/r0"]]
    with clients(patient(hub, cache_dir, connections_max=3), wishes, plant="holds-and-waits") as all_told:
        wait_until(lambda: all(told.has("holding") for told in all_told))
        for told in all_told:
            go_on(told)
        time.sleep(2.0)
        assert not any(told.has("done") for told in all_told)
        assert hub.body_bytes_sent() == 0


# --- what waiters see ------------------------------------------------------------------------------------------------


def assert_grows(values: Sequence[int], total: int, steps: int = 3) -> None:
    """Never a step back, and several steps on the way."""
    assert list(values) == sorted(values)
    assert len({value for value in values if 0 < value < total}) >= steps, values
    assert max(values) == total


@pytest.mark.timeout(120)
def test_every_waiter_sees_how_far_the_owner_is(hub: Hub, cache_dir: Path, run_cli: CommandLine) -> None:
    size = 24 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=2), Trickle(2 * MIB).on("cdn"))
    settings = patient(hub, cache_dir, connections_max=2)
    environ = {
        "FETCHER_CACHE_DIR": str(cache_dir),
        "FETCHER_CONNECTIONS_MAX": "2",
        "FETCHER_PART_BYTES": "1MiB",
        "FETCHER_SPACE_FLOOR_BYTES": "0",
    }
    items = [f"hf://{REPO}"]
    with clients(settings, [items]) as [owner], run_cli.start("get", *items, "--json", env=environ) as shell:
        try:
            wait_until(lambda: hub.count("cdn") >= 2)
            with clients(settings, [items] * 3) as waiters:
                wait_until(lambda: hub.count("tree") == 5)
                wait_until(lambda: all(told.bytes_done > 0 for told in waiters))
                gate.open()
                for told in [owner, *waiters]:
                    assert_right(hub, told, items)
            stdout, stderr = shell.communicate(timeout=50)
        finally:
            shell.kill()
    facts = [json.loads(line) for line in stdout.splitlines()]
    assert facts[-1]["event"] == "snapshot", stderr.decode()
    seen = [fact["bytes_done"] for fact in facts if fact["event"] == "progress"]
    downloaded = [told.facts[-1]["downloaded"] for told in [owner, *waiters]] + [facts[-1]["downloaded"]]
    assert sorted(downloaded) == [0, 0, 0, 0, size], "one of the first two is the owner"
    for told in [owner, *waiters]:
        assert_grows([done for done, _ in told.progress], size)
    # The last line of all is the snapshot; the numbers just before may fall to the limit of ten lines a second.
    assert_grows(seen, max(seen))
    assert hub.body_bytes_sent() == size


# --- fates -----------------------------------------------------------------------------------------------------------


def freeze_outside_of_a_transaction(client: Child, cache_dir: Path) -> None:
    """SIGSTOP where it holds no lock of the index: SQLite can't take a write lock from a process that exists."""
    index = cache_dir / "index-v1.sqlite"
    for _ in range(50):
        client.send(signal.SIGSTOP)
        rows = sqlite3.connect(index, timeout=2.0, isolation_level=None)
        try:
            rows.execute("BEGIN IMMEDIATE")
            rows.execute("ROLLBACK")
            return
        except sqlite3.OperationalError:
            client.send(signal.SIGCONT)
        finally:
            rows.close()
    raise AssertionError("it was always in a transaction")


@pytest.mark.timeout(120)
def test_waiters_that_are_cancelled_killed_or_frozen_harm_nobody(hub: Hub, cache_dir: Path) -> None:
    size = 12 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1), "a.txt": "text"})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=4))
    settings = patient(hub, cache_dir, connections_max=2, heartbeat_s=0.2, owner_lost_after_s=4.0)
    items = [f"hf://{REPO}"]
    with clients(settings, [items]) as [owner]:
        wait_until(lambda: hub.count("cdn") >= 4)
        with clients(settings, [items] * 5) as [cancelled, killed, frozen, *others]:
            wait_until(lambda: all(told.bytes_done > 0 for told in (cancelled, killed, frozen, *others)))
            cancelled.client.send(signal.SIGINT)
            killed.client.send(signal.SIGKILL)
            freeze_outside_of_a_transaction(frozen.client, cache_dir)
            assert cancelled.end()["kind"] == "interrupted"
            killed.client.process.wait()
            time.sleep(5.0)  # it is lost now, and nobody waits for it
            gate.open()
            for told in (owner, *others):
                assert_right(hub, told, items)
            frozen.client.send(signal.SIGCONT)
            assert_right(hub, frozen, items)
    assert hub.body_bytes_sent() == repo_bytes(hub)
    assert owner.facts[-1]["downloaded"] == repo_bytes(hub)


@pytest.mark.timeout(120)
def test_one_of_many_waiters_takes_over_from_a_killed_owner(hub: Hub, cache_dir: Path) -> None:
    """Just one goes on, and what was proven is not asked for again: at most one block per connection is, and what sat
    in buffers."""
    size, connections = 16 * MIB, 2
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=8))
    settings = patient(hub, cache_dir, connections_max=connections)
    items = [f"hf://{REPO}"]
    with clients(settings, [items]) as [owner]:
        wait_until(lambda: hub.count("cdn") >= 8)
        with clients(settings, [items] * 4) as waiters:
            wait_until(lambda: all(told.bytes_done > 0 for told in waiters))
            wait_until(lambda: kept_blocks(cache_dir, 8))
            owner.client.send(signal.SIGKILL)
            owner.client.process.wait()
            gate.open()
            for told in waiters:
                assert_right(hub, told, items)
    downloaded = sorted(told.facts[-1]["downloaded"] for told in waiters)
    assert downloaded[:-1] == [0, 0, 0], "one took over, the others went on waiting"
    if RESUMES:
        assert downloaded[-1] == 8 * MIB
        for told in waiters:
            assert_grows([done for done, _ in told.progress], size, steps=1)
    allowed = connections * (MIB + MIB // 2) if RESUMES else size
    assert hub.body_bytes_sent() <= size + allowed


@pytest.mark.timeout(120)
def test_a_frozen_owner_is_lost_and_a_waiter_goes_on_from_a_copy(hub: Hub, cache_dir: Path) -> None:
    """The frozen one may still write to its Partial, so that is left where it is. Thawed, it ends well too."""
    size = 12 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=6))
    settings = patient(hub, cache_dir, connections_max=2, heartbeat_s=0.2, owner_lost_after_s=4.0)
    items = [f"hf://{REPO}"]
    with clients(settings, [items]) as [owner]:
        wait_until(lambda: hub.count("cdn") >= 6 and kept_blocks(cache_dir, 6))
        [partial] = (cache_dir / "partials-v1").iterdir()
        with clients(settings, [items] * 3) as waiters:
            wait_until(lambda: all(told.bytes_done > 0 for told in waiters))
            freeze_outside_of_a_transaction(owner.client, cache_dir)
            data = os.stat(partial / "data").st_ino
            gate.open()
            for told in waiters:
                assert_right(hub, told, items)
        assert os.stat(partial / "data").st_ino == data, "neither renamed nor removed"
        downloaded = sorted(told.facts[-1]["downloaded"] for told in waiters)
        assert downloaded[:-1] == [0, 0]
        assert downloaded[-1] == (6 * MIB if RESUMES else size)
        owner.client.send(signal.SIGCONT)
        assert_right(hub, owner, items)
    assert not partial.exists(), "the thawed one has put away what was its own"
    assert list((cache_dir / "owners-v1").iterdir()) == []


def test_the_lock_of_an_owner_is_what_we_believe(hub: Hub, cache_dir: Path) -> None:
    """As long as a client lives nobody gets its lock, and its end frees it: what all of the above rests on."""
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(MIB, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("resolve"))
    with clients(patient(hub, cache_dir), [[f"hf://{REPO}"]]) as [owner]:
        wait_until(lambda: hub.count("resolve") > 0)
        [life] = (cache_dir / "owners-v1").iterdir()
        with life.open() as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            owner.client.send(signal.SIGKILL)
            owner.client.process.wait()
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        gate.open()
