"""The block grid at its boundaries: counts, lengths, and that the blocks of a file add up to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.plan.tree import BLOCK_BYTES, block_count, block_length

MIB = 1 << 20


def test_a_block_is_one_mebibyte() -> None:
    assert BLOCK_BYTES == MIB  # part of the format on disk


@pytest.mark.parametrize(
    ("size", "count", "last"),
    [
        (0, 0, None),
        (1, 1, 1),
        (MIB - 1, 1, MIB - 1),
        (MIB, 1, MIB),
        (MIB + 1, 2, 1),
        (2 * MIB - 1, 2, MIB - 1),
        (2 * MIB, 2, MIB),
        (1 << 43, 1 << 23, MIB),
        ((1 << 43) + 1, (1 << 23) + 1, 1),
    ],
)
def test_boundaries(size: int, count: int, last: int | None) -> None:
    assert block_count(size) == count
    if last is not None:
        assert block_length(size, count - 1) == last


@given(size=st.integers(1, 64 * MIB))
def test_blocks_add_up_to_the_file_and_only_the_last_is_short(size: int) -> None:
    lengths = [block_length(size, block) for block in range(block_count(size))]
    assert sum(lengths) == size
    assert set(lengths[:-1]) <= {MIB}
    assert 0 < lengths[-1] <= MIB
