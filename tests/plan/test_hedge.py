"""Which part is asked for twice: the one that holds up the end, if that wins time, within a budget."""

from __future__ import annotations

import pytest

from fetcher.plan.hedge import Budget, Runner, straggler

MIB = 1 << 20


def runner(left_mib: int, mib_per_s: float, age_s: float = 5.0) -> Runner:
    return Runner(age_s, left_mib * MIB, mib_per_s * MIB)


@pytest.mark.parametrize(
    ("runners", "finished_mib_per_s", "expected"),
    [
        pytest.param([runner(40, 20.0), runner(40, 2.0)], [], 1, id="the slow one"),
        pytest.param([runner(40, 2.0)], [20.0], 0, id="the last one, beside those that are through"),
        pytest.param([runner(40, 2.0)], [], None, id="nothing to compare with"),
        pytest.param([runner(40, 20.0), runner(40, 12.0)], [20.0], None, id="not so slow"),
        pytest.param([runner(1, 2.0), runner(8, 20.0)], [20.0], None, id="nearly through"),
        pytest.param([runner(40, 0.0), runner(40, 20.0)], [], 0, id="silent"),
        pytest.param([runner(40, 2.0, 0.5), runner(40, 20.0)], [], None, id="just begun"),
        pytest.param([runner(20, 2.0), runner(40, 2.0), runner(40, 20.0)], [20.0, 20.0], 1, id="the most to win"),
        pytest.param([runner(0, 0.0), runner(40, 20.0)], [], None, id="nothing left to ask for"),
        pytest.param([runner(40, 0.0), runner(40, 0.0)], [], None, id="all are silent"),
        pytest.param([], [20.0], None, id="nobody"),
    ],
)
def test_golden(runners: list[Runner], finished_mib_per_s: list[float], expected: int | None) -> None:
    assert straggler(runners, [speed * MIB for speed in finished_mib_per_s]) == expected


def test_a_budget_of_a_twentieth_or_one_part() -> None:
    budget = Budget(1000)
    assert budget.allows(400), "the rest of one part, however small the run"
    budget.spend(400)
    assert not budget.allows(1)
    budget.refund(370)
    assert budget.allows(20)
    assert not budget.allows(21)
    large = Budget(1 << 40)
    large.spend(64 * MIB)
    assert large.allows(64 * MIB)
