"""A host's window as golden tables: a line is one thing that happens at one moment, and what the window is after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.plan.window import HostWindow


def window(cap: int = 16, *, backoff_min_s: float = 0.2, backoff_max_s: float = 10.0) -> HostWindow:
    return HostWindow(cap, backoff_min_s=backoff_min_s, backoff_max_s=backoff_max_s)


# (now, what: busy | served | dice 0..1 for busy, Retry-After) → (cap after, earliest next start)
Line = tuple[float, str, float, float | None, float, float]

BURST: list[Line] = [
    # Eight answers to requests that were under way together are one message.
    (10.00, "busy", 0.0, None, 8.0, 10.20),
    (10.01, "busy", 0.0, None, 8.0, 10.21),
    (10.50, "busy", 0.0, None, 8.0, 10.70),
    (10.99, "busy", 0.0, None, 8.0, 11.19),
    # A second later it is the next message, and the window halves again.
    (11.00, "busy", 0.0, None, 4.0, 11.20),
    (12.00, "busy", 0.0, None, 2.0, 12.20),
    (13.00, "busy", 0.0, None, 1.0, 13.20),
    (14.00, "busy", 0.0, None, 1.0, 14.20),
    (15.00, "busy", 0.0, None, 1.0, 15.20),
]

RECOVERY: list[Line] = [
    (0.0, "busy", 0.0, None, 8.0, 0.2),
    (1.0, "busy", 0.0, None, 4.0, 1.2),
    (2.0, "served", 0.0, None, 5.0, 1.2),
    (2.1, "served", 0.0, None, 6.0, 1.2),
    (2.2, "busy", 0.0, None, 3.0, 2.4),
    *((3.0, "served", 0.0, None, float(cap), 2.4) for cap in range(4, 17)),
    # Never above what the user allows.
    (3.0, "served", 0.0, None, 16.0, 2.4),
]

WAITING: list[Line] = [
    # Full jitter between the least and a ceiling that doubles with each message in a row.
    (0.0, "busy", 0.5, None, 8.0, 0.3),  # 0.2 … 0.4
    (1.0, "busy", 0.5, None, 4.0, 1.5),  # 0.2 … 0.8
    (2.0, "busy", 0.5, None, 2.0, 2.9),  # 0.2 … 1.6
    (3.0, "busy", 0.5, None, 1.0, 4.7),  # 0.2 … 3.2
    (4.0, "busy", 0.5, None, 1.0, 7.3),  # 0.2 … 6.4
    (5.0, "busy", 0.5, None, 1.0, 10.1),  # 0.2 … 10, the most
    (6.0, "busy", 0.5, None, 1.0, 11.1),
    # A body that came through ends the row.
    (20.0, "served", 0.0, None, 2.0, 11.1),
    (20.0, "busy", 0.5, None, 1.0, 20.3),
]

ASKED_TO_WAIT: list[Line] = [
    # What the host asks for is the least, however lucky the dice.
    (0.0, "busy", 0.0, 30.0, 8.0, 30.0),
    # A smaller wish does not shorten a greater one.
    (1.0, "busy", 0.0, 1.0, 4.0, 30.0),
    (2.0, "busy", 0.0, 0.0, 2.0, 30.0),
    # Nor does it shorten our own.
    (40.0, "busy", 1.0, 0.5, 1.0, 43.2),
]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(BURST, id="burst"),
        pytest.param(RECOVERY, id="recovery"),
        pytest.param(WAITING, id="waiting"),
        pytest.param(ASKED_TO_WAIT, id="asked-to-wait"),
    ],
)
def test_golden(lines: list[Line]) -> None:
    host = window()
    for number, (now, what, dice, retry_after_s, cap, not_before) in enumerate(lines):
        if what == "busy":
            host.busy(now, retry_after_s=retry_after_s, dice=dice)
        else:
            host.served()
        assert host.cap == cap, f"line {number}"
        assert host.not_before == pytest.approx(not_before), f"line {number}"


def test_starts_while_there_is_room_and_the_host_is_not_resting() -> None:
    host = window(2)
    assert host.may_start(0.0)
    host.active = 1
    assert host.may_start(0.0)
    host.active = 2
    assert not host.may_start(0.0)
    host.active = 0
    host.busy(5.0, retry_after_s=3.0, dice=0.0)
    assert not host.may_start(7.999)
    assert host.may_start(8.0)


def test_a_lowered_window_lets_those_under_way_finish_first() -> None:
    host = window(4)
    host.active = 4
    host.busy(0.0, retry_after_s=None, dice=0.0)
    host.active = 2
    assert not host.may_start(1.0)
    host.active = 1
    assert host.may_start(1.0)


def test_half_a_place_is_no_place() -> None:
    host = window(3)
    host.busy(0.0, retry_after_s=None, dice=0.0)
    assert host.cap == 1.5
    host.active = 1
    assert not host.may_start(1.0)


@given(
    cap=st.integers(1, 64),
    steps=st.lists(
        st.one_of(
            st.just("served"),
            st.tuples(st.floats(0.0, 5.0), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 100)),
        ),
        max_size=60,
    ),
)
def test_never_below_one_never_above_the_most_and_always_open_again(
    cap: int, steps: list[str | tuple[float, float, float | None]]
) -> None:
    host, now = window(cap), 0.0
    for step in steps:
        if isinstance(step, str):
            host.served()
            continue
        later_s, dice, retry_after_s = step
        now += later_s
        before = host.not_before
        host.busy(now, retry_after_s=retry_after_s, dice=dice)
        assert 1.0 <= host.cap <= cap
        assert host.not_before >= max(before, now + 0.2, now + (retry_after_s or 0.0))
        assert host.not_before <= max(before, now + 10.0, now + (retry_after_s or 0.0))
    assert host.may_start(max(now, host.not_before)), "an idle host is always asked again"


def test_repr_is_the_state_summary() -> None:
    host = window(16)
    host.active = 3
    host.busy(0.0, retry_after_s=None, dice=0.0)
    assert repr(host) == "<HostWindow 3/8 of 16>"


def test_any_number_of_busy_answers_is_no_bug() -> None:
    window = HostWindow(4, backoff_min_s=0.2, backoff_max_s=10.0)
    for second in range(0, 4000, 2):
        window.busy(float(second), retry_after_s=None, dice=0.999)
    assert 3998 < window.not_before <= 4008.2
    assert window.may_start(4010.0)
