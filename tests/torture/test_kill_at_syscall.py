"""kill -9 at the n-th system call of each kind: a real client of the embedded hub under strace, real threads, SQLite's
own calls included. tests/cache/test_crash.py does the same within one process and for the cache's own calls only.

First the work is counted: how many calls of each kind its threads make. Kinds take turns, so those with few calls are
tried at each of them as far as the number of kills allows; of the others points are drawn.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub
from fetcher.testing.faults import FlipByte, StallAfter
from tests.e2e.support import MIB, options, wait_until
from tests.torture import modes
from tests.torture.judging import (
    FIRST,
    SECOND,
    add_repos,
    assert_journalled,
    assert_nothing_wrong,
    assert_survives,
    complaint_of,
)
from tests.torture.traced import Client, Ended, counts

pytestmark = [pytest.mark.needs("root", "debian:strace"), pytest.mark.timeout(modes.count(120, 3600))]

WORK = [["fetch", FIRST], ["copy", FIRST], ["fetch", SECOND], ["remove", FIRST], ["gc"]]
FETCH = [["fetch", FIRST]]

GROUPS = {
    "names": ("openat", "mkdir", "mkdirat", "link", "linkat", "rename", "unlink", "unlinkat", "rmdir"),
    "bytes": ("write", "pwrite64", "ftruncate", "fallocate", "copy_file_range", "fchmod", "utimensat"),
    "barriers": ("fsync", "fdatasync", "syncfs", "flock", "fcntl", "ioctl"),
}


def order_of(hub: Hub, cache_dir: Path, steps: list[list[str]] = WORK, **more: Any) -> dict[str, Any]:
    return {"options": options(hub, cache_dir, sync_bytes=MIB), "steps": steps, **more}


def points_of(found: dict[str, int], kinds: tuple[str, ...], kills: int, dice: random.Random) -> list[tuple[str, int]]:
    """Where to kill: (kind, n), at most ``kills`` of them. Kinds take turns: rare ones are tried at each call."""
    left = {kind: dice.sample(range(1, found[kind] + 1), found[kind]) for kind in kinds if kind in found}
    points: list[tuple[str, int]] = []
    while len(points) < kills and any(left.values()):
        points += [(kind, numbers.pop()) for kind, numbers in left.items() if numbers]
    return points[:kills]


def killed_at(client: Client, order: dict[str, Any], top: Path, kind: str, number: int) -> Ended:
    return client.traced(order, top / "log", f"{kind}:signal=SIGKILL:when={number}")


@pytest.mark.parametrize("group", GROUPS)
def test_killed_at_any_system_call(
    hub: Hub, tmp_path: Path, rng: random.Random, group: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_repos(hub)
    killed: Counter[str] = Counter()
    with Client() as client:
        counted = client.traced(order_of(hub, tmp_path / "counted"), tmp_path / "log")
        assert counted.status == 0, counted.facts
        found = counts(counted.calls)
        points = points_of(found, GROUPS[group], modes.count(8, 100), rng)
        for number, (kind, nth) in enumerate(points):
            cache_dir = tmp_path / f"{number} {kind} {nth}"
            ended = killed_at(client, order_of(hub, cache_dir), tmp_path, kind, nth)
            killed[kind] += ended.killed
            assert ended.killed or ended.status == 0, (kind, nth, ended)
            try:
                assert_survives(cache_dir, hub, ended, rerun=rng.random() < 0.7)
            except Exception as error:
                error.add_note(f"killed at {kind} {nth} ({number + 1} of {len(points)}): {cache_dir}, {ended.facts}")
                raise
    assert killed.total() >= len(points) * 3 // 4, "most processes had ended before they were killed"
    with capsys.disabled():
        text = ", ".join(f"{kind} {killed[kind]}/{found[kind]}" for kind in GROUPS[group] if killed[kind])
        print(f"\n  {killed.total()} kills of {len(points)} (kind, kills/calls of a thread): {text} ", end="")


# --- the judges bite -------------------------------------------------------------------------------------------------


def test_a_client_that_names_before_it_writes_is_caught(hub: Hub, tmp_path: Path) -> None:
    add_repos(hub)
    found = []
    with Client() as client:
        for number in range(3, 12, 2):
            cache_dir = tmp_path / str(number)
            ended = killed_at(
                client, order_of(hub, cache_dir, FETCH, plant="name_before_bytes"), tmp_path, "write", number
            )
            found.append(complaint_of(partial(assert_nothing_wrong, cache_dir, hub)))
            assert ended.killed or not found[-1]
    assert any("has the name of other bytes" in complaint for complaint in found), found


@pytest.mark.parametrize(
    ("plant", "kind", "number", "complaint"),
    [("promise_too_early", "linkat", 2, "is not there"), ("leave_staging", "syncfs", 1, "nobody owns")],
)
def test_a_careless_client_is_caught(
    hub: Hub, tmp_path: Path, plant: str, kind: str, number: int, complaint: str
) -> None:
    add_repos(hub)
    with Client() as client:
        ended = killed_at(client, order_of(hub, tmp_path / "cache", FETCH, plant=plant), tmp_path, kind, number)
    assert complaint in complaint_of(partial(assert_survives, tmp_path / "cache", hub, ended, rerun=True))


@pytest.mark.needs("native")
@pytest.mark.parametrize("plant", [None, "forget_journal"])
def test_a_client_that_does_not_journal_is_caught(hub: Hub, tmp_path: Path, plant: str | None) -> None:
    """The last blocks never come, and it is killed when all others are written."""
    add_repos(hub)
    hub.faults.add(StallAfter(MIB // 2).on("cdn", skip=5))

    def kill() -> None:
        wait_until(lambda: hub.body_bytes_sent() > 5 * MIB)
        time.sleep(0.7)
        client.kill()

    with Client() as client:
        killer = threading.Thread(target=kill)
        killer.start()
        ended = client.traced(order_of(hub, tmp_path / "cache", FETCH, plant=plant), tmp_path / "log")
        killer.join()
    assert ended.killed
    complaint = complaint_of(partial(assert_journalled, tmp_path / "cache", ended.calls))
    assert ("journalled" in complaint) == (plant is not None), complaint


def test_a_client_that_does_not_check_what_came_is_caught(hub: Hub, tmp_path: Path) -> None:
    add_repos(hub)
    hub.faults.add(FlipByte(at=MIB).on("cdn"))
    with Client() as client:
        ended = client.work(order_of(hub, tmp_path / "cache", FETCH, plant="publish_unchecked"))
        assert ended.status == 0, ended.facts
    with pytest.raises(AssertionError, match="wrong bytes"):
        assert_nothing_wrong(tmp_path / "cache", hub)
