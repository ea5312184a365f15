"""How many connections a host gets, on virtual time: lines of every kind, and what has to come of them.

Each test runs on several seeds. What is asserted is the share of the goodput that the line allows, and that no more
connections are open than a small factor over what that takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from fetcher.plan import plateau, window
from fetcher.plan.window import Known
from tests.engine.lines import MIB, Line, World, connections, fails_some, rate

GBIT = 125e6
"""Bytes per second of 1 Gbit/s."""
SEEDS = range(4)
FIRST, SECOND = "https://cdn.example:443", "https://hub.example:443"

wan = partial(Line, bytes_per_s=GBIT, round_trip_s=0.04)


def met(line: Line, seed: int, until_s: float, **options: int) -> World:
    return World([line], seed=seed, **options).run(until_s)


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("stream_mib", [18, 20, 25, 30])
def test_streams_that_are_capped_fill_the_line_and_no_more(stream_mib: int, noise: float, *seeds: int) -> None:
    used = []
    for seed in seeds or SEEDS:
        line = wan(stream_bytes_per_s=stream_mib * MIB, noise=noise)
        met(line, seed, 40.0)
        assert rate(line, 4, 40) > 0.95 * GBIT * (1 - noise / 8)
        assert rate(line, 0, 4) > 0.80 * GBIT, "it is there soon"
        used.append(connections(line, 8, 40))
    # A few more than exactly fill it are needed to fill it all the time, between requests and in noise.
    assert sum(used) / len(used) <= GBIT / (stream_mib * MIB) + 4.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_where_few_streams_fill_the_line_few_are_opened(noise: float, seed: int) -> None:
    """A receive window of 4 MiB on 40 ms is 100 MiB/s: two streams would do."""
    line = wan(stream_bytes_per_s=100 * MIB, noise=noise)
    met(line, seed, 40.0)
    assert rate(line, 4, 40) > 0.95 * GBIT * (1 - noise / 8)
    assert connections(line, 8, 40) < 8.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_where_a_core_is_the_limit_it_stays_at_about_four(noise: float, seed: int) -> None:
    line = Line(bytes_per_s=1500 * MIB, noise=noise, loss_per_stream=0.01, part_bytes=64 * MIB)
    met(line, seed, 30.0)
    assert rate(line, 0, 30) > 0.9 * 1500 * MIB
    assert connections(line, 5, 30) < 7


@pytest.mark.parametrize("seed", SEEDS)
def test_thin_streams_get_all_that_the_user_allows(seed: int) -> None:
    line = Line(bytes_per_s=10 * GBIT, stream_bytes_per_s=10 * MIB, round_trip_s=0.08, noise=0.2)
    met(line, seed, 30.0)
    assert rate(line, 6, 30) > 0.85 * 160 * MIB
    assert max(count for _, count in line.open_at) == 16
    more = Line(bytes_per_s=10 * GBIT, stream_bytes_per_s=10 * MIB, round_trip_s=0.08, noise=0.2)
    met(more, seed, 30.0, everywhere=64, per_host=64)
    assert rate(more, 10, 30) > 0.85 * 640 * MIB


@pytest.mark.parametrize(("everywhere", "per_host", "most"), [(16, 3, 3), (2, 16, 2), (1, 1, 1), (5, 16, 5)])
def test_never_more_than_the_user_allows(everywhere: int, per_host: int, most: int) -> None:
    line = wan(stream_bytes_per_s=5 * MIB, noise=0.2)
    met(line, 1, 20.0, everywhere=everywhere, per_host=per_host)
    assert max(count for _, count in line.open_at) == most
    assert rate(line, 3, 20) > 0.9 * most * 5 * MIB * 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_small_files_are_counted_by_the_file(seed: int) -> None:
    """Bound by round trips, they bring 0.1 MiB/s for each connection: bytes that a line does not notice."""
    line = wan(part_bytes=4096, noise=0.2)
    met(line, seed, 15.0)
    assert connections(line, 4, 15) > 14
    bound = Line(bytes_per_s=GBIT, part_bytes=4096, round_trip_s=0.01, requests_per_s=100.0)
    met(bound, seed, 15.0)
    assert bound.done > 15 * 95
    assert connections(bound, 5, 15) < 7


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seconds", [2.0, 10.0, 40.0])
def test_a_host_that_refuses_for_a_while_is_soon_used_as_before(seconds: float, seed: int) -> None:
    line = wan(stream_bytes_per_s=20 * MIB, noise=0.1, busy=lambda now, _: 20 < now < 20 + seconds)
    met(line, seed, 40.0 + seconds)
    former, well = rate(line, 10, 20), 20 + seconds
    late = max(0.0, seconds / 8 - 2.0)
    """What was long unwell is asked a little less often."""
    assert rate(line, well + 2.5 + late, well + 4 + late) >= 0.9 * former
    assert rate(line, well + 3 + late, well + 20) >= 0.9 * former
    assert line.refusals < 16 + 4 * seconds, "while it refuses, it is hardly bothered"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("since_s", "until_s"), [(0.0, 0.1), (0.0, 2.0), (1.0, 2.0), (1.0, 8.0)])
def test_a_host_that_refuses_before_anything_is_known_of_it_is_looked_at_afterwards(
    since_s: float, until_s: float, seed: int
) -> None:
    line = wan(stream_bytes_per_s=8 * MIB, noise=0.1, busy=lambda now, _: since_s <= now < until_s)
    window = met(line, seed, 40.0).admission.host(FIRST)
    assert line.refusals
    assert rate(line, until_s + 12, 40) > 0.8 * GBIT
    assert window.known is not None and window.known.connections >= 12
    early = wan(stream_bytes_per_s=8 * MIB, noise=0.1, busy=lambda now, _: since_s <= now < until_s)
    assert met(early, seed, until_s + 0.3).admission.host(FIRST).known is None, "nothing was found out yet"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_host_that_refuses_the_seventh_gets_five_or_six(seed: int) -> None:
    line = wan(stream_bytes_per_s=10 * MIB, noise=0.1, busy=lambda _, streams: streams >= 6)
    met(line, seed, 120.0)
    assert rate(line, 10, 120) > 0.75 * 60 * MIB
    assert line.refusals < 20


@pytest.mark.parametrize("seed", SEEDS)
def test_several_hosts_share_the_cap_over_all(seed: int) -> None:
    plenty = wan(name=FIRST, stream_bytes_per_s=10 * MIB, noise=0.1)
    little = wan(name=SECOND, stream_bytes_per_s=60 * MIB, noise=0.1)
    World([plenty, little], seed=seed, everywhere=10).run(40.0)
    assert connections(plenty, 5, 40) + connections(little, 5, 40) <= 10.0
    assert rate(little, 5, 40) > 0.9 * GBIT, "it needs two, and is not starved by who could use all"
    assert rate(plenty, 5, 40) > 0.85 * 5 * 10 * MIB, "what the other leaves it"


@pytest.mark.parametrize("seed", SEEDS)
def test_hosts_that_come_later_get_their_share(seed: int) -> None:
    """All places are taken by one host when another is first asked."""
    first = wan(name=FIRST, stream_bytes_per_s=5 * MIB, part_bytes=8 * MIB)
    world = World([first], seed=seed, everywhere=8).run(10.0)
    assert connections(first, 8, 10) > 7.5
    later = wan(name=SECOND, stream_bytes_per_s=5 * MIB, part_bytes=8 * MIB)
    world.lines.append(later)
    world.run(30.0)
    assert connections(later, 20, 30) > 3
    assert connections(first, 20, 30) > 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_line_that_becomes_wider_is_used(seed: int) -> None:
    line = wan(stream_bytes_per_s=12 * MIB, noise=0.15, capacity_share=lambda now: 0.3 if now < 30 else 1.0)
    met(line, seed, 70.0)
    assert rate(line, 5, 30) > 0.9 * 0.3 * GBIT
    assert rate(line, 50, 70) > 0.9 * GBIT


@pytest.mark.parametrize("seed", SEEDS)
def test_what_an_earlier_run_found_is_where_the_next_begins(seed: int) -> None:
    line = wan(stream_bytes_per_s=10 * MIB, noise=0.1)
    found = met(line, seed, 30.0).admission.host(FIRST).known
    assert found is not None and found.connections >= 8
    again = wan(stream_bytes_per_s=10 * MIB, noise=0.1)
    World([again], seed=seed, known={FIRST: found}).run(2.0)
    assert rate(again, 0.7, 2.0) > 0.8 * min(found.connections * 10 * MIB, GBIT)
    wrong = wan(stream_bytes_per_s=100 * MIB, noise=0.1)
    World([wrong], seed=seed, known={FIRST: Known(16, 64, 1e6)}).run(60.0)
    assert connections(wrong, 40, 60) < 12, "what is no longer right is corrected"
    few = wan(stream_bytes_per_s=8 * MIB, noise=0.1)
    World([few], seed=seed, known={FIRST: Known(4, 16, 1e6)}).run(10.0)
    assert rate(few, 4, 10) > 0.85 * GBIT, "a run that met it on a thin line slows no later one down"
    capped = wan(stream_bytes_per_s=10 * MIB, noise=0.1)
    World([capped], seed=seed, known={FIRST: Known(4, 4, 1e7)}).run(10.0)
    assert rate(capped, 4, 10) > 0.9 * GBIT, "as many as were allowed then are no plateau"


def all_that_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plateau, "START", 16)


def never_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plateau.Plateau, "sample", lambda *_: False)


def no_economy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plateau.Plateau, "_best", lambda self: self.level)
    monkeypatch.setattr(plateau, "LOSS_SHARE", -1.0)


def bytes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plateau, "REQUEST_BYTES", 0)
    monkeypatch.setattr(window, "units", lambda received, _: float(received // MIB))


def patient_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits as an API call does: up to ten seconds after ten seconds of refusals."""
    monkeypatch.setattr(window.HostWindow, "WAIT_LEAST_S", 10.0)


@pytest.mark.parametrize(
    ("plant", "test"),
    [
        (all_that_may_be, partial(test_where_a_core_is_the_limit_it_stays_at_about_four, 0.2)),
        (all_that_may_be, partial(test_where_few_streams_fill_the_line_few_are_opened, 0.2)),
        (never_more, partial(test_streams_that_are_capped_fill_the_line_and_no_more, 20, 0.2)),
        (never_more, test_thin_streams_get_all_that_the_user_allows),
        (no_economy, partial(test_where_few_streams_fill_the_line_few_are_opened, 0.2)),
        (bytes_alone, test_small_files_are_counted_by_the_file),
        (patient_with_itself, partial(test_a_host_that_refuses_for_a_while_is_soon_used_as_before, 10.0)),
    ],
)
def test_bad_controllers_are_found_out(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], test: Callable[[int], None]
) -> None:
    plant(monkeypatch)
    assert fails_some(test, SEEDS), "a bad controller passed"
