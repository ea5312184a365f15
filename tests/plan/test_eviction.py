"""Which Snapshots make room: golden cases of the choice, least recently used first, and what it must always be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.plan.eviction import Choice, Evictable, choose

SIZES = {"a": 10, "b": 30, "c": 5, "d": 100, "shared": 50, "pinned": 7}
SHELF = [
    Evictable("oldest", "hf://x", frozenset({"a", "shared"})),
    Evictable("older", "hf://x", frozenset({"pinned"})),
    Evictable("old", "hf://x", frozenset({"b"})),
    Evictable("young", "hf://x", frozenset({"c", "shared"})),
    Evictable("youngest", "hf://x", frozenset({"d"})),
]
USERS = {"a": 1, "b": 1, "c": 1, "d": 1, "shared": 2, "pinned": 2}


def chosen(choice: Choice) -> str:
    return " ".join(item.snapshot_id for item, _ in choice.chosen)


@pytest.mark.parametrize(
    ("missing", "names", "freed"),
    [
        (-5, "", 0),
        (0, "", 0),
        (1, "oldest", 10),
        (10, "oldest", 10),
        # What shares all its bytes with somebody who stays frees nothing, and stays.
        (11, "oldest old", 40),
        # The last that refers to what is shared frees it.
        (41, "oldest old young", 95),
        (96, "oldest old young youngest", 195),
        (196, "oldest old young youngest", 195),
    ],
)
def test_golden(missing: int, names: str, freed: int) -> None:
    choice = choose(SHELF, SIZES, USERS, (), missing)
    assert (chosen(choice), choice.bytes_freed) == (names, freed)


def test_what_is_about_to_be_linked_frees_nothing() -> None:
    choice = choose(SHELF, SIZES, USERS, {"a", "b", "shared"}, 20)
    assert (chosen(choice), choice.bytes_freed) == ("young youngest", 105)


def test_an_empty_shelf() -> None:
    assert choose([], {}, {}, (), 0) == choose([], {}, {}, (), 1) == Choice((), 0)


ROOTS = "abcdefgh"


@given(
    shelf=st.lists(st.sets(st.sampled_from(ROOTS), max_size=4), max_size=8),
    others=st.lists(st.sets(st.sampled_from(ROOTS), max_size=3), max_size=3),
    kept=st.sets(st.sampled_from(ROOTS), max_size=3),
    missing=st.integers(0, 120),
)
def test_it_frees_what_it_says_and_no_shorter_run_would_do(
    shelf: list[set[str]], others: list[set[str]], kept: set[str], missing: int
) -> None:
    sizes = {root: 3 * index + 1 for index, root in enumerate(ROOTS)}
    candidates = [Evictable(str(index), "hf://x", frozenset(roots)) for index, roots in enumerate(shelf)]
    users = {root: sum(root in roots for roots in (*shelf, *others)) for root in ROOTS}

    def freed_by(going: list[Evictable]) -> int:
        names = {item.snapshot_id for item in going}
        staying = [item.roots for item in candidates if item.snapshot_id not in names] + [frozenset(o) for o in others]
        gone = {root for item in going for root in item.roots} - {root for roots in staying for root in roots} - kept
        return sum(sizes[root] for root in gone)

    choice = choose(candidates, sizes, users, kept, missing)
    going = [item for item, _ in choice.chosen]
    assert choice.bytes_freed == freed_by(going)
    if choice.bytes_freed < missing:
        assert choice.bytes_freed == freed_by(candidates)
        return
    assert all(any(root not in kept for root in item.roots) for item in going), "each adds something"
    if going:
        last = candidates.index(going[-1])
        assert freed_by(candidates[:last]) < missing
