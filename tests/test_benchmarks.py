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
    assert {row.get("what") for row in rows[:-1]} == {"python -c pass", "fetcher --help", "fetcher get (hit)"}
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
