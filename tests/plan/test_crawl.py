"""Which connection is closed for crawling: one whose peers show that it need not be so slow, within a budget."""

from __future__ import annotations

import random

import pytest

from fetcher.plan.crawl import (
    CLOSING_EVERY_S,
    CLOSINGS_AT_ONCE,
    Closings,
    Flow,
    crawler,
    crawls,
    usual_bytes_per_s,
)

MIB = 1 << 20


def flow(
    mib_per_s: float,
    left_mib: int = 20,
    *,
    newest: float | None = None,
    flowing_s: float = 3.0,
    trip_s: float = 0.05,
) -> Flow:
    return Flow(flowing_s, trip_s, mib_per_s * MIB, (mib_per_s if newest is None else newest) * MIB, left_mib * MIB)


FAST = [flow(20.0), flow(15.0), flow(12.0)]


@pytest.mark.parametrize(
    ("flows", "finished_mib_per_s", "expected"),
    [
        pytest.param([*FAST, flow(2.0)], [], 3, id="the slow one"),
        pytest.param([flow(0.0), *FAST], [], 0, id="one that has fallen silent"),
        pytest.param([*FAST, flow(5.1)], [], None, id="more than a third of the usual"),
        pytest.param([*FAST, flow(2.0, newest=9.0)], [], None, id="it recovers"),
        pytest.param([*FAST, flow(9.0, newest=0.5)], [], None, id="it has just been fast"),
        pytest.param([*FAST, flow(2.0, flowing_s=0.9)], [], None, id="just begun"),
        pytest.param([*FAST, flow(2.0, flowing_s=5.0, trip_s=0.5)], [], None, id="far away, and still young"),
        pytest.param([*FAST, flow(2.0, flowing_s=6.5, trip_s=0.5)], [], 3, id="far away, and old enough"),
        pytest.param([*FAST, flow(2.0, 1)], [], None, id="nearly through"),
        pytest.param([*FAST, flow(1.5, 1)], [], None, id="another one would have to begin first"),
        pytest.param([*FAST, flow(2.0, 0)], [], None, id="one that may not be given up"),
        pytest.param([*FAST[:2], flow(2.0)], [], None, id="too few have shown what is usual"),
        pytest.param([*FAST[:2], flow(2.0)], [14.0], 2, id="with one that was through just now"),
        pytest.param([flow(2.0)], [20.0, 15.0, 12.0], 0, id="the last one, beside those"),
        pytest.param([flow(2.0) for _ in range(6)], [], None, id="all are slow"),
        pytest.param([*FAST, *(flow(2.0) for _ in range(5))], [], None, id="most are slow"),
        pytest.param([*FAST, flow(2.0, 20), flow(2.0, 60)], [], 4, id="the most to win"),
        pytest.param([*(flow(0.95) for _ in range(5)), flow(0.05)], [], None, id="a line too thin to tell"),
        pytest.param([*(flow(1.05) for _ in range(5)), flow(0.05)], [], 5, id="a line that is not"),
        pytest.param([], [20.0, 15.0, 12.0], None, id="nobody"),
    ],
)
def test_golden(flows: list[Flow], finished_mib_per_s: list[float], expected: int | None) -> None:
    assert crawler(flows, [speed * MIB for speed in finished_mib_per_s]) == expected


def test_each_is_compared_with_all_others(rng: random.Random) -> None:
    """The median is taken once, for all; one by one it is the same."""
    found = 0
    for _ in range(2000):
        flows = [
            flow(rng.choice([0.5, 1.0, 2.0, 5.0, 5.0, 9.0]), flowing_s=rng.choice([0.5, 3.0, 3.0]))
            for _ in range(rng.randrange(9))
        ]
        finished = [rng.choice([0.5, 4.0, 9.0]) * MIB for _ in range(rng.randrange(4))]
        slowest = None
        for index, each in enumerate(flows):
            others = [other.bytes_per_s for other in flows if other is not each and other.settled]
            crawling = crawls(each, usual_bytes_per_s([*finished, *others]))
            if crawling and (slowest is None or each.bytes_per_s <= flows[slowest].bytes_per_s):
                slowest = index
        assert crawler(flows, finished) == slowest
        found += slowest is not None
    assert 200 < found < 1800


def test_peers_that_have_just_begun_show_nothing() -> None:
    young = [flow(20.0, flowing_s=0.5) for _ in range(5)]
    assert crawler([*young, flow(2.0)], []) is None
    assert not crawls(flow(2.0), 0.0), "nothing is known of what is usual"


def test_closings_have_a_budget_that_comes_back_slowly() -> None:
    closings, now = Closings(), 100.0
    closed = 0
    while closings.may_close(now):
        closings.close()
        closed += 1
    assert closed == CLOSINGS_AT_ONCE
    assert not closings.may_close(now + 0.9 * CLOSING_EVERY_S)
    assert closings.may_close(now + 1.01 * CLOSING_EVERY_S)
    closings.close()
    assert not closings.may_close(now + 1.02 * CLOSING_EVERY_S)
    later = now + 1000 * CLOSING_EVERY_S
    for _ in range(CLOSINGS_AT_ONCE):
        assert closings.may_close(later)
        closings.close()
    assert not closings.may_close(later), "a long rest saves up no more than that"
