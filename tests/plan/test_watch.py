"""Which parts the watchdog moves. A scenario is played tick by tick; nothing here sleeps."""

from __future__ import annotations

import pytest

from fetcher.plan.transfer import Outcome
from fetcher.plan.watch import Limits, Pulse, connections_to_keep, judge

KIB = 1 << 10

LIMITS = Limits(idle_timeout_s=15.0, slow_bytes_per_s=128 * KIB, slow_window_s=10.0, slow_moves_max=3)
TICK_S = 0.5


def play(
    rates: list[float], seconds: float, *, moves: int = 0, finished: tuple[float, ...] = (), limits: Limits = LIMITS
) -> list[tuple[float, int, Outcome]]:
    """Parts at steady ``rates`` (bytes/s); the first verdict on each: when, on which, what. Judged parts are gone."""
    pulses = [Pulse(0.0, moves=moves) for _ in rates]
    running = dict(enumerate(pulses))
    verdicts = []
    for step in range(1, int(seconds / TICK_S) + 1):
        now = step * TICK_S
        for index, pulse in running.items():
            if rates[index] > 0:
                pulse.received(int(rates[index] * TICK_S), now)
        for pulse, outcome in judge(list(running.values()), now, limits, finished):
            index = pulses.index(pulse)
            verdicts.append((now, index, outcome))
            del running[index]
    return verdicts


# --- stalled ---------------------------------------------------------------------------------------------------------


def test_no_byte_for_the_idle_time_is_a_stall() -> None:
    assert play([0.0], 30.0) == [(15.0, 0, Outcome.STALLED)]


def test_one_byte_in_time_is_no_stall() -> None:
    pulse = Pulse(0.0)
    for second in range(1, 100):
        if second % 14 == 0:
            pulse.received(1, float(second))
        assert judge([pulse], float(second), LIMITS) == []


def test_the_idle_time_counts_from_the_last_byte() -> None:
    pulse = Pulse(0.0)
    pulse.received(10, 7.0)
    assert judge([pulse], 21.9, LIMITS) == []
    assert judge([pulse], 22.0, LIMITS) == [(pulse, Outcome.STALLED)]


def test_stalls_are_moved_however_often() -> None:
    assert play([0.0], 30.0, moves=99) == [(15.0, 0, Outcome.STALLED)]


def test_all_may_stall_at_once() -> None:
    assert [verdict[1:] for verdict in play([0.0, 0.0], 20.0)] == [(0, Outcome.STALLED), (1, Outcome.STALLED)]


# --- slow ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slow", "others", "moved"),
    [
        pytest.param(10 * KIB, 1000 * KIB, True, id="slow and far behind"),
        pytest.param(127 * KIB, 1000 * KIB, True, id="just below the bar"),
        pytest.param(128 * KIB, 1000 * KIB, False, id="at the bar"),
        pytest.param(200 * KIB, 100_000 * KIB, False, id="far behind, not slow"),
        pytest.param(30 * KIB, 100 * KIB, False, id="slow, as all are"),
        pytest.param(25 * KIB, 100 * KIB, False, id="slow, at a quarter"),
        pytest.param(24 * KIB, 100 * KIB, True, id="slow, below a quarter of slow ones"),
    ],
)
def test_slow_is_slow_by_both_measures(slow: float, others: float, moved: bool) -> None:
    expected = [(0, Outcome.SLOW)] if moved else []
    assert [verdict[1:] for verdict in play([slow, others, others, others], 20.0)] == expected


def test_slow_for_the_whole_window_and_not_a_moment_less() -> None:
    verdicts = play([1 * KIB, 1000 * KIB, 1000 * KIB], 20.0)
    # The first look is at 0.5 s; ten seconds after it the window is full.
    assert verdicts == [(10.5, 0, Outcome.SLOW)]


def test_a_part_that_has_become_slow_is_found_a_window_later() -> None:
    slow, fast = Pulse(0.0), Pulse(0.0)
    found = None
    for step in range(1, 120):
        now = step * TICK_S
        fast.received(500 * KIB, now)
        slow.received(500 * KIB if now <= 20.0 else KIB, now)
        if judge([slow, fast, fast], now, LIMITS):
            found = now
            break
    assert found is not None and 27.0 <= found <= 30.5


def test_a_dip_within_the_window_is_forgiven() -> None:
    slow, fast = Pulse(0.0), Pulse(0.0)
    for step in range(1, 200):
        now = step * TICK_S
        fast.received(500 * KIB, now)
        slow.received(KIB if now % 10 < 5 else 500 * KIB, now)
        assert judge([slow, fast, fast], now, LIMITS) == []


@pytest.mark.parametrize(("moves", "moved"), [(0, True), (2, True), (3, False), (4, False)])
def test_slow_parts_are_moved_three_times_at_most(moves: int, moved: bool) -> None:
    pulses = [Pulse(0.0, moves=moves), Pulse(0.0), Pulse(0.0)]
    verdicts = []
    for step in range(1, 30):
        pulses[0].received(KIB, float(step))
        for pulse in pulses[1:]:
            pulse.received(1000 * KIB, float(step))
        verdicts += judge(pulses, float(step), LIMITS)
    assert bool(verdicts) is moved
    assert all(verdict == (pulses[0], Outcome.SLOW) for verdict in verdicts)


def test_a_single_part_is_never_slow() -> None:
    assert play([1.0], 60.0) == []


def test_the_rates_of_finished_parts_count_among_the_others() -> None:
    """The last part of a run has nobody running beside it, and is the one that everybody waits for."""
    assert play([10 * KIB], 20.0, finished=(1000.0 * KIB,) * 3) == [(10.5, 0, Outcome.SLOW)]
    assert play([10 * KIB], 20.0, finished=(20.0 * KIB,) * 3) == []


def test_the_median_is_not_fooled_by_one_fast_part() -> None:
    assert play([20 * KIB, 30 * KIB, 100_000 * KIB], 20.0) == []


def test_parts_found_stalled_do_not_lower_the_median() -> None:
    verdicts = play([10 * KIB, 1000 * KIB, 1000 * KIB, 0.0, 0.0, 0.0, 0.0], 20.0)
    # While four of seven are silent the median is nothing; the look that finds them stalled goes by the others.
    assert verdicts[-1] == (15.0, 0, Outcome.SLOW)
    assert [outcome for _, _, outcome in verdicts[:-1]] == [Outcome.STALLED] * 4


# --- holding ---------------------------------------------------------------------------------------------------------


def test_while_we_do_not_read_silence_is_ours() -> None:
    pulse = Pulse(0.0, holding=True)
    for second in range(1, 60):
        assert judge([pulse], float(second), LIMITS) == []
    pulse.holding = False
    assert judge([pulse], 59.0 + 14.9, LIMITS) == []
    assert judge([pulse], 59.0 + 15.0, LIMITS) == [(pulse, Outcome.STALLED)]


def test_holding_starts_the_window_anew() -> None:
    slow, fast = Pulse(0.0), Pulse(0.0)
    verdicts: list[float] = []
    for second in range(1, 40):
        now = float(second)
        fast.received(1000 * KIB, now)
        slow.holding = now == 9.0
        slow.received(KIB, now)
        verdicts += [now for _ in judge([slow, fast, fast], now, LIMITS)]
    assert verdicts[0] == 20.0, "the window starts at 10, the first look after the disk was done"


# --- rates -----------------------------------------------------------------------------------------------------------


def test_a_rate_is_over_the_window_only() -> None:
    pulse = Pulse(0.0)
    assert pulse.rate(0.0, 10.0) is None
    pulse.received(1000, 5.0)
    assert pulse.rate(5.0, 10.0) is None
    assert pulse.rate(10.0, 10.0) == 100.0
    pulse.received(500, 15.0)
    assert pulse.rate(15.0, 10.0) == 50.0
    assert pulse.rate(20.0, 10.0) == 50.0
    assert pulse.rate(30.0, 10.0) == 0.0


def test_samples_do_not_pile_up() -> None:
    pulse = Pulse(0.0)
    for step in range(10_000):
        pulse.rate(step / 10, 10.0)
    assert len(pulse.samples) <= 102


@pytest.mark.parametrize(
    ("silent_s", "kept"), [(0, 16), (14.9, 16), (15, 8), (30, 4), (45, 2), (60, 1), (119, 1), (1e9, 1)]
)
def test_a_thin_line_keeps_fewer_connections(silent_s: float, kept: int) -> None:
    assert connections_to_keep(16, silent_s, 120.0) == kept


def test_the_last_connection_always_stays() -> None:
    assert [connections_to_keep(1, silent_s, 3.0) for silent_s in (0.0, 1.0, 2.9)] == [1, 1, 1]
