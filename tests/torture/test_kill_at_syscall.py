"""kill -9 at the n-th system call of each kind: a real client of the embedded hub under strace, real threads, SQLite's
own calls included. tests/cache/test_crash.py does the same within one process and for the cache's own calls only.

First one fetch is counted: how many calls of each kind its threads make. Kinds with few calls are tried at each of
them, as far as the number of kills allows; of the others points are drawn.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub
from fetcher.testing.faults import FlipByte
from tests.e2e.support import MIB, options
from tests.torture import modes
from tests.torture.judging import FIRST, SECOND, add_repos, assert_nothing_wrong, assert_survives
from tests.torture.traced import Client, Ended, counts

pytestmark = [pytest.mark.needs("root", "debian:strace"), pytest.mark.timeout(modes.count(120, 3600))]

WORK = [["fetch", FIRST], ["copy", FIRST], ["fetch", SECOND], ["remove", FIRST], ["gc"]]
FETCH = [["fetch", FIRST]]

GROUPS = {
    "names": ("openat", "mkdir", "mkdirat", "link", "linkat", "rename", "unlink", "unlinkat", "rmdir"),
    "bytes": ("write", "pwrite64", "ftruncate", "fallocate", "copy_file_range", "fchmod", "utimensat"),
    "barriers": ("fsync", "fdatasync", "syncfs", "flock", "fcntl", "ioctl"),
}
RARE_MAX = 14
"""A kind that no thread calls more often is tried at each call."""


def order_of(hub: Hub, cache_dir: Path, steps: list[list[str]] = WORK, **more: Any) -> dict[str, Any]:
    return {"options": options(hub, cache_dir, sync_bytes=MIB), "steps": steps, **more}


def points_of(found: dict[str, int], kinds: tuple[str, ...], kills: int, dice: random.Random) -> list[tuple[str, int]]:
    """Where to kill: (kind, n), ``kills`` of them, each kind at least once."""
    here = [kind for kind in kinds if found.get(kind)]
    every = [(kind, number) for kind in here for number in range(1, found[kind] + 1)]
    first = [(kind, dice.randint(1, found[kind])) for kind in here]
    rare = [point for point in every if found[point[0]] <= RARE_MAX and point not in first]
    dice.shuffle(rare)
    other = [point for point in every if found[point[0]] > RARE_MAX and point not in first]
    dice.shuffle(other)
    # Where all rare ones fit they all come; the rest is drawn from the frequent ones.
    rare = rare[: max(0, kills - len(first))] if modes.LONG else rare[: max(0, (kills - len(first)) // 2)]
    return (first + rare + other)[:kills]


def killed_at(
    client: Client, order: dict[str, Any], top: Path, kind: str, number: int
) -> Ended:
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
    with Client() as client:
        caught = 0
        for number in range(2, 12):
            cache_dir = tmp_path / str(number)
            order = order_of(hub, cache_dir, FETCH, plant="name_before_bytes")
            ended = killed_at(client, order, tmp_path, "write", number)
            try:
                assert_nothing_wrong(cache_dir, hub)
            except AssertionError as error:
                assert ended.killed and "has the name of other bytes" in str(error)
                caught += 1
        assert caught


@pytest.mark.parametrize(
    ("plant", "kind", "numbers", "complaint"),
    [
        ("promise_too_early", "linkat", [2], "is not there"),
        ("leave_staging", "syncfs", [1], "nobody owns"),
        pytest.param("forget_journal", "unlinkat", [1, 1, 1], "journalled", marks=pytest.mark.needs("native")),
    ],
)
def test_a_careless_client_is_caught(
    hub: Hub, tmp_path: Path, plant: str, kind: str, numbers: Iterable[int], complaint: str
) -> None:
    add_repos(hub)
    caught = []
    with Client() as client:
        for turn, number in enumerate(numbers):
            cache_dir = tmp_path / str(turn)
            ended = killed_at(client, order_of(hub, cache_dir, FETCH, plant=plant), tmp_path, kind, number)
            try:
                assert_survives(cache_dir, hub, ended, rerun=True)
            except AssertionError as error:
                assert complaint in str(error)
                caught.append(number)
    assert caught


def test_a_client_that_does_not_check_what_came_is_caught(hub: Hub, tmp_path: Path) -> None:
    add_repos(hub)
    hub.faults.add(FlipByte(at=MIB).on("cdn"))
    with Client() as client:
        ended = client.work(order_of(hub, tmp_path / "cache", FETCH, plant="publish_unchecked"))
        assert ended.status == 0, ended.facts
    with pytest.raises(AssertionError, match="wrong bytes"):
        assert_nothing_wrong(tmp_path / "cache", hub)
