"""Every scenario runs from end to end, small, with all rivals that are here, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rivals import RIVALS
from benchmarks.scenarios.flipped import OBJECTS

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = ("--rounds=1", "--size=11MiB", "--kill-size=6MiB", "--files=8", "--medium-files=2", "--objects=3")
Rows = list[dict[str, object]]


def _run(tmp_path: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[Rows, str]:
    """The JSON lines and the tables of one run."""
    place, output = tmp_path / "place", tmp_path / "lines.jsonl"
    place.mkdir()
    places = (f"--memory={place}", f"--disk={place}", f"--output={output}")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *SMALL, *places, *arguments],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr
    assert not list(place.iterdir())
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(row.keys() >= {"scenario", "revision", "cpu", "date", "core", "priority"} for row in rows)
    assert all("version" in row or "missing" in row for row in rows)
    failed = [f"{row['rival']}: {row['failed']}" for row in rows if "failed" in row]
    assert not failed, failed
    return rows, done.stdout


def _who(rows: Rows, scenario: str) -> list[object]:
    return [row["rival"] for row in rows if row["scenario"] == scenario and "missing" not in row]


@pytest.mark.needs("reference", "native", "debian:curl")
@pytest.mark.parametrize("scenario", ["engine", "http", "https", "disk", "lfs", "sharded"])
def test_large_files(tmp_path: Path, scenario: str) -> None:
    rows, tables = _run(tmp_path, f"--scenario={scenario}", "--full", "--size=44MiB")
    ours = "fetcher engine" if scenario == "engine" else "fetcher"
    assert ours in _who(rows, scenario)
    assert any(str(who).startswith("C") for who in _who(rows, scenario))
    assert f"### {scenario}" in tables and f"| {ours} |" in tables
    assert "### What was to be reached" in tables


@pytest.mark.needs("reference", "debian:curl", "python:huggingface_hub")
def test_many_files(tmp_path: Path) -> None:
    rows, _ = _run(tmp_path, "--scenario=small", "--scenario=medium", "--scenario=requests", "--full")
    for scenario in ("small", "medium"):
        assert {"fetcher engine", "curl --parallel"} <= set(_who(rows, f"{scenario}-transfer"))
        assert _who(rows, f"{scenario}-get") == ["fetcher", "curl --parallel", "huggingface_hub"]
    asked = {row["rival"]: row["per_file"] for row in rows if row["scenario"] == "requests"}
    assert asked["fetcher"] == (4 + 2) / 4  # one for each file, and two to know which


@pytest.mark.needs("reference", "rclone", "program:s5cmd", "python:huggingface_hub")
def test_objects_and_what_is_there_already(tmp_path: Path) -> None:
    rows, tables = _run(tmp_path, "--scenario=s3", "--scenario=repeat", "--full")
    assert {"fetcher", "s5cmd", "rclone"} <= set(_who(rows, "s3-many")) & set(_who(rows, "s3-big"))
    again = {row["rival"]: row for row in rows if str(row["scenario"]).startswith("repeat") and "missing" not in row}
    assert {"fetcher", "huggingface_hub", "rclone", "s5cmd sync"} <= set(again)
    assert next(row["sent_bytes"] for row in rows if row["scenario"] == "repeat-repo") == 0  # a hit asks nobody
    assert "sent by the origin" in tables
    assert all(row["onto"] for row in again.values())  # else a disk would pass for memory


@pytest.mark.needs("reference", "python:huggingface_hub")
def test_processes_at_once_and_wrong_bytes(tmp_path: Path) -> None:
    names = ("fetcher", "huggingface_hub", "huggingface_hub, then its verify", "rclone")
    chosen = [f"--rival={name}" for name in names]
    rows, tables = _run(tmp_path, "--scenario=concurrent", "--scenario=flipped", "--size=48MiB", *chosen)
    (ours,) = [row for row in rows if row["scenario"] == "concurrent" and row["rival"] == "fetcher"]
    assert isinstance(ours["sent_bytes"], int) and isinstance(ours["bytes"], int)
    assert ours["bytes"] <= ours["sent_bytes"] < 1.1 * ours["bytes"]  # once for four
    assert ours["onto"]
    noticed = {
        (str(row["rival"]), str(row.get("stated", "SHA-256"))): (row["noticed"], row["wrong_is_visible"])
        for row in rows
        if "noticed" in row
    }
    by_us = [noticed[who, what] for who, what in noticed if who == "fetcher"]
    assert by_us == [(True, False)] * (1 + len(OBJECTS))  # whatever is stated
    if RIVALS["rclone"].missing is None:
        assert noticed["rclone", "16 MiB: MD5"] == (True, False)
        assert noticed["rclone", "16 MiB, in parts"] == (False, True)
    assert noticed["huggingface_hub", "SHA-256"] == (False, True)
    assert noticed["huggingface_hub, then its verify", "SHA-256"] == (True, True)
    assert "| **no** | **yes** |" in tables


@pytest.mark.needs("root", "netns", "reference", "debian:ip", "debian:curl")
def test_a_long_link(tmp_path: Path) -> None:
    rows, _ = _run(tmp_path, "--scenario=link-capped", "--link-size=8MiB", "--rival=fetcher", "--rival=curl")
    assert _who(rows, "link-capped") == ["fetcher", "curl"]


@pytest.mark.needs("debian:curl")
def test_killed_downloads_are_judged(tmp_path: Path) -> None:
    """curl writes under the final name and believes what is there: the judge has to see both, and nothing of ours."""
    rows, tables = _run(tmp_path, "--scenario=kill", "--rival=fetcher", "--rival=curl", "--seed=108")
    found = {(row["rival"], row["variant"]): row for row in rows}
    assert set(found) == {(rival, variant) for rival in ("fetcher", "curl") for variant in ("kill", "flip")}
    for variant, kills in (("kill", 3), ("flip", 1)):
        ours, theirs = found["fetcher", variant], found["curl", variant]
        assert ours["kills"] == theirs["kills"] == theirs["half_visible"] == kills
        assert ours["right"] and not ours["half_visible"]
        assert theirs["exit"] == 0
    assert found["curl", "kill"]["right"]
    assert found["curl", "flip"]["flipped"] and not found["curl", "flip"]["right"]
    assert "| a bit flipped |" in tables


def test_start_up_and_hits_are_measured_and_ask_nobody(tmp_path: Path) -> None:
    rows, tables = _run(tmp_path, "--scenario=start")
    own = {"--help", "--version", "completion bash", "ls", "get (hit)"}
    assert {row["rival"] for row in rows} == {
        "python -c pass",
        "hit in the library",
        *(f"fetcher {what}" for what in own),
    }
    assert "hit in the library: hit_ms_p50" in tables


@pytest.mark.needs("native")
def test_hashing_is_measured_as_ratios_of_one_run(tmp_path: Path) -> None:
    rows, _ = _run(tmp_path, "--scenario=hashing", "--size=36MiB")
    against = {row["what"]: row["than"] for row in rows if "ratio" in row}
    versions = {str(row["than"]): str(row["than_version"]) for row in rows if "than_version" in row}
    assert versions["blake3 package"].startswith("blake3 ") and versions["hashlib"].startswith("OpenSSL ")
    assert {than for than in against.values() if str(than).startswith(("blake3", "hashlib"))} == set(versions)
    assert against["BLAKE3, 64 KiB"] == against["BLAKE3 by updates of 1460 B"] == "blake3 package"
    assert against["SHA-256, two streams on one core"] == "hashlib, one after the other"
    assert against["write_blocks, 8 MiB"] == "pwrite"
    together = [(row["unit"], row["than"]) for row in rows if str(row["what"]).endswith("all together")]
    both_cores = [("GiB/s", "the slowest alone"), ("GiB/s", "the sum of all alone"), ("CPU s", "the sum of all alone")]
    assert together == (both_cores if len(os.sched_getaffinity(0)) > 1 else [])


def test_the_cache_is_measured(tmp_path: Path) -> None:
    rows, _ = _run(tmp_path, "--scenario=index", "--snapshots=200", "--size=8MiB")
    assert all(len(_values(row)) == len(_values(row, "others")) == 1 for row in rows if "than" in row)
    names = {str(row["what"]) for row in rows}
    assert {"hit among 10 snapshots, p50", "hit among 20 snapshots, p99"} <= names
    assert {"lease and release among 200 snapshots, p99"} <= names
    assert {"gc of 200 blobs in 200 snapshots, nothing to do", "open without, 20 blobs in 20 snapshots"} <= names
    # The parts of a commit are parts of it: what is left is what it does itself.
    times = {str(row["what"]): sum(_values(row)) for row in rows}
    whole = times["2 MiB, durable already: commit alone"]
    parts = [taken for what, taken in times.items() if what.startswith("2 MiB, durable already: commit, of it")]
    assert len(parts) == 4 and min(parts) >= 0 and abs(sum(parts) - whole) <= whole / 100


def _values(row: dict[str, object], name: str = "values") -> list[float]:
    found = row[name]
    assert isinstance(found, list)
    return found


def test_a_rival_that_is_not_here_is_said_to_be_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    rows, tables = _run(tmp_path, "--scenario=kill", "--rival=aria2c --continue", environment=environment)
    (row,) = rows
    assert row["missing"] == "aria2c is not installed"
    assert "aria2c --continue: aria2c is not installed" in tables


def test_what_there_is_can_be_listed() -> None:
    arguments = [sys.executable, "-m", "benchmarks", "--list"]
    done = subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=50)
    assert "* http            One large file by HTTP" in done.stdout
    assert "obstore" in done.stdout and "verifies" in done.stdout
