"""How long a part may be: some seconds of one connection, less where the end is shared. Pure.

A request costs a round trip in which its connection brings nothing, so on a fast line short parts are dear. Long ones
make for a ragged end, with one connection at work on the last of them, and are dear to move when they turn out slow.
"""

from __future__ import annotations

from fetcher.plan.tree import BLOCK_BYTES

PART_S = 3.0
"""A round trip of 40 ms is then 1.3 % of a part, one of 200 ms 6 %."""
LONGEST_FACTOR = 8
"""Times the least length."""
SHARES = 2
"""Of what is left, a part is at most one of so many for each connection: the last ones get shorter and shorter, and end
at about the same time."""
LAST_S = 0.25
"""Of one connection: shorter than that, or than one block, the last parts are not. Otherwise they would be nothing but
round trips; longer ones leave a line to one or two connections for as long as they take."""


def part_bytes(
    least_bytes: int, *, speed_bytes_per_s: float, left_bytes: float, connections: int, window_bytes: int
) -> int:
    """About how long the next part should be, in whole blocks; ``least_bytes`` where nothing better is known, and less
    only for the last ones.

    ``speed_bytes_per_s``: of one connection, 0.0 if unknown. ``left_bytes``: what nobody has asked for yet.
    ``window_bytes``: how far parts may run ahead in all; every connection finds room in it.
    """
    if speed_bytes_per_s <= 0:
        return least_bytes
    shares = SHARES * max(1, connections)
    share = left_bytes / shares
    if share < least_bytes:
        wanted = max(share, min(least_bytes, speed_bytes_per_s * LAST_S))
        return max(BLOCK_BYTES, int(wanted) // BLOCK_BYTES * BLOCK_BYTES)
    wanted = min(speed_bytes_per_s * PART_S, LONGEST_FACTOR * least_bytes, share, float(window_bytes // shares))
    return max(least_bytes, int(wanted) // BLOCK_BYTES * BLOCK_BYTES)
