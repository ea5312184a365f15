"""The knee of a host's goodput: steps that are worth it, and those that are not. Whole lines are in tests/engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.plan.plateau import FAR_S, REQUEST_BYTES, START, START_FAR, Phase, Plateau, units
from fetcher.plan.rungs import rungs

MIB = 1 << 20


class Course:
    """A plateau under a curve of goodput over connections; as many are open as it allows."""

    def __init__(self, plateau: Plateau, curve: Callable[[int], float]) -> None:
        self.plateau, self.curve = plateau, curve
        self.now = self.units = 0.0
        self.left_units = float("inf")
        self.levels = [plateau.level]

    def run(self, seconds: float, *, open_max: int = 1000) -> Plateau:
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            connections = min(self.plateau.level, open_max)
            self.units += self.curve(connections) * 0.1
            if self.plateau.sample(self.now, self.units, connections, self.left_units):
                self.levels.append(self.plateau.level)
        return self.plateau


def knee(at: int, each: float = 10.0 * MIB) -> Callable[[int], float]:
    return lambda connections: min(connections, at) * each


def test_rungs() -> None:
    assert rungs(16) == (1, 2, 3, 4, 6, 8, 12, 16)
    assert rungs(5) == (1, 2, 3, 4, 5)
    assert rungs(1) == (1,)
    assert rungs(100)[-3:] == (64, 96, 100)
    assert units(0, 3) == 3 * REQUEST_BYTES


@pytest.mark.parametrize(("at", "found"), [(1, 4), (4, 4), (5, 6), (6, 6), (8, 8), (9, 12), (12, 12), (40, 16)])
def test_the_least_that_brings_nearly_all(at: int, found: int) -> None:
    assert Course(Plateau(16), knee(at)).run(60.0).resting_level == found


def test_fewer_are_not_tried_when_nearly_all_is_here() -> None:
    """At 60 MiB/s, from the end of the doubling on less than ten seconds' worth is still to come."""

    def levels(left_s: float) -> list[int]:
        plateau, now, found = Plateau(16, 6, grows=False), 0.0, []
        for step in range(1, 300):
            now = step / 10
            plateau.sample(now, 60.0 * MIB * now, plateau.level, left_s * 60 * MIB)
            found.append(plateau.level)
        return found

    assert set(levels(5.0)) == {6}
    assert 4 in levels(20.0)


def test_more_are_tried_to_the_end_and_fewer_are_not_where_there_can_be_no_more() -> None:
    """After a try of fewer that led nowhere the next one is the other way."""
    for level_max, levels in ((16, {6, 8}), (6, {6})):
        course = Course(Plateau(level_max, 6, grows=False), knee(100))
        while 4 not in course.levels:
            course.run(0.1)
        course.run(2.0)
        while course.plateau.phase is not Phase.HOLDING:
            course.run(0.1)
        assert course.plateau.level == 6
        course.levels.clear()
        course.left_units = 1.0
        course.run(12.0)
        assert {6, *course.levels} == levels


def test_it_doubles_until_that_does_not_pay() -> None:
    course = Course(Plateau(64), knee(20))
    course.run(6.0)
    assert course.levels[:4] == [4, 8, 16, 32]
    assert course.plateau.found
    assert course.plateau.resting_level >= 16


def test_nothing_is_learnt_while_there_is_too_little_to_do() -> None:
    course = Course(Plateau(16), knee(40))
    assert course.run(60.0, open_max=2).level == 4
    assert not course.plateau.found
    assert course.run(60.0).level == 16


def test_a_quiet_time_is_no_bad_news() -> None:
    course = Course(Plateau(16), knee(8))
    course.run(30.0)
    course.curve = lambda _: 0.0
    course.run(30.0)
    course.curve = knee(8)
    assert course.run(60.0).resting_level == 8


def test_tries_become_rare_where_nothing_changes() -> None:
    course = Course(Plateau(16), knee(8))
    course.run(60.0)
    before = len(course.levels)
    course.run(320.0)
    assert 4 <= len(course.levels) - before <= 2 * 12


def test_a_refusal_ends_the_doubling_and_a_try() -> None:
    course = Course(Plateau(16), knee(40))
    course.run(1.1)
    assert (course.plateau.phase, course.plateau.level) == (Phase.GROWING, 8)
    course.plateau.refused(course.now)
    assert (course.plateau.phase, course.plateau.level) == (Phase.HOLDING, 4)
    course = Course(Plateau(16, 8, grows=False), knee(8))
    while course.plateau.phase is not Phase.PROBING:
        course.run(0.1)
    course.plateau.refused(course.now)
    assert (course.plateau.phase, course.plateau.level) == (Phase.HOLDING, 8)


def test_silence_is_one_step_down_and_soon_tried_again() -> None:
    course = Course(Plateau(16, 12, grows=False), knee(12))
    for _ in range(5):
        course.plateau.stalled(100.0)
    assert course.plateau.level == 8, "what fell silent together is one message"
    course.now = 100.0
    assert course.run(20.0).resting_level == 12
    for moment in range(200, 300, 10):
        course.plateau.stalled(float(moment))
    assert course.plateau.level == 4


def test_what_is_known_is_where_it_begins() -> None:
    assert Plateau(16, 12).level == 12
    assert Plateau(16, 1).level == 4
    assert Plateau(8, 12).level == 8
    assert Plateau(2).level == 2
    assert Plateau(16, 12).phase is Phase.GROWING
    assert Plateau(16, 12, grows=False).phase is Phase.HOLDING
    assert Plateau(16, 16).phase is Phase.HOLDING


def test_a_host_that_is_far_away_begins_with_more() -> None:
    course = Course(Plateau(16), knee(12))
    course.plateau.answered(0.0, FAR_S)
    assert (course.plateau.level, course.plateau.resting_level) == (START_FAR, START_FAR)
    assert course.run(60.0).resting_level == 12
    assert course.levels[1] == 2 * START_FAR
    near, small, known, refused = Plateau(16), Plateau(3), Plateau(16, 4), Plateau(16)
    near.answered(0.04, FAR_S / 2)
    small.answered(0.04, 1.0)
    known.answered(0.04, 1.0)
    refused.refused(0.03)
    refused.answered(0.04, 1.0)
    assert [near.level, small.level, known.level, refused.level] == [START, 3, 4, START]
    measured = Course(Plateau(16), knee(4))
    measured.run(10.0)
    measured.plateau.answered(measured.now, 1.0)
    assert measured.plateau.level == START, "what was measured counts for more"


@pytest.mark.parametrize("level_max", [2, 4, 5, 6, 16])
def test_answers_from_far_away_keep_nothing_from_being_measured(level_max: int) -> None:
    course = Course(Plateau(level_max), knee(3))
    for _ in range(100):
        course.plateau.answered(course.now, FAR_S)
        course.run(0.1)
    assert course.plateau.rate > 0
    assert course.plateau.phase is not Phase.GROWING


@given(
    level_max=st.integers(1, 70),
    start=st.none() | st.integers(1, 200),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["sample", "sample", "sample", "refused", "stalled"]),
            st.floats(0.0, 3.0),
            st.floats(0.0, 1e9),
            st.integers(0, 80),
        ),
        max_size=120,
    ),
)
def test_whatever_happens_it_stays_within_its_bounds(
    level_max: int, start: int | None, steps: list[tuple[str, float, float, int]]
) -> None:
    plateau, now, received = Plateau(level_max, start), 0.0, 0.0
    for what, later_s, more, connections in steps:
        now += later_s
        received += more
        if what == "sample":
            plateau.sample(now, received, connections)
        elif what == "refused":
            plateau.refused(now)
        else:
            plateau.stalled(now)
        assert min(4, level_max) <= plateau.level <= level_max
        assert min(4, level_max) <= plateau.resting_level <= level_max


def test_repr_is_the_state_summary() -> None:
    assert repr(Plateau(16)) == "<Plateau growing 4 of 16, 0.0 MiB/s>"
