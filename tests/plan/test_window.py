"""A host's window as golden tables: a line is one thing that happens at one moment, and what the window is after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.plan.window import HostWindow, Known


def window(cap: int = 16, *, backoff_min_s: float = 0.2, backoff_max_s: float = 10.0) -> HostWindow:
    """A window at a plateau of ``cap`` connections."""
    known = Known(cap, cap + 1, 0.0)
    return HostWindow(cap, backoff_min_s=backoff_min_s, backoff_max_s=backoff_max_s, known=known)


# (now, what: busy | answered, dice 0..1 for busy, Retry-After) → (cap after, earliest next start)
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

WELL_AGAIN: list[Line] = [
    # It refused even a single request: that was not about how many there were.
    *((float(second), "busy", 0.0, None, cap, second + 0.2) for second, cap in enumerate([8.0, 4.0, 2.0, 1.0, 1.0])),
    # Each answer brings a place back: twice as many with each round trip.
    *((5.0, "answered", 0.0, None, float(cap), 4.2) for cap in range(2, 17)),
    # Never above what it was.
    (5.1, "answered", 0.0, None, 16.0, 4.2),
]

TOO_MANY: list[Line] = [
    # Eight were well, sixteen were not: back to three quarters with the answers …
    (0.0, "busy", 0.0, None, 8.0, 0.2),
    *((1.0, "answered", 0.0, None, float(cap), 0.2) for cap in range(9, 13)),
    (1.1, "answered", 0.0, None, 12.0, 0.2),
    (5.9, "answered", 0.0, None, 12.0, 0.2),
    # … and from there by one each five seconds.
    (6.0, "answered", 0.0, None, 13.0, 0.2),
    (6.1, "answered", 0.0, None, 13.0, 0.2),
    (11.0, "answered", 0.0, None, 14.0, 0.2),
    # Fourteen are too many as well. Thirteen were not.
    (12.0, "busy", 0.0, None, 7.0, 12.2),
    *((12.5, "answered", 0.0, None, float(cap), 12.2) for cap in range(8, 14)),
    # The next try takes twice as long to come.
    (17.5, "answered", 0.0, None, 13.0, 12.2),
    (22.5, "answered", 0.0, None, 14.0, 12.2),
]

WAITING: list[Line] = [
    # Full jitter between the least and a ceiling that doubles with each message in a row, up to a second …
    (0.0, "busy", 0.5, None, 8.0, 0.3),  # 0.2 … 0.4
    (1.0, "busy", 0.5, None, 4.0, 1.5),  # 0.2 … 0.8
    (2.0, "busy", 0.5, None, 2.0, 2.6),  # 0.2 … 1
    (8.0, "busy", 0.5, None, 1.0, 8.6),
    # … or up to an eighth of the time that it has been busy for, where that is more.
    (16.0, "busy", 0.5, None, 1.0, 17.1),  # 0.2 … 2
    (40.0, "busy", 0.5, None, 1.0, 42.6),  # 0.2 … 5
    (80.0, "busy", 0.5, None, 1.0, 85.1),  # 0.2 … 10, the most
    (160.0, "busy", 0.5, None, 1.0, 165.1),
    # An answer ends the row.
    (170.0, "answered", 0.0, None, 2.0, 165.1),
    (170.0, "busy", 0.5, None, 1.0, 170.3),
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
        pytest.param(WELL_AGAIN, id="well-again"),
        pytest.param(TOO_MANY, id="too-many"),
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
            host.answered(now, 0.0)
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
            st.just("answered"),
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
            host.answered(now, 0.0)
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
    host = HostWindow(4, backoff_min_s=0.2, backoff_max_s=10.0)
    for second in range(0, 4000, 2):
        host.busy(float(second), retry_after_s=None, dice=0.999)
    assert 3998 < host.not_before <= 4008.2
    assert host.may_start(4010.0)


def test_where_it_begins() -> None:
    fresh = HostWindow(16, backoff_min_s=0.2, backoff_max_s=10.0)
    assert (fresh.cap, fresh.connection_bytes_per_s, fresh.known) == (4, 0.0, None)
    known = HostWindow(16, backoff_min_s=0.2, backoff_max_s=10.0, known=Known(12, 16, 5e6))
    assert (known.cap, known.connection_bytes_per_s) == (12, 5e6)
    assert known.known == Known(12, 16, 5e6)
    capped = HostWindow(6, backoff_min_s=0.2, backoff_max_s=10.0, known=Known(12, 16, 5e6))
    assert capped.cap == 6, "what the user allows comes before what is remembered"


def test_a_refusal_is_remembered_for_a_while() -> None:
    host = window()
    assert not host.was_busy_lately(0.0)
    host.busy(0.0, retry_after_s=None, dice=0.0)
    host.answered(1.0, 0.0)
    assert host.was_busy_lately(9.9)
    assert not host.was_busy_lately(10.0)
