"""How far a SHA-256 came, in the journal: what a later run may go on from, and when it has to start again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fetcher import hashing
from fetcher.cache import journal
from fetcher.cache.partials import Partial
from fetcher.cache.records import PartialHead
from fetcher.cache.store import Cache
from tests.cache.world import MIB, block_of, head_of, paint

pytestmark = [
    pytest.mark.needs("native"),  # plain mode resumes nothing, see test_plain.py
    pytest.mark.skipif(not hashing.Sha256.can_export, reason="this CPU has no instructions for SHA-256"),
]

SIZE = 5 * MIB + 9
DATA = paint(SIZE)


def midstate_of(data: bytes, length: int) -> bytes:
    hasher = hashing.Sha256()
    hasher.update(data[:length])
    return hasher.export()


def write(partial: Partial, *blocks: int, data: bytes = DATA) -> None:
    for block in blocks:
        partial.write_block(block, block_of(data, block))


def reopened(cache: Cache, partial: Partial) -> bytes | None:
    """The midstate that the next one finds."""
    partial.close()
    again = cache.partial_open(head_of(DATA))
    found = again.midstate
    again.close()
    return found


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_new_one_has_none(cache: Cache) -> None:
    partial = cache.partial_open(head_of(DATA))
    assert partial.midstate is None
    write(partial, 0, 1)
    assert reopened(cache, partial) is None


def test_the_furthest_one_is_found_again(cache: Cache) -> None:
    partial = cache.partial_open(head_of(DATA))
    write(partial, 0, 1, 2, 3)
    partial.save_midstate(midstate_of(DATA, 2 * MIB))
    partial.save_midstate(midstate_of(DATA, 3 * MIB))
    write(partial, 5)
    found = reopened(cache, partial)
    assert found == midstate_of(DATA, 3 * MIB)
    hasher = hashing.Sha256.load(found)
    hasher.update(DATA[hasher.tell() :])
    assert hasher.hexdigest() == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(("bad", "left"), [(0, None), (1, None), (2, 2), (3, 3), (4, 4)])
def test_it_counts_for_nothing_but_blocks_that_are_right(cache: Cache, bad: int, left: int | None) -> None:
    """A block that is fetched again must go through the digest; one that lies behind the midstate does so anyway."""
    partial = cache.partial_open(head_of(DATA))
    write(partial, 0, 1, 2, 3, 4)
    for blocks in (2, 3, 4):
        partial.save_midstate(midstate_of(DATA, blocks * MIB))
    partial.close()
    flip(partial.path / "data", bad * MIB + 77)
    again = cache.partial_open(head_of(DATA))
    assert bad not in again.proven
    assert again.midstate == (None if left is None else midstate_of(DATA, left * MIB))
    write(again, bad)
    assert reopened(cache, again) == again.midstate, "it was written again after that midstate: its bytes are not in it"


def test_a_block_that_was_written_again_takes_it_along(cache: Cache) -> None:
    partial = cache.partial_open(head_of(DATA))
    write(partial, 0, 1, 2)
    partial.save_midstate(midstate_of(DATA, MIB))
    partial.save_midstate(midstate_of(DATA, 3 * MIB))
    write(partial, 1)
    assert reopened(cache, partial) == midstate_of(DATA, MIB)


def test_a_torn_or_damaged_one_counts_for_nothing(cache: Cache) -> None:
    partial = cache.partial_open(head_of(DATA))
    write(partial, 0, 1)
    partial.save_midstate(midstate_of(DATA, MIB))
    partial.save_midstate(midstate_of(DATA, 2 * MIB))
    partial.close()
    place = partial.path / "journal"
    whole = place.read_bytes()
    for damaged in (whole[:-1], whole[:-48], whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]):
        place.write_bytes(damaged)
        assert reopened(cache, cache.partial_open(head_of(DATA))) == midstate_of(DATA, MIB)


def test_one_of_more_than_the_content_counts_for_nothing(cache: Cache) -> None:
    """Of all of it there is a digest; and of more there is nothing."""
    size = 2 * MIB
    data = paint(size)
    partial = cache.partial_open(head_of(data))
    write(partial, 0, 1, data=data)
    partial.save_midstate(midstate_of(data, MIB))
    partial.save_midstate(midstate_of(data, size))
    partial.save_midstate(midstate_of(data + bytes(MIB), 3 * MIB))
    partial.close()
    again = cache.partial_open(head_of(data))
    assert again.midstate == midstate_of(data, MIB)
    again.close()


def test_an_odd_length_counts_for_nothing(tmp_path: Path) -> None:
    head = PartialHead("c" * 64, "https://h/f", SIZE, '"etag"', "m", False, None, "none")
    place = tmp_path / "journal"
    odd = journal._record(journal.KIND_SHA256, MIB + 1, bytes(32))
    place.write_bytes(journal.head_bytes(head) + journal.sha256_record(midstate_of(DATA, MIB)) + odd)
    found = journal.read(place)
    assert found is not None
    assert found.midstates == ((MIB, midstate_of(DATA, MIB)),)


def test_a_later_one_of_less_replaces_those_of_more(tmp_path: Path) -> None:
    head = PartialHead("c" * 64, "https://h/f", SIZE, '"etag"', "m", False, None, "none")
    place = tmp_path / "journal"
    records = [journal.sha256_record(midstate_of(DATA, blocks * MIB)) for blocks in (1, 2, 4, 2)]
    place.write_bytes(journal.head_bytes(head) + b"".join(records))
    found = journal.read(place)
    assert found is not None
    assert [length for length, _ in found.midstates] == [MIB, 2 * MIB]


@pytest.mark.parametrize("how", ["reject", "forget"])
def test_a_new_start_has_none(cache: Cache, how: str) -> None:
    partial = cache.partial_open(head_of(DATA))
    write(partial, 0, 1)
    partial.save_midstate(midstate_of(DATA, 2 * MIB))
    partial.close()
    again = cache.partial_open(head_of(DATA))
    assert again.midstate is not None
    if how == "reject":
        again.reject()
    else:
        again.forget_blocks()
    assert again.midstate is None
    write(again, 0, 1)
    assert reopened(cache, again) is None


@pytest.mark.parametrize("changed", [None, 1, 2], ids=str)
def test_it_is_copied_with_the_blocks_that_it_is_of(open_cache: Callable[..., Cache], changed: int | None) -> None:
    """Of a writer that may still be at it: what is not right is not taken, and nothing that relies on it."""
    first, second = open_cache(), open_cache()
    partial = first.partial_open(head_of(DATA))
    write(partial, 0, 1, 2)
    for blocks in (1, 2, 3):
        partial.save_midstate(midstate_of(DATA, blocks * MIB))
    if changed is not None:
        os.pwrite(partial.fd, b"changed", changed * MIB)
    first.layout.owner(first.owner.id).unlink()
    heir = second.partial_open(head_of(DATA))
    expected = midstate_of(DATA, (3 if changed is None else changed) * MIB)
    assert heir.midstate == expected
    assert reopened(second, heir) == expected, "it stands in our journal, too"
    partial.close()


def test_two_sources_that_are_not_of_one_mind(open_cache: Callable[..., Cache]) -> None:
    """One left a block with other bytes, the other a midstate of the right ones: together they prove nothing."""
    first, second, third = open_cache(), open_cache(), open_cache()
    wrong = first.partial_open(head_of(DATA))
    wrong.write_block(0, paint(MIB, 99))
    right = second.partial_open(head_of(DATA))
    write(right, 0, 1, 2)
    right.save_midstate(midstate_of(DATA, 3 * MIB))
    for cache in (first, second):
        cache.layout.owner(cache.owner.id).unlink()
    heir = third.partial_open(head_of(DATA), previous_owner=first.owner.id)
    assert sorted(heir.proven) == [0, 1, 2]
    assert heir.midstate is None
    for partial in (heir, wrong, right):
        partial.close()


def test_of_two_sources_the_one_that_came_further(open_cache: Callable[..., Cache]) -> None:
    first, second, third = open_cache(), open_cache(), open_cache()
    left = []
    for cache, blocks in ((first, 3), (second, 1)):
        partial = cache.partial_open(head_of(DATA))
        write(partial, *range(blocks))
        partial.save_midstate(midstate_of(DATA, blocks * MIB))
        left.append(partial)
        cache.layout.owner(cache.owner.id).unlink()
    heir = third.partial_open(head_of(DATA), previous_owner=first.owner.id)
    assert heir.midstate == midstate_of(DATA, 3 * MIB)
    assert reopened(third, heir) == midstate_of(DATA, 3 * MIB)
    for partial in left:
        partial.close()


def test_one_of_no_bytes_counts_for_nothing(tmp_path: Path) -> None:
    head = PartialHead("c" * 64, "https://h/f", SIZE, '"etag"', "m", False, None, "none")
    place = tmp_path / "journal"
    place.write_bytes(journal.head_bytes(head) + journal._record(journal.KIND_SHA256, 0, bytes(32)))
    found = journal.read(place)
    assert found is not None
    assert found.midstates == ()
