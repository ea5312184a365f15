"""The benchmarks run, small: every scenario from end to end, and the table they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def _compare(directory: Path, *arguments: str) -> tuple[list[dict[str, object]], str]:
    """The JSON lines and the table of one run."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--rounds=1", "--directory", str(directory), *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert not list(directory.iterdir())
    lines, _, table = done.stdout.partition("\n\n")
    return [json.loads(line) for line in lines.splitlines()], table


@pytest.mark.needs("debian:curl", "python:huggingface_hub")
def test_every_rival_does_the_work(tmp_path: Path) -> None:
    rows, table = _compare(tmp_path, "--scenario=big", "--scenario=small", "--size=2", "--files=7")
    assert [(row["scenario"], row["rival"]) for row in rows] == [
        ("big", "fetcher"),
        ("big", "curl"),
        ("big", "huggingface_hub"),
        ("small", "fetcher"),
        ("small", "curl"),
        ("small", "curl --parallel"),
        ("small", "huggingface_hub"),
    ]
    assert {row["requests"] for row in rows if row["rival"] == "curl"} == {2, 14}  # each file: its redirect, its body
    assert len(table.splitlines()) == 2 + len(rows)


def test_hits_are_measured_and_ask_nobody(tmp_path: Path) -> None:
    rows, table = _compare(tmp_path, "--scenario=start", "--scenario=hits", "--snapshots=5")
    hits = rows[-1]
    assert hits["snapshots"] == 5
    own = {"--help", "--version", "completion bash", "ls", "get (hit)"}
    assert {row.get("what") for row in rows[:-1]} == {"python -c pass", *(f"fetcher {what}" for what in own)}
    assert "fetcher get (hit)" in table


@pytest.mark.needs("native")
def test_hashing_is_measured_as_ratios_of_one_run(tmp_path: Path) -> None:
    rows, table = _compare(tmp_path, "--scenario=hashing", "--slices=1", "--file-size=9")
    assert {row["scenario"] for row in rows} == {"hashing"}
    assert len(table.splitlines()) == 2 + len(rows)
    against = {row["what"]: row["than"] for row in rows if "ratio" in row}
    assert against["BLAKE3, 64 KiB"] == against["BLAKE3 by updates of 1460 B"] == "blake3 package"
    assert against["SHA-256, two streams on one core"] == "hashlib, one after the other"
    assert against["write_blocks, 8 MiB"] == "pwrite"
    assert all(row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in rows if "ratio" in row)
    together = [(row["unit"], row["than"]) for row in rows if str(row["what"]).endswith("all together")]
    both_cores = [("GiB/s", "the slowest alone"), ("GiB/s", "the sum of all alone"), ("CPU s", "the sum of all alone")]
    assert together == (both_cores if len(os.sched_getaffinity(0)) > 1 else [])


def test_the_cache_is_measured(tmp_path: Path) -> None:
    rows, table = _compare(tmp_path, "--scenario=cache", "--snapshots=20", "--file-size=2")
    assert {row["scenario"] for row in rows} == {"cache"}
    assert all(len(_values(row)) == len(_values(row, "others")) == 1 for row in rows if "than" in row)
    names = {str(row["what"]) for row in rows}
    assert {"hit among 10 snapshots, p50", "hit among 20 snapshots, p99"} <= names
    assert {"lease and release among 200 snapshots, p99"} <= names
    assert {"gc of 200 blobs in 200 snapshots, nothing to do", "open without, 20 blobs in 20 snapshots"} <= names
    assert len(table.splitlines()) == 2 + len(rows)
    # The parts of a commit are parts of it: what is left is what it does itself.
    times = {str(row["what"]): sum(_values(row)) for row in rows}
    whole = times["2 MiB, durable already: commit alone"]
    parts = [taken for what, taken in times.items() if what.startswith("2 MiB, durable already: commit, of it")]
    assert len(parts) == 4 and min(parts) >= 0 and abs(sum(parts) - whole) <= whole / 100


def _values(row: dict[str, object], name: str = "values") -> list[float]:
    found = row[name]
    assert isinstance(found, list)
    return found


@pytest.mark.needs("debian:curl")
def test_killed_downloads_are_judged(tmp_path: Path) -> None:
    """curl writes under the final name and believes what is there: the judge has to see both, and nothing of ours."""
    rows, table = _compare(
        tmp_path, "--scenario=kill", "--kill-size=6", "--line=2", "--rival=fetcher", "--rival=curl", "--seed=108"
    )
    found = {(row["rival"], row["variant"]): row for row in rows}
    assert set(found) == {(rival, variant) for rival in ("fetcher", "curl") for variant in ("kill", "flip")}
    for variant, kills in (("kill", 3), ("flip", 1)):
        ours, theirs = found["fetcher", variant], found["curl", variant]
        assert ours["kills"] == theirs["kills"] == theirs["half_visible"] == kills
        assert ours["right"] and not ours["half_visible"]
        assert theirs["exit"] == 0
    assert found["curl", "kill"]["right"]
    assert found["curl", "flip"]["flipped"] and not found["curl", "flip"]["right"]
    assert len(table.splitlines()) == 2 * (2 + 2) + 1


def test_a_rival_that_is_not_here_is_said_to_be_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    arguments = ["--rounds=1", "--rival=aria2c", "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill", *arguments],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "| aria2c | aria2c is not installed |" in done.stdout
