"""Turns that are no plain race are judged like one: at once, again, what a hub is asked, wrong bytes, and kills."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command_line
from benchmarks import compare
from benchmarks.origins.counted import counted
from benchmarks.origins.nginx import Nginx
from benchmarks.report import moves
from benchmarks.report.others import flip_table, request_table, stated_table
from benchmarks.rivals import RIVALS
from benchmarks.running.machine import priority
from benchmarks.running.options import Base, Options
from benchmarks.running.race import Row
from benchmarks.running.work import Command, Rival, Way, Work
from benchmarks.scenarios import kill
from benchmarks.scenarios.concurrent import concurrent
from benchmarks.scenarios.flipped import noticed
from benchmarks.scenarios.many import requests
from benchmarks.scenarios.modules import denied
from benchmarks.scenarios.repeat import repeated

CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def _cheat(name: str, script: str, way: Way, *, early: bool = False) -> Rival:
    """Does what the script says with the URL, the output's path and the file that the origin has."""

    def command(work: Work) -> Command:
        original = next(found for parent in work.directory.parents if (found := parent / "root" / "repo").is_dir())
        words = {"URL": work.url, "OUTPUT": str(work.path), "ORIGINAL": str(original / work.names[0])}
        if early:
            work.path.write_bytes((original / work.names[0]).read_bytes())
        return Command(("sh", "-c", re.sub("URL|OUTPUT|ORIGINAL", lambda found: words[found[0]], script)))

    return Rival(name, {way: command}, lambda: "1")


def _planted(monkeypatch: pytest.MonkeyPatch, way: Way, **scripts: str) -> tuple[str, ...]:
    for name, script in scripts.items():
        monkeypatch.setitem(RIVALS, name, _cheat(name, script, way, early=name == "early"))
    return tuple(scripts)


def _outcomes(rows: list[Row]) -> dict[str, list[str]]:
    """What each failed with, once for each of its rows; empty where it did not."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["rival"], []).append(row.get("failed", ""))
    return found


@pytest.mark.needs("reference", "debian:curl")
def test_who_is_at_work_at_once_must_have_fetched_what_each_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _planted(
        monkeypatch,
        "repo",
        honest="curl -s URL > OUTPUT",
        early="curl -s URL > OUTPUT",
        elsewhere="curl -s -r 0-2 URL > /dev/null; cp ORIGINAL OUTPUT",
        # One fetches for all, although they are said to have nothing in common.
        together="case OUTPUT in */0/*) curl -s URL > OUTPUT;; *) cp ORIGINAL OUTPUT;; esac",
        wrong="curl -s URL | tr '\\0' x > OUTPUT",
        broken="curl -s URL > OUTPUT; case OUTPUT in */2/*) exit 3;; esac",
    )
    options = Options(rounds=2, size_bytes=4 * MIB, memory=tmp_path, rivals=names)
    outcomes = _outcomes(list(concurrent(options)))
    assert outcomes.pop("honest") == ["", ""]
    assert {name: len(found) for name, found in outcomes.items()} == dict.fromkeys(outcomes, 1)
    assert outcomes["early"] == ["model.bin is there before the start"]
    assert "the others came from somewhere else" in outcomes["elsewhere"][0]
    assert "the others came from somewhere else" in outcomes["together"][0]
    assert outcomes["wrong"] == ["model.bin has other bytes than at the origin"]
    assert "ended with 3" in outcomes["broken"][0]
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("reference", "debian:curl")
def test_who_finds_all_as_it_was_must_have_fetched_it_and_left_it(
    tmp_path: Path, root: Path, server: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "repo").mkdir()
    (root / "repo" / "file").write_bytes(b"right" * 1000)
    names = _planted(
        monkeypatch,
        "file",
        hit="test -e OUTPUT || curl -s URL > OUTPUT",
        fetches="curl -s URL > OUTPUT",
        early="curl -s URL > OUTPUT",
        copies="test -e OUTPUT || cp ORIGINAL OUTPUT",
        swaps="if test -e OUTPUT; then cp ORIGINAL OUTPUT; else curl -s URL > OUTPUT; fi",
        spoils="if test -e OUTPUT; then curl -s URL | tr r w > OUTPUT; else curl -s URL > OUTPUT; fi",
        loses="if test -e OUTPUT; then rm OUTPUT; else curl -s URL > OUTPUT; fi",
    )
    (sink := tmp_path / "sink").mkdir()
    work = Work(f"{server.plain}/repo", ("file",), sink)
    options = Options(rounds=2, rivals=names)
    rows = list(repeated("again", options, "file", names, work, root / "repo", server))
    outcomes = _outcomes(rows)
    assert outcomes.pop("hit") == outcomes.pop("fetches") == ["", ""]
    assert {name: len(found) for name, found in outcomes.items()} == dict.fromkeys(outcomes, 1)
    assert outcomes["early"] == ["file is there before the start"]
    for name in ("copies", "swaps"):
        assert "the others came from somewhere else" in outcomes[name][0]
    assert outcomes["spoils"] == ["file has other bytes than at the origin"]
    assert outcomes["loses"] == ["file is not there"]
    sent = [(row["rival"], row["sent_bytes"] > 5000) for row in rows if "sent_bytes" in row]
    assert sent == [("hit", False), ("fetches", True), ("fetches", True), ("hit", False)]


def test_what_a_hub_is_asked_is_asked_in_rounds_by_who_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Rival("huggingface_hub", {"repo": lambda work: Command(("true",))}, lambda: "1")
    monkeypatch.setitem(RIVALS, "huggingface_hub", idle)
    rows = list(requests(Options(rounds=2, files=8, memory=tmp_path)))
    assert [(row["rival"], row["round"]) for row in rows] == [("fetcher", 0), ("huggingface_hub", 0), ("fetcher", 1)]
    assert "the others came from somewhere else" in rows[1]["failed"]
    assert rows[0]["per_file"] == rows[2]["per_file"] == (4 + 2) / 4
    assert "| fetcher | 4 | 1.5 |" in request_table([row for row in rows if "failed" not in row])


@pytest.mark.needs("reference", "debian:curl")
def test_who_fails_with_the_right_bytes_too_has_noticed_nothing(
    tmp_path: Path, root: Path, server: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "repo").mkdir()
    (root / "repo" / "file").write_bytes(b"right" * 1000)
    kept = tmp_path / "kept"
    names = _planted(
        monkeypatch,
        "file",
        blind="curl -s URL > OUTPUT",
        wary=f"curl -s URL > OUTPUT; test -e {kept}-sum || sha256sum < OUTPUT > {kept}-sum; "
        f"sha256sum < OUTPUT | cmp -s - {kept}-sum || {{ rm OUTPUT; exit 4; }}",
        always="curl -s URL > OUTPUT; exit 5",
        elsewhere=f"test -e {kept} || curl -s URL > {kept}; cp {kept} OUTPUT",
    )
    (sink := tmp_path / "sink").mkdir()
    work = Work(f"{server.plain}/repo", ("file",), sink)
    rows = list(noticed("flipped", Options(rounds=2, rivals=names), "file", names, work, root / "repo", {}))
    outcomes = _outcomes(rows)
    assert "ended with 5" in outcomes["always"][0]
    assert outcomes["elsewhere"] == ["file has other bytes than at the origin"]
    told = {row["rival"]: (row["noticed"], row["wrong_is_visible"]) for row in rows if "noticed" in row}
    assert told == {"blind": (False, True), "wary": (True, False)}
    assert (root / "repo" / "file").read_bytes() == b"right" * 1000


def test_a_table_says_how_often_a_wrong_bit_was_noticed() -> None:
    rows: list[Row] = [
        {"rival": "curl", "verifies": "-", "noticed": seen, "wrong_is_visible": True, "stated": stated}
        for stated, seen in (("MD5", True), ("MD5", False), ("MD5", True), ("nothing", False))
    ]
    assert "| who | verifies | MD5 | nothing |" in stated_table(rows)
    assert "| curl | - | **2 of 3 times**, wrong bytes stay | **no** |" in stated_table(rows)
    assert "| curl | - | **2 of 3 times** | **yes** |" in flip_table(rows[:3])


def test_turns_of_two_kinds_in_one_round_are_compared_with_their_own_kind() -> None:
    rows: list[Row] = [
        {"scenario": "kill", "rival": who, "round": number, "variant": variant, "wall_s": wall}
        for who in ("fetcher", "fetcher at v1")
        for variant, wall in (("kill", 2.0), ("flip", 1.0))
        for number in range(4)
    ]
    (move,) = moves.moves(rows, Base("v1", Path("/nowhere")))
    assert set(move.ratios) == {1.0}


@pytest.mark.needs("root")
def test_who_is_killed_and_who_counts_go_before_background_work_too() -> None:
    with counted(files=1) as hub, kill.started(Command(("sleep", "30"))) as process:
        assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in (hub.pid, process.pid)] == [priority()] * 2


def test_a_measure_is_compared_in_turns_and_a_revision_that_lacks_something_drops_out(tmp_path: Path) -> None:
    (other := tmp_path / "other" / "fetcher").mkdir(parents=True)
    (other / "__init__.py").write_text('"""Of another time."""\n')
    for checkout, twin in ((CHECKOUT, True), (tmp_path / "other", False)):
        options = Options(rounds=1, memory=tmp_path, disk=tmp_path, base=Base("v1", checkout))
        rows = list(denied(options))
        ours = ["refusal, a copy is there", "refusal, nothing is there"]
        theirs = [f"{name} at v1" for name in ours]
        assert [row["rival"] for row in rows] == [*ours, *(theirs if twin else ["fetcher at v1"])]
        assert all(row["taken"] > 0 and row["round"] == 0 for row in rows if "failed" not in row)
        if not twin:
            assert rows[-1]["failed"].startswith("this revision lacks what the measure calls: ImportError")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--rounds", "0"), ("--rounds", "-3"), ("--size", "0"), ("--size", "-1"), ("--files", "0")),
        *(("--objects", "many"), ("--medium-files", "0"), ("--snapshots", "10"), ("--core", "9999"), ("--seed", "-1")),
    ],
)
def test_a_number_of_which_nothing_can_be_measured_is_refused_by_name(
    flag: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mains = {"benchmarks": command_line.main} | ({"compare": compare.main} if flag in ("--rounds", "--size") else {})
    for name, main in mains.items():
        monkeypatch.setattr(sys, "argv", [name, *(["HEAD"] if name == "compare" else []), flag, value])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2 and f"argument {flag}" in capsys.readouterr().err
