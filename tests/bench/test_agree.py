"""Two runs agree within the spread they state: what chance does is no disagreement, and what is planted is one."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.report import agree
from benchmarks.report.cells import Row

SCENARIOS = ("engine", "http", "https", "disk", "lfs", "sharded", "s3-many", "s3-big", "small-get", "link-capped")
RIVALS: Mapping[str, float] = {"fetcher": 1.0, "C": 0.8, "curl": 1.5, "rclone": 1.2, "obstore": 1.1}


def _run(
    dice: random.Random,
    *,
    rounds: int = 3,
    planted: Callable[[str], float] = lambda who: 1.0,
    run: str = "run",
    size: int = 1 << 30,
) -> list[Row]:
    """A full run: each round may be slow for everybody, and everybody has noise of his own."""
    rows: list[Row] = []
    for scenario in SCENARIOS:
        for number in range(rounds):
            slow = dice.lognormvariate(0.0, 0.05)
            for who, base_s in RIVALS.items():
                wall_s = base_s * slow * dice.lognormvariate(0.0, 0.03) * planted(who)
                cpu_s = base_s * dice.lognormvariate(0.0, 0.02) * planted(who)
                row: Row = {"scenario": scenario, "rival": who, "round": number, "run": run, "files": 1, "bytes": size}
                rows.append(row | {"wall_s": wall_s, "cpu_s": cpu_s})
    return rows


def test_of_two_runs_of_three_rounds_one_range_in_ten_is_disjoint_by_chance() -> None:
    def rounds(values: tuple[float, ...]) -> dict[tuple[str | None, int | None], float]:
        return {("run", number): value for number, value in enumerate(values)}

    one, other = rounds((1.0, 1.3, 1.1)), rounds((1.2, 1.4, 1.05))
    assert agree.by_chance([one], [other]) == pytest.approx([0.9, 0.1])  # 2 * 3! * 3! / 6!
    assert agree.by_chance([rounds((1.0, 2.0))], [rounds((1.5, 3.0))]) == pytest.approx([2 / 3, 1 / 3])
    # Figures that say the same twice are no second witness.
    assert agree.by_chance([one, one], [other, other]) == pytest.approx([0.9, 0.0, 0.1])
    assert agree.together([[0.9, 0.1], [0.9, 0.1]]) == pytest.approx([0.81, 0.18, 0.01])


def test_runs_that_only_chance_tells_apart_agree_nineteen_times_of_twenty() -> None:
    dice = random.Random(8)
    found = [agree.compare(_run(dice), _run(dice, run="other"), "ratio") for _ in range(100)]
    assert all(len(verdict.pairs) == 2 * 4 * len(SCENARIOS) for verdict in found)
    assert sum(not verdict.agrees for verdict in found) <= 8
    # Of all ratios one in ten is disjoint; of figures that share rounds more runs have none, and more have many.
    assert sum(verdict.disjoint for verdict in found) / (80 * 100) == pytest.approx(0.1, abs=0.02)
    assert sum(verdict.expected for verdict in found) / (80 * 100) == pytest.approx(0.1, abs=0.005)


def test_ours_being_a_tenth_slower_is_a_disagreement_and_a_slower_machine_is_none_of_ratios() -> None:
    dice = random.Random(9)
    first = _run(dice)
    ours_slower = _run(dice, planted=lambda who: 1.1 if who == "fetcher" else 1.0)
    all_slower = _run(dice, planted=lambda who: 1.3)
    assert not agree.compare(first, ours_slower, "ratio").agrees
    assert agree.compare(first, all_slower, "ratio").agrees
    assert not agree.compare(first, all_slower, "absolute").agrees


def test_many_rounds_are_dealt_by_lot_and_the_same_way_each_time() -> None:
    dice = random.Random(10)
    first, second = _run(dice, rounds=12), _run(dice, rounds=12)
    verdict = agree.compare(first, second, "ratio")
    assert verdict.agrees and verdict.chances == agree.compare(first, second, "ratio").chances
    assert not agree.compare(first, _run(dice, rounds=12, planted=lambda who: RIVALS[who]), "ratio").agrees


def _told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *runs: list[Row]
) -> tuple[object, str]:
    paths = []
    for number, rows in enumerate(runs):
        paths.append(tmp_path / f"{number}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sys, "argv", ["agree", *map(str, paths)])
    with pytest.raises(SystemExit) as ended:
        agree.main()
    return ended.value.code, capsys.readouterr().out


def test_the_command_line_says_what_overlaps_and_by_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(11)
    first = _run(dice)
    code, said = _told(tmp_path, monkeypatch, capsys, first, _run(dice))
    assert code == 0 and "ratios agree" in said
    code, said = _told(tmp_path, monkeypatch, capsys, first, _run(dice, planted=lambda who: RIVALS[who]))
    assert code == 1 and "ratios DISAGREE" in said and "**disjoint**" in said
    code, said = _told(tmp_path, monkeypatch, capsys, first, first)
    assert code == 0 and "80 of 80 ratios overlap" in said and "| +0.0% | 0.0 |" in said
    code, _ = _told(tmp_path, monkeypatch, capsys, first, _run(dice, size=1 << 20))
    assert "no figure in common" in str(code)


def test_verdicts_that_differ_between_two_runs_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(*curl_s: float) -> list[Row]:
        taken = {"fetcher engine": (1.0, 1.0, 1.0), "curl": curl_s, "aria2c -x8": (2.0, 2.1, 2.2)}
        return [
            {"scenario": "engine", "rival": who, "round": number, "files": 1, "bytes": 1 << 30}
            | {"wall_s": wall_s, "cpu_s": 1.0}
            for who, walls in taken.items()
            for number, wall_s in enumerate(walls)
        ]

    first = rows(1.7, 1.8, 1.9)
    _, said = _told(tmp_path, monkeypatch, capsys, first, rows(1.5, 1.8, 1.9))
    assert "| engine | fetcher engine | curl | wall | reached | can't be told |" in said
    assert (
        "1 of 3 verdicts differs" in said and "none turns round" in said and "aria2c -x8 | wall | reached" not in said
    )
    _, said = _told(tmp_path, monkeypatch, capsys, first, rows(1.1, 1.2, 1.3))
    assert "| engine | fetcher engine | curl | wall | reached | **not** |" in said and "1 turns round" in said
    _, said = _told(tmp_path, monkeypatch, capsys, first, first)
    assert "0 of 3 verdicts differ" in said
    # Of other sizes there is nothing to compare.
    other = [row | {"bytes": 1 << 20} for row in rows(1.1, 1.2, 1.3)]
    common = [row for row in _run(random.Random(12)) if row["scenario"] != "engine"]
    code, said = _told(tmp_path, monkeypatch, capsys, [*common, *other], [*common, *first])
    assert code == 0 and "| engine | fetcher engine | curl" not in said


def test_what_can_not_be_compared_is_said() -> None:
    def row(scenario: str, who: str, number: int) -> Row:
        return {"scenario": scenario, "rival": who, "round": number, "wall_s": 1.0, "cpu_s": 1.0}

    first = [row("start", "a", 0), row("start", "a", 1), row("repeat-s3", "b", 0), row("repeat-repo", "c", 0)]
    second = [row("start", "a", 0), row("start", "a", 1), row("repeat-s3", "b", 0), row("start", "d", 0)]
    assert agree.left_out(first, second) == [
        "repeat-repo, c: only in the first, or of other sizes",
        "start, d: only in the second, or of other sizes",
        "repeat-s3: has one round only, and so no range",
    ]
    assert [pair.name.who for pair in agree.compare(first, second, "absolute").pairs] == ["a", "a"]


def test_hashing_and_the_cache_have_their_rounds_in_one_row() -> None:
    hashing: Row = {"scenario": "hashing", "what": "BLAKE3", "unit": "GiB/s", "than": "blake3 package"}
    cache: Row = {"scenario": "index", "what": "commit", "unit": "µs", "than": "write, fsync"}
    first = [hashing | {"ratios": [1.3, 1.4]}, cache | {"values": [4.0, 9.0], "others": [2.0, 3.0]}]
    second = [hashing | {"ratios": [1.6, 1.5]}, cache | {"values": [8.0, 8.5], "others": [3.2, 3.4]}]
    found = {
        (pair.name.what, pair.first, pair.second): (pair.overlap, round(pair.distance, 2))
        for kind in ("ratio", "absolute")
        for pair in agree.compare(first, second, kind).pairs
    }
    assert found == {
        ("times blake3 package", (1.3, 1.4), (1.6, 1.5)): (False, 2.0),
        ("times write, fsync", (2.0, 3.0), (2.5, 2.5)): (True, 0.0),
        ("µs", (4.0, 9.0), (8.0, 8.5)): (True, 0.35),
    }
