"""What is made of rows: ratios, goals, tables, pictures, the page, and what has moved beyond noise."""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import keep_all, ours_failed
from benchmarks.report import __main__ as page_maker
from benchmarks.report import moves, pictures, targets, transfers
from benchmarks.report.__main__ import render
from benchmarks.report.cells import Row
from benchmarks.report.tables import table
from benchmarks.rivals import RIVALS
from benchmarks.running import lines
from benchmarks.running.lines import Lines
from benchmarks.running.options import Base
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.links import recovery

CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
SVG = "{http://www.w3.org/2000/svg}"


def test_recovery_is_the_first_whole_window_at_nine_tenths_of_the_plateau() -> None:
    rates = [100 * MIB] * 80 + [0] * 100 + [0] * 20 + [95 * MIB] * 40  # a tenth of a second each
    samples, count = [], 0
    for number, rate in enumerate(rates):
        samples.append((number / 10, count))
        count += rate // 10
    found = recovery(samples, {True: 8.0, False: 18.0})
    assert found == {"plateau_mib_s": 100.0, "recovery_s": 2.0}
    assert recovery(samples[:190], {True: 8.0, False: 18.0})["recovery_s"] is None
    assert recovery(samples, {True: 8.0})["recovery_s"] is None


def test_ratios_are_taken_within_rounds() -> None:
    common = {"scenario": "http", "bytes": 1 << 30, "files": 1, "rss_mib": 50.0, "server_cpu_s": 0.5}
    measured = [
        {**common, "rival": rival, "round": number, "wall_s": wall, "cpu_s": cpu}
        for rival, walls, cpu in (
            ("fetcher", (1.0, 4.0, 1.0), 2.0),
            ("C", (0.5, 2.0, 0.5), 1.0),
            ("curl", (2, 8, 2), 4.0),
        )
        for number, wall in enumerate(walls)
    ]
    table = transfers.table(measured)
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]
    }
    assert lines["C"][-2:] == ["0.5 (0.5–0.5)", "2 (2–2)"]
    assert lines["curl"][-2:] == ["2 (2–2)", "0.5 (0.5–0.5)"]
    assert targets.ratios(measured, targets.Target("http", "fetcher", targets.BEST, "wall", 0.8)) == (2.0, 2.0, 2.0)
    assert targets.ratios(measured, targets.Target("http", "fetcher", "C", "CPU", 1.25)) == (2.0, 2.0, 2.0)
    assert targets.ratios(measured, targets.Target("http", "fetcher", "obstore", "wall", 1.0)) == ()


def test_a_target_is_for_somebody_who_is_there() -> None:
    for target in targets.TARGETS:
        assert target.ours in RIVALS and target.against in {*RIVALS, targets.BEST}
        assert target.aim is None or target.reached(target.aim)
        assert not target.reached(0.0) if target.figure == "wall" else not target.reached(99.0)


def _measured(scenario: str = "http", **walls: tuple[float, ...]) -> list[Row]:
    """Rows of a race: 1 GiB, and CPU as long as the wall clock."""
    names = {"c": "C, BLAKE3", "ours": "fetcher", "curl": "curl", "base": "fetcher at v1"}
    return [
        {
            **{
                "scenario": scenario,
                "rival": names[who],
                "round": number,
                "version": "1",
                "bytes": 1 << 30,
                "files": 1,
            },
            **{"wall_s": wall, "cpu_s": wall, "rss_mib": 50.0, "server_cpu_s": 0.1, "date": "2026-01-01"},
            **{"cpu": "CPU", "cores": 2, "memory_mib": 1, "kernel": "6", "python": "3", "revision": "abc"},
        }
        for who, taken in walls.items()
        for number, wall in enumerate(taken)
    ]


def test_a_picture_has_a_bar_for_everybody_the_fastest_first_and_the_limit_as_a_line() -> None:
    rows = _measured(curl=(3.0, 4.0, 3.5), ours=(2.0, 2.1, 2.2), c=(1.0, 1.1, 1.0))
    root = ElementTree.fromstring(pictures.race("http <&>", rows))
    texts = [element.text for element in root.iter(f"{SVG}text") if element.get("class") != "soft"]
    assert texts[0] == "http <&>"
    assert texts[1:4] == ["C, BLAKE3", "fetcher", "curl"]
    bars = list(root.iter(f"{SVG}rect"))
    assert [bar.get("class") for bar in bars] == ["bar-limit", "bar-ours", "bar"] * 2
    speeds = [float(bar.get("width", 0)) for bar in bars[:3]]
    assert speeds == sorted(speeds, reverse=True) and speeds[0] > 2 * speeds[2] > 0
    lines = [line for line in root.iter(f"{SVG}line") if line.get("x1") == line.get("x2")]
    assert len(lines) == 2
    assert float(lines[0].get("x1", 0)) == pytest.approx(float(bars[0].get("x", 0)) + speeds[0], abs=0.1)


def test_pictures_show_the_spread_and_stay_in_their_panel() -> None:
    (whisker, *_) = [
        part
        for part in pictures.race("http", _measured(ours=(1.0, 2.0, 1.5))).splitlines()
        if "whisker" in part and "<path" in part and "H" in part and "m0" not in part  # that one is the legend's
    ]
    assert f"M{pictures.NAMES_WIDTH + pictures.PANEL_WIDTH / 2:.1f} " in whisker  # half the speed of the best round
    assert f"H{pictures.NAMES_WIDTH + pictures.PANEL_WIDTH:.1f}" in whisker


def test_the_page_gets_its_tables_and_pictures_and_keeps_its_words() -> None:
    rows = _measured(ours=(2.0, 2.0), c=(1.0, 1.0))
    rows.append({"scenario": "http", "rival": "curl", "missing": "curl is not installed"})
    page = (
        "Words.\n<!-- measured: here http -->\nold\n<!-- end -->\nMore <!-- measured: here reached -->\n<!-- end -->.\n"
    )
    filled, drawn = render(page, {"here": rows})
    assert filled.startswith("Words.\n<!-- measured: here http -->\n![") and "old" not in filled
    assert "| fetcher | 2 (2–2) |" in filled and "curl: curl is not installed" in filled
    assert "| http | fetcher | C, BLAKE3 | CPU | 2 (2–2) | ≤ 1.25 | ≤ 1.15 | **not** |" in filled
    assert set(drawn) == {"here-http.svg"}
    assert render(filled, {"here": rows}) == (filled, drawn)


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("<!-- measured: here http -->\n<!-- end --><!-- measured: gone http -->\n<!-- end -->", "no gone.jsonl"),
        ("<!-- measured: here sharks -->\n<!-- end -->", "has no sharks"),
        ("<!-- measured: here reached -->\n<!-- end -->", "no place for http"),
        ("Words.", "no place for anything of here.jsonl"),
    ],
)
def test_a_page_that_does_not_fit_its_results_is_refused(page: str, complaint: str) -> None:
    with pytest.raises(LookupError, match=complaint):
        render(page, {"here": _measured(ours=(1.0,))})


def test_a_scenario_that_was_not_measured_is_said_to_be_until_it_is() -> None:
    page = "<!-- measured: here http -->\n<!-- end -->\n<!-- measured: here hashing -->\n<!-- end -->\n"
    rows = _measured(ours=(1.0,))
    filled, drawn = render(page, {"here": rows})
    assert "-->\nNot measured on this machine yet" in filled and "--scenario hashing" in filled
    assert set(drawn) == {"here-http.svg"}
    filled, drawn = render(filled, {"here": [*rows, _contest("BLAKE3, 1 MiB", 1.3, 1.2, 1.4)]})
    assert "Not measured" not in filled and "| **1.3** |" in filled
    assert set(drawn) == {"here-http.svg", "here-hashing.svg"}


@pytest.mark.parametrize("arguments", [("--check",), ()])
def test_a_file_of_results_without_any_place_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    page, results = tmp_path / "docs" / "page.md", tmp_path / "results"
    results.mkdir()
    page.parent.mkdir()
    page.write_text("<!-- measured: here http -->\n<!-- end -->\n")
    for name, value in {"CHECKOUT": tmp_path, "RESULTS": results, "PAGE": page}.items():
        monkeypatch.setattr(page_maker, name, value)
    rows = "".join(json.dumps(row) + "\n" for row in _measured(ours=(1.0,)))
    (results / "here.jsonl").write_text(rows)
    monkeypatch.setattr(sys, "argv", ["report"])
    page_maker.main()
    assert "| fetcher | 1 |" in (filled := page.read_text())
    (results / "elsewhere.jsonl").write_text(rows)
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    with pytest.raises(SystemExit, match="no place for anything of elsewhere"):
        page_maker.main()
    assert page.read_text() == filled


def _contest(what: str, ratio: float, low: float, high: float, unit: str = "GiB/s") -> Row:
    """One row of ``hashing``."""
    figures = {"ours": 13.0, "than": "blake3 package", "other": 10.0, "unit": unit}
    spread = {"ratio": ratio, "ratio_median": ratio, "ratio_low": low, "ratio_high": high}
    return {"scenario": "hashing", "what": what, **figures, **spread}


def test_twice_and_half_as_fast_are_as_far_from_the_line() -> None:
    rows = [
        _contest("twice", 2.0, 1.9, 2.1),
        _contest("half", 0.5, 0.5, 0.5, "CPU s"),
        {"scenario": "hashing", "what": "alone", "unit": "ms", "ours": 0.5},
    ]
    picture = pictures.of("hashing", rows)
    assert picture is not None
    root = ElementTree.fromstring(picture)
    bars = list(root.iter(f"{SVG}rect"))
    assert [bar.get("class") for bar in bars] == ["bar-ours", "bar"]
    assert float(bars[0].get("width", 0)) == pytest.approx(float(bars[1].get("width", 0)), abs=0.2)
    line = float(next(line for line in root.iter(f"{SVG}line") if line.get("x1") == line.get("x2")).get("x1", 0))
    assert float(bars[0].get("x", 0)) == line
    assert float(bars[1].get("x", 0)) + float(bars[1].get("width", 0)) == pytest.approx(line, abs=0.2)
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert {"twice", "half", "0.5", "1", "2", "blake3 package, CPU"} <= set(texts) and "alone" not in texts


def test_a_picture_of_kills_says_whose_file_is_wrong() -> None:
    outcomes = {"curl": (0, False, 0), "fetcher": (3, True, 0), "aria2c": (20, False, 32)}
    rows: list[Row] = [
        {
            **{"scenario": "kill", "rival": who, "variant": variant, "round": 0, "again_bytes": again * MIB},
            **{"right": right or variant == "kill", "exit": code if variant == "flip" else 0},
        }
        for who, (again, right, code) in outcomes.items()
        for variant in ("kill", "flip")
    ]
    rows.append({"scenario": "kill", "rival": "wget2", "missing": "wget2 is not installed"})
    picture = pictures.of("kill", rows)
    assert picture is not None
    root = ElementTree.fromstring(picture)
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert [text for text in texts if text in outcomes] == ["curl", "fetcher", "aria2c"]  # least first
    assert texts[-3:] == ["0 wrong file", "3", "20 error"]
    only_killed = pictures.of("kill", rows[:1])
    assert only_killed is not None and ">failed<" in only_killed


def test_a_refusing_origin_is_drawn_second_by_second() -> None:
    (row,) = _measured("link-429", ours=(4.0,))
    samples = {"samples": [100.0, 0.0, 50.0], "plateau_mib_s": 100.0, "recovery_s": None}
    picture = pictures.of("link-429", [row | samples])
    assert picture is not None
    (curve,) = ElementTree.fromstring(picture).iter(f"{SVG}polyline")
    heights = [float(point.partition(",")[2]) for point in curve.get("points", "").split()]
    assert heights[0] < heights[2] < heights[1]


def test_what_a_table_is_enough_of_has_no_picture() -> None:
    assert pictures.of("requests", [{"scenario": "requests", "rival": "curl", "wall_s": 1.0}]) is None
    assert pictures.of("http", [{"scenario": "http", "rival": "curl", "missing": "curl is not installed"}]) is None


def test_figures_of_the_cache_stand_by_their_kind() -> None:
    figures: list[tuple[str, str, list[float]]] = [
        ("hit among 10 snapshots, p50", "µs", [30.0, 40.0, 35.0]),
        ("hit among 10 snapshots, p99", "µs", [60.0]),
        ("… of it the rows, durable, 1", "µs", [5.0]),
        ("gc of 2 blobs in 2 snapshots, nothing to do", "ms", [1.0]),
        ("open without, 2 blobs in 2 snapshots", "ms", [2.0]),
    ]
    rows: list[Row] = [
        {"scenario": "index", "what": what, "unit": unit, "values": values} for what, unit, values in figures
    ]
    held = {"than": "write, fsync", "others": [2.0, 4.0]}
    rows.append({"scenario": "index", "what": "commit one file", "unit": "µs", "values": [4.0, 8.0], **held})
    hits, durable, collecting = table(rows).split("\n\n")
    assert hits.splitlines()[2:] == ["| hit among 10 snapshots | 35 (30–40) µs | 60 µs |"]
    assert "| … of it the rows, durable, 1 | 5 µs |  |  |  |" in durable
    assert "| commit one file | 6 (4–8) µs | write, fsync | 3 (2–4) µs | 2 (2–2) |" in durable
    assert len(collecting.splitlines()) == 4


def _moves(now: list[float], then: list[float]) -> dict[str, moves.Move]:
    rows = _measured(ours=tuple(now), base=tuple(then))
    return {move.figure: move for move in moves.moves(rows, Base("v1", Path("/nowhere")))}


def test_a_twentieth_more_in_noise_of_as_much_is_flagged_and_noise_alone_is_not() -> None:
    dice = random.Random(4)
    flagged = {1.0: 0, 1.05: 0}
    for factor in flagged:
        for _ in range(200):
            then = [dice.gauss(1.0, 0.02) for _ in range(12)]
            now = [factor * dice.gauss(1.0, 0.02) for _ in range(12)]
            flagged[factor] += _moves(now, then)["wall"].worse
    assert flagged[1.05] >= 198
    assert flagged[1.0] <= 6  # of 200; three figures, of which two are alike


def test_what_is_less_than_a_hundredth_is_no_news_and_few_rounds_say_nothing() -> None:
    assert not _moves([1.005] * 8, [1.0] * 8)["CPU"].beyond_noise
    assert _moves([1.02] * 8, [1.0] * 8)["CPU"].worse
    assert not _moves([2.0] * 7, [1.0] * 7)["wall"].beyond_noise
    better = _moves([0.5] * 8, [1.0] * 8)["wall"]
    assert better.beyond_noise and not better.worse
    assert "| http | fetcher | wall | 0.5 (0.5–0.5) | better |" in moves.table([better])


def test_one_slow_round_hides_no_move_and_half_of_them_make_none() -> None:
    slower = [1.05, 1.06, 1.04, 1.055, 1.045, 1.052, 1.048, 1.051, 1.049, 1.053, 1.047]
    assert _moves([*slower, 0.99], [1.0] * 12)["wall"].worse
    assert not _moves(slower[:6] + [0.95] * 6, [1.0] * 12)["wall"].beyond_noise


def test_chance_is_counted_exactly() -> None:
    assert moves.by_chance([2.0] * 8) == 2 / 2**8  # all one way, or all the other
    assert moves.by_chance([1.1, 1.2, 1.3, 1 / 1.05]) == 4 / 2**4  # the least rank alone on its side
    assert moves.by_chance([2.0, 0.5]) == moves.by_chance([1.0]) == 1.0
    # The lesser sum is two: it is 0, 1 or 2 in three of 128 ways, on either side.
    assert moves.by_chance([1.1, 1 / 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]) == 0.046875


def test_the_more_is_asked_the_rarer_has_chance_to_be() -> None:
    alone = moves.Move("http", "fetcher", "wall", tuple(1.02 + number / 1000 for number in range(8)))
    noise = moves.Move("http", "fetcher", "CPU", (1.0, 1.1, 0.9, 1.05, 0.95, 1.01, 0.99, 1.0))
    assert [move.significant for move in moves.judged([alone, noise])] == [True, False]
    assert not any(move.significant for move in moves.judged([alone, *[noise] * 9]))


def test_what_only_one_revision_could_do_is_not_passed_over() -> None:
    base = Base("v1", Path("/nowhere"))
    rows: list[Row] = [
        *_measured(ours=(1.0,) * 8, base=(1.0,) * 8),
        {"scenario": "s3-big", "rival": "fetcher", "failed": "ended with 1"},
        {"scenario": "s3-big", "rival": "curl", "failed": "ended with 2"},
        {"scenario": "hashing", "what": "BLAKE3"},
    ]
    assert moves.without_figures(rows, moves.moves(rows, base)) == ["s3-big", "hashing"]
    assert ours_failed(rows) == ["s3-big: fetcher: ended with 1"]


def test_a_hit_in_the_library_is_compared_too() -> None:
    rows: list[Row] = [
        {"scenario": "start", "rival": who, "round": number, "latency": {"hit_ms_p50": taken}}
        for who, taken in (("hit in the library", 0.2), ("hit in the library at v1", 0.1))
        for number in range(8)
    ]
    (move,) = moves.moves(rows, Base("v1", Path("/nowhere")))
    assert move.worse and move.who == "hit in the library"


def test_runs_in_one_file_are_not_mixed() -> None:
    rows = [
        row | {"run": run}
        for run, ours, c in (("first", 2.0, 1.0), ("second", 20.0, 10.0))
        for row in _measured(ours=(ours,), c=(c,))
    ]
    target = targets.Target("http", "fetcher", "C, BLAKE3", "CPU", 1.25)
    assert targets.ratios(rows, target) == (2.0, 2.0)
    assert transfers.table(rows).splitlines()[3].endswith("| 0.5 (0.5–0.5) | 2 (2–2) |")


def test_memory_that_can_not_be_told_from_ours_is_a_bound_only() -> None:
    rows = [row | {"rss_mib": 34.2, "rss_floor_mib": 34.0} for row in _measured(curl=(1.0, 1.0))]
    assert "| ≤ 34.2 |" in transfers.table(rows)
    assert "| 40 (40–40) |" in transfers.table([row | {"rss_mib": 40.0} for row in rows])
    assert "| 50 (50–50) |" in transfers.table(_measured(curl=(1.0, 1.0)))


def test_a_disk_that_is_none_is_said() -> None:
    rows = [row | {"durable": True, "onto": "tmpfs"} for row in _measured("disk", curl=(1.0,))]
    assert "went to a tmpfs" in transfers.table(rows)
    assert "went to a tmpfs" not in transfers.table([row | {"onto": "xfs"} for row in rows])


@pytest.mark.parametrize("file_system", ["ext2/ext3", "xfs", "overlayfs"])
def test_memory_that_is_none_is_said_and_nothing_is_judged_by_it(file_system: str) -> None:
    rows = [
        row | {"durable": False, "onto": "tmpfs"} for row in _measured(ours=(1.0, 1.0), curl=(2.0, 2.0), c=(1.0, 1.0))
    ]
    elsewhere = [row | {"onto": file_system} for row in rows]
    assert f"went to a disk ({file_system})" in transfers.table(elsewhere)
    assert "went to a disk" not in transfers.table(rows)
    assert [outcome.verdict for outcome in targets.outcomes(rows)][:2] == ["reached", "reached"]
    assert [outcome.verdict for outcome in targets.outcomes(elsewhere)][:2] == [targets.UNJUDGED, targets.UNJUDGED]
    no_disk = [row | {"scenario": "disk", "durable": True} for row in rows]
    assert [outcome.verdict for outcome in targets.outcomes(no_disk)][:1] == [targets.UNJUDGED]
    assert [outcome.verdict for outcome in targets.outcomes([row | {"onto": "xfs"} for row in no_disk])][:1] == [
        "reached"
    ]


@pytest.mark.parametrize("scenario", ["repeat-repo", "repeat-s3", "concurrent"])
def test_memory_that_is_none_is_said_where_no_race_is_run(scenario: str) -> None:
    rows = [row | {"onto": "tmpfs", "sent_bytes": 1 << 30} for row in _measured(scenario, curl=(1.0,))]
    assert "went to a disk" not in table(rows)
    assert "went to a disk (xfs)" in table([row | {"onto": "xfs"} for row in rows])


def test_durable_races_show_what_the_kernel_did_for_those_who_do_not_sync() -> None:
    extra_s = {"fetcher": 0.0, "curl": 3.0}
    rows = [
        row | {"durable": True, "onto": "xfs", "busy_s": row["cpu_s"] + row["server_cpu_s"] + extra_s[row["rival"]]}
        for row in _measured("disk", ours=(1.0, 1.0), curl=(1.0, 1.0))
    ]
    head, _, ours, curl = (line.removesuffix(" |").split(" | ") for line in transfers.table(rows).splitlines())
    own, ratio = (head.index(title) for title in ("machine CPU s/GiB", "our machine CPU / its"))
    assert (ours[own], curl[own]) == ("1 (1–1)", "4 (4–4)")
    assert (ours[ratio], curl[ratio]) == ("", "0.25 (0.25–0.25)")
    assert "machine CPU" not in transfers.table([row | {"durable": False} for row in rows])
    assert "machine CPU" not in transfers.table(_measured("disk", ours=(1.0,)))  # lines that do not say it


@pytest.mark.parametrize(
    ("curl", "verdict", "shown"),
    [
        ((0.9, 1.0, 1.1), "reached", "1 (0.9–1.1)"),
        ((0.5, 0.7, 0.6), "**not**", "0.6 (0.5–0.7)"),
        ((0.7, 0.9, 1.4), "can't be told", "0.9 (0.7–1.4)"),
        ((0.9, 0.7, 0.6), "can't be told", "0.7 (0.6–0.9)"),
        ((2.0,), "can't be told", "2"),  # of one round nobody knows what the next would be
    ],
)
def test_a_goal_with_rounds_on_both_sides_is_neither_reached_nor_missed(
    curl: tuple[float, ...], verdict: str, shown: str
) -> None:
    rows = _measured(ours=(1.0,) * len(curl), curl=curl)
    assert f"| wall | {shown} | ≥ 0.8 | ≥ 0.9 | {verdict} |" in targets.table(rows)


def test_start_is_told_by_its_rounds_too() -> None:
    def rows(*over_s: float) -> list[Row]:
        return [
            {"scenario": "start", "rival": who, "round": number, "wall_s": 0.01 + taken}
            for number, over in enumerate(over_s)
            for who, taken in (("python -c pass", 0.0), ("fetcher --help", over))
        ]

    assert "| 50 (40–70) ms | ≤ 60 ms |  | can't be told |" in targets.table(rows(0.05, 0.04, 0.07))
    assert "| 50 (40–55) ms | ≤ 60 ms |  | reached |" in targets.table(rows(0.05, 0.04, 0.055))


def test_who_the_best_rival_was_is_said() -> None:
    rows = _measured(ours=(1.0,) * 3, curl=(2.0, 2.0, 3.0))
    assert "| the best of 1 rival: curl 3× |" in targets.table(rows)
    rows += [row | {"rival": "rclone", "wall_s": 2.5} for row in _measured(curl=(1.0,) * 3)]
    assert "| the best of 2 rivals: curl 2×, rclone 1× |" in targets.table(rows)


NEARLY = 0.02
"""By so much somebody who is not in the short form may be faster than the best who is: less is chance."""


def test_the_fastest_rivals_are_in_the_short_form() -> None:
    walls: dict[str, dict[str, list[float]]] = {}
    for path in page_maker.RESULTS.glob("*.jsonl"):
        for row in lines.read(path):
            if "way" in row and "wall_s" in row and targets.is_rival(row["rival"]):
                walls.setdefault(row["scenario"], {}).setdefault(row["rival"], []).append(row["wall_s"])
    assert {"engine", "http", "https", "disk", "lfs", "s3-big", "small-get"} <= walls.keys()
    for what, taken in walls.items():
        scenario = SCENARIOS[page_maker.scenario_of(what) or what]
        if not scenario.nearest:
            continue
        medians = {who: statistics.median(values) for who, values in taken.items()}
        best = min(medians, key=lambda who: medians[who])
        nearest_s = min((medians[who] for who in scenario.nearest if who in medians), default=math.inf)
        assert nearest_s <= medians[best] * (1 + NEARLY), f"{what}: {best} is not in the short form"


def test_a_picture_of_nothing_and_of_strange_names_is_a_picture() -> None:
    rows = [row | {"cpu_s": 0.0, "rival": "<a & 'b'>"} for row in _measured(curl=(0.0,))]
    ElementTree.fromstring(pictures.race("http", rows))


def test_kills_of_whom_only_one_variant_ended_are_a_table() -> None:
    row: Row = {
        **{"scenario": "kill", "rival": "curl", "variant": "kill", "round": 0, "size_bytes": MIB, "again_bytes": 0},
        **{"kills": 3, "half_visible": 3, "right": True, "left_bytes": 0, "wall_s": 1.0},
    }
    failed = {"scenario": "kill", "rival": "curl", "variant": "flip", "failed": "got nowhere"}
    assert "| curl | 0 | 0% | 1 of 1 | after 3 of 3 kills |" in table([row, failed])


def test_a_scenario_that_nobody_takes_part_in_is_said(tmp_path: Path) -> None:
    def full() -> Iterator[Row]:
        raise OSError(28, "No space left on device")
        yield {}

    kept = Lines(tmp_path / "lines")
    assert keep_all(kept, [("http", iter(())), ("disk", full())]) == [
        "http: nobody who was chosen takes part",
        "disk: [Errno 28] No space left on device",
    ]


def test_everybody_who_is_named_is_there() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.nearest) <= set(RIVALS)
        assert scenario.asks


def test_tables_say_who_was_missing() -> None:
    rows: list[Row] = [{"scenario": "http", "rival": "curl", "missing": "curl is not installed"}]
    assert table(rows) == "curl: curl is not installed"


def test_the_page_is_what_the_results_make_of_it() -> None:
    command = [sys.executable, "-m", "benchmarks.report", "--check"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read: No such file"),
        (b"\xff\xfe", "can't be read: no text"),
        (b'{"scenario": "http"}\n{"scen\n', "line 2: no measurement of this suite"),
        (b"[1]\n", "line 1: no measurement of this suite"),
    ],
)
@pytest.mark.parametrize("command", ["benchmarks --read", "benchmarks.report.agree {0}"])
def test_a_file_that_holds_no_measurements_is_named(
    tmp_path: Path, content: bytes | None, words: str, command: str
) -> None:
    path = tmp_path / "lines.jsonl"
    if content is not None:
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", *command.format(path).split(), str(path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str(path) in done.stderr and words in done.stderr and "Traceback" not in done.stderr
