"""Warm and fresh pages are no equals, and the page says of how many rounds and runs its numbers are."""

from __future__ import annotations

import pytest

from benchmarks.report import agree, pictures, targets, transfers
from benchmarks.report.__main__ import machine
from benchmarks.report.cells import Row
from benchmarks.scenarios.start import STARTS

NO_RATIOS = "Fresh and warm pages in one table: ratios between the two say nothing"


def _rows(who: str, *walls: float, run: str = "first", pages: str | None = "fresh") -> list[Row]:
    """Of a race: 1 GiB, and CPU as long as the wall clock. Rows that are older have no word of pages."""
    return [
        {
            **{"scenario": "engine", "rival": who, "round": number, "run": run, "bytes": 1 << 30, "files": 1},
            **{"wall_s": wall, "cpu_s": wall, "rss_mib": 50.0, "server_cpu_s": 0.1},
            **({} if pages is None else {"pages": pages}),
        }
        for number, wall in enumerate(walls)
    ]


def _cells(rows: list[Row]) -> dict[str, list[str]]:
    return {
        cells[0]: cells[1:]
        for line in transfers.table(rows).splitlines()[2:]
        if line.startswith("|") and (cells := [cell.strip() for cell in line.split("|")[1:-1]])
    }


def test_who_wrote_to_warm_pages_is_called_so_and_is_held_against_nobody_with_fresh_ones() -> None:
    rows = [*_rows("fetcher", 2.0, 2.0), *_rows("curl", 1.0, 1.0, pages="warm")]
    cells = _cells(rows)
    assert list(cells) == ["fetcher", "curl, warm"]
    assert cells["curl, warm"][-2:] == ["", ""]
    assert NO_RATIOS in transfers.table(rows)
    picture = pictures.race("engine", rows)
    assert ">curl, warm<" in picture and ">curl<" not in picture


@pytest.mark.parametrize("kind", ["fresh", "warm", None])
def test_a_table_of_one_kind_of_pages_has_its_ratios(kind: str | None) -> None:
    rows = [*_rows("fetcher", 2.0, 2.0, pages=kind), *_rows("curl", 1.0, 1.0, pages=kind)]
    name = "curl, warm" if kind == "warm" else "curl"
    assert _cells(rows)[name][-2:] == ["0.5 (0.5–0.5)", "2 (2–2)"]
    assert NO_RATIOS not in transfers.table(rows)


def test_warm_and_fresh_of_two_runs_share_no_line_and_old_rows_are_fresh() -> None:
    rows = [
        *_rows("fetcher engine", 2.0, pages=None),
        *_rows("C", 1.0, pages=None),
        *_rows("fetcher engine", 3.0, run="second"),
        *_rows("C", 1.5, run="second"),
        *_rows("fetcher engine", 1.0, run="third", pages="warm"),
        *_rows("C", 0.25, run="third", pages="warm"),
    ]
    assert NO_RATIOS not in transfers.table(rows[:4])
    cells = _cells(rows)
    assert list(cells) == ["fetcher engine", "C", "fetcher engine, warm", "C, warm"]
    assert cells["C"][-2:] == ["0.5 (0.5–0.5)", "2 (2–2)"]
    assert cells["C, warm"][-2:] == ["0.25", "4"]
    assert cells["fetcher engine, warm"][-2:] == ["", ""]
    assert NO_RATIOS in transfers.table(rows)


def test_goals_are_for_fresh_pages() -> None:
    target = targets.Target("engine", "fetcher engine", "C", "CPU", 1.2)
    fresh = [*_rows("fetcher engine", 2.0), *_rows("C", 1.0)]
    warm = [*_rows("fetcher engine", 2.0, run="other", pages="warm"), *_rows("C", 0.1, run="other", pages="warm")]
    assert targets.ratios([*fresh, *warm], target) == (2.0,)
    assert targets.ratios(warm, target) == ()


def test_runs_on_fresh_and_on_warm_pages_have_nothing_to_agree_on() -> None:
    fresh, warm = _rows("curl", 1.0, 1.1), _rows("curl", 1.0, 1.1, pages="warm")
    assert agree.compare(fresh, fresh, "absolute").pairs
    assert not agree.compare(fresh, warm, "absolute").pairs
    assert not agree.compare(_rows("C", 1.0, 2.0, pages=None), warm, "absolute").pairs


FACTS = {"cpu": "CPU", "cores": 2, "memory_mib": 1, "kernel": "6", "python": "3", "date": "today", "revision": "abc"}


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ({"http": [("a", 0), ("a", 1), ("a", 2)], "lfs": [("a", 0), ("a", 1), ("a", 2)]}, "3 rounds each, in one run"),
        ({"http": [("a", 0), ("a", 1), ("a", 2)], "kill": [("b", 0), ("b", 1)]}, "2 to 3 rounds, in 2 runs"),
        # Two runs of one scenario make more rounds of it; and start-up is measured more than once in each round.
        ({"http": [("a", 0), ("b", 0)], "start": [("a", n) for n in range(2 * STARTS)]}, "2 rounds each, in 2 runs"),
        ({"http": [("a", 0)], "hashing": [("b", None)]}, "1 round each, in 2 runs"),
    ],
)
def test_the_page_says_of_how_many_rounds_and_runs_it_is(
    turns: dict[str, list[tuple[str, int | None]]], words: str
) -> None:
    rows: list[Row] = [
        {"scenario": scenario, "rival": who, "run": run, "version": "1", **FACTS}
        | ({} if number is None else {"round": number})
        for scenario, some in turns.items()
        for run, number in some
        for who in ("fetcher", "curl")
    ]
    assert machine(rows).partition("\n")[0].endswith(f"measured today at abc: {words}.")
    without = [{name: value for name, value in row.items() if name != "round"} for row in rows]
    assert machine(without).partition("\n")[0].endswith("measured today at abc.")
