"""Slabs: on a page, one block long, used again, and closed even while an error still shows a piece of one."""

from __future__ import annotations

import ctypes
import errno
from itertools import pairwise

import pytest

from fetcher.engine.buffers import Slab, SlabPool
from fetcher.plan.tree import BLOCK_BYTES

PAGE_BYTES = 4096


def address(slab: Slab) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(slab.view))


def test_slabs_start_on_a_page() -> None:
    pool = SlabPool()
    pairs = [pool.take_pair() for _ in range(8)]
    slabs = [slab for pair in pairs for slab in pair]
    assert all(address(slab) % PAGE_BYTES == 0 for slab in slabs)
    assert all(len(slab.view) == BLOCK_BYTES for slab in slabs)


def test_a_large_bytearray_would_not() -> None:
    """The reason for the maps; the day this fails they can go."""
    buffers = [bytearray(BLOCK_BYTES) for _ in range(8)]  # one of them may, by chance
    assert any(ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % PAGE_BYTES for buffer in buffers)


def test_slabs_in_use_never_overlap() -> None:
    pool = SlabPool()
    pairs = [pool.take_pair() for _ in range(8)]
    starts = sorted(address(slab) for pair in pairs for slab in pair)
    assert all(second - first >= BLOCK_BYTES for first, second in pairwise(starts))


def test_slabs_are_used_again() -> None:
    pool = SlabPool()
    first = pool.take_pair()
    pool.give_back(first)
    second, third = pool.take_pair(), pool.take_pair()
    assert set(second) == set(first)
    assert not set(third) & set(first)
    assert pool.made_count == 4
    for pair in (second, third):
        pool.give_back(pair)
    for _ in range(100):
        pool.give_back(pool.take_pair())
    assert pool.made_count == 4
    pool.close()


def test_a_slab_is_writable_and_keeps_what_it_got() -> None:
    pool = SlabPool()
    left, right = pool.take_pair()
    left.view[:3] = b"abc"
    right.view[:3] = b"xyz"
    assert bytes(left.view[:3]) == b"abc"
    pool.give_back((left, right))
    pool.close()


def test_closed_slabs_are_gone() -> None:
    pool = SlabPool()
    pair = pool.take_pair()
    pool.give_back(pair)
    pool.close()
    for slab in pair:
        with pytest.raises(ValueError, match="released"):
            slab.view[0]
    pool.close()
    assert pool.take_pair() != pair


def test_closing_while_an_error_still_shows_a_slab_raises_nothing() -> None:
    """A full disk: the error on its way up holds the frame of the failed write, and with it a slice of a slab."""
    pool = SlabPool()
    pair = pool.take_pair()

    def write(data: memoryview) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full") as raised:
        try:
            write(pair[0].view[:100])
        finally:
            pool.give_back(pair)
            pool.close()
    assert raised.value.errno == errno.ENOSPC
