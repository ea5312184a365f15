"""Which Snapshots make room: golden files of the choice, least recently used first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.plan.eviction import choose


@dataclass(frozen=True)
class Kept:
    snapshot_id: str
    bytes: int


SHELF = [Kept("oldest", 10), Kept("older", 0), Kept("old", 30), Kept("young", 5), Kept("youngest", 100)]


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        (-5, ""),
        (0, ""),
        (1, "oldest"),
        (10, "oldest"),
        # A Snapshot that shares all its bytes frees none, yet it goes in its turn: the order is age.
        (11, "oldest older old"),
        (40, "oldest older old"),
        (41, "oldest older old young"),
        (46, "oldest older old young youngest"),
        (145, "oldest older old young youngest"),
        (146, None),
    ],
)
def test_golden(missing: int, names: str | None) -> None:
    chosen = choose(SHELF, missing)
    assert (None if chosen is None else " ".join(item.snapshot_id for item in chosen)) == names


def test_an_empty_shelf() -> None:
    assert choose([], 0) == []
    assert choose([], 1) is None


def test_no_more_is_looked_at_than_needed() -> None:
    looked_at = []

    def shelf() -> object:
        for item in SHELF:
            looked_at.append(item.snapshot_id)
            yield item

    choose(shelf(), 5)  # type: ignore[arg-type]
    assert looked_at == ["oldest", "older"]


@given(sizes=st.lists(st.integers(0, 50), max_size=20), missing=st.integers(0, 600))
def test_the_shortest_run_from_the_oldest(sizes: list[int], missing: int) -> None:
    shelf = [Kept(str(index), size) for index, size in enumerate(sizes)]
    chosen = choose(shelf, missing)
    if chosen is None:
        assert sum(sizes) < missing
        return
    assert list(chosen) == shelf[: len(chosen)]
    assert sum(item.bytes for item in chosen) >= missing
    assert not chosen or sum(item.bytes for item in chosen[:-1]) < missing
