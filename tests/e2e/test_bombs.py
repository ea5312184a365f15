"""Answers without end, and small ones that grow: each ends with an error of ours, in little time and memory.

An origin sends a question, or a body, to a stranger's server (``stranger.py``); the client is a process of its own, so
that its peak of memory is known. What was in the cache before stays, and nothing else is to be seen there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing.faults import RedirectTo
from tests.e2e import stranger
from tests.e2e.stranger import Attack, Stranger
from tests.e2e.support import Child, blobs_of, tree_of
from tests.e2e.test_refresh import move_on
from tests.e2e.worlds import World, WorldKind, world_of

LONG = os.environ.get("FETCHER_TEST_LONG") == "1"
KINDS: tuple[WorldKind, ...] = ("hub", "s3", "registry")
BRIEF = {
    "connect_timeout_s": 5.0,
    "api_timeout_s": 1.5,
    "api_time_max_s": 4.0,
    "api_tries_max": 2,
    "part_idle_timeout_s": 1.0,
    "no_progress_timeout_s": 2.0,
    "refresh": True,
}
WALL_S_MAX = 40.0
"""On a machine that stands still for seconds; else it is 2 to 6 s."""
PEAK_BYTES_MAX = 400 << 20
HUB_PEAK_BYTES_MAX = 900 << 20
"""The Hub's info may have 256 MiB (a line for each of a million files); it is the operator's own endpoint."""
CODES = {"forbidden", "transport", "resource", "not_found", "denied"}
"""An S3 that lists nothing is the definition's fault (10); a folder of which it says no word is not there (21)."""


def some(attacks: tuple[Attack, ...], kinds: tuple[WorldKind, ...] = KINDS, *, every: int = 1) -> list[Any]:
    """Each attack at each kind of origin; in short runs each ``every``-th at one of them."""
    return [
        pytest.param(kind, attack, id=f"{kind}-{attack.__name__}")
        for index, attack in enumerate(attacks)
        if LONG or index % every == 0
        for at, kind in enumerate(kinds)
        if LONG or index % len(kinds) == at
    ]


def attacked(world: World, cache_dir: Path, attack: Attack, rule: Any) -> dict[str, Any]:
    """Fetch well, then under attack; returns what the client said."""
    good = world.fetch(cache_dir).snapshot
    held, blobs = tree_of(good.path), blobs_of(cache_dir)
    move_on(world)
    with Stranger(attack) as server:
        world.origin.faults.add(rule(RedirectTo(server.url, 307)))
        began = time.monotonic()
        with Child(world.options(cache_dir, **BRIEF), (world.uri,)) as child:
            fact = child.result(WALL_S_MAX + 10)
        spent_s = time.monotonic() - began
        assert server.targets, f"nobody came to the stranger: {fact}"
        sent = server.bytes_sent
    print(f"{world.kind} {attack.__name__}: {fact} {spent_s:.1f} s, {sent >> 20} MiB sent")
    assert fact["event"] == "error", fact
    assert fact["kind"] in CODES, fact
    assert fact["message"].isprintable() and len(fact["message"]) < 3000
    assert "loopback" not in fact["message"]
    assert spent_s < WALL_S_MAX
    peak = HUB_PEAK_BYTES_MAX if world.kind == "hub" else PEAK_BYTES_MAX
    assert fact["peak_bytes"] < peak, f"{fact['peak_bytes'] >> 20} MiB"
    assert tree_of(good.path) == held, "what was good stays"
    assert [path.name for path in (cache_dir / "snapshots-v1").iterdir() if path.is_dir()] == [good.path.name]
    assert set(blobs) <= set(blobs_of(cache_dir))
    return fact


@pytest.mark.parametrize(
    ("kind", "attack"),
    [
        *some((*stranger.HEADS, *stranger.REDIRECTS, *stranger.FRAMES)),
        *some(stranger.JSON, ("hub", "registry")),
        *some(stranger.XML, ("s3",)),
    ],
)
def test_questions_answered_without_end(kind: WorldKind, attack: Attack, cache_dir: Path) -> None:
    with world_of(kind) as world:
        attacked(world, cache_dir, attack, world.places.first.hit)


@pytest.mark.parametrize("attack", stranger.JSON, ids=lambda attack: attack.__name__)
def test_pages_of_a_tree_without_end(attack: Attack, cache_dir: Path) -> None:
    """The question behind the first one; a million files in one page among them."""
    with world_of("hub") as world:
        attacked(world, cache_dir, attack, world.places.second.hit)


@pytest.mark.parametrize(
    ("kind", "attack"),
    some((*stranger.HEADS, *stranger.REDIRECTS, *stranger.FRAMES), ("s3", "registry", "hub"), every=2),
)
def test_bodies_without_end(kind: WorldKind, attack: Attack, cache_dir: Path) -> None:
    with world_of(kind) as world:
        attacked(world, cache_dir, attack, (world.places.door or world.places.body).hit)
        assert world.fetch(cache_dir, offline=True).hit, "the good one is still a hit"
