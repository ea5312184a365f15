"""Lengths of parts as a golden table, and what holds for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.plan.part_size import part_bytes
from fetcher.plan.tree import BLOCK_BYTES as MIB

INF = float("inf")
GIB = 1 << 30


@pytest.mark.parametrize(
    ("speed_mib", "left", "connections", "window", "expected_mib"),
    [
        # Nothing is known yet.
        (0.0, INF, 4, GIB, 8),
        # Three seconds of a connection.
        (1.0, INF, 8, GIB, 8),
        (5.0, INF, 8, GIB, 15),
        (20.0, INF, 8, GIB, 60),
        # Not without end.
        (400.0, INF, 4, GIB, 64),
        # Towards the end of all, so that all end together.
        (20.0, 512 * MIB, 8, GIB, 32),
        (20.0, 256 * MIB, 8, GIB, 16),
        (20.0, 64 * MIB, 8, GIB, 5),
        (20.0, 16 * MIB, 8, GIB, 5),
        (4.0, 100 * MIB, 8, GIB, 6),
        (4.0, 16 * MIB, 8, GIB, 1),
        (400.0, 16 * MIB, 8, GIB, 8),
        (0.0, 16 * MIB, 8, GIB, 8),
        # Every connection finds room in the window.
        (400.0, INF, 16, 512 * MIB, 16),
        (400.0, INF, 16, 8 * MIB, 8),
    ],
)
def test_golden(speed_mib: float, left: float, connections: int, window: int, expected_mib: int) -> None:
    found = part_bytes(
        8 * MIB, speed_bytes_per_s=speed_mib * MIB, left_bytes=left, connections=connections, window_bytes=window
    )
    assert found == expected_mib * MIB


@given(
    least=st.integers(1, 64),
    speed=st.floats(0, 1e11),
    left=st.floats(0, 1e13) | st.just(INF),
    connections=st.integers(0, 1024),
    window=st.integers(1, 1 << 44),
)
def test_whole_blocks_within_bounds(least: int, speed: float, left: float, connections: int, window: int) -> None:
    found = part_bytes(
        least * MIB, speed_bytes_per_s=speed, left_bytes=left, connections=connections, window_bytes=window
    )
    assert found % MIB == 0
    assert MIB <= found <= 8 * least * MIB
    if not speed or left >= 2 * connections * least * MIB:
        assert found >= least * MIB, "only the last parts are shorter"
