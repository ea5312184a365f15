"""Fixtures of the cache's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fetcher.cache.store import Cache
from tests.cache.world import Clock, settings


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the cache of this test is."""
    return tmp_path / "cache"


@pytest.fixture
def open_cache(place: Path, clock: Clock) -> Iterator[Callable[..., Cache]]:
    """Opens the cache of this test, as often as asked; all are closed in the end."""
    opened: list[Cache] = []

    def open_one(*, read_only: bool = False, **options: object) -> Cache:
        opened.append(Cache.open(settings(place, **options), clock=clock, read_only=read_only))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()


@pytest.fixture
def cache(open_cache: Callable[..., Cache]) -> Cache:
    return open_cache()
